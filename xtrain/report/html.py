"""``report.html``: one self-contained page, without scripts and without requests."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from xtrain import __version__
from xtrain.data.account import UNKNOWN_WARNING, Account, by_data_set
from xtrain.errors import counted
from xtrain.files import write_text
from xtrain.questions.answer import Answer
from xtrain.report.accounts import Summary, facts
from xtrain.report.compute import Compute, hours_text
from xtrain.report.figures import data_uri, difference_map, score_map
from xtrain.report.languages import language_name
from xtrain.report.statistics import Grid, TaskGrid
from xtrain.report.tables import format_difference, has_baseline_column, notes
from xtrain.report.training import FINISHED as FINISHED
from xtrain.report.training import PhaseSummary as PhaseSummary
from xtrain.report.training import TrainingSection

PAGE_WIDTH = 1100  # CSS pixels between the margins
BLOCK_LANGUAGES = 18  # a table with more languages is cut into blocks, side by side where there is room


@dataclass(frozen=True)
class StudySummary:
    """What the page says besides the scores."""

    name: str
    base: str
    seeds: Sequence[int] = (0,)
    phases: Sequence[PhaseSummary] = ()
    protocol: Mapping[str, Any] = field(default_factory=dict)
    """The ``protocol`` of one ``scores.json``, its ``tasks`` of all tasks together."""
    disclaimer: str = ""
    trained_on: Mapping[str, str] = field(default_factory=dict)
    """Row -> the data of its intermediate training, in words."""
    warnings: Sequence[str] = ()
    """Missing languages, dropped rows: whatever the reader must not overlook."""
    accounts: Sequence[Account] = ()
    """Of all data sets that the phases read."""
    compute: Compute | None = None
    """What all attempts at all phases have used."""
    answers: Sequence[Answer] = ()
    """To the study's questions."""


def write_report(path: Path, grid: Grid, study: StudySummary) -> Path:
    """Write the page to ``path`` and return it."""
    write_text(path, render(grid, study))
    return path


def render(grid: Grid, study: StudySummary) -> str:
    """The page's HTML."""
    environment = Environment(
        loader=PackageLoader("xtrain.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        {
            "points": _points,
            "percent": _percent,
            "language": language_name,
            "duration": duration,
            "count": _count,
            "hours": hours_text,
        }
    )
    return environment.get_template("report.html.j2").render(
        grid=grid,
        study=study,
        sections=[_section(task, study.protocol) for task in grid.tasks],
        has_baseline=has_baseline_column,
        training=TrainingSection.of(study.phases, study.compute),
        num_languages=len({language for task in grid.tasks for language in task.languages}),
        unfinished=[phase for phase in study.phases if phase.status != FINISHED],
        statuses=Counter(phase.status for phase in study.phases if phase.status != FINISHED),
        protocol=[(key, _text(value)) for key, value in study.protocol.items() if key not in ("tasks", "disclaimer")],
        data=[(Summary.of(group), group) for group in by_data_set(study.accounts)],
        facts_of=facts,
        unknown_warning=UNKNOWN_WARNING,
        version=__version__,
    )


@dataclass(frozen=True)
class _Section:
    """One task of the page."""

    task: TaskGrid
    figures: Sequence[tuple[str, str, str]]
    """(title, what a reader who cannot see it is told, data URI)."""
    blocks: Sequence[Sequence[str]]
    """The languages of each block of the table."""
    block_width: int
    largest: float
    """The difference that has the full colour."""
    largest_mean: float
    """The same for means."""
    notes: Sequence[str]
    definitions: Mapping[str, str]
    protocol: Sequence[tuple[str, str]]


def _section(task: TaskGrid, protocol: Mapping[str, Any]) -> _Section:
    of_task: Mapping[str, Any] = protocol.get("tasks", {}).get(task.task, {})
    mean_texts = [f"{row} {_percent(cell.median)}" for row, cell in task.means.items()]
    means = f"Means: {', '.join(mean_texts)}."
    figures = []
    differences = difference_map(task)
    if differences is not None:
        title = f"Difference to the row {task.base_row}"
        figures.append(
            (title, f"Heat map of the differences, {counted(len(task.languages), 'language')}.", data_uri(differences))
        )
    alt = f"Heat map of {task.metric}, {counted(len(task.languages), 'language')}. {means}"
    figures.append((f"{task.metric.capitalize()} by language", alt, data_uri(score_map(task))))
    definitions: Mapping[str, str] = of_task.get("metrics", {})
    # what the tokenizer makes of each language stands in the section on data
    shown = {key: value for key, value in of_task.items() if key not in ("metrics", "tokens") and value is not None}
    return _Section(
        task,
        figures,
        *_blocks(task),
        _largest(task, task.languages),
        _largest(task, [None]),
        list(notes(task)),
        definitions,
        [(key, _text(value)) for key, value in shown.items()],
    )


def _largest(task: TaskGrid, languages: Sequence[str | None]) -> float:
    """The size of the largest difference, at least one point."""
    differences = (task.difference(row, language) for row in task.compared_rows for language in languages)
    return max([1.0, *(abs(points) for points in differences if points is not None)])


def _blocks(task: TaskGrid) -> tuple[list[Sequence[str]], int]:
    """The languages cut into as many blocks as fit side by side, and the width of a block in CSS pixels."""
    width = 230 + 70 * len(task.rows) + 68 * len(task.compared_rows) + 80 * has_baseline_column(task)
    most = max(1, PAGE_WIDTH // width)
    height = math.ceil(len(task.languages) / min(most, math.ceil(len(task.languages) / BLOCK_LANGUAGES)))
    return [task.languages[at : at + height] for at in range(0, len(task.languages), height)], width


def _text(value: Any) -> str:
    """A protocol value in words; counts by language are summed up."""
    if value is None or isinstance(value, bool):
        return {None: "none", True: "yes", False: "no"}[value]
    if isinstance(value, Mapping) and value and all(isinstance(number, int) for number in value.values()):
        low, high = min(value.values()), max(value.values())
        each = _count(low) if low == high else f"{_count(low)} to {_count(high)}"
        listed = f" ({', '.join(f'{key} {_count(n)}' for key, n in value.items())})" if len(value) <= 8 else ""
        return f"{_count(sum(value.values()))} in {counted(len(value), 'language')}{listed or f', {each} each'}"
    if isinstance(value, Mapping):
        return "; ".join(f"{key}: {_text(inner)}" for key, inner in value.items()) or "none"
    if isinstance(value, (list, tuple)):
        return ", ".join(_text(inner) for inner in value) or "none"
    if isinstance(value, int) and not isinstance(value, bool):
        return _count(value)
    return str(value)


def _count(number: int) -> str:
    return f"{number:,}"


def _percent(value: float) -> str:
    return f"{value:.1f}"


def _points(value: float) -> str:
    return format_difference(value).replace("-", "\N{MINUS SIGN}")


def duration(seconds: float) -> str:
    """``45 s``, ``3 min 20 s``, ``1 h 02 min``."""
    total = round(seconds)
    if total < 60:
        return f"{total} s"
    if total < 3600:
        return f"{total // 60} min {total % 60:02d} s"
    return f"{total // 3600} h {total % 3600 // 60:02d} min"
