"""All differences at once: against Tukey's own case, and what the set of best rows promises."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from xtrain.statistics.measured import Measured, Unit
from xtrain.statistics.planted import Spread, expected, mean_for, table
from xtrain.statistics.ranking import rank


def test_without_items_it_is_tukeys_test_in_blocks() -> None:
    rng = np.random.default_rng(0)
    scores = (np.array([60.0, 61.0, 63.0, 63.5])[:, None] + rng.normal(0, 1, (4, 5)))[:, :, None]
    found = rank(Measured(tuple("abcd"), tuple(range(5)), (Unit("t", "de"),), scores), np.array([1.0]))
    wanted = stats.studentized_range.ppf(0.95, 4, 12) / np.sqrt(2)
    assert found.differences["a", "b"].critical() == pytest.approx(wanted, rel=0.02)
    ratio = abs(found.differences["d", "a"].value) / found.differences["d", "a"].se
    tukey = stats.studentized_range.sf(ratio * np.sqrt(2), 4, 12)
    assert found.p("d", "a") == pytest.approx(tukey, rel=0.15, abs=2e-3)


def test_the_clear_winner_is_alone_and_equals_are_together() -> None:
    spread = Spread(seed=0.02)
    means = np.repeat(mean_for(np.array([[60.0], [60.0], [75.0]]), spread), 4, axis=1)
    made = table(means, spread, seeds=3, items=400, rng=np.random.default_rng(1))
    found = rank(made, np.full(4, 0.25))
    assert found.order[0] == "row 2"
    assert found.best_ones == ("row 2",)
    assert found.p("row 2", "row 0") < 0.01
    assert found.p("row 1", "row 0") > 0.05


def test_all_intervals_hold_at_once() -> None:
    spread = Spread(seed=0.05)
    means = np.repeat(mean_for(np.array([[60.0], [61.0], [62.0], [64.0]]), spread), 3, axis=1)
    truth = expected(means, spread).mean(axis=1)
    rng = np.random.default_rng(2)
    held = 0
    for _ in range(150):
        found = rank(table(means, spread, seeds=3, items=150, rng=rng), np.full(3, 1 / 3))
        held += all(
            estimate.low <= truth[int(one[-1])] - truth[int(other[-1])] <= estimate.high
            for (one, other), estimate in found.differences.items()
        )
    assert 0.9 <= held / 150 <= 1.0


def test_one_seed_tells_nothing() -> None:
    made = Measured(("a", "b"), (0,), (Unit("t", "de"),), np.array([[[60.0]], [[70.0]]]))
    found = rank(made, np.array([1.0]))
    assert not found.differences["b", "a"].known
    assert found.p("b", "a") == 1.0
    assert found.best_ones == ("b", "a")
