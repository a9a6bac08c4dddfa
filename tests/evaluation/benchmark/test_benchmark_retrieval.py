"""Ranked answers and mined pairs: against scikit-learn and against definitions written out."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, precision_recall_fscore_support

from xtrain.evaluation.benchmark.bitext import best_threshold, pair_f1
from xtrain.evaluation.benchmark.ranking import average_precision, map_at_k, map_by_id

IDS = st.sampled_from([f"e{n}" for n in range(40)])
PAIRS = st.sets(st.tuples(st.sampled_from("abcde"), st.sampled_from("vwxyz")), max_size=12)


def reference_ap(ranked: list[str], right: set[str], k: int) -> float:
    """The sum over ranks of precision there, for new hits, over the most that there can be."""
    total = 0.0
    for n in range(min(len(ranked), k)):
        if ranked[n] in right and ranked[n] not in ranked[:n]:
            total += len(set(ranked[: n + 1]) & right) / (n + 1)
    return total / min(len(right), k)


@given(st.lists(IDS, max_size=45), st.sets(IDS, min_size=1), st.integers(1, 25))
@settings(max_examples=200)
def test_average_precision_is_its_definition(ranked: list[str], right: set[str], k: int) -> None:
    assert average_precision(ranked, right, k) == pytest.approx(reference_ap(ranked, right, k), abs=1e-12)


@given(st.permutations([f"e{n}" for n in range(20)]), st.sets(st.integers(0, 19), min_size=1))
@settings(max_examples=50)
def test_a_full_ranking_agrees_with_scikit_learn(ranked: list[str], places: set[int]) -> None:
    relevant = np.array([n in places for n in range(20)], dtype=int)
    expected = average_precision_score(relevant, -np.arange(20.0))
    assert average_precision(ranked, {ranked[n] for n in places}) == pytest.approx(expected, abs=1e-9)


def test_one_right_answer_is_its_reciprocal_rank_and_20_is_the_last_rank() -> None:
    ranked = [f"e{n}" for n in range(30)]
    assert average_precision(ranked, ["e15"]) == pytest.approx(1 / 16)
    assert average_precision(ranked, ["e19"]) == pytest.approx(1 / 20)
    assert average_precision(ranked, ["e20"]) == 0
    assert average_precision(ranked, ranked) == 1  # 30 right ones, of which 20 can be found


def test_map_is_in_percent_and_a_missing_query_scores_0() -> None:
    assert map_at_k([["a"], ["b", "a"]], [["a"], ["a"]]) == 75.0
    assert map_by_id({"q": ["a"], "of no query": ["a"]}, {"q": ["a"], "lost": ["a"]}) == 50.0


@given(PAIRS, PAIRS.filter(bool))
@settings(max_examples=100)
def test_pair_f1_agrees_with_scikit_learn(predicted: set[tuple[str, str]], gold: set[tuple[str, str]]) -> None:
    every = sorted(predicted | gold)
    truth, found = ([pair in side for pair in every] for side in (gold, predicted))
    p, r, f, _ = precision_recall_fscore_support(truth, found, average="binary", zero_division=0)
    expected = {"f1": 100 * f, "precision": 100 * p, "recall": 100 * r}
    assert pair_f1(predicted, gold) == pytest.approx(expected, abs=1e-9)


def test_a_pair_given_twice_counts_once() -> None:
    assert pair_f1([("a", "x"), ("a", "x")], [("a", "x")])["precision"] == 100.0


@given(
    st.dictionaries(st.tuples(st.sampled_from("abcd"), st.sampled_from("wxyz")), st.sampled_from([0.5, 0.9, 1.1, 1.5])),
    PAIRS.filter(bool),
)
@settings(max_examples=150)
def test_no_threshold_is_better_than_the_best(scores: dict[tuple[str, str], float], gold: set[tuple[str, str]]) -> None:
    threshold, f1 = best_threshold(scores.items(), gold)

    def mined(bound: float) -> float:
        return pair_f1([pair for pair, score in scores.items() if score >= bound], gold)["f1"]

    assert mined(threshold) == pytest.approx(f1, abs=1e-9)
    assert f1 == pytest.approx(max(mined(bound) for bound in (0.0, 0.7, 1.0, 1.3, 2.0)), abs=1e-9)


def test_the_threshold_lies_midway() -> None:
    candidates = [(("a", "x"), 1.4), (("b", "y"), 1.2), (("c", "z"), 1.0)]
    assert best_threshold(candidates, [("a", "x"), ("b", "y")]) == (pytest.approx(1.1), 100.0)
    assert best_threshold(candidates, [("a", "x"), ("b", "y"), ("c", "z")]) == (1.0, 100.0)
    assert best_threshold(candidates, [("d", "d")]) == (float("inf"), 0.0)
