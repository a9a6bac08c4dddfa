"""Tables of a scored folder: a table for each task's languages, then tasks, groups, and what is missing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from xtrain.errors import counted
from xtrain.evaluation.benchmark.layout import BenchmarkTask
from xtrain.evaluation.benchmark.scoring import ScoredFolder

GROUP_NAMES = {
    "classification": "classification",
    "structured_prediction": "structured prediction",
    "question_answering": "question answering",
    "retrieval": "retrieval",
}
METRIC_NAMES = {"exact_match": "EM", "f1": "F1", "map@20": "mAP@20"}
NAME, CELL = 9, 8  # columns of the terminal that the metrics' names and each language take


def print_scores(scored: ScoredFolder, console: Console) -> None:
    """Print ``scored`` so that it reads at 80 columns as at 120."""
    tasks = scored.result["tasks"]
    for name, values in tasks.items():
        _print_task(scored.benchmark.tasks[name], values, console)
    console.print(_summary(scored))
    for entry in scored.missing:
        task = scored.benchmark.tasks[entry.task]
        which = "all languages" if len(entry.languages) == len(task.languages) else " ".join(entry.languages)
        _say(console, f"missing: {entry.task}: {entry.what}: {which}")
    for note in scored.notes:
        _say(console, f"note: {note}")


def _say(console: Console, line: str) -> None:
    console.print(Text(line), soft_wrap=True)


def _print_task(task: BenchmarkTask, values: Mapping[str, object], console: Console) -> None:
    """One block: metrics down, languages across, cut into tables that fit the width."""
    languages = values["languages"]
    average = values["average"]
    assert isinstance(languages, dict)
    assert isinstance(average, dict)
    columns: list[tuple[str, Mapping[str, float]]] = [("mean", average), *sorted(languages.items())]
    room = max(1, (console.width - NAME) // CELL)
    for number, begin in enumerate(range(0, len(columns), room)):
        title = f"{task.name}: {len(languages)} of {counted(len(task.languages), 'language')}" if not number else None
        console.print(_block(task.metrics, columns[begin : begin + room], title))


def _block(metrics: Sequence[str], columns: Sequence[tuple[str, Mapping[str, float]]], title: str | None) -> Table:
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    table.add_column("", min_width=NAME)
    for name, _ in columns:
        table.add_column(name, justify="right", min_width=CELL - 2, no_wrap=True)
    for metric in metrics:
        table.add_row(METRIC_NAMES.get(metric, metric), *(f"{values[metric]:.2f}" for _, values in columns))
    return table


def _summary(scored: ScoredFolder) -> Table:
    """Tasks by group with their scores, the groups', and the overall one; what is not complete has none."""
    result = scored.result
    table = Table("", "score", "languages", "counts", title=result["benchmark"], title_justify="left")
    table.columns[1].justify = "right"
    for group, members in scored.benchmark.groups.items():
        for name in members:
            task = scored.benchmark.tasks[name]
            counts = " and ".join(METRIC_NAMES.get(metric, metric) for metric in task.counted)
            if name not in result["tasks"]:
                table.add_row(name, "-", f"0 of {len(task.languages)}", counts)
                continue
            values = result["tasks"][name]
            partial = "" if scored.complete(name) else ", not complete"
            there = f"{len(values['languages'])} of {len(task.languages)}{partial}"
            table.add_row(name, f"{values['score']:.2f}", there, counts)
        table.add_row(GROUP_NAMES[group], _or_dash(result["groups"][group]), "", "mean of its tasks", style="bold")
        table.add_section()
    table.add_row("overall", _or_dash(result["overall"]), "", "mean of all tasks", style="bold")
    return table


def _or_dash(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
