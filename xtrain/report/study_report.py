"""A study's table and page, gathered from its run directories."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

import xtrain.starter
from xtrain.data.account import Account, unknown_warnings
from xtrain.errors import Problem, UserError, listed
from xtrain.files import read_json
from xtrain.graph import EVALUATE, Graph, Phase
from xtrain.questions.answering import answer_questions
from xtrain.questions.differences import differences, marks
from xtrain.questions.leaks import Ledger
from xtrain.questions.table import Evidence
from xtrain.report.collapses import Troubles
from xtrain.report.compute import Compute, PhaseCompute
from xtrain.report.curves import MEAN
from xtrain.report.export.content import Content, Export
from xtrain.report.export.writing import write_export
from xtrain.report.figures import Curve
from xtrain.report.html import StudySummary, write_report
from xtrain.report.statistics import LAST, ResultRow, assemble, result_rows
from xtrain.report.tables import print_answers, print_tables
from xtrain.report.training import FINISHED, PhaseSummary
from xtrain.report.training_data import trained_on
from xtrain.run_directory import RunDirectory
from xtrain.tracking.record import read_events, read_metrics


def report_study(graph: Graph, out: Path, console: Console, export: Export | None = None) -> Path:
    """Print the study's table, write its page into ``out`` and return its path; and what ``export`` asks for.

    Runs that are missing or failed leave their cells empty, and are counted. Raises a :class:`UserError` where no
    evaluation is finished yet.
    """
    with _without_collector():
        return _report(graph, out, console, export)


@contextlib.contextmanager
def _without_collector() -> Iterator[None]:
    """Python's collector looks at all that is alive again and again; of a page it all lives to the end."""
    on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if on:
            gc.enable()


def _report(graph: Graph, out: Path, console: Console, export: Export | None) -> Path:
    troubles = Troubles.of(graph, out)
    scores = {
        phase.hash: phase.run_directory(out).read_scores()
        for phase in graph.phases.values()
        if phase.kind == EVALUATE and phase.run_directory(out).done
    }
    if not scores:
        raise UserError(
            Problem(
                str(out),
                "\n  ".join(["has no finished evaluation of this study", *troubles.lines()]),
                remedy="python -m xtrain run STUDY first",
            )
        )
    accounts = list(_accounts(graph, out))
    results = list(_results(graph, {key: entry for key, entry in scores.items() if _measured(entry)}))
    evidence, ledger = Evidence.of(graph, out), Ledger.of(graph, out)
    tasks = dict.fromkeys(result.task for result in results)
    grid = assemble(results, {task: marks(evidence, ledger, task) for task in tasks})
    grid = grid.with_estimates({task: differences(evidence, ledger, task) for task in tasks})
    bases = [base.name for base in graph.study.bases]
    disclaimer = xtrain.starter.DISCLAIMER if "starter" in bases else ""
    known = {*scores, *troubles.failed, *troubles.left_out}
    missing = sorted({f"{cell.row} / {cell.target}" for cell in graph.cells if cell.evaluation not in known})
    compute = Compute.of(graph, out)
    trained = {row: text for row, text in trained_on(graph).items() if text != row}  # else the name says it
    summary = StudySummary(
        name=graph.study.title,
        base=", ".join(bases),
        seeds=graph.study.seeds_in_words,
        phases=[
            _summary(graph, phase, phase.run_directory(out), troubles, used)
            for phase, used in zip(graph.phases.values(), compute.phases, strict=True)
        ],
        protocol=_joined_protocol(scores),
        disclaimer=disclaimer,
        trained_on=trained,
        warnings=[
            *troubles.lines(),
            *(f"not evaluated yet: {name}" for name in missing),
            *_unlabelled(scores),
            *unknown_warnings(accounts),
        ],
        accounts=accounts,
        compute=compute,
        answers=answer_questions(graph, evidence, ledger),
    )
    print_answers(summary.answers, console)
    print_tables(grid, console, disclaimer)
    for warning in summary.warnings:
        console.print(warning, highlight=False, markup=False, soft_wrap=True)
    for row, text in trained.items():
        console.print(f"{row}: trained on {text}", highlight=False, markup=False, soft_wrap=True)
    path = write_report(out / f"report-{graph.study.label}.html", grid, summary)
    console.print(f"\nreport: {path}", highlight=False, soft_wrap=True)
    if export is not None:
        said = write_export(export, Content(results, grid, summary))
        console.print(said, highlight=False, markup=False, soft_wrap=True)
    return path


def _measured(scores: Mapping[str, Any]) -> bool:
    """Whether there is a number: a leaderboard's test sets have no labels, and are only predicted."""
    return any(task["languages"] for task in scores["tasks"].values())


def _unlabelled(scores: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What was predicted and not scored, a sentence a task."""
    withheld: dict[str, set[str]] = {}
    for entry in scores.values():
        for name, task in entry["protocol"]["tasks"].items():
            withheld.setdefault(name, set()).update(task.get("without_labels", ()))
    return [
        f"{name}: predicted but not scored, since the test set has no labels: {listed(sorted(languages))}; "
        "python -m xtrain submission OUT writes them for the leaderboard"
        for name, languages in withheld.items()
        if languages
    ]


def _results(graph: Graph, scores: Mapping[str, Mapping[str, Any]]) -> Iterator[ResultRow]:
    """One row a cell and checkpoint. Seeds that share an evaluation (nothing was trained) give one row."""
    seen = set()
    for cell in graph.cells:
        if cell.evaluation not in scores or (cell.row, cell.evaluation) in seen:
            continue
        seen.add((cell.row, cell.evaluation))
        yield from result_rows(scores[cell.evaluation], cell.row, cell.seed)
        if LAST in scores[cell.evaluation]:
            yield from result_rows(scores[cell.evaluation][LAST], cell.row, cell.seed, LAST)


def _accounts(graph: Graph, out: Path) -> Iterator[Account]:
    """Of the data that the phases read, as far as they are prepared."""
    for phase in graph.phases.values():
        path = phase.run_directory(out).data_file
        yield from map(Account.of, read_json(path)) if path.is_file() else ()


def _joined_protocol(scores: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """One protocol for the page: what all evaluations share, and each task's own."""
    protocols = [entry["protocol"] for entry in scores.values()]
    shared = {key: value for key, value in protocols[0].items() if all(p.get(key) == value for p in protocols)}
    tasks = {name: task for protocol in protocols for name, task in protocol["tasks"].items()}
    return {**shared, "tasks": tasks}


def _summary(graph: Graph, phase: Phase, run: RunDirectory, troubles: Troubles, used: PhaseCompute) -> PhaseSummary:
    """A phase as the page's section on training shows it."""
    done = read_json(run.done_marker) if run.done else {}
    lines = read_metrics(run.metrics)
    metrics = [line for line in lines if "loss" in line]
    speeds = [line["tokens_per_second"] for line in metrics if "tokens_per_second" in line]
    failure = next((event for event in reversed(read_events(run.events)) if event["event"] == "failed"), None)
    status, note = FINISHED, troubles.note(phase)
    if not run.done:
        other = ("failed", failure["error"]) if failure else ("not run yet", "")
        status, note = troubles.status(phase) or other
    return PhaseSummary(
        name=used.name,
        kind=phase.kind,
        seed=phase.seed,
        status=status,
        note=note,
        steps=done.get("steps"),
        selected_step=done.get("selected_step"),
        seconds=used.seconds if used.starts else done.get("seconds"),
        tokens_per_second=sum(speeds) / len(speeds) if speeds else None,
        curve=Curve.of(metrics, f"seed {phase.seed}") if metrics else None,
        task_losses=_curves(metrics, {task: f"{task}/loss" for task in phase.tasks}) if len(phase.tasks) > 1 else (),
        dev=_dev_curves(graph, phase, lines),
        compute=used,
    )


def _dev_curves(graph: Graph, phase: Phase, lines: Sequence[Mapping[str, Any]]) -> list[Curve]:
    """The scores on dev by step: of each task in a mixture, and their mean."""
    metrics = {task: graph.specs[task].metric for task in phase.tasks}
    if len(metrics) > 1:
        return _curves(lines, {**{task: f"dev/{task}/{name}" for task, name in metrics.items()}, MEAN: "dev/score"})
    return _curves(lines, {name: f"dev/{name}" for name in metrics.values()})


def _curves(lines: Sequence[Mapping[str, Any]], names: Mapping[str, str]) -> list[Curve]:
    """By label: the curve of each metric that the record has."""
    found = (Curve.of(lines, label, name) for label, name in names.items())
    return [curve for curve in found if curve.steps]
