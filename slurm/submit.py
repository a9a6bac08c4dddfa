"""A study as jobs of a cluster: python slurm/submit.py STUDY --cluster NAME|FILE [--dry-run] [--follow] [--set ...]."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a clone that is not installed

from xtrain.starting import entry

if __name__ == "__main__":
    sys.exit(entry("xtrain.submit_command"))
