"""One phase, on the ranks that some launcher started: python train.py RUN_DIR.

Works below torchrun, srun (one task a rank), mpirun with MASTER_ADDR and MASTER_PORT, or alone. RUN_DIR holds
the ``phase.toml`` that ``python -m xtrain run`` or ``slurm/submit.py`` wrote.
"""

import sys

from xtrain.starting import entry

if __name__ == "__main__":
    sys.exit(entry("xtrain.phase"))
