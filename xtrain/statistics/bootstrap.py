"""The paired bootstrap: what was sampled (items, seeds, languages) is drawn again, the same for all rows.

Weights are Rao & Wu's (1988): of n, n - 1 are drawn and weighted by n / (n - 1), so that the variance of a mean is not
too small where n is (two seeds). Items of the same id are drawn together in all languages.

Dimension letters: B draws, R rows, S seeds, U units, I items of a unit, K clusters.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from xtrain.statistics.contrasts import ITEMS, LANGUAGES, SEEDS
from xtrain.statistics.measured import Floats, Measured

DRAWS = 2000
Weights = npt.NDArray[np.float32]


def rao_wu(count: int, draws: int, rng: np.random.Generator) -> Weights:
    """(B, count) weights of mean 1 over ``count`` things; all 1 where there is but one."""
    if count < 2:
        return np.ones((draws, count), dtype=np.float32)
    picked = rng.integers(0, count, size=(draws, count - 1))
    picked += np.arange(draws)[:, None] * count
    counts = np.bincount(picked.ravel(), minlength=draws * count).reshape(draws, count)
    weights: Weights = (counts * (count / (count - 1))).astype(np.float32)
    return weights


def draw(
    table: Measured, over: Sequence[str] = (ITEMS, SEEDS), draws: int = DRAWS, seed: int = 0
) -> npt.NDArray[np.float32]:
    """(B, R, U): scores, the mean over seeds, of ``draws`` tables that might have been measured.

    ``over`` says what is drawn again: items, seeds, languages (the same ones in all targets; then a unit's score is
    weighted by its language's, so that sums over units are what they would have been).
    """
    rng = np.random.default_rng(seed)
    num_seeds = len(table.seeds)
    seeds = rao_wu(num_seeds, draws, rng) if SEEDS in over else np.ones((draws, num_seeds), dtype=np.float32)
    scores = table.scores.astype(np.float32)
    drawn: Weights = np.einsum("bs,rsu->bru", seeds / num_seeds, scores)
    if ITEMS in over and table.influence:
        items = _cluster_weights(table, draws, rng)
        for u, (influence, clusters) in enumerate(zip(table.influence, table.clusters, strict=True)):
            rows, _, count = influence.shape
            flat = influence.reshape(rows * num_seeds, count)
            moved = (items[:, clusters] @ flat.T).reshape(draws, rows, num_seeds)
            drawn[:, :, u] += np.einsum("bs,brs->br", seeds / num_seeds, moved)
    if LANGUAGES in over:
        names = list(dict.fromkeys(unit.language for unit in table.units))
        weights = rao_wu(len(names), draws, rng)
        drawn *= weights[:, None, [names.index(unit.language) for unit in table.units]]
    return drawn


def _cluster_weights(table: Measured, draws: int, rng: np.random.Generator) -> Weights:
    """(B, K), drawn within each target."""
    weights = np.empty((draws, table.num_clusters), dtype=np.float32)
    for target in dict.fromkeys(unit.target for unit in table.units):
        mine = [c for unit, c in zip(table.units, table.clusters, strict=True) if unit.target == target]
        numbers = np.unique(np.concatenate(mine))
        weights[:, numbers] = rao_wu(len(numbers), draws, rng)
    return weights


def probability_best(draws: npt.NDArray[np.floating]) -> Floats:
    """(B, R) scores -> (R,): in which share of the draws each row is the best; ties are shared."""
    best = draws == draws.max(axis=1, keepdims=True)
    shares: Floats = (best / best.sum(axis=1, keepdims=True)).mean(axis=0)
    return shares
