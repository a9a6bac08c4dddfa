"""Chance: exact and by permutation."""

from __future__ import annotations

from math import comb

import numpy as np
import pytest

from xtrain.statistics.chance import binomial_p, permutation_p


def test_the_binomial_is_the_sum_of_its_terms() -> None:
    wanted = sum(comb(10, k) * 0.25**k * 0.75 ** (10 - k) for k in range(6, 11))
    assert binomial_p(6, 10, 0.25) == pytest.approx(wanted)
    assert binomial_p(0, 10, 0.25) == pytest.approx(1.0)


def test_a_permutation_test_counts_the_observed_order() -> None:
    right = np.arange(8)
    assert permutation_p(lambda order: float(np.mean(np.asarray(order) == right)), 8, 199) == pytest.approx(1 / 200)
    assert permutation_p(lambda order: 1.0, 8, 19) == 1.0


def test_chance_is_called_chance_as_often_as_stated() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 40)
    found = []
    for seed in range(200):
        guesses = rng.integers(0, 3, 40)
        found.append(permutation_p(lambda order: float(np.mean(guesses[order] == labels)), 40, 39, seed))  # noqa: B023
    assert np.mean(np.array(found) <= 0.05) <= 0.09
