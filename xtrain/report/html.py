"""The page of a study: one self-contained page, without scripts and without requests."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from xtrain import __version__
from xtrain.data.account import UNKNOWN_WARNING, Account, by_data_set
from xtrain.errors import counted
from xtrain.files import write_text
from xtrain.questions.answer import Answer
from xtrain.report.accounts import Summary, facts
from xtrain.report.compute import Compute, hours_text
from xtrain.report.figures import data_uri, difference_map, score_map
from xtrain.report.languages import language_name
from xtrain.report.page_answers import AnswerView
from xtrain.report.page_tables import TaskTable, footnotes, overview, percent, task_tables
from xtrain.report.statistics import Grid, TaskGrid
from xtrain.report.tables import has_baseline_column, notes
from xtrain.report.training import FINISHED as FINISHED
from xtrain.report.training import PhaseSummary as PhaseSummary
from xtrain.report.training import TrainingSection

MOST_WARNINGS = 6  # more are folded


@dataclass(frozen=True)
class StudySummary:
    """What the page says besides the scores."""

    name: str
    base: str
    seeds: str = "1 (0)"
    """How many, and which."""
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
    """To the study's questions; they stand before all tables."""


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
            "percent": percent,
            "breakable": _breakable,
            "language": language_name,
            "duration": duration,
            "count": _count,
            "hours": hours_text,
        }
    )
    return environment.get_template("report.html.j2").render(
        grid=grid,
        study=study,
        answers=[AnswerView.of(answer) for answer in study.answers],
        overview=overview(grid),
        overview_lead=_overview_lead(grid),
        sections=[_section(task, study.protocol) for task in grid.tasks],
        most_warnings=MOST_WARNINGS,
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
    tables: Sequence[TaskTable]
    has_baseline: bool
    languages: str
    """How many, in words."""
    footnotes: Sequence[tuple[str, str, Mapping[str, Sequence[str]]]]
    """What the marks say: (symbol, text, the languages by row)."""
    notes: Sequence[str]
    definitions: Mapping[str, str]
    protocol: Sequence[tuple[str, str]]


def _section(task: TaskGrid, protocol: Mapping[str, Any]) -> _Section:
    of_task: Mapping[str, Any] = protocol.get("tasks", {}).get(task.task, {})
    mean_texts = [f"{row} {percent(cell.mean)}" for row, cell in task.means.items()]
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
        task_tables(task),
        has_baseline_column(task),
        counted(len(task.languages), "language"),
        footnotes(task),
        list(notes(task)),
        definitions,
        [(key, _text(value)) for key, value in shown.items()],
    )


def _overview_lead(grid: Grid) -> str:
    """What the numbers of the overview are, in words."""
    seeds = max((task.num_seeds for task in grid.tasks), default=1)
    said = ["Zero-shot mean over the languages of each task, without English and without what a row was trained on"]
    if seeds > 1:
        said.append(f"the mean of {seeds} seeds, with the lowest and the highest")
    if any(task.compared_rows for task in grid.tasks):
        said.append("beneath, the difference to the first row in points")
    if any(task.intervals for task in grid.tasks):
        said.append("with half of its 95 % interval: in colour where it leaves 0 out, bold where it also does with ")
        said[-1] += "Holm's correction over the rows of a task"
    return "; ".join(said) + "."


def _breakable(text: str) -> Markup:
    """The text, which may be broken after an underscore, a hyphen or a plus."""
    parts = [escape(part) for part in re.split(r"(?<=[_+/-])", text)]
    return Markup("<wbr>").join(parts)


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


def duration(seconds: float) -> str:
    """``45 s``, ``3 min 20 s``, ``1 h 02 min``."""
    total = round(seconds)
    if total < 60:
        return f"{total} s"
    if total < 3600:
        return f"{total // 60} min {total % 60:02d} s"
    return f"{total // 3600} h {total % 3600 // 60:02d} min"
