"""Made-up results and answers, for the tests of the report: small ones, and those of a paper."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cache

import numpy as np

from xtrain.questions.answer import Answer, Comparison, Point, Verdict
from xtrain.report.html import StudySummary, render
from xtrain.report.statistics import Grid, ResultRow, assemble
from xtrain.statistics.estimate import Estimate, Source


def result(row: str, scores: Mapping[str, float], seed: int = 0, task: str = "xnli", **more: object) -> ResultRow:
    """One run with accuracy alone."""
    return ResultRow(row, seed, task, {k: {"accuracy": v} for k, v in scores.items()}, "accuracy", **more)  # type: ignore[arg-type]


def random_results(
    rows: Sequence[str], languages: Sequence[str], seeds: Sequence[int] = (0,), task: str = "messages"
) -> list[ResultRow]:
    """Accuracy, F1 and a baseline that differs between languages."""
    rng = np.random.default_rng(0)
    return [
        ResultRow(
            row,
            seed,
            task,
            {
                one: {"accuracy": float(a), "f1": float(a) - 2, "majority": float(b)}
                for one, a, b in zip(
                    languages,
                    rng.uniform(40, 80, len(languages)),
                    rng.uniform(20, 30, len(languages)),
                    strict=True,
                )
            },
            "accuracy",
        )
        for row in rows
        for seed in seeds
    ]


def estimate(value: float, se: float = 0.5, seeds: int = 3) -> Estimate:
    """Most of its variance from the seeds."""
    return Estimate(
        value,
        (
            Source("seeds", 0.7 * se**2, seeds - 1, seeds),
            Source("items", 0.3 * se**2, math.inf, 5010),
        ),
    )


def comparison(
    label: str, value: float, verdict: Verdict = Verdict.OPEN, se: float = 0.5, group: str = ""
) -> Comparison:
    """A line of an answer with everything that it may have."""
    return Comparison(
        label,
        estimate(value, se),
        group,
        p_corrected=0.004 if verdict in (Verdict.HIGHER, Verdict.LOWER) else 0.37,
        verdict=verdict,
        scores=(60.0 + value, 60.0),
        effect_size=value / 50,
        detectable=2.9 * se,
        counts={"seeds": 3, "items": 5010, "languages": 14},
    )


def _verdict(value: float, se: float) -> Verdict:
    if abs(value) < 3.5 * se:
        return Verdict.OPEN
    return Verdict.HIGHER if value > 0 else Verdict.LOWER


def _comparisons(labels: Sequence[str], group: str = "", seed: int = 0, se: float = 0.45) -> tuple[Comparison, ...]:
    values = np.random.default_rng(seed).normal(0.4, 1.6, len(labels))
    return tuple(
        comparison(one, float(v), _verdict(float(v), se), se, group) for one, v in zip(labels, values, strict=True)
    )


PAPER_ROWS = (
    "none", "anli", "mnli", "qqp", "squad", "squad2", "hellaswag", "ccg", "cosmosqa", "csqa",
    "multi: all nine, with MLM",
)  # fmt: skip
PAPER_TASKS = {
    "xnli": "en ar bg de el es fr hi ru sw th tr ur vi zh",
    "pawsx": "en de es fr ja ko zh",
    "udpos": "en af ar bg de el es et eu fa fi fr he hi hu id it ja kk ko mr nl pt ru ta te th tl tr ur vi yo zh",
    "panx": (
        "en af ar az bg bn de el es et eu fa fi fr gu he hi hu id it ja jv ka kk ko lt ml mr ms my nl pa pl pt qu ro "
        "ru sw ta te th tl tr uk ur vi yo zh"
    ),
    "xquad": "en ar de el es hi ru th tr vi zh",
    "mlqa": "en ar de es hi vi zh",
    "tydiqa": "en ar bn fi id ko ru sw te",
    "bucc": "de fr ru zh",
    "tatoeba_retrieval": (
        "af ar bg bn de el es et eu fa fi fr he hi hu id it ja jv ka kk ko ml mr nl pt ru sw ta te th tl tr ur vi zh"
    ),
}


def paper_grid(seeds: Sequence[int] = (0, 1, 2)) -> Grid:
    """Eleven rows, nine tasks, up to 48 languages, with estimates and marks."""
    rng = np.random.default_rng(0)
    results, marks, estimates = [], {}, {}
    for task, codes in PAPER_TASKS.items():
        languages = codes.split()
        level = dict(zip(languages, rng.uniform(45, 88, len(languages)), strict=True))
        estimates[task] = {}
        for row in PAPER_ROWS:
            gain = rng.normal(0.0 if row == "none" else 0.7, 1.2, len(languages))
            for seed in seeds:
                noise = rng.normal(0, 0.5, len(languages))
                scores = {
                    one: {"accuracy": level[one] + float(g + n), "f1": level[one] - 2 + float(g + n), "majority": 33.3}
                    for one, g, n in zip(languages, gain, noise, strict=True)
                }
                results.append(ResultRow(row, seed, task, scores, "accuracy"))
        marks[task] = {("csqa", languages[-1]): ("at chance",)}
    marks["xnli"][PAPER_ROWS[-1], "de"] = ("not zero-shot: de in the intermediate data",)
    grid = assemble(results, marks)
    for task in grid.tasks:
        for row in task.compared_rows:
            for language in (*task.languages, None):
                points = task.difference(row, language)
                assert points is not None
                estimates[task.task][row, language] = estimate(points, 0.3 if language is None else 0.5)
    return grid.with_estimates(estimates)


def paper_answers() -> tuple[Answer, ...]:
    """One of every kind, as large as a paper's."""
    rows, tasks = PAPER_ROWS[1:], tuple(PAPER_TASKS)
    languages = PAPER_TASKS["panx"].split()
    limits = (
        "Nine targets are not all targets: it is no statement on others.",
        "Three seeds: an effect below one point is not seen.",
    )
    advice = ("Two more seeds of csqa and panx would halve its interval.",)
    sentence = (
        "On the mean of nine tasks, mnli helps most: +1.9 points (95 % interval +0.9 to +2.9, corrected p 0.004; "
        "3 seeds, 9 tasks)."
    )
    return (
        Answer(
            "which-help", "Which intermediate tasks help zero-shot transfer?", "contrast", sentence,
            "accuracy, points", "none", _comparisons(rows), _comparisons(languages, "mnli", 3, 0.9),
            limits=limits, advice=advice, margin=1.0,
        ),
        Answer(
            "which-help-where", "Which intermediate tasks help which target?", "interaction", sentence,
            "accuracy, points", "none",
            tuple(one for n, task in enumerate(tasks) for one in _comparisons(rows, task, n)), limits=limits,
        ),
        Answer(
            "how-much", "How much intermediate data is enough?", "curve", sentence, "accuracy, points", "none",
            (comparison("per tenfold data", 0.9, Verdict.HIGHER, 0.2),), x_name="examples of mnli",
            curve=tuple(Point(x, estimate(v, 0.3)) for x, v in ((1e3, 0.1), (1e4, 0.8), (1e5, 1.6), (3.9e5, 2.2))),
        ),
        Answer(
            "which-pairs", "Which pairs add up?", "matrix", sentence, "accuracy, points", "the better of the two",
            tuple(one for n, row in enumerate(rows) for one in _comparisons(rows[n + 1 :], row, n, 0.8)),
            matrix=(rows[:-1], rows[1:]), limits=limits,
        ),
        Answer(
            "which-one", "Which one should I take?", "choice", sentence, "accuracy, points", "mnli",
            tuple(
                comparison(one, -0.3 * n, Verdict.LOWER if n > 4 else Verdict.OPEN)
                for n, one in enumerate((*rows[2:], "anli", "none"), 1)
            ),
            advice=advice,
        ),
    )  # fmt: skip


@cache
def paper_page() -> str:
    """The page of :func:`paper_grid` and :func:`paper_answers`."""
    return render(paper_grid(), _paper_study())


def _paper_study() -> StudySummary:
    return StudySummary("phang2020", "FacebookAI/xlm-roberta-large", seeds="3 (0, 1, 2)", answers=paper_answers())
