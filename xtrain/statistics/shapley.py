"""Shapley values: what each task adds to a set of tasks, the mean over all orders in which they could come."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

import numpy as np

from xtrain.statistics.measured import Floats

Subset = frozenset[str]


def sampled_weights(players: Sequence[str], subsets: Collection[Subset]) -> dict[str, dict[Subset, float]]:
    """Player -> what the value of each subset that was run counts in its Shapley value (Shapley 1953).

    The values are those of the additive game that fits the subsets' values best.

    A weighted least-squares fit with the kernel of Charnes et al. (1988), under the constraint that the values add up
    to that of all players less that of none; exact where all subsets are there. Both ends have to be among
    ``subsets``. Raises a ValueError where the subsets do not tell the players apart.
    """
    count = len(players)
    empty, whole = Subset(), Subset(players)
    if empty not in subsets or whole not in subsets:
        raise ValueError("needs the value of no task and that of all of them")
    inner = sorted((one for one in subsets if one not in (empty, whole)), key=lambda one: (len(one), sorted(one)))
    member = np.array([[player in one for player in players] for one in inner], dtype=float).reshape(-1, count)
    kernel = np.array([(count - 1) / (math.comb(count, len(one)) * len(one) * (count - len(one))) for one in inner])
    # v(S) - v(0) = sum of phi in S, with the sum of all phi = v(N) - v(0): the last player is put in terms of the
    # others
    free = member[:, :-1] - member[:, -1:]
    if np.linalg.matrix_rank(free) < count - 1:
        raise ValueError("the subsets that were run do not tell the tasks apart: run more, each task equally often")
    scaled = free * np.sqrt(kernel)[:, None]
    solve: Floats = np.linalg.pinv(scaled) * np.sqrt(kernel)[None, :]  # (count - 1, subsets)
    names = [*inner, whole, empty]
    total = np.zeros((count, len(names)))
    total[:-1, : len(inner)] = solve
    total[:-1, len(inner)] = -solve @ member[:, -1]
    total[:-1, len(inner) + 1] = -solve @ (1.0 - member[:, -1])
    total[-1] = -total[:-1].sum(axis=0)
    total[-1, len(inner)] += 1.0
    total[-1, len(inner) + 1] -= 1.0
    return {player: dict(zip(names, line.tolist(), strict=True)) for player, line in zip(players, total, strict=True)}
