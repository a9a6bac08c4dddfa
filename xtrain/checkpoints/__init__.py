"""Checkpoints as commits: what a finished one is, how it comes into being, which are there, which may go.

Knows files and names, not tensors: nothing here imports torch, so that the command line starts at once.
"""

from xtrain.checkpoints.commit import damage, publish, sync_folder
from xtrain.checkpoints.folder import TRAINER, WORK, CheckpointFolder, Commit, Entry, State
from xtrain.checkpoints.manifest import MANIFEST, FileEntry, Kind, Manifest, Series, commit_name, read_manifest

__all__ = [
    "MANIFEST",
    "TRAINER",
    "WORK",
    "CheckpointFolder",
    "Commit",
    "Entry",
    "FileEntry",
    "Kind",
    "Manifest",
    "Series",
    "State",
    "commit_name",
    "damage",
    "publish",
    "read_manifest",
    "sync_folder",
]
