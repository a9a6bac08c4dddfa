"""What choosing a checkpoint by English dev has cost: against the last step, and against an oracle of the target languages.

An English dev set tells little of other languages (Keung et al. 2020, arXiv 2004.15001); so it is looked at in every study
whose last steps were scored too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from xtrain.questions.answer import Answer, Comparison, Verdict
from xtrain.questions.context import target_mean
from xtrain.questions.leaks import Ledger
from xtrain.questions.table import Evidence
from xtrain.statistics.chance import ALPHA
from xtrain.statistics.contrasts import ITEMS, contrast
from xtrain.statistics.estimate import Estimate, holm
from xtrain.statistics.measured import Measured

QUESTION = "What did it cost to choose the checkpoint by English dev?"
SELECTED, LAST_STEP = "selected", "last step"


def selection(evidence: Evidence, ledger: Ledger) -> Answer | None:
    """The last steps against the selected ones, by target; None where no last step was scored beside another."""
    targets = [
        column.task for column in evidence.graph.study.target
        if any(run.last for run in evidence.runs if run.target == column.task)
    ]  # fmt: skip
    if not targets:
        return None
    found, details = [], []
    last = evidence.of_last_steps()
    for target in targets:
        table = _both(evidence, last, ledger, target)
        rows = len(table.rows) // 2
        weights = np.concatenate([np.full(rows, -1.0 / rows), np.full(rows, 1.0 / rows)])
        units = target_mean(table.units)
        found.append(_line(LAST_STEP, target, table, contrast(table, weights, units)))
        details += _regrets(target, table, units)
    corrected = holm([one.estimate.p if one.estimate.known else 1.0 for one in found])
    judged = tuple(_judged(one, p) for one, p in zip(found, corrected, strict=True))
    return Answer(
        name="selection",
        question=QUESTION,
        kind="contrast",
        sentence=_sentence(judged, details),
        unit="points",
        against="the checkpoint that was best on English dev",
        comparisons=judged,
        details=tuple(details),
        limits=("the oracle looks at the scores that are reported: nobody can choose so, it is a bound",),
    )


def _both(selected: Evidence, last: Evidence, ledger: Ledger, target: str) -> Measured:
    """Each row twice, with its selected and with its last weights, in the units that are zero-shot in all rows."""
    one, other = selected.whole(target, ""), last.whole(target, "")
    rows = [r for r in range(len(one.rows)) if not np.isnan(one.scores[r]).all()]
    there = ~np.isnan(one.scores[rows]).all(axis=2)
    seeds = np.flatnonzero(there.all(axis=0))
    kept = [
        u for u, unit in enumerate(one.units)
        if not any(ledger.reason(one.rows[r], target, unit.language) for r in rows)
        and not np.isnan(one.scores[rows][:, seeds][:, :, u]).any()
    ]  # fmt: skip
    same_items = all(np.array_equal(one.clusters[u], other.clusters[u]) for u in kept)
    return Measured(
        tuple(f"{one.rows[r]}, {which}" for which in (SELECTED, LAST_STEP) for r in rows),
        tuple(one.seeds[s] for s in seeds),
        tuple(one.units[u] for u in kept),
        np.concatenate([part.scores[rows][:, seeds][:, :, kept] for part in (one, other)]),
        tuple(np.concatenate([part.influence[u][rows][:, seeds] for part in (one, other)]) for u in kept)
        if same_items else (),
        tuple(one.clusters[u] for u in kept) if same_items else (),
    )  # fmt: skip


def _regrets(target: str, table: Measured, units: np.ndarray) -> list[Comparison]:
    """The oracle less each way to choose: of each run the better of its two checkpoints, by the target languages."""
    rows = len(table.rows) // 2
    means = np.einsum("u,rsu->rs", units, table.scores)
    best = np.maximum(means[:rows], means[rows:])
    found = []
    for name, part in (
        (SELECTED, means[:rows]),
        (LAST_STEP, means[rows:]),
        ("their mean", (means[:rows] + means[rows:]) / 2),
    ):
        by_seed = (part - best).mean(axis=0)
        found.append(Comparison(name, Estimate(float(by_seed.mean()), ()), f"{target}, against the oracle",
                                verdict=Verdict.UNSUPPORTED, counts={"seeds": len(by_seed), "rows": rows}))  # fmt: skip
    return found


def _line(label: str, target: str, table: Measured, estimate: Estimate) -> Comparison:
    items = next((source.n for source in estimate.sources if source.name == ITEMS), 0)
    counts = {"seeds": len(table.seeds), "items": items, "languages": len(table.units), "rows": len(table.rows) // 2}
    return Comparison(label, estimate, target, counts=counts)


def _judged(one: Comparison, p: float) -> Comparison:
    if one.counts["seeds"] < 2 or not one.estimate.known:
        return replace(one, verdict=Verdict.UNSUPPORTED, remarks=("one seed",))
    verdict = Verdict.OPEN if p >= ALPHA else Verdict.HIGHER if one.estimate.value > 0 else Verdict.LOWER
    return replace(one, p_corrected=p, verdict=verdict)


def _sentence(judged: Sequence[Comparison], details: Sequence[Comparison]) -> str:
    better = [one.group for one in judged if one.verdict is Verdict.HIGHER]
    worse = [one.group for one in judged if one.verdict is Verdict.LOWER]
    regret = [one.estimate.value for one in details if one.label == SELECTED]
    parts = []
    if better:
        parts.append(f"The last step is better than the selected one on {', '.join(better)}.")
    if worse:
        parts.append(f"The last step is worse than the selected one on {', '.join(worse)}.")
    if not better and not worse:
        parts.append("The last step and the selected one cannot be told apart.")
    parts.append(f"Against the better one of the two by the target languages, choosing by English dev loses "
                 f"{-min(regret):.1f} points at most, {-float(np.mean(regret)):.1f} on average over targets.")  # fmt: skip
    return " ".join(parts)
