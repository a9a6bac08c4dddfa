"""Who is told what happens in training; only rank 0's does anything with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol


class Events(Protocol):
    """Told of what happens now and then."""

    def event(self, kind: str, **fields: Any) -> None:
        """Something that happened once."""


class Observer(Events, Protocol):
    """Told of everything."""

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Values after ``step`` optimizer steps."""

    def advanced(self, step: int, values: Mapping[str, float]) -> None:
        """``step`` steps are done (for a progress bar)."""

    def batch_ids(self, step: int, task: str, ids: Sequence[str]) -> None:
        """The examples of a global batch, where asked for."""
