"""python -m xtrain."""

import sys

from xtrain.starting import entry

if __name__ == "__main__":
    sys.exit(entry("xtrain.cli"))
