"""The bootstrap against a plain loop, against the formulas it stands beside, and its intervals against known ones."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from xtrain.statistics.bootstrap import bca, draw, percentile, probability_best, rao_wu, standard_error, studentised
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
    weights, units = np.array([-1.0, 1.0]), np.full(5, 0.2)
    stated = next(one for one in contrast(study, weights, units).sources if one.name == "items").variance
    drawn = np.einsum("r,u,bru->b", weights, units, draw(study, ("items",), 4000))
    assert drawn.var(ddof=1) == pytest.approx(stated, rel=0.08)


def test_everything_together_varies_at_least_as_much(study: Measured) -> None:
    weights, units = np.array([-1.0, 1.0]), np.full(5, 0.2)
    drawn = draw(study, ("items", "seeds"), 2000)
    error = standard_error(lambda scores: float(weights @ scores @ units), drawn)
    assert error >= 0.9 * contrast(study, weights, units).se


def test_bca_of_a_skewed_mean_leans_to_the_long_side() -> None:
    """An exponential sample: the interval reaches further up than the percentiles do."""
    values = np.random.default_rng(1).exponential(1.0, 40)
    weights = rao_wu(40, 4000, np.random.default_rng(2))
    draws = weights @ values / 40
    jackknife = np.array([np.delete(values, i).mean() for i in range(40)])
    low, high = bca(draws, values.mean(), jackknife)
    plain = percentile(draws)
    assert low > plain[0]
    assert high > plain[1]
    skewed = stats.bootstrap((values,), np.mean, n_resamples=4000, method="BCa", rng=np.random.default_rng(3))
    assert (low, high) == pytest.approx(tuple(skewed.confidence_interval), abs=0.06)


def test_bca_of_a_symmetric_sample_is_the_percentiles() -> None:
    values = np.linspace(-1, 1, 60)
    draws = rao_wu(60, 8000, np.random.default_rng(2)) @ values / 60
    jackknife = np.array([np.delete(values, i).mean() for i in range(60)])
    assert bca(draws, 0.0, jackknife) == pytest.approx(percentile(draws), abs=0.02)


def test_studentised_is_wider_than_the_normal_for_few() -> None:
    rng = np.random.default_rng(4)
    values = rng.normal(0, 1, 6)
    draws, errors = [], []
    for _ in range(4000):
        one = rng.choice(values, 6)
        draws.append(one.mean())
        errors.append(one.std(ddof=1) / np.sqrt(6))
    error = values.std(ddof=1) / np.sqrt(6)
    low, high = studentised(np.array(draws), np.array(errors), values.mean(), error)
    assert high - low > 2 * 1.96 * error


def test_ties_for_the_best_are_shared() -> None:
    assert probability_best(np.array([[1.0, 1.0, 0.0], [0.0, 2.0, 1.0]])).tolist() == [0.25, 0.75, 0.0]
