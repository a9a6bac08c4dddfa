"""The uncertainty in the report's tables: each difference to the base row with its estimate, and marks of cells."""

from __future__ import annotations

import numpy as np

from xtrain.questions.context import target_mean
from xtrain.questions.leaks import Ledger
from xtrain.questions.table import Evidence
from xtrain.statistics.contrasts import contrast
from xtrain.statistics.estimate import Estimate
from xtrain.statistics.measured import Measured
from xtrain.study_rows import NO_INTERMEDIATE

NOT_ZERO_SHOT = "not zero-shot"  # how a mark begins that takes a language out of the zero-shot mean
AT_CHANCE = "at chance"
SAME_TASK = "same task"
ENGLISH = "en"  # stands apart in every table: no mark is needed
Cell = tuple[str, str | None]
"""Row and language; None: the mean."""


def differences(evidence: Evidence, ledger: Ledger, target: str) -> dict[Cell, Estimate]:
    """Each row less the base row, in every language and in the mean over those that are zero-shot in all rows."""
    table = evidence.whole(target, "")
    if NO_INTERMEDIATE not in table.rows or np.isnan(table.scores[table.row(NO_INTERMEDIATE)]).all():
        return {}
    averaged = _averaged(table, ledger)
    found: dict[Cell, Estimate] = {}
    for row in table.rows:
        weights = np.zeros(len(table.rows))
        weights[table.row(row)], weights[table.row(NO_INTERMEDIATE)] = 1.0, -1.0
        if row == NO_INTERMEDIATE or np.isnan(table.scores[table.row(row)]).all():
            continue
        for u, unit in enumerate(table.units):
            part = table.of_units([u])
            found[row, unit.language] = contrast(part, weights, np.ones(1))
        if averaged:
            part = table.of_units(averaged)
            found[row, None] = contrast(part, weights, target_mean(part.units))
    return {cell: estimate for cell, estimate in found.items() if estimate.sources and len(table.seeds) > 1}


def _averaged(table: Measured, ledger: Ledger) -> list[int]:
    """The units of the mean: those that every run has and that are zero-shot in every row."""
    there = ~np.isnan(table.scores).all(axis=2)  # (R, S): the runs
    return [
        u
        for u, unit in enumerate(table.units)
        if not np.isnan(table.scores[:, :, u][there]).any()
        and not any(ledger.reason(row, unit.target, unit.language) for row in table.rows)
    ]


def marks(evidence: Evidence, ledger: Ledger, target: str) -> dict[tuple[str, str], tuple[str, ...]]:
    """Row and language -> what a reader must know of the cell: not zero-shot and why, the same task, at chance."""
    table = evidence.whole(target, "")
    found: dict[tuple[str, str], tuple[str, ...]] = {}
    for row in table.rows:
        for unit in table.units:
            said = []
            if unit.language != ENGLISH and (why := ledger.reason(row, target, unit.language)):
                said.append(f"{NOT_ZERO_SHOT}: {why}")
            if why := ledger.same_task(row, target):
                said.append(f"{SAME_TASK}: {why}")
            if evidence.at_chance(row, unit):
                said.append(AT_CHANCE)
            if said:
                found[row, unit.language] = tuple(said)
    return found
