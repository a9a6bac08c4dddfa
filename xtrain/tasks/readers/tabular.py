"""Read jsonl, tsv, csv and parallel line files: rows by column, each with the line it stands on."""

from __future__ import annotations

import csv
import io
import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from xtrain.errors import Problem, UserError
from xtrain.files import read_text
from xtrain.tasks.formats import ProblemList
from xtrain.tasks.readers.base import Record, column_names, nested
from xtrain.tasks.spec import Source

csv.field_size_limit(2**31 - 1)  # passages are longer than the default of 131,072 characters


def read_jsonl(source: Source, paths: Sequence[Path], problems: ProblemList) -> Iterator[Record]:
    """One JSON object a line, the files one after the other."""
    for path in paths:
        yield from _jsonl(path, read_text(path), problems)


def read_tsv(source: Source, paths: Sequence[Path], problems: ProblemList) -> Iterator[Record]:
    """Fields between tabs, the files one after the other."""
    table = Table(source.separator or "\t", bool(source.quoted), columns_of(source))
    for path in paths:
        yield from read_table(path, table, problems)


def read_csv(source: Source, paths: Sequence[Path], problems: ProblemList) -> Iterator[Record]:
    """Fields between commas, the files one after the other."""
    table = Table(source.separator or ",", source.quoted is not False, columns_of(source))
    for path in paths:
        yield from read_table(path, table, problems)


def _jsonl(path: Path, text: str, problems: ProblemList) -> Iterator[Record]:
    # only "\n" ends a line: JSON texts may hold other line separators of Unicode
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        try:
            value = json.loads(line)
        except json.JSONDecodeError as error:
            _check_value(path, text, line)
            problems.add(Problem(where, f"not JSON: {error.msg} at character {error.colno}", "one JSON object a line"))
            continue
        if not isinstance(value, dict):
            problems.add(Problem(where, f"{line[:60]!r} is not a JSON object", "one JSON object a line"))
            continue
        yield Record(where, nested(value), column_names(value))


def _check_value(path: Path, text: str, line: str) -> None:
    """Raise a :class:`UserError` if the file is one JSON value over several lines, of which ``line`` is the first."""
    if not text.lstrip().startswith(line.strip()) or line.strip()[:1] not in ("[", "{"):
        return
    try:
        value = json.loads(text)
    except json.JSONDecodeError:
        return
    remedy = f"write a line each: jq -c '.[]' {path.name} > {path.stem}.lines.jsonl"
    what = f"is one JSON {'list' if isinstance(value, list) else 'object'} over several lines"
    raise UserError(Problem(str(path), what, "one JSON object a line", remedy if isinstance(value, list) else ""))


@dataclass(frozen=True)
class Table:
    """How a tsv or csv file is written, and what is wanted of it."""

    separator: str
    quoted: bool
    """Whether fields stand in quotation marks as Python's csv module writes them."""
    wanted: Sequence[str | int]
    """Columns: names for a file with a header line, places for one without."""
    names: Sequence[str] = ()
    """The names of the columns, where the header line does not tell them."""
    skips: bool = False
    """Whether there is a header line nevertheless, which these names stand for."""


def read_table(path: Path, table: Table, problems: ProblemList) -> Iterator[Record]:
    """The rows of a tsv or csv file; one of other separators is a :class:`UserError` at once."""
    rows = _split(path, read_text(path), table)
    named = bool(table.names) or any(isinstance(part, str) for part in table.wanted)
    first = next(rows, None)
    if first is None:
        return
    width = len(first[1])
    header = table.names or first[1]
    names = [name.strip() for name in header] if named else [str(n) for n in range(width)]
    places: dict[str | int, int] = {name: n for n, name in enumerate(names)} if named else {n: n for n in range(width)}
    if width == 1 and not places.keys() >= {*table.wanted}:
        _check_separator(path, first[1][0], table.separator)
    headless = not named or (bool(table.names) and not table.skips)
    for number, cells in itertools.chain([first], rows) if headless else rows:
        where = f"{path}:{number}"
        if len(cells) != len(names):
            expected = f"there are {len(names)}" if table.names else f"the first line has {len(names)}"
            what = f"has {len(cells)} column{'s' if len(cells) != 1 else ''}, {expected}"
            remedy = "look for a missing or an additional separator, or for a line break inside a text"
            problems.add(Problem(where, what, remedy=remedy))
            continue
        yield Record(where, lambda column, cells=cells: cells[places[column]], names)  # type: ignore[misc]


_SEPARATORS = {  # what is often found, its name, and what says so
    "\t": ("tabs", 'reader = "tsv"'),
    ",": ("commas", 'reader = "csv"'),
    ";": ("semicolons", 'separator = ";"'),
    "|": ("bars", 'separator = "|"'),
}


def _check_separator(path: Path, line: str, separator: str) -> None:
    """Raise a :class:`UserError` if the first line has other separators than it should have."""
    found = max(_SEPARATORS, key=line.count)
    if not line.count(found) or found == separator:
        return
    between, remedy = _SEPARATORS[found]
    expected = _SEPARATORS.get(separator, (repr(separator), ""))[0]
    what = f"fields stand between {between}, not {expected}: {line[:60]!r}"
    raise UserError(Problem(f"{path}:1", what, f"fields between {expected}", f"say {remedy} in the task's source"))


def columns_of(source: Source) -> list[str | int]:
    """Every column that the source names."""
    references = list(source.columns.values())
    return [part for ref in references for part in (ref if isinstance(ref, tuple) else (ref,))]


def _split(path: Path, text: str, table: Table) -> Iterator[tuple[int, list[str]]]:
    """The cells of each row, with the number of the line on which the row begins; empty lines are none."""
    if not table.quoted:
        for number, line in enumerate(text.split("\n"), 1):
            line = line.removesuffix("\r")
            if line:
                yield number, line.split(table.separator)
        return
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=table.separator, strict=True)
    begin = 1
    try:
        for cells in reader:
            if cells:
                yield begin, cells
            begin = reader.line_num + 1
    except csv.Error as error:
        raise UserError(
            Problem(
                f"{path}:{begin}",
                f"the quotation marks do not match: {error}",
                allowed='fields in "..." with "" for a quotation mark inside',
                remedy="mend the line, or say quoted = false if the file has no quoting at all",
            )
        ) from None


def read_lines(source: Source, paths: Sequence[Path], problems: ProblemList) -> Iterator[Record]:
    """Parallel files, side by side: line i of each is column 0, 1, ... of row i."""
    files = [read_text(path).split("\n") for path in paths]
    for lines in files:
        if lines[-1] == "":
            lines.pop()
    if len({len(lines) for lines in files}) > 1:
        counts = ", ".join(f"{path.name} has {len(lines):,}" for path, lines in zip(paths, files, strict=True))
        raise UserError(
            Problem(
                str(paths[0]),
                f"line i of each file must belong to line i of the others, but {counts}",
                allowed="files of equally many lines",
                remedy="look for a file that was cut off, or that belongs to another set",
            )
        )
    names = [str(n) for n in range(len(paths))]
    for number, cells in enumerate(zip(*files, strict=True), 1):
        row = dict(enumerate(cell.removesuffix("\r") for cell in cells))
        yield Record(f"{paths[0]}:{number}", row.__getitem__, names)  # type: ignore[arg-type]
