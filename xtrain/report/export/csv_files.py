"""The report as CSV: UTF-8, one tidy table a file, numbers unrounded; every number of the page's tables is in one."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from xtrain.data.account import by_data_set
from xtrain.questions.answer import Answer, Comparison
from xtrain.report.accounts import facts
from xtrain.report.export.content import Content, difference_of
from xtrain.report.language_groups import language_groups
from xtrain.report.languages import language_name
from xtrain.report.statistics import LAST, SELECTED, Cell, TaskGrid
from xtrain.statistics.estimate import Estimate

Row = Sequence[Any]
_CELL = ("mean", "median", "lowest", "highest", "seeds")
_DIFFERENCE = ("difference", "low", "high", "half_width", "p")
AVERAGE = "average of tasks"
_COUNTS = ("seeds", "items", "languages", "rows")
_OF_TEXT = (
    "unknown_percent", "subwords_per_word", "subwords_per_character", "mean_word_length", "type_token_ratio",
    "words_against_english",
)  # fmt: skip


def csv_files(content: Content) -> dict[str, str]:
    """The text of each file by its name; ``answers.csv`` only of a study with questions."""
    files = {
        "scores.csv": _text(("row", "seed", "task", "language", "metric", "checkpoint", "value"), _scores(content)),
        "table.csv": _text(
            ("task", "row", "metric", "checkpoint", *_CELL, *_DIFFERENCE, "languages", "majority"), _table(content)
        ),
        "languages.csv": _text(
            ("task", "language", "name", "group", "row", "metric", *_CELL, *_DIFFERENCE, "n", "majority",
             *_OF_TEXT, "marks"),
            _languages(content),
        ),
        "groups.csv": _text(("task", "group", "row", "metric", "languages", "mean", "difference"), _groups(content)),
        "phases.csv": _text(
            ("phase", "kind", "seed", "status", "attempts", "steps", "selected_step", "seconds", "device_hours",
             "lost_hours", "at_least", "devices", "nodes", "tokens_per_second", "note"),
            _phases(content),
        ),
        "compute.csv": _text(
            ("kind", "device", "phases", "attempts", "device_hours", "lost_hours", "at_least"), _compute(content)
        ),
        "data.csv": _text(
            ("task", "split", "language", "name", "rows", "examples", "split_examples", "truncated",
             "truncated_percent", "unknown_percent", "subwords_per_word", "subwords_per_character", "notes"),
            _data(content),
        ),
    }  # fmt: skip
    if content.study.answers:
        files["answers.csv"] = _answers(content.study.answers)
    return files


def _text(head: Sequence[str], rows: Iterable[Row]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(head)
    for row in rows:
        assert len(row) == len(head), (head, row)
        writer.writerow([_value(value) for value in row])
    return text.getvalue()


def _value(value: Any) -> Any:
    """Nothing for what is not known; a number as it is."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else value


def _scores(content: Content) -> Iterator[Row]:
    for result in content.results:
        for language, metrics in result.scores.items():
            for metric, value in metrics.items():
                yield result.row, result.seed, result.task, language, metric, result.which, value


def _table(content: Content) -> Iterator[Row]:
    """The task's own metric first, of both checkpoints, then the others; the averages over tasks last."""
    for task in content.grid.tasks:
        number = len(task.mean_languages)
        for row in task.rows:
            head = (task.task, row, task.metric)
            if cell := task.cell(row, None):
                difference = _difference(task, row, None)
                yield (*head, SELECTED, *_cell(cell), *difference, number, task.baseline_mean)
            if cell := task.last_means.get(row):
                yield (*head, LAST, *_cell(cell), *_no_difference(), number, None)
        for metric, means in task.others.items():
            for row, cell in means.items():
                yield (task.task, row, metric, SELECTED, *_cell(cell), *_no_difference(), number, None)
    for row in content.grid.rows if len(content.grid.tasks) > 1 else ():
        average, points = content.grid.average(row), content.grid.average_difference(row)
        if average is not None:
            yield (
                AVERAGE,
                row,
                "",
                SELECTED,
                average,
                None,
                None,
                None,
                None,
                points,
                *_no_difference()[1:],
                None,
                None,
            )


def _languages(content: Content) -> Iterator[Row]:
    for task in content.grid.tasks:
        of_task = content.study.protocol.get("tasks", {}).get(task.task, {})
        examples, tokens = of_task.get("examples") or {}, of_task.get("tokens") or {}
        groups = {language: group.name for group in language_groups(task) for language in group.languages}
        for language in task.languages:
            known = tokens.get(language, {})
            said = [known.get(name) for name in _OF_TEXT]
            for row in task.rows:
                cell = task.cell(row, language)
                if cell is None:
                    continue
                yield (
                    task.task, language, language_name(language), groups[language], row, task.metric, *_cell(cell),
                    *_difference(task, row, language), examples.get(language), task.baseline.get(language), *said,
                    "; ".join(task.marks.get((row, language), ())),
                )  # fmt: skip


def _groups(content: Content) -> Iterator[Row]:
    """Of each family with a subtotal: over its languages that the mean of the task is over."""
    for task in content.grid.tasks:
        for group in language_groups(task):
            number = len(set(group.languages) & set(task.mean_languages))
            for row in task.rows if group.subtotal else ():
                score, points = task.subtotal(row, group.languages)
                known = points if row in task.compared_rows else None
                yield task.task, group.name, row, task.metric, number, score, known


def _cell(cell: Cell) -> Row:
    return cell.mean, cell.median, cell.low, cell.high, cell.num_seeds


def _difference(task: TaskGrid, row: str, language: str | None) -> Row:
    points, estimate = difference_of(task, row, language)
    if estimate is None:
        return points, *(None,) * (len(_DIFFERENCE) - 1)
    return points, estimate.low, estimate.high, (estimate.high - estimate.low) / 2, estimate.p


def _no_difference() -> Row:
    return (None,) * len(_DIFFERENCE)


def _phases(content: Content) -> Iterator[Row]:
    for phase in content.study.phases:
        cost = phase.compute if phase.compute is not None and phase.compute.starts else None
        yield (
            phase.name, phase.kind, phase.seed, phase.status, len(cost.starts) if cost else None, phase.steps,
            phase.selected_step, phase.seconds, cost.hours if cost else None, cost.lost_hours if cost else None,
            cost.at_least if cost else None, "; ".join(cost.devices) if cost else "",
            " ".join(cost.nodes) if cost else "", phase.tokens_per_second, phase.note,
        )  # fmt: skip


def _compute(content: Content) -> Iterator[Row]:
    for one in content.study.compute.shares if content.study.compute is not None else ():
        yield one.kind, one.device, one.phases, one.attempts, one.hours, one.lost_hours, one.at_least


def _data(content: Content) -> Iterator[Row]:
    for group in by_data_set(content.study.accounts):
        for one in group:
            yield (
                one.task, one.split, one.language, language_name(one.language), one.rows, one.examples,
                one.split_examples, one.truncated, one.truncated_percent, one.unknown_percent, one.subwords_per_word,
                one.subwords_per_character, "; ".join(facts(one)),
            )  # fmt: skip


def _answers(answers: Sequence[Answer]) -> str:
    """A line for each comparison, each of the details, and each point of a curve."""
    more = {key for answer in answers for one in (*answer.comparisons, *answer.details) for key in one.counts}
    counts = (*_COUNTS, *sorted(more - set(_COUNTS)))
    head = (
        "question", "asks", "kind", "unit", "against", "part", "group", "label", "x", "value", "low", "high", "se", "p",
        "p_corrected", "verdict", "score", "score_against", "effect_size", "detectable", "margin",
        *(f"n_{name}" for name in counts), "remarks",
    )  # fmt: skip
    return _text(head, (row for answer in answers for row in _answer(answer, counts)))


def _answer(answer: Answer, counts: Sequence[str]) -> Iterator[Row]:
    head = (answer.name, answer.question, answer.kind, answer.unit, answer.against)
    for part, some in (("comparison", answer.comparisons), ("detail", answer.details)):
        for one in some:
            claim = _claim(answer, part, one, counts)
            yield (*head, part, one.group, one.label, None, *_estimate(one.estimate), *claim)
    for point in answer.curve:
        sampled = {source.name: source.n for source in point.estimate.sources}
        yield (
            *head, "point", "", point.label, point.x, *_estimate(point.estimate), *(None,) * 7,
            *(sampled.get(name) for name in counts), "",
        )  # fmt: skip


def _estimate(estimate: Estimate) -> Row:
    """Value, interval, standard error and p: nothing but the value where the uncertainty is not known."""
    if not estimate.known:
        return estimate.value, None, None, None, None
    return estimate.value, estimate.low, estimate.high, estimate.se, estimate.p


def _claim(answer: Answer, part: str, one: Comparison, counts: Sequence[str]) -> Row:
    return (
        one.p_corrected, str(one.verdict) if part == "comparison" else None, *(one.scores or (None, None)),
        one.effect_size, one.detectable, answer.margin, *(one.counts.get(name) for name in counts),
        "; ".join(one.remarks),
    )  # fmt: skip
