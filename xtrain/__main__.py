"""python -m xtrain."""

import sys

from xtrain.cli import main

if __name__ == "__main__":
    sys.exit(main())
