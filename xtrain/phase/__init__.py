"""One phase on one rank, from its run directory to DONE: what ``train.py`` runs."""

from xtrain.phase.entry import main
from xtrain.phase.file import PhaseFile, ShardEntry

__all__ = ["PhaseFile", "ShardEntry", "main"]
