"""Metrics of one language, by format, in percent and unrounded."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from xtrain.tasks import TaskSpec

Array = npt.NDArray[np.generic]
Arrays = Mapping[str, Array]  # name -> one entry an example: (E,) or (E, ...)
MetricFunction = Callable[[Arrays, Arrays], dict[str, float]]


@dataclass(frozen=True)
class FormatMetrics:
    """The metrics of a format: how they are computed, and what each name means in words."""

    compute: MetricFunction
    definitions: Mapping[str, str]


_BY_FORMAT: dict[str, FormatMetrics] = {}


def metrics_of(format_name: str, **definitions: str) -> Callable[[MetricFunction], MetricFunction]:
    """Register the decorated function as the metrics of a format; ``definitions`` say what each one means."""

    def register(function: MetricFunction) -> MetricFunction:
        assert format_name not in _BY_FORMAT, f"the metrics of {format_name} are registered twice"
        _BY_FORMAT[format_name] = FormatMetrics(function, definitions)
        return function

    return register


def score(spec: TaskSpec, predictions: Arrays, gold: Arrays) -> dict[str, float]:
    """The metrics of one language of the task ``spec``: ``{name: percent}``.

    ``predictions`` and ``gold`` hold one entry an example, in the same order. ``gold`` are the fields
    of the shard. The functions below say what each format reads.
    """
    assert spec.format in _BY_FORMAT, f"no metrics for the format {spec.format!r}"
    return _BY_FORMAT[spec.format].compute(predictions, gold)


def definitions(spec: TaskSpec) -> dict[str, str]:
    """What each metric of the task means: part of the protocol that goes with the scores."""
    return dict(_BY_FORMAT[spec.format].definitions)


@metrics_of(
    "classification",
    accuracy="share of the examples whose class is right",
    f1="macro F1: plain mean over the classes that occur in gold or predictions",
    majority="baseline: share of the most frequent gold class",
)
def classification(predictions: Arrays, gold: Arrays) -> dict[str, float]:
    """``prediction`` and ``label``, (E,) class numbers -> accuracy, macro F1, and the majority baseline."""
    predicted, label = predictions["prediction"], gold["label"]
    accuracy = _percent_equal(predicted, label)
    counts = np.unique(label, return_counts=True)[1]
    return {
        "accuracy": accuracy,
        "f1": macro_f1(predicted, label),
        "majority": 100.0 * float(counts.max()) / len(label),
    }


@metrics_of("multiple_choice", accuracy="share of the examples whose choice is right")
def multiple_choice(predictions: Arrays, gold: Arrays) -> dict[str, float]:
    """``prediction`` and ``label``, (E,) choice numbers -> accuracy."""
    return {"accuracy": _percent_equal(predictions["prediction"], gold["label"])}


@metrics_of(
    "sentence_retrieval",
    accuracy="mean of accuracy_to_english and accuracy_from_english",
    accuracy_to_english="share of the foreign sentences whose nearest English one is their translation",
    accuracy_from_english="share of the English sentences whose nearest foreign one is their translation",
)
def sentence_retrieval(predictions: Arrays, gold: Arrays) -> dict[str, float]:
    """``to_english`` and ``from_english``, (E,) rows of first hits -> accuracy@1 each way, and the mean.

    A hit of example e is right where it is e: source and target of an example are translations of each
    other. ``gold`` is not read.
    """
    rows = np.arange(len(predictions["to_english"]))
    to_english = _percent_equal(predictions["to_english"], rows)
    from_english = _percent_equal(predictions["from_english"], rows)
    return {
        "accuracy": (to_english + from_english) / 2,
        "accuracy_to_english": to_english,
        "accuracy_from_english": from_english,
    }


def macro_f1(predicted: Array, label: Array) -> float:
    """Mean F1 in percent over the classes that occur in ``label`` or ``predicted``, both (E,).

    F1 of a class is 2 TP / (2 TP + FP + FN), which is defined for each of these classes, and is what
    scikit-learn's ``f1_score(average="macro")`` averages.
    """
    assert predicted.shape == label.shape, (predicted.shape, label.shape)
    assert len(label), "metrics of no example"
    classes, numbers = np.unique(np.concatenate([label, predicted]), return_inverse=True)
    gold, found = numbers[: len(label)], numbers[len(label) :]
    right = np.bincount(gold[gold == found], minlength=len(classes))
    occurrences = np.bincount(gold, minlength=len(classes)) + np.bincount(found, minlength=len(classes))
    return 100.0 * float(np.mean(2.0 * right / occurrences))


def _percent_equal(predicted: Array, label: Array) -> float:
    assert predicted.shape == label.shape, (predicted.shape, label.shape)
    assert len(label), "metrics of no example"
    return 100.0 * float(np.count_nonzero(predicted == label)) / len(label)
