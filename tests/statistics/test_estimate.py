"""Intervals, p-values, equivalence, what could be found: against scipy and textbook numbers."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from xtrain.statistics.estimate import Estimate, Source, cohens_h, holm
from xtrain.statistics.planning import gains


def student(value: float, se: float, n: int) -> Estimate:
    """What n seeds alone tell."""
    return Estimate(value, (Source("seeds", se**2, n - 1, n),))


def test_one_source_is_students_t() -> None:
    differences = np.array([1.2, 0.4, 2.1, 1.7])
    found = student(differences.mean(), stats.sem(differences), 4)
    wanted = stats.ttest_1samp(differences, 0.0)
    assert found.p == pytest.approx(wanted.pvalue, rel=1e-6)
    assert found.interval() == pytest.approx(tuple(wanted.confidence_interval(0.95)), rel=1e-9)
    assert found.p_above(0.0) == pytest.approx(
        stats.ttest_1samp(differences, 0.0, alternative="greater").pvalue, rel=1e-6
    )
    assert found.p_above(5.0) == pytest.approx(
        stats.ttest_1samp(differences, 5.0, alternative="greater").pvalue, rel=1e-6
    )


def test_many_items_alone_are_the_normal() -> None:
    found = Estimate(1.0, (Source("items", 0.25, math.inf, 1000),))
    assert found.p == pytest.approx(2 * stats.norm.sf(2.0), rel=1e-6)
    assert found.critical() == pytest.approx(stats.norm.ppf(0.975))


def test_between_both_the_interval_is_between() -> None:
    widths = []
    for share in (0.0, 0.2, 0.5, 0.8, 1.0):
        one = Estimate(0.0, (Source("seeds", share, 2, 3), Source("items", 1.0 - share, 1e6, 1000)))
        assert one.se == pytest.approx(1.0)
        widths.append(one.critical())
    assert widths == sorted(widths)
    assert widths[0] == pytest.approx(1.96, abs=1e-3)
    assert widths[-1] == pytest.approx(stats.t.ppf(0.975, 2))


def test_an_interval_and_its_p_agree() -> None:
    one = Estimate(2.0, (Source("seeds", 0.3, 2, 3), Source("items", 0.2, 499, 500)))
    low, high = one.interval(1.0 - one.p)
    assert low == pytest.approx(0.0, abs=1e-6)
    assert high == pytest.approx(4.0, abs=1e-6)


def test_nothing_is_known_of_one_seed() -> None:
    one = Estimate(3.0, ())
    assert not one.known
    assert one.p == 1.0
    assert math.isnan(one.low)
    assert math.isnan(one.detectable())


def test_tost_of_the_textbook() -> None:
    """Two one-sided t-tests, here of one sample of 24 with mean 0.4, sd 1 and margin 0.9."""
    found = student(0.4, 1.0 / math.sqrt(24), 24)
    low, high = stats.t.sf((0.4 + 0.9) * math.sqrt(24), 23), stats.t.sf((0.9 - 0.4) * math.sqrt(24), 23)
    assert found.p_equivalent(0.9) == pytest.approx(max(low, high), rel=1e-6)
    assert student(1.0, 0.2, 24).p_equivalent(0.9) > 0.5
    assert student(-0.4, 1.0 / math.sqrt(24), 24).p_equivalent(0.9) == pytest.approx(found.p_equivalent(0.9))


def test_holm_of_the_textbook() -> None:
    """Holm 1979's own way: 0.01, 0.04, 0.03, 0.005 of four tests."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []
    assert holm([0.6, 0.7]) == [1.0, 1.0]


@pytest.mark.parametrize("n", [3, 5, 20])
def test_what_could_be_found_is_found_with_that_power(n: int) -> None:
    one = student(0.0, 1.0, n)
    effect = one.detectable()
    assert stats.nct.sf(stats.t.ppf(0.975, n - 1), n - 1, effect) == pytest.approx(0.8, abs=2e-3)


def test_effect_sizes() -> None:
    assert cohens_h(50.0, 50.0) == 0.0
    assert cohens_h(75.0, 50.0) == pytest.approx(math.pi / 6)


def test_more_of_what_varies_most_helps_most() -> None:
    one = Estimate(1.0, (Source("items", 0.4, 499, 500), Source("seeds", 0.6, 4, 5)))
    first, second = gains(one)
    assert (first.source, first.more) == ("seeds", 6)
    assert (second.source, second.more) == ("items", 1000)
    assert first.half_width < second.half_width < one.critical() * one.se
