"""The bootstrap against a plain loop, against the formulas it stands beside, and its intervals against known ones."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from xtrain.statistics.bootstrap import draw, probability_best, rao_wu
from xtrain.statistics.contrasts import contrast
from xtrain.statistics.measured import Measured
from xtrain.statistics.planted import Spread, mean_for, table

SPREAD = Spread(seed=0.05)


@pytest.fixture(scope="module")
def study() -> Measured:
    means = np.repeat(mean_for(np.array([[60.0], [66.0]]), SPREAD), 5, axis=1)
    return table(means, SPREAD, seeds=3, items=200, rng=np.random.default_rng(7))


def test_weights_have_the_mean_and_variance_of_sampling() -> None:
    for count in (2, 3, 10):
        weights = rao_wu(count, 20_000, np.random.default_rng(0))
        assert weights.mean(axis=0) == pytest.approx(np.ones(count), abs=0.03)
        values = np.arange(count, dtype=float)
        means = weights @ values / count
        assert means.var() == pytest.approx(values.var(ddof=1) / count, rel=0.05)
    assert rao_wu(1, 3, np.random.default_rng(0)).tolist() == [[1.0]] * 3


def test_it_is_the_plain_loop(study: Measured) -> None:
    """The same weights, one table, seed, unit and item after the other."""
    draws = 5
    found = draw(study, ("items", "seeds"), draws, seed=11)
    rng = np.random.default_rng(11)
    seeds = rao_wu(3, draws, rng)
    items = rao_wu(200, draws, rng)
    for b in range(draws):
        for r in range(2):
            for u in range(5):
                total = 0.0
                for s in range(3):
                    score = study.scores[r, s, u]
                    for place, cluster in enumerate(study.clusters[u]):
                        score += items[b, cluster] * study.influence[u][r, s, place]
                    total += seeds[b, s] * score / 3
                assert found[b, r, u] == pytest.approx(total, abs=1e-3)


def test_items_vary_as_the_formula_says(study: Measured) -> None:
    """Of one seed: of several, what items do to each run is the seeds'."""
    study = replace(study, seeds=study.seeds[:1], scores=study.scores[:, :1],
                    influence=tuple(one[:, :1] for one in study.influence))  # fmt: skip
    weights, units = np.array([-1.0, 1.0]), np.full(5, 0.2)
    stated = next(one for one in contrast(study, weights, units).sources if one.name == "items").variance
    drawn = np.einsum("r,u,bru->b", weights, units, draw(study, ("items",), 4000))
    assert drawn.var(ddof=1) == pytest.approx(stated, rel=0.08)


def test_everything_together_varies_at_least_as_much(study: Measured) -> None:
    weights, units = np.array([-1.0, 1.0]), np.full(5, 0.2)
    drawn = draw(study, ("items", "seeds"), 2000)
    error = np.einsum("r,u,bru->b", weights, units, drawn).std(ddof=1)
    assert error >= 0.9 * contrast(study, weights, units).se


def test_ties_for_the_best_are_shared() -> None:
    assert probability_best(np.array([[1.0, 1.0, 0.0], [0.0, 2.0, 1.0]])).tolist() == [0.25, 0.75, 0.0]
