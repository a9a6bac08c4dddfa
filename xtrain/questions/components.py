"""What varies, and by how much: a crossed mixed model of the scores that a question looks at."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence

import numpy as np

from xtrain.questions.context import Context, family_of
from xtrain.statistics.measured import Floats, Measured
from xtrain.statistics.mixed_model import fit

MOST_SCORES = 500  # more take too long for what they add
RUNS, LANGUAGE, FAMILY, ROW_BY_LANGUAGE, REST = "runs", "languages", "families", "rows by languages", "the rest"


def components(context: Context, rows: Sequence[str]) -> dict[str, float]:
    """Standard deviations in points of the scores of ``rows``, the root mean square over the targets.

    Rows are fixed. Runs (a seed of a row), languages within families, and what a language does in a row, are random;
    the items' sampling errors, known from the predictions, are taken out of the rest.
    """
    variances: dict[str, list[float]] = {}
    for target in context.targets:
        table = context.table(rows, context.languages, [target])
        table = table.of_rows(range(len(table.rows)))
        if len(table.rows) < 2 or len(table.seeds) < 2 or len(table.units) < 3 or table.scores.size > MOST_SCORES:
            continue
        for name, variance in _of_target(table).items():
            variances.setdefault(name, []).append(variance)
    return {name: math.sqrt(float(np.mean(some))) for name, some in variances.items()}


def _of_target(table: Measured) -> dict[str, float]:
    shape = table.scores.shape
    row, seed, unit = (index.ravel() for index in np.indices(shape))
    languages = [table.units[u].language for u in unit]
    fixed = (row[:, None] == np.arange(shape[0])[None, :]).astype(float)
    random: dict[str, Sequence[Hashable]] = {
        RUNS: list(zip(row.tolist(), seed.tolist(), strict=True)),
        LANGUAGE: languages,
        FAMILY: [family_of(language) for language in languages],
        ROW_BY_LANGUAGE: list(zip(row.tolist(), languages, strict=True)),
    }
    found = fit(table.scores.ravel(), fixed, random, _items(table))
    return {REST if name == "residual" else name: value for name, value in found.components.items()}


def _items(table: Measured) -> Floats | None:
    """Covariance of the scores' errors, (N, N), from items that rows, seeds and languages share."""
    if not table.influence:
        return None
    rows, seeds, units = table.scores.shape
    summed = np.zeros((rows, seeds, units, table.num_clusters))
    for u, (influence, numbers) in enumerate(zip(table.influence, table.clusters, strict=True)):
        summed[:, :, u, numbers] += influence
    flat = summed.reshape(rows * seeds * units, -1)
    covariance: Floats = flat @ flat.T
    return _averaged(covariance, (rows, seeds, units))


def _averaged(covariance: Floats, shape: tuple[int, ...]) -> Floats:
    """Each entry as the mean of all that have as much in common: row, seed, language.

    There are more scores than the items could tell covariances of one by one; what rows, seeds and languages share is
    the form that the model gives them anyway.
    """
    places = [index.ravel() for index in np.indices(shape)]
    kind = sum((place[:, None] == place[None, :]).astype(int) << n for n, place in enumerate(places))
    sums, counts = np.bincount(kind.ravel(), covariance.ravel(), 8), np.bincount(kind.ravel(), minlength=8)
    averaged: Floats = (sums / np.maximum(counts, 1))[kind]
    return averaged
