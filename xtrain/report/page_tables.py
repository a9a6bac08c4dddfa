"""The page's tables of scores as data: what stands in a cell, languages in groups with subtotals, and three orders."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from xtrain.report.language_groups import LanguageGroup, language_groups, notes
from xtrain.report.languages import ENGLISH, language_name
from xtrain.report.statistics import Cell, Grid, TaskGrid
from xtrain.report.tables import has_baseline_column, marked_cells, signed

PAGE_WIDTH = 1100  # CSS pixels between the margins
BLOCK_LINES = 22  # a table with more lines is cut into blocks, side by side where there is room
NAME_WIDTH, CELL_WIDTH = 200, 78  # CSS pixels
MOST_ROWS = 11  # of the study, in one table; more come in further tables, with the base row in each
NOTHING = "–"  # noqa: RUF001


@dataclass(frozen=True)
class TableCell:
    """A score, and beneath it the range of its seeds and its difference to the base row."""

    score: str
    spread: str = ""
    """The lowest and the highest seed."""
    difference: str = ""
    half_width: str = ""
    """Of the difference's 95 % interval, where it is to be written."""
    side: str = ""
    """``up`` or ``down`` where the difference has a colour."""
    share: int = 0
    """Percent of the full colour."""
    bold: bool = False
    title: str = ""
    """What hovering tells: the interval, what the marks say."""
    symbols: tuple[str, ...] = ()
    apart: bool = False
    """Whether it is no zero-shot score."""


@dataclass(frozen=True)
class Line:
    """A line of a task's table: a language, or the name of a group with its subtotal."""

    label: str
    """The language's code, or the group's name."""
    cells: tuple[TableCell, ...] = ()
    """A cell a row of the study; none where a group has no subtotal."""
    name: str = ""
    note: str = ""
    """The family of a language that is alone in its own, the script where it is not Latin."""
    baseline: str = ""
    is_group: bool = False
    by_code: int = 0
    """Its place in the order by code."""
    by_difference: int = 0
    """Its place by the mean of its differences, the highest first."""


@dataclass(frozen=True)
class TaskTable:
    """Some rows of a task, all its languages, in blocks that may stand side by side."""

    rows: tuple[str, ...]
    blocks: tuple[tuple[Line, ...], ...]
    english: tuple[Line, ...]
    """The line on English, above all others, where there is one."""
    mean: Line
    last: Line | None
    """The means with the last step's weights."""
    width: int
    """Of a block, in CSS pixels."""

    @property
    def code_width(self) -> int:
        """Letters of the longest code."""
        lines = [*self.english, *(line for block in self.blocks for line in block)]
        return max((len(line.label) for line in lines if not line.is_group), default=2)

    @property
    def sortable(self) -> bool:
        """Whether there are enough languages for another order to be of use."""
        return sum(not line.is_group for block in self.blocks for line in block) > 3


@dataclass(frozen=True)
class _Colours:
    """How large a difference has the full colour, and which symbol a mark has."""

    largest: float
    symbols: Mapping[str, str]


def task_tables(task: TaskGrid) -> list[TaskTable]:
    """The tables of a task: one for every :data:`MOST_ROWS` rows."""
    fixed = [task.base_row] if task.base_row else []
    free = [row for row in task.rows if row not in fixed]
    size = math.ceil(len(free) / max(1, math.ceil(len(free) / (MOST_ROWS - len(fixed))))) if free else 1
    parts = [(*fixed, *free[at : at + size]) for at in range(0, len(free), size)] or [tuple(fixed)]
    return [_table(task, rows) for rows in parts]


def overview(grid: Grid) -> list[tuple[str, list[TableCell]]]:
    """By row: a cell a task, and the average where there are several tasks."""
    colours = {task.task: _Colours(largest_difference(task, [None]), {}) for task in grid.tasks}
    lines = []
    for row in grid.rows:
        cells = [_cell(task, row, None, colours[task.task], half_width=True) for task in grid.tasks]
        if len(grid.tasks) > 1:
            points = grid.average_difference(row)
            cells.append(TableCell(percent(grid.average(row)), difference="" if points is None else signed(points)))
        lines.append((row, cells))
    return lines


def footnotes(task: TaskGrid) -> list[tuple[str, str, Mapping[str, Sequence[str]]]]:
    """What the marks say: (symbol, text, the languages by row)."""
    return [(_symbol(number), text, places) for number, (text, places) in enumerate(marked_cells(task).items())]


def largest_difference(task: TaskGrid, languages: Sequence[str | None]) -> float:
    """The size of the largest difference, at least one point."""
    differences = (task.difference(row, language) for row in task.compared_rows for language in languages)
    return max([1.0, *(abs(points) for points in differences if points is not None)])


def _table(task: TaskGrid, rows: tuple[str, ...]) -> TaskTable:
    symbols = {text: symbol for symbol, text, _ in footnotes(task)}
    colours = _Colours(largest_difference(task, task.languages), symbols)
    english, *groups = groups_of(task)
    lines = [line for group in groups for line in _group_lines(task, rows, group, colours)]
    width = NAME_WIDTH + CELL_WIDTH * (len(rows) + has_baseline_column(task))
    baseline = percent(task.baseline_mean) if has_baseline_column(task) else ""
    means = tuple(_cell(task, row, None, colours) for row in rows)
    last = tuple(TableCell(percent(cell.mean if (cell := task.last_means.get(row)) else None)) for row in rows)
    return TaskTable(
        rows,
        _blocks(_in_orders(lines, task), max(1, PAGE_WIDTH // width)),
        tuple(_language_line(task, rows, language, colours, english) for language in english.languages),
        Line(task.mean_name, means, baseline=baseline),
        Line("last step", last) if task.last_means else None,
        width,
    )


def groups_of(task: TaskGrid) -> list[LanguageGroup]:
    """English's group first, empty where it is not there; then the others."""
    groups = list(language_groups(task))
    return groups if groups and groups[0].languages == (ENGLISH,) else [LanguageGroup("", ()), *groups]


def _group_lines(task: TaskGrid, rows: Sequence[str], group: LanguageGroup, colours: _Colours) -> Iterator[Line]:
    if group.name:
        name = f"{group.name} ({len(group.languages)})"
        cells = tuple(_subtotal(task, row, group) for row in rows) if group.subtotal else ()
        yield Line(name, cells, is_group=True)
    for language in group.languages:
        yield _language_line(task, rows, language, colours, group)


def _language_line(task: TaskGrid, rows: Sequence[str], language: str, colours: _Colours, group: LanguageGroup) -> Line:
    return Line(
        language,
        tuple(_cell(task, row, language, colours) for row in rows),
        language_name(language),
        notes(language, group),
        percent(task.baseline.get(language)) if has_baseline_column(task) else "",
    )


def _subtotal(task: TaskGrid, row: str, group: LanguageGroup) -> TableCell:
    """Of a group's zero-shot languages; without an interval, so never in colour."""
    score, points = task.subtotal(row, group.languages)
    compared = row in task.compared_rows and points is not None
    return TableCell(percent(score), difference=signed(points) if compared and points is not None else "")


def _in_orders(lines: Sequence[Line], task: TaskGrid) -> list[Line]:
    """The lines, each with its place in the other orders."""

    def mean_difference(language: str) -> float:
        points = [one for row in task.compared_rows if (one := task.difference(row, language)) is not None]
        return sum(points) / len(points) if points else -math.inf

    codes = sorted(line.label for line in lines if not line.is_group)
    by_code = {code: place for place, code in enumerate(codes, 1)}
    by_difference = {code: place for place, code in enumerate(sorted(codes, key=lambda c: -mean_difference(c)), 1)}
    return [
        line if line.is_group else replace(line, by_code=by_code[line.label], by_difference=by_difference[line.label])
        for line in lines
    ]


def _blocks(lines: Sequence[Line], most: int) -> tuple[tuple[Line, ...], ...]:
    """The lines in as many blocks of about equal length as there are of use; a group's name never ends one."""
    number = min(most, math.ceil(len(lines) / BLOCK_LINES))
    if not lines:
        return ((),)
    height = math.ceil(len(lines) / number)
    blocks: list[tuple[Line, ...]] = []
    at = 0
    while at < len(lines):
        end = len(lines) if len(blocks) == number - 1 else min(at + height, len(lines))
        if end < len(lines) and lines[end - 1].is_group and end - 1 > at:
            end -= 1
        blocks.append(tuple(lines[at:end]))
        at = end
    return tuple(blocks)


def _cell(task: TaskGrid, row: str, language: str | None, colours: _Colours, *, half_width: bool = False) -> TableCell:
    cell = task.cell(row, language)
    if cell is None:
        return TableCell(NOTHING)
    marks = task.marks.get((row, language), ()) if language is not None else ()
    points = task.difference(row, language) if row in task.compared_rows else None
    interval = task.intervals.get((row, language)) if points is not None else None
    titles = list(marks)
    if interval:
        titles.insert(0, f"95 % interval {signed(interval[0])} to {signed(interval[1])}")
    found = points is not None and task.found(row, language)
    return TableCell(
        percent(cell.mean),
        _spread(cell),
        "" if points is None else signed(points),
        f"±{(interval[1] - interval[0]) / 2:.1f}" if interval and half_width else "",
        ("up" if points > 0 else "down") if found and points is not None else "",
        round(100 * min(abs(points) / colours.largest, 1.0)) if found and points is not None else 0,
        language is None and task.found_among_rows(row),
        "; ".join(titles),
        tuple(colours.symbols[mark] for mark in marks),
        language is not None and task.not_zero_shot(row, language),
    )


def _spread(cell: Cell) -> str:
    return f"{cell.low:.1f}–{cell.high:.1f}" if cell.num_seeds > 1 else ""  # noqa: RUF001


def _symbol(number: int) -> str:
    """``a`` to ``z``, then ``aa``."""
    letters = chr(ord("a") + number % 26)
    return letters if number < 26 else _symbol(number // 26 - 1) + letters


def percent(value: float | None) -> str:
    """``61.5``; a dash where there is none."""
    return NOTHING if value is None else f"{value:.1f}"
