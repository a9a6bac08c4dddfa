"""Sources of variance against plain formulas, and against what made-up tables are known to have."""

from __future__ import annotations

import math

import numpy as np
import pytest

from xtrain.statistics.contrasts import Design, across_rows, contrast, mean_of
from xtrain.statistics.measured import Measured, Outcomes, Unit, measured
from xtrain.statistics.planning import gains
from xtrain.statistics.planted import Spread, expected, mean_for, table


def plain(scores: np.ndarray) -> Measured:
    """A table of scores alone, (R, S, U)."""
    rows, seeds, units = scores.shape
    return Measured(
        tuple(f"r{n}" for n in range(rows)),
        tuple(range(seeds)),
        tuple(Unit("t", f"l{n}") for n in range(units)),
        scores,
    )


def source(estimate: object, name: str) -> float:
    return next(one.variance for one in estimate.sources if one.name == name)  # type: ignore[attr-defined]


def test_an_outcome_is_its_metric() -> None:
    right = np.array([1.0, 0.0, 1.0, 1.0])[:, None]
    one = Outcomes(list("abcd"), right, np.ones((4, 1)))
    assert one.score == 75.0
    assert one.influence() == pytest.approx([6.25, -18.75, 6.25, 6.25])
    f1 = Outcomes(list("ab"), np.array([[2.0], [0.0]]), np.array([[2.0], [3.0]]))
    assert f1.score == pytest.approx(40.0)
    assert f1.influence().sum() == pytest.approx(0.0)


def test_the_influence_is_the_derivative() -> None:
    rng = np.random.default_rng(0)
    below = rng.integers(0, 5, (30, 2)).astype(float)
    above = np.minimum(below, rng.integers(0, 5, (30, 2)))
    one = Outcomes([str(n) for n in range(30)], above, below)
    for item in (0, 7, 29):
        weights = np.ones((30, 1))
        weights[item] += 1e-6
        moved = Outcomes(one.ids, above * weights, below * weights)
        assert (moved.score - one.score) / 1e-6 == pytest.approx(one.influence()[item], abs=1e-3)


def test_seeds_alone_are_paired() -> None:
    scores = np.array([[[60.0, 50.0], [62.0, 51.0], [61.0, 55.0]], [[63.0, 54.0], [64.0, 53.0], [66.0, 60.0]]])
    found = contrast(plain(scores), np.array([-1.0, 1.0]), np.array([0.5, 0.5]))
    by_seed = scores[1].mean(axis=1) - scores[0].mean(axis=1)
    assert found.value == pytest.approx(by_seed.mean())
    assert found.se == pytest.approx(by_seed.std(ddof=1) / math.sqrt(3))


def test_seeds_that_a_row_lacks_do_not_count() -> None:
    scores = np.array([[[60.0], [62.0], [np.nan]], [[63.0], [64.0], [99.0]]])
    found = contrast(plain(scores), np.array([-1.0, 1.0]), np.array([1.0]))
    assert found.value == pytest.approx(2.5)
    assert found.sources[0].n == 2


def test_items_of_one_id_are_one_cluster() -> None:
    """Two languages with the same answers tell no more than one."""
    right = {"a": 1.0, "b": 0.0, "c": 1.0, "d": 1.0, "e": 0.0}
    base = {"a": 0.0, "b": 0.0, "c": 1.0, "d": 0.0, "e": 1.0}

    def of(values: dict[str, float], ids: list[str]) -> Outcomes:
        return Outcomes(ids, np.array([list(values.values())]).T, np.ones((5, 1)))

    def both(other: list[str]) -> Measured:
        units = [Unit("t", "de"), Unit("t", "fr")]
        items = {
            (row, 0, unit): of(values, list(right) if unit.language == "de" else other)
            for row, values in (("base", base), ("new", right)) for unit in units
        }  # fmt: skip
        return measured(["base", "new"], [0], units, {key: one.score for key, one in items.items()}, items)

    weights, units = np.array([-1.0, 1.0]), np.array([0.5, 0.5])
    shared = contrast(both(list(right)), weights, units)
    apart = contrast(both([f"fr-{id_}" for id_ in right]), weights, units)
    difference = np.array([right[id_] - base[id_] for id_ in right])
    assert shared.value == apart.value == pytest.approx(100 * difference.mean())
    assert shared.se == pytest.approx(100 * difference.std(ddof=1) / math.sqrt(5))
    assert source(apart, "items") == pytest.approx(source(shared, "items") / 2 * (10 / 9) / (5 / 4))


def test_what_items_do_to_seeds_is_counted_once() -> None:
    """Runs that differ by their items alone: the seeds have no variance of their own on average."""
    spread = Spread(seed=0.0, shared_seed=0.0)
    rng = np.random.default_rng(3)
    means = np.repeat(mean_for(np.array([[60.0], [65.0]]), spread), 4, axis=1)
    found = [
        contrast(table(means, spread, seeds=3, items=300, rng=rng), np.array([-1.0, 1.0]), np.full(4, 0.25))
        for _ in range(200)
    ]
    truth = np.var([one.value for one in found], ddof=1)
    assert np.mean([one.variance for one in found]) == pytest.approx(truth, rel=0.25)


@pytest.mark.parametrize("parallel", [True, False])
def test_the_stated_variance_is_the_true_one(parallel: bool) -> None:
    spread = Spread(seed=0.06, language=0.15)
    rng = np.random.default_rng(4)
    means = np.repeat(mean_for(np.array([[60.0], [66.0]]), spread), 8, axis=1)
    found = [
        contrast(
            table(means, spread, seeds=3, items=150, rng=rng, parallel=parallel),
            np.array([-1.0, 1.0]), np.eye(8), mean_of(8),
        )
        for _ in range(300)
    ]  # fmt: skip
    values = [one.value for one in found]
    assert np.mean(values) == pytest.approx(6.0, abs=0.5)
    assert np.mean([one.variance for one in found]) == pytest.approx(np.var(values, ddof=1), rel=0.25)


def test_a_slope_over_languages_is_that_of_a_regression() -> None:
    rng = np.random.default_rng(5)
    covariate = np.linspace(-1, 1, 9)
    scores = np.zeros((2, 1, 9))
    scores[1, 0] = 3.0 + 2.0 * covariate + rng.normal(0, 0.5, 9)
    design = Design(np.column_stack([covariate, np.ones(9)]), 0)
    found = contrast(plain(scores), np.array([-1.0, 1.0]), np.eye(9), design)
    from scipy import stats

    wanted = stats.linregress(covariate, scores[1, 0])
    assert found.value == pytest.approx(wanted.slope)
    assert found.se == pytest.approx(wanted.stderr)
    assert found.p == pytest.approx(wanted.pvalue, rel=1e-6)


def test_families_count_as_one_draw_each() -> None:
    scores = np.zeros((2, 1, 6))
    scores[1, 0] = [4.0, 4.0, 4.0, 1.0, 1.0, 1.0]
    alone = contrast(plain(scores), np.array([-1.0, 1.0]), np.eye(6), mean_of(6))
    families = contrast(plain(scores), np.array([-1.0, 1.0]), np.eye(6), mean_of(6, groups=["a"] * 3 + ["b"] * 3))
    assert families.value == alone.value == pytest.approx(2.5)
    assert families.se == pytest.approx(1.5)  # as a mean of the two numbers 4 and 1
    assert families.sources[-1].df == pytest.approx(1.0)
    assert families.se > alone.se


def test_a_trend_over_rows_has_their_scatter() -> None:
    x = np.array([1.0, 1.0, 2.0, 2.0, 3.0, 3.0])
    scores = np.zeros((6, 1, 1))
    scores[:, 0, 0] = [50.0, 52.0, 53.0, 55.0, 55.0, 58.0]
    from scipy import stats

    found = across_rows(plain(scores), np.array([1.0]), Design(np.column_stack([x - x.mean(), np.ones(6)]), 0, "rows"))
    wanted = stats.linregress(x, scores[:, 0, 0])
    assert found.value == pytest.approx(wanted.slope)
    assert found.se == pytest.approx(wanted.stderr)


def test_expected_scores_and_their_inverse() -> None:
    spread = Spread()
    scores = np.array([[30.0, 80.0]])
    assert expected(mean_for(scores, spread), spread) == pytest.approx(scores)


def test_nested_seeds_are_sampled_by_the_outer_one() -> None:
    """Means of the runs within a seed, as an analysis of one mean a seed has it; and what more of each would do."""
    spread = Spread(seed=0.3, inner_seed=0.3)
    means = mean_for(np.array([[50.0, 60.0], [55.0, 64.0]]), spread)
    made = table(means, spread, seeds=4, items=400, rng=np.random.default_rng(5), inner=3)
    assert made.seeds == (0, 1, 2, 3)
    assert made.runs is not None
    assert made.runs.shape == (2, 4, 3, 2)
    assert made.scores == pytest.approx(made.runs.mean(axis=2))
    found = contrast(made, np.array([-1.0, 1.0]), np.array([0.5, 0.5]))
    by_run = (made.runs[1] - made.runs[0]).mean(axis=2)  # (S, T)
    assert found.value == pytest.approx(by_run.mean())
    (seeds,) = (source for source in found.sources if source.name == "seeds")
    assert (seeds.n, seeds.df) == (4, 3)
    inner, count = seeds.within
    assert count == 3
    assert inner == pytest.approx(min(by_run.var(axis=1, ddof=1).mean() / 12, seeds.variance))
    told = {gain.source: gain for gain in gains(found)}
    assert told["seeds within"].more == 4
    assert told["seeds"].half_width < told["seeds within"].half_width < found.critical() * found.se


def test_runs_that_are_not_there_yet_leave_the_rest() -> None:
    made = table(np.zeros((2, 2)), Spread(), seeds=4, items=50, rng=np.random.default_rng(1))
    scores = made.scores.copy()
    scores[1, 2:] = scores[0, 1] = np.nan
    part = Measured(made.rows, (0, 1000, 1, 1001), made.units, scores).nested([0, 0, 1, 1])
    assert part.seeds == (0, 1)
    assert np.isnan(part.scores[1, 1]).all()
    assert part.scores[0, 0] == pytest.approx(scores[0, 0]), "the mean of what is there"
    assert part.shared_seeds().tolist() == [0]
