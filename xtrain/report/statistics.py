"""What the report shows: medians over seeds, their spread, means over languages, differences."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from xtrain.report.languages import in_reading_order
from xtrain.statistics.estimate import Estimate
from xtrain.study import NO_INTERMEDIATE

SELECTED, LAST = "selected", "last"  # the checkpoint that was best on English dev, and that of the last step
BASELINE = "majority"  # how metrics begin that are no result but what a constant answer would score


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
    """One task: languages x rows. Cells are medians over seeds, in percent."""

    task: str
    metric: str
    rows: tuple[str, ...]
    """The base row first."""
    languages: tuple[str, ...]
    """Every language that any run has; English first."""
    mean_languages: tuple[str, ...]
    """The languages that all runs have; means are over these, so that rows can be compared."""
    cells: Mapping[tuple[str, str], Cell]
    """By (row, language); absent where no run has it."""
    means: Mapping[str, Cell]
    """By row: the median over seeds of each run's mean over ``mean_languages``."""
    last_means: Mapping[str, Cell]
    """The same of the last checkpoint, where it was scored."""
    others: Mapping[str, Mapping[str, Cell]]
    """The means of the task's other metrics: by metric, then by row."""
    baseline: Mapping[str, float]
    """By language: what answering the majority class always would score; empty where that is not measured."""
    estimates: Mapping[tuple[str, str | None], Estimate] = field(default_factory=dict)
    """By (row, language), or None for the mean: the difference to the base row with its uncertainty."""

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
        """Points above the base row: the estimate's, or where there is none the difference of the two medians."""
        estimate = self.estimates.get((row, language))
        if estimate is not None:
            return estimate.value
        ours, base = self.cell(row, language), self.cell(NO_INTERMEDIATE, language)
        return ours.median - base.median if ours and base else None

    def clear(self, row: str, language: str | None) -> bool:
        """Whether all seeds of ``row`` are on one side of all seeds of the base row, given two or more."""
        ours, base = self.cell(row, language), self.cell(NO_INTERMEDIATE, language)
        if ours is None or base is None or min(ours.num_seeds, base.num_seeds) < 2:
            return False
        return ours.low > base.high or ours.high < base.low

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


def assemble(results: Iterable[ResultRow]) -> Grid:
    """The tables of a study from its runs, in the order in which rows and tasks first appear."""
    results = list(results)
    keys = {(r.row, r.seed, r.task, r.which) for r in results}
    assert len(keys) == len(results), "one run is there twice"
    rows = _rows(results)
    tasks = dict.fromkeys(result.task for result in results)
    grids = (_task_grid([result for result in results if result.task == task], rows) for task in tasks)
    return Grid(tuple(grids), rows, tuple(sorted({result.seed for result in results})))


def _rows(results: Iterable[ResultRow]) -> tuple[str, ...]:
    return tuple(sorted(dict.fromkeys(result.row for result in results), key=lambda row: row != NO_INTERMEDIATE))


def _task_grid(results: Sequence[ResultRow], row_order: Sequence[str]) -> TaskGrid:
    selected = [result for result in results if result.which == SELECTED]
    assert selected, f"no selected checkpoint of {results[0].task} was scored"
    metric = selected[0].metric
    assert all(result.metric == metric for result in results), "one task with two metrics"
    languages = in_reading_order({language for result in selected for language in result.scores})
    shared = tuple(language for language in languages if all(language in result.scores for result in selected))
    measured = dict.fromkeys(name for result in selected for one in result.scores.values() for name in one)
    constant = BASELINE if metric == "accuracy" else f"{BASELINE}_{metric}"
    return TaskGrid(
        task=results[0].task,
        metric=metric,
        rows=tuple(row for row in row_order if any(result.row == row for result in selected)),
        languages=languages,
        mean_languages=shared,
        cells={
            (row, language): Cell.of(values)
            for row in row_order
            for language in languages
            if (values := _values(selected, row, language, metric))
        },
        means=_means(selected, shared, metric),
        last_means=_means([result for result in results if result.which == LAST], shared, metric),
        others={
            name: _means(selected, shared, name)
            for name in measured
            if name != metric and not name.startswith(BASELINE)
        },
        baseline={
            language: result.scores[language][constant]
            for result in selected
            for language in result.scores
            if constant in result.scores[language]
        },
    )


def _values(results: Iterable[ResultRow], row: str, language: str, metric: str) -> list[float]:
    return [r.scores[language][metric] for r in results if r.row == row and language in r.scores]


def _means(results: Sequence[ResultRow], languages: Sequence[str], metric: str) -> dict[str, Cell]:
    """By row: each run's mean over ``languages``, then the median over seeds; without runs that lack one."""
    by_row: dict[str, list[float]] = {}
    for result in results:
        if languages and all(metric in result.scores.get(language, ()) for language in languages):
            value = statistics.fmean(result.scores[language][metric] for language in languages)
            by_row.setdefault(result.row, []).append(value)
    return {row: Cell.of(values) for row, values in by_row.items()}
