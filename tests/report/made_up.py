"""Made-up results, for the tests of the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from xtrain.report.statistics import ResultRow


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
