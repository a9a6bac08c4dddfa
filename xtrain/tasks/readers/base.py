"""A record of a source as it stands there, and the ways to its columns."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xtrain.errors import Problem, UserError, listed, nearest
from xtrain.file_kinds import FIRST, foreign, not_utf8
from xtrain.tasks.formats import ProblemList
from xtrain.tasks.spec import ColumnRef


@dataclass(frozen=True)
class Record:
    """One row of a source as it stands there: a way to its columns, by name or place."""

    where: str
    get: Callable[[str | int], Any]
    """The value in a column; raises KeyError if there is none."""
    columns: Sequence[str]
    """The columns there are, for messages."""

    def value(self, column: str) -> Any:
        """As :attr:`get`, for a column that TOML can only name in words: a place is ``"0"`` there."""
        try:
            return self.get(column)
        except KeyError:
            if not column.isdecimal():
                raise
            return self.get(int(column))


def nested(record: Mapping[str, Any]) -> Callable[[str | int], Any]:
    """A way to the columns of a JSON object; ``a.b`` is the key ``b`` of the object in ``a``."""

    def get(column: str | int) -> Any:
        name = str(column)
        if name in record:
            return record[name]
        value: Any = record
        for part in name.split("."):
            if not isinstance(value, Mapping) or part not in value:
                raise KeyError(name)
            value = value[part]
        return value

    return get


def column_names(record: Mapping[str, Any]) -> list[str]:
    """The columns of a JSON object, those of nested objects as ``a.b``."""
    names: list[str] = []
    for name, value in record.items():
        names += [f"{name}.{inner}" for inner in value] if isinstance(value, Mapping) else [name]
    return names


def text_lines(path: Path, problems: ProblemList) -> Iterator[tuple[int, str]]:
    """The lines of a text in UTF-8 with their numbers, one at a time: it may be larger than the memory.

    Only a line feed ends a line: texts may hold other line separators of Unicode. A line that is not UTF-8 goes to
    ``problems``; a file of another kind is raised at once.
    """
    with open(path, "rb") as handle:
        if problem := foreign(path, handle.read(FIRST)):
            raise UserError(problem)
        handle.seek(0)
        for number, raw in enumerate(handle, 1):
            try:
                line = raw.decode("utf-8")
            except UnicodeDecodeError as error:
                problems.add(not_utf8(path, number, raw, error))
                continue
            yield number, (line.removeprefix("\ufeff") if number == 1 else line).rstrip("\r\n")


def value_in(record: Record, reference: ColumnRef) -> Any:
    """The value of a column, or the list of values of a list of columns; KeyError if one is missing."""
    if isinstance(reference, tuple):
        return [record.get(part) for part in reference]
    return record.get(reference)


def missing_column(record: Record, column: str, reference: ColumnRef) -> Problem:
    """The problem that ``record`` lacks (a part of) ``reference``, which should hold ``column``."""
    parts = reference if isinstance(reference, tuple) else (reference,)
    lost: str | int = parts[0]
    for part in parts:
        try:
            record.get(part)
        except KeyError:
            lost = part
            break
    hint = nearest(str(lost), record.columns) if isinstance(lost, str) else ""
    what = f"there is no column {lost!r}" + (f" for {column}" if str(lost) != column else "")
    remedy = (f"{hint} " if hint else "") + f"name the right one in the task's columns: {column} = ..."
    return Problem(record.where, what, f"the columns there are: {listed(record.columns)}", remedy)
