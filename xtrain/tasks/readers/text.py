"""Read running text: one document a line, from files of any size."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from xtrain.tasks.formats import ProblemList
from xtrain.tasks.readers.base import Record, text_lines
from xtrain.tasks.spec import Source

COLUMN = "text"
"""The one column of such a file."""


def read_text_lines(source: Source, paths: Sequence[Path], problems: ProblemList) -> Iterator[Record]:
    """The lines that are not empty, the files one after the other; a file is never in memory as a whole."""
    for path in paths:
        for number, line in text_lines(path, problems):
            if line.strip():
                yield Record(f"{path}:{number}", {COLUMN: line}.__getitem__, (COLUMN,))  # type: ignore[arg-type]
