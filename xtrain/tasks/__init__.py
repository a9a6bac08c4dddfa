"""Tasks: which data sets there are, where they are, and what their rows turn into."""

from __future__ import annotations

from xtrain.tasks.sources import fingerprint, languages_of
from xtrain.tasks.spec import Source, TaskSpec

__all__ = ["Source", "TaskSpec", "fingerprint", "languages_of"]
