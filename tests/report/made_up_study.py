"""A made-up study with all that a page can have: answers, interrupted phases, data, two checkpoints, three seeds."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from xtrain.data.account import Account
from xtrain.questions.answer import Answer, Comparison, Point, Verdict
from xtrain.report.compute import Compute, PhaseCompute
from xtrain.report.export.content import Content
from xtrain.report.figures import Curve
from xtrain.report.html import StudySummary
from xtrain.report.statistics import LAST, ResultRow, assemble
from xtrain.report.training import PhaseSummary
from xtrain.statistics.estimate import Estimate, Source
from xtrain.tasks.formats import TextCount
from xtrain.watching.starts import StartUsage

NASTY = "a_b & 50% #1 {x} ~^\\ $y$ <é> [z]*"
SEEDS = (0, 1, 2)


def estimate(value: float, se: float = 0.5, df: float = 8.0) -> Estimate:
    return Estimate(value, (Source("seeds", se**2, df, 3), Source("items", 0.04, 900.0, 1000)))


def results(rows: Sequence[str], tasks: Sequence[str], languages: Sequence[str]) -> list[ResultRow]:
    rng = np.random.default_rng(1)
    found = []
    for task in tasks:
        for row in rows:
            for seed in SEEDS:
                for which in ("selected", LAST):
                    drawn = zip(languages, *rng.uniform(30, 90, (2, len(languages))), strict=True)
                    scores = {
                        language: {"accuracy": float(a), "f1": float(b), "majority": 30.0 + 1.37 * n}
                        for n, (language, a, b) in enumerate(drawn)
                    }
                    found.append(ResultRow(row, seed, task, scores, "accuracy", which))
    return found


def starts(number: int, seconds: float) -> tuple[StartUsage, ...]:
    return tuple(
        StartUsage(n + 1, "", 1000.0 * n, seconds, "done" if n == number - 1 else "preempted", n == 0 and number > 1,
                   ranks=8, gpus=8, device="NVIDIA H200", nodes=(f"n{n}",), lost_seconds=33.0 * (n < number - 1))
        for n in range(number)
    )  # fmt: skip


def phases() -> list[PhaseSummary]:
    curve = Curve("seed 0", list(range(10, 400, 10)), [3.0 / n for n in range(1, 40)])
    dev = [Curve("accuracy", [100, 200, 300], [50.0, 61.0, 58.0])]
    found = []
    kinds = {"mnli": "intermediate", "mnli/xnli": "target", "none/xnli": "evaluate", "mnli/pawsx": "target"}
    for n, (name, kind) in enumerate(kinds.items()):
        used = PhaseCompute(name, kind, 0, starts(n + 1, 1234.5 + 100 * n))
        found.append(
            PhaseSummary(name, kind, 0, steps=4321 + n, selected_step=3210 + n, seconds=used.seconds, compute=used,
                         tokens_per_second=98765.4 + n, curve=curve if n < 2 else None, dev=dev if n < 2 else ())
        )  # fmt: skip
    return [*found, PhaseSummary("qqp/xnli", "target", 1, status="collapsed", note="all answers alike at step 77")]


def accounts(languages: Sequence[str]) -> list[Account]:
    return [
        Account("xnli", "test", language, rows=1011 + n, examples=1007 + n, truncated=3 + n, split_examples=17 * n,
                dropped={"empty text": 4}, text=TextCount(5000 + 7 * n, 23000, 9000 + 11 * n, 101 + n),
                fingerprint=language)
        for n, language in enumerate(languages)
    ]  # fmt: skip


def answers() -> list[Answer]:
    claims = (
        Comparison("mnli", estimate(2.31), "xnli", 0.0123, Verdict.HIGHER, (62.1, 59.8), 0.047, 1.45,
                   {"seeds": 3, "items": 5010, "languages": 15}),
        Comparison(NASTY, estimate(-0.42), "xnli", 0.61, Verdict.OPEN, None, None, 1.52, {"seeds": 3},
                   ("sw at chance",)),
        Comparison("qqp", Estimate(1.9, ()), "xnli", None, Verdict.UNSUPPORTED),
    )  # fmt: skip
    points = (Point(1000.0, estimate(0.7), "1k"), Point(10000.0, estimate(1.8), "10k"))
    return [
        Answer("helps", f"Does it help? {NASTY}", "contrast", "Yes, by 2.3 points.", "accuracy, points", "none", claims,
               (Comparison("de", estimate(3.05), "xnli", verdict=Verdict.HIGHER),), margin=1.0,
               limits=("It says nothing of other models.",)),
        Answer("size", "How much is enough?", "curve", "More is better.", "accuracy, points", curve=points,
               x_name="examples"),
    ]  # fmt: skip


def content(
    rows: Sequence[str] = ("none", "mnli", "qqp"),
    tasks: Sequence[str] = ("xnli", "message_retrieval"),
    languages: Sequence[str] = ("en", "de", "sw"),
    name: str = "made up",
) -> Content:
    runs = results(rows, tasks, languages)
    grid = assemble(runs, {"xnli": {("mnli", languages[-1]): ("at chance",)}})
    known = {("mnli", None): estimate(1.26), ("mnli", "de"): estimate(-0.77)} if "mnli" in rows else {}
    tasks_with = (dataclasses.replace(grid.tasks[0], estimates=known), *grid.tasks[1:])
    shown = phases()
    compute = Compute(tuple(one.compute for one in shown if one.compute is not None))
    tokens = {one.language: one.tokens() for one in accounts(languages)}
    protocol = {"tasks": {"xnli": {"examples": dict.fromkeys(languages, 1007), "tokens": tokens}}}
    study = StudySummary(
        name, "b", SEEDS, shown, protocol, accounts=accounts(languages), compute=compute, answers=answers()
    )
    return Content(runs, dataclasses.replace(grid, tasks=tasks_with), study)
