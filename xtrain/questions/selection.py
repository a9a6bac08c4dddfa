"""What choosing a checkpoint by English dev has cost: against the last step, and against an oracle.

An English dev set tells little of other languages (Keung et al. 2020, arXiv 2004.15001); so it is looked at in every
study whose last steps were scored too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from xtrain.questions.answer import Answer, Comparison, Verdict, told_apart
from xtrain.questions.context import target_mean
from xtrain.questions.leaks import Ledger
from xtrain.questions.sentences import half_width, number, with_p
from xtrain.questions.table import Evidence
from xtrain.statistics.contrasts import ITEMS, SEEDS, contrast
from xtrain.statistics.estimate import Estimate, Source, holm
from xtrain.statistics.measured import Floats, Measured

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
    part = one.with_rows(rows)
    seeds = part.shared_seeds()
    kept = [
        u for u in part.whole_units().tolist()
        if not any(ledger.reason(row, target, one.units[u].language) for row in part.rows)
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


def _regrets(target: str, table: Measured, units: Floats) -> list[Comparison]:
    """The oracle less each way to choose: of each run the better of its two checkpoints, by the target languages."""
    rows = len(table.rows) // 2
    means = np.einsum("u,rsu->rs", units, table.scores)
    selected, last = means[:rows], means[rows:]
    best = np.maximum(selected, last)
    found = []
    for name, part in ((SELECTED, selected), (LAST_STEP, last), ("their mean", (selected + last) / 2)):
        by_seed = (part - best).mean(axis=0)
        counts = {"seeds": len(by_seed), "rows": rows}
        group = f"{target}, against the oracle"
        found.append(Comparison(name, _of_seeds(by_seed), group, verdict=Verdict.UNSUPPORTED, counts=counts))
    return found


def _of_seeds(by_seed: Floats) -> Estimate:
    """The mean of one value a seed."""
    count = len(by_seed)
    variance = float(np.var(by_seed, ddof=1)) / count if count > 1 else 0.0
    sources = (Source(SEEDS, variance, count - 1, count),) if count > 1 else ()
    return Estimate(float(by_seed.mean()), sources)


def _line(label: str, target: str, table: Measured, estimate: Estimate) -> Comparison:
    items = next((source.n for source in estimate.sources if source.name == ITEMS), 0)
    counts = {"seeds": len(table.seeds), "items": items, "languages": len(table.units), "rows": len(table.rows) // 2}
    return Comparison(label, estimate, target, counts=counts)


def _judged(one: Comparison, p: float) -> Comparison:
    if one.counts["seeds"] < 2 or not one.estimate.known:
        return replace(one, verdict=Verdict.UNSUPPORTED, remarks=("one seed",))
    return replace(one, p_corrected=p, verdict=told_apart(one.estimate.value, p))


def _sentence(judged: Sequence[Comparison], details: Sequence[Comparison]) -> str:
    parts = []
    words_of = {Verdict.HIGHER: "better than", Verdict.LOWER: "worse than", Verdict.OPEN: "not told from"}
    for verdict, words in words_of.items():
        told = [f"{one.group} {_told(one)}" for one in judged if one.verdict is verdict]
        if told:
            parts.append(f"The last step is {words} the selected one on {'; '.join(told)}.")
    regrets = [one for one in details if one.label == SELECTED and one.estimate.known]
    lost = [f"{one.group.partition(',')[0]} {_told(one)}" for one in regrets]
    if lost:
        parts.append(f"Against the better one of the two by the target languages, choosing by English dev gives up: "
                     f"{'; '.join(lost)}.")  # fmt: skip
    return " ".join(parts) or "One seed: nothing is claimed."


def _told(one: Comparison) -> str:
    """``+0.4 points (95 % interval -0.1 to +0.9, p = 0.08)``."""
    return f"{number(one.estimate.value, half_width(one.estimate))} points (95 % interval {with_p(one)})"
