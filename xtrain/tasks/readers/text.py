"""Read running text: one document a line, from files of any size."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from xtrain.errors import Problem
from xtrain.tasks.formats import ProblemList
from xtrain.tasks.readers.base import Record
from xtrain.tasks.spec import Source

COLUMN = "text"
"""The one column of such a file."""


def read_text_lines(source: Source, paths: Sequence[Path], problems: ProblemList) -> Iterator[Record]:
    """The lines that are not empty, the files one after the other; a file is never in memory as a whole."""
    for path in paths:
        with open(path, "rb") as handle:  # only "\n" ends a line: text may hold other line separators of Unicode
            for number, raw in enumerate(handle, 1):
                where = f"{path}:{number}"
                try:
                    line = raw.decode("utf-8")
                except UnicodeDecodeError as error:
                    problems.add(
                        Problem(
                            where,
                            f"byte 0x{raw[error.start]:02x} is not UTF-8",
                            allowed="text in UTF-8",
                            remedy=f"convert it, for example: iconv -f LATIN1 -t UTF-8 {path.name}",
                        )
                    )
                    continue
                line = line.removeprefix("\ufeff") if number == 1 else line
                if line.strip():
                    yield Record(where, {COLUMN: line.rstrip("\r\n")}.__getitem__, (COLUMN,))  # type: ignore[arg-type]
