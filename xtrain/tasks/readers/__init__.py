"""Readers: from the files of a source to its records, each with the place where it stands."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from xtrain.tasks.formats import ProblemList
from xtrain.tasks.readers.base import Record, column_names, missing_column, nested, value_in
from xtrain.tasks.spec import Source

__all__ = ["READERS", "Record", "column_names", "missing_column", "nested", "read_files", "value_in"]

READERS = {
    "jsonl": "tabular:read_jsonl",
    "tsv": "tabular:read_tsv",
    "csv": "tabular:read_csv",
    "lines": "tabular:read_lines",
    "bitext": "bitext:read_bitext",
    "conll": "conll:read_conll",
    "conllu": "conll:read_conllu",
    "wikiann": "conll:read_wikiann",
    "ccg": "ccg:read_ccg",
    "squad": "squad:read_squad",
    "mewslix": "mewslix:read_mewslix",
    "text": "text:read_text_lines",
}
"""Name of a reader -> its module here and its function (source, paths, problems) -> records. What is wrong
with a line goes to ``problems``; a file that cannot be read at all is raised at once."""


def read_files(source: Source, paths: Sequence[Path], problems: ProblemList) -> Iterator[Record]:
    """The records of ``paths``, read by the reader that the source names, or that each one's ending says."""
    for group in [paths] if source.reader else [[path] for path in paths]:
        module, _, function = READERS[source.reader_of(group[0].name)].partition(":")
        read: Any = getattr(importlib.import_module(f"{__name__}.{module}"), function)
        yield from read(source, group, problems)
