"""Intervals hold the truth as often as they say, and nothing is rarely called something: benchmarks/coverage.py."""

from __future__ import annotations

import importlib.util
import sys
from types import ModuleType

import pytest
from toy import PROJECT

RUNS = 200


@pytest.fixture(scope="module")
def simulation() -> ModuleType:
    spec = importlib.util.spec_from_file_location("coverage_of_answers", PROJECT / "benchmarks" / "coverage.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    "kind", ["contrast", "contrast, nested seeds", "contrast, languages a sample", "interaction", "curve", "matrix"]
)
def test_intervals_hold_the_truth(simulation: ModuleType, kind: str) -> None:
    """At two seeds, where the noise of runs is most of the variance: the usual formulas give 87 %."""
    found = simulation.coverage(simulation.KINDS[kind], 2, 7, 0.12, RUNS)
    assert 0.91 <= found["coverage"] <= 0.99, found
    assert found["too_high"] <= 0.06, found


def test_all_intervals_of_a_ranking_hold_at_once(simulation: ModuleType) -> None:
    found = simulation.all_at_once(3, 7, 0.05, RUNS // 2)
    assert found["coverage"] >= 0.9
    assert found["best_in_set"] >= 0.95


def test_a_family_of_tests_of_nothing_has_few_claims(simulation: ModuleType) -> None:
    found = simulation.false_claims(3, 7, 0.05, RUNS)
    assert found["families_with_a_claim"] <= 0.08
    assert found["single_tests"] <= 0.08


def test_the_detectable_effect_is_detected(simulation: ModuleType) -> None:
    found = simulation.power(3, 7, 0.05, RUNS)
    assert 0.72 <= found["power"] <= 0.9, found
