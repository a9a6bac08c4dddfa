"""Whether a score is above what chance or a constant answer gives."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from scipy import special

PERMUTATIONS = 999
ALPHA = 0.05


def binomial_p(right: int, count: int, chance: float) -> float:
    """Exact one-sided p of at least ``right`` right answers of ``count`` where each is right by ``chance``, 0 to 1."""
    return float(special.bdtrc(right - 1, count, chance)) if right > 0 else 1.0


def permutation_p(
    score: Callable[[Sequence[int]], float], count: int, permutations: int = PERMUTATIONS, seed: int = 0
) -> float:
    """One-sided p of a score under shuffled answers: ``score`` takes which answer each of ``count`` items is given.

    The observed order counts as one of the permutations (Phipson & Smyth 2010), so it is never 0.
    """
    rng = np.random.default_rng(seed)
    observed = score(range(count))
    as_high = sum(score(rng.permutation(count).tolist()) >= observed for _ in range(permutations))
    return (1 + as_high) / (1 + permutations)
