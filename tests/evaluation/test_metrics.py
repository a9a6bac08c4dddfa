"""Metrics against scikit-learn and against sums done by hand."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, f1_score

from xtrain.evaluation import evaluators
from xtrain.evaluation.evaluators import Gold
from xtrain.evaluation.metrics import SENTENCE_RETRIEVAL, macro_f1, sentence_retrieval
from xtrain.tasks import Source, TaskSpec


def spec(format_name: str) -> TaskSpec:
    return TaskSpec(name="t", format=format_name, languages=("en",), sources=(Source(),), labels=("a", "b", "c"))


def score(format_name: str, predicted: np.ndarray, label: np.ndarray) -> dict[str, float]:
    gold = Gold({"label": label}, [None] * len(label), [str(n) for n in range(len(label))], "en")
    return evaluators.get(format_name).score(spec(format_name), {"prediction": predicted}, gold)  # type: ignore[attr-defined, no-any-return]


def classes(size: int) -> st.SearchStrategy[np.ndarray]:
    return st.lists(st.integers(0, 4), min_size=size, max_size=size).map(np.array)


pairs_of_classes = st.integers(1, 60).flatmap(lambda size: st.tuples(classes(size), classes(size)))


@given(pairs_of_classes)
def test_classification_agrees_with_scikit_learn(arrays: tuple[np.ndarray, np.ndarray]) -> None:
    predicted, label = arrays
    found = score("classification", predicted, label)
    assert found["accuracy"] == pytest.approx(100 * accuracy_score(label, predicted), abs=1e-9)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        reference = f1_score(label, predicted, average="macro", zero_division=0)
    assert found["f1"] == pytest.approx(100 * reference, abs=1e-9)
    most = max(np.count_nonzero(label == one) for one in set(label.tolist()))
    assert found["majority"] == pytest.approx(100 * most / len(label))


@given(pairs_of_classes)
def test_answering_the_majority_class_scores_the_majority_baseline(
    arrays: tuple[np.ndarray, np.ndarray],
) -> None:
    label = arrays[0]
    most = np.full_like(label, np.bincount(label).argmax())
    found = score("classification", most, label)
    assert found["accuracy"] == found["majority"]


@given(classes(17))
def test_perfect_is_100(label: np.ndarray) -> None:
    found = score("classification", label, label)
    assert found["accuracy"] == found["f1"] == 100.0
    assert score("multiple_choice", label, label) == {"accuracy": 100.0}
    rows = np.arange(17)
    found = sentence_retrieval({"to_english": rows, "from_english": rows})
    assert found == {"accuracy": 100.0, "accuracy_to_english": 100.0, "accuracy_from_english": 100.0}


def test_macro_f1_by_hand() -> None:
    # class 0: TP 1, FP 0, FN 1 -> 2/3; class 1: TP 1, FP 1, FN 1 -> 1/2; class 2: TP 0, FP 1, FN 0 -> 0
    value = macro_f1(np.array([0, 1, 1, 2]), np.array([0, 0, 1, 1]))
    assert value == pytest.approx(100 * (2 / 3 + 1 / 2 + 0) / 3)


def test_percents_are_not_rounded() -> None:
    found = score("multiple_choice", np.array([0, 1, 1]), np.array([0, 1, 0]))
    assert found["accuracy"] == 200 / 3


def test_retrieval_accuracy_is_the_mean_of_both_directions() -> None:
    hits = {"to_english": np.array([0, 1, 2, 0]), "from_english": np.array([1, 1, 0, 0])}
    assert sentence_retrieval(hits) == {
        "accuracy": 50.0,
        "accuracy_to_english": 75.0,
        "accuracy_from_english": 25.0,
    }


@pytest.mark.parametrize("format_name", ["classification", "multiple_choice"])
def test_every_metric_is_explained(format_name: str) -> None:
    zero = np.zeros(1, dtype=np.int64)
    assert set(evaluators.get(format_name).definitions) == set(score(format_name, zero, zero))


def test_every_metric_of_retrieval_is_explained() -> None:
    zero = np.zeros(1, dtype=np.int64)
    assert set(SENTENCE_RETRIEVAL) == set(sentence_retrieval({"to_english": zero, "from_english": zero}))


def test_the_metrics_of_no_example_are_refused() -> None:
    nothing = np.array([], dtype=np.int64)
    for format_name in ("classification", "multiple_choice"):
        with pytest.raises(AssertionError, match="no example"):
            score(format_name, nothing, nothing)


def test_lengths_that_differ_are_refused() -> None:
    with pytest.raises(AssertionError):
        score("multiple_choice", np.array([1]), np.array([1, 1]))
