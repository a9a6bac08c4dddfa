"""What the report shows: means over seeds, their spread, zero-shot means over languages, differences, marks."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from xtrain.evaluation.scores import LAST as LAST
from xtrain.evaluation.scores import SELECTED as SELECTED
from xtrain.questions.differences import NOT_ZERO_SHOT as NOT_ZERO_SHOT
from xtrain.report.languages import ENGLISH, in_reading_order
from xtrain.statistics.estimate import LEVEL, Estimate, holm
from xtrain.study_rows import NO_INTERMEDIATE

BASELINE = "majority"  # how metrics begin that are no result but what a constant answer would score

Estimates = Mapping[tuple[str, str | None], Estimate]
"""Of one task: by (row, language), or (row, None) for the mean; each is the difference to the base row."""
Marks = Mapping[tuple[str, str], tuple[str, ...]]
"""Of one task: by (row, language) what a reader must know of the cell: ``at chance``, ``not zero-shot: ...``."""


@dataclass(frozen=True)
class ResultRow:
    """One task of one finished run."""

    row: str
    """The study's row: the name of an ``[[intermediate]]`` entry."""
    seed: int
    task: str
    scores: Mapping[str, Mapping[str, float]]
    """``{language: {metric: percent}}``."""
    metric: str
    """The metric of the task."""
    which: str = SELECTED


def result_rows(scores: Mapping[str, Any], row: str, seed: int, which: str = SELECTED) -> list[ResultRow]:
    """The rows in one run's ``scores.json``."""
    protocol = scores["protocol"]["tasks"]
    return [
        ResultRow(row, seed, task, entry["languages"], protocol[task]["metric"], which)
        for task, entry in scores["tasks"].items()
    ]


@dataclass(frozen=True)
class Cell:
    """One number of a table, over the seeds it was measured with."""

    mean: float
    median: float
    low: float
    high: float
    num_seeds: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Cell:
        """Mean, median, minimum and maximum of one value a seed."""
        return cls(statistics.fmean(values), statistics.median(values), min(values), max(values), len(values))


@dataclass(frozen=True)
class TaskGrid:
    """One task: languages x rows. Cells are over seeds, in percent."""

    task: str
    metric: str
    rows: tuple[str, ...]
    """The base row first."""
    languages: tuple[str, ...]
    """Every language that any run has; English first."""
    mean_languages: tuple[str, ...]
    """What means are over, the same in all rows, so that these can be compared: the languages that all runs have and
    that are zero-shot in every row. Where there are none (English alone was evaluated), all that the runs share."""
    cells: Mapping[tuple[str, str], Cell]
    """By (row, language); absent where no run has it."""
    means: Mapping[str, Cell]
    """By row: over seeds, each run's mean over ``mean_languages``."""
    last_means: Mapping[str, Cell]
    """The same of the last checkpoint, where it was scored."""
    others: Mapping[str, Mapping[str, Cell]]
    """The means of the task's other metrics: by metric, then by row."""
    baseline: Mapping[str, float]
    """By language: what answering the majority class always would score; empty where that is not measured."""
    estimates: Estimates = field(default_factory=dict)
    marks: Marks = field(default_factory=dict)

    @property
    def base_row(self) -> str | None:
        """The row that differences are taken to, if it is there."""
        return NO_INTERMEDIATE if NO_INTERMEDIATE in self.rows else None

    @property
    def compared_rows(self) -> tuple[str, ...]:
        """The rows that have a difference: all but the base row, or none if there is no base row."""
        return tuple(row for row in self.rows if row != self.base_row) if self.base_row else ()

    @property
    def num_seeds(self) -> int:
        """The largest number of seeds that a cell has."""
        return max(cell.num_seeds for cell in self.cells.values())

    def cell(self, row: str, language: str | None) -> Cell | None:
        """The cell of a language, or of the mean (``None``)."""
        return self.means.get(row) if language is None else self.cells.get((row, language))

    def difference(self, row: str, language: str | None) -> float | None:
        """Points above the base row: the estimate's, or where there is none the difference of the two means."""
        estimate = self.estimates.get((row, language))
        if estimate is not None:
            return estimate.value
        ours, base = self.cell(row, language), self.cell(NO_INTERMEDIATE, language)
        return ours.mean - base.mean if ours and base else None

    @cached_property
    def intervals(self) -> Mapping[tuple[str, str | None], tuple[float, float]]:
        """The 95 % intervals of the differences that have one."""
        return {key: estimate.interval() for key, estimate in self.estimates.items() if estimate.known}

    def found(self, row: str, language: str | None) -> bool:
        """Whether the difference may have a colour: its interval leaves 0 out, and the cell has no mark against it."""
        low, high = self.intervals.get((row, language), (0.0, 0.0))
        marked = language is not None and bool(self.marks.get((row, language)))
        return (low > 0.0 or high < 0.0) and not marked

    def found_among_rows(self, row: str) -> bool:
        """Whether the mean's difference may be bold: found, and with Holm's correction over the rows of the task."""
        return self.found(row, None) and self._corrected.get(row, 1.0) < 1.0 - LEVEL

    @cached_property
    def _corrected(self) -> Mapping[str, float]:
        """By row: the corrected p of the mean's difference."""
        tests = {row: self.estimates[row, None].p for row in self.compared_rows if (row, None) in self.intervals}
        return dict(zip(tests, holm(list(tests.values())), strict=True))

    def not_zero_shot(self, row: str, language: str) -> bool:
        """Whether a mark says that the row was trained on the language."""
        return any(mark.startswith(NOT_ZERO_SHOT) for mark in self.marks.get((row, language), ()))

    @property
    def mean_name(self) -> str:
        """``zero-shot mean of 14``; ``mean of 1`` where no language is zero-shot in every row."""
        zero_shot = all(_zero_shot(language, self.marks) for language in self.mean_languages)
        return f"{'zero-shot ' if zero_shot else ''}mean of {len(self.mean_languages)}"

    def subtotal(self, row: str, languages: Sequence[str]) -> tuple[float | None, float | None]:
        """Mean score and mean difference over those of ``languages`` that the mean is over; ``None`` if one lacks."""
        counted = [language for language in languages if language in self.mean_languages]
        scores = [cell.mean for language in counted if (cell := self.cell(row, language))]
        points = [one for language in counted if (one := self.difference(row, language)) is not None]
        return _mean_of(scores, len(counted)), _mean_of(points, len(counted))

    @property
    def baseline_mean(self) -> float | None:
        """The mean of ``baseline`` over ``mean_languages``."""
        values = [self.baseline[language] for language in self.mean_languages if language in self.baseline]
        return statistics.fmean(values) if values else None


@dataclass(frozen=True)
class Grid:
    """All tasks of a study."""

    tasks: tuple[TaskGrid, ...]
    rows: tuple[str, ...]
    """All rows in the study's order, the base row first."""
    seeds: tuple[int, ...]

    def with_estimates(self, estimates: Mapping[str, Estimates]) -> Grid:
        """The same with what is known of the differences, by task; means are over each task's ``mean_languages``."""
        tasks = (replace(task, estimates=estimates.get(task.task, {})) for task in self.tasks)
        return replace(self, tasks=tuple(tasks))

    def average(self, row: str) -> float | None:
        """The mean of the tasks' means; ``None`` where one lacks."""
        return _mean_of([task.means[row].mean for task in self.tasks if row in task.means], len(self.tasks))

    def average_difference(self, row: str) -> float | None:
        """The mean of the tasks' differences; it has no interval. ``None`` where one lacks, and for the base row."""
        compared = [task.difference(row, None) for task in self.tasks if row in task.compared_rows]
        return _mean_of([points for points in compared if points is not None], len(self.tasks))


def assemble(results: Iterable[ResultRow], marks: Mapping[str, Marks] | None = None) -> Grid:
    """The tables of a study from its runs, in the order in which rows and tasks first appear; ``marks`` by task."""
    results = list(results)
    keys = {(r.row, r.seed, r.task, r.which) for r in results}
    assert len(keys) == len(results), "one run is there twice"
    rows = _rows(results)
    tasks = dict.fromkeys(result.task for result in results)
    marks = marks or {}
    grids = (
        _task_grid([result for result in results if result.task == task], rows, marks.get(task, {})) for task in tasks
    )
    return Grid(tuple(grids), rows, tuple(sorted({result.seed for result in results})))


def _rows(results: Iterable[ResultRow]) -> tuple[str, ...]:
    return tuple(sorted(dict.fromkeys(result.row for result in results), key=lambda row: row != NO_INTERMEDIATE))


def _task_grid(results: Sequence[ResultRow], row_order: Sequence[str], marks: Marks) -> TaskGrid:
    selected = [result for result in results if result.which == SELECTED]
    assert selected, f"no selected checkpoint of {results[0].task} was scored"
    metric = selected[0].metric
    assert all(result.metric == metric for result in results), "one task with two metrics"
    languages = in_reading_order({language for result in selected for language in result.scores})
    shared = tuple(language for language in languages if all(language in result.scores for result in selected))
    averaged = tuple(language for language in shared if _zero_shot(language, marks)) or shared
    measured = dict.fromkeys(name for result in selected for one in result.scores.values() for name in one)
    constant = BASELINE if metric == "accuracy" else f"{BASELINE}_{metric}"
    return TaskGrid(
        task=results[0].task,
        metric=metric,
        rows=tuple(row for row in row_order if any(result.row == row for result in selected)),
        languages=languages,
        mean_languages=averaged,
        cells={
            (row, language): Cell.of(values)
            for row in row_order
            for language in languages
            if (values := _values(selected, row, language, metric))
        },
        means=_means(selected, averaged, metric),
        last_means=_means([result for result in results if result.which == LAST], averaged, metric),
        others={
            name: _means(selected, averaged, name)
            for name in measured
            if name != metric and not name.startswith(BASELINE)
        },
        baseline={
            language: result.scores[language][constant]
            for result in selected
            for language in result.scores
            if constant in result.scores[language]
        },
        marks=marks,
    )


def _zero_shot(language: str, marks: Marks) -> bool:
    """Whether no row was trained on the language: it is not English, and no row's mark says so."""
    said = (mark for (_, marked), texts in marks.items() if marked == language for mark in texts)
    return language != ENGLISH and not any(mark.startswith(NOT_ZERO_SHOT) for mark in said)


def _mean_of(values: Sequence[float], wanted: int) -> float | None:
    """The mean where all that are ``wanted`` are there."""
    return statistics.fmean(values) if values and len(values) == wanted else None


def _values(results: Iterable[ResultRow], row: str, language: str, metric: str) -> list[float]:
    return [r.scores[language][metric] for r in results if r.row == row and language in r.scores]


def _means(results: Sequence[ResultRow], languages: Sequence[str], metric: str) -> dict[str, Cell]:
    """By row: each run's mean over ``languages``, taken together over seeds; without runs that lack one."""
    by_row: dict[str, list[float]] = {}
    for result in results:
        if languages and all(metric in result.scores.get(language, ()) for language in languages):
            value = statistics.fmean(result.scores[language][metric] for language in languages)
            by_row.setdefault(result.row, []).append(value)
    return {row: Cell.of(values) for row, values in by_row.items()}
