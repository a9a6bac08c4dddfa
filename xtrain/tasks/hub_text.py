"""Read the text files of a data set on the hub (csv, tsv, json, jsonl, txt) by our own readers: text is text.

``datasets`` reads them by way of pandas and Arrow, which take ``null`` and ``NA`` for missing, ``001`` for 1 and dates
for numbers. Here rows are those that a source with ``files`` has.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from xtrain.errors import Problem, UserError, listed
from xtrain.files import read_text
from xtrain.tasks.formats import ProblemList
from xtrain.tasks.hub_layout import COMPRESSED, ending_of
from xtrain.tasks.readers import Record, column_names, nested
from xtrain.tasks.readers.base import text_lines
from xtrain.tasks.readers.tabular import Table, columns_of, read_table
from xtrain.tasks.readers.text import read_text_lines
from xtrain.tasks.spec import Source

ENDINGS = ("csv", "tsv", "json", "jsonl", "ndjson", "txt")
_AHEAD = 1000  # rows that are looked at to know the columns
_KNOWN = {
    "csv": ("sep", "delimiter", "names", "column_names", "header", "quoting", "quotechar", "encoding", "features"),
    "json": ("field", "encoding", "features"),
    "text": ("encoding", "features"),
}
"""What a card may say of how files are read, of all that pandas would understand."""
_WITHOUT_QUOTES = 3  # csv.QUOTE_NONE


@dataclass(frozen=True)
class TextFile:
    """A file of a split, and what the card says of it."""

    path: Path
    name: str
    """In the repository."""
    options: Mapping[str, Any]
    classes: Mapping[str, Sequence[str]]
    """Column -> the names of its classes, where the card says them: data sets write either those or numbers."""
    where: str

    @property
    def ending(self) -> str:
        """Of its name, but for what says that it is compressed."""
        return ending_of(self.name)

    def records(self, source: Source, problems: ProblemList) -> tuple[list[str], Iterator[Record]]:
        """The columns there are, and the rows."""
        reader = {"csv": "csv", "tsv": "csv", "txt": "text"}.get(self.ending, "json")
        self._check_options(reader)
        path = self._unpacked()
        if reader == "text":
            return ["text"], self._named(read_text_lines(source, [path], problems), path)
        if reader == "csv":
            return self._ahead(self._named(read_table(path, self._table(source), problems), path))
        values = self._lines(path, problems) if self.ending != "json" else self._json(path, problems)
        return self._objects(values)

    def _check_options(self, reader: str) -> None:
        strange = [key for key in self.options if key not in _KNOWN[reader]]
        if str(self.options.get("encoding") or "utf-8").lower().replace("_", "-") not in ("utf-8", "utf8", "utf-8-sig"):
            strange.append("encoding")
        if self.options.get("quotechar", '"') != '"':
            strange.append("quotechar")
        if strange:
            what = f"its card says {listed(f'{key} = {self.options[key]!r}' for key in strange)} of how files are read"
            remedy = 'take another revision ("refs/convert/parquet" where the hub has one), or name the files in files'
            raise UserError(Problem(self.where, what, listed(_KNOWN[reader]), remedy))

    def _unpacked(self) -> Path:
        if PurePosixPath(self.name).suffix not in COMPRESSED:
            return self.path
        import datasets

        return Path(datasets.DownloadManager().extract(str(self.path)))

    def _named(self, records: Iterable[Record], path: Path) -> Iterator[Record]:
        """With the file's name in the repository: its path in the cache tells nobody anything."""
        for record in records:
            place = f"{self.where} {self.name}{record.where.removeprefix(str(path))}"
            yield Record(place, self._classed(record.get), record.columns)

    def _classed(self, get: Any) -> Any:
        """Names of classes as their numbers, as the hub's own copies have them."""
        return (lambda column: _number(get(column), self.classes.get(str(column), ()))) if self.classes else get

    def _table(self, source: Source) -> Table:
        options = self.options
        separator = source.separator or options.get("sep") or options.get("delimiter")
        separator = separator or ("\t" if self.ending == "tsv" else ",")
        quoted = self.ending == "csv" and options.get("quoting", 0) != _WITHOUT_QUOTES
        names = options.get("names") or options.get("column_names") or ()
        headed = options.get("header", None if names else "infer") is not None
        if not headed and not names:
            remedy = 'take the revision "refs/convert/parquet", or name the files in files and columns by their places'
            raise UserError(Problem(self.where, "its card says header = None: columns have no names", remedy=remedy))
        quoted = quoted if source.quoted is None else source.quoted
        return Table(separator, quoted, columns_of(source), tuple(names), skips=bool(names) and headed)

    def _ahead(self, records: Iterator[Record]) -> tuple[list[str], Iterator[Record]]:
        first = list(itertools.islice(records, 1))
        return list(first[0].columns) if first else [], itertools.chain(first, records)

    def _lines(self, path: Path, problems: ProblemList) -> Iterator[tuple[str, Any]]:
        for number, line in text_lines(path, problems):
            if line.strip():
                where = f"{self.where} {self.name}:{number}"
                try:
                    yield where, json.loads(line)
                except json.JSONDecodeError as error:
                    what = f"not JSON: {error.msg} at character {error.colno}"
                    problems.add(Problem(where, what, "one JSON object a line"))

    def _json(self, path: Path, problems: ProblemList) -> Iterator[tuple[str, Any]]:
        """One list of objects, an object of columns, or one object a line."""
        text, field = read_text(path), self.options.get("field")
        try:
            value = json.loads(text)
        except json.JSONDecodeError:
            yield from self._lines(path, problems)
            return
        if field is not None:
            value = value.get(field) if isinstance(value, Mapping) else None
        columns = list(value.values()) if isinstance(value, Mapping) else []
        if columns and all(isinstance(column, list) and len(column) == len(columns[0]) for column in columns):
            value = [dict(zip(value, row, strict=True)) for row in zip(*columns, strict=True)]
        rows = value if isinstance(value, list) else [value] if isinstance(value, Mapping) and field is None else None
        if rows is None:
            raise UserError(Problem(f"{self.where} {self.name}", f"has no rows under {field!r}", "a list of objects"))
        for number, row in enumerate(rows, 1):
            yield f"{self.where} {self.name} row {number}", row

    def _objects(self, values: Iterator[tuple[str, Any]]) -> tuple[list[str], Iterator[Record]]:
        """JSON objects as records; a key that only some of them have is null in the others."""
        first = list(itertools.islice(values, _AHEAD))
        for where, value in first:
            if not isinstance(value, Mapping):
                raise UserError(Problem(where, f"{str(value)[:60]!r} is not a JSON object", "JSON objects"))
        known = dict.fromkeys(name for _, value in first for name in (*value, *column_names(value)))

        def records() -> Iterator[Record]:
            for where, value in itertools.chain(first, values):
                row = value if isinstance(value, Mapping) else {}
                yield Record(where, self._classed(_or_null(nested(row), known)), list(known))

        return list(known), records()


def _or_null(get: Any, known: Mapping[str, None]) -> Any:
    def found(column: str | int) -> Any:
        try:
            return get(column)
        except KeyError:
            if str(column) in known:
                return None
            raise

    return found


def _number(value: Any, classes: Sequence[str]) -> Any:
    if isinstance(value, list):
        return [_number(item, classes) for item in value]
    return classes.index(value) if value in classes else value
