"""Read jsonl, tsv, csv and parallel line files: rows by column, each with the line it stands on."""

from __future__ import annotations

import csv
import io
import itertools
import json
from collections.abc import Iterator, Sequence
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
    for path in paths:
        yield from _delimited(path, read_text(path), source, False, problems)


def read_csv(source: Source, paths: Sequence[Path], problems: ProblemList) -> Iterator[Record]:
    """Fields between commas, the files one after the other."""
    for path in paths:
        yield from _delimited(path, read_text(path), source, True, problems)


def _jsonl(path: Path, text: str, problems: ProblemList) -> Iterator[Record]:
    # only "\n" ends a line: JSON texts may hold other line separators of Unicode
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        try:
            value = json.loads(line)
        except json.JSONDecodeError as error:
            problems.add(Problem(where, f"not JSON: {error.msg} at character {error.colno}", "one JSON object a line"))
            continue
        if not isinstance(value, dict):
            problems.add(Problem(where, f"{line[:60]!r} is not a JSON object", "one JSON object a line"))
            continue
        yield Record(where, nested(value), column_names(value))


def _delimited(path: Path, text: str, source: Source, comma: bool, problems: ProblemList) -> Iterator[Record]:
    """tsv and csv: with a header line if the columns have names, without if they are numbers."""
    rows = _split(path, text, source.quoted, comma=comma)
    headed = any(isinstance(part, str) for part in _parts(source))
    first = next(rows, None)
    if first is None:
        return
    width = len(first[1])
    names = [name.strip() for name in first[1]] if headed else [str(n) for n in range(width)]
    places: dict[str | int, int] = (
        {name: n for n, name in enumerate(names)} if headed else dict(enumerate(range(width)))
    )
    for number, cells in rows if headed else itertools.chain([first], rows):
        where = f"{path}:{number}"
        if len(cells) != width:
            problems.add(
                Problem(
                    where,
                    f"has {len(cells)} column{'s' if len(cells) != 1 else ''}, the first line has {width}",
                    remedy="look for a missing or an additional separator, or for a line break inside a text",
                )
            )
            continue
        yield Record(where, lambda column, cells=cells: cells[places[column]], names)  # type: ignore[misc]


def _parts(source: Source) -> list[str | int]:
    references = list(source.columns.values())
    return [part for ref in references for part in (ref if isinstance(ref, tuple) else (ref,))]


def _split(path: Path, text: str, quoted: bool | None, *, comma: bool) -> Iterator[tuple[int, list[str]]]:
    """The cells of each row, with the number of the line on which the row begins; empty lines are none."""
    if not (comma if quoted is None else quoted):
        for number, line in enumerate(text.split("\n"), 1):
            line = line.removesuffix("\r")
            if line:
                yield number, line.split("," if comma else "\t")
        return
    reader = csv.reader(io.StringIO(text, newline=""), delimiter="," if comma else "\t", strict=True)
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
