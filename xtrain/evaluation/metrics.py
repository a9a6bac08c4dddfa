"""Metrics on arrays, in percent and unrounded; those on texts and tags are in the room ``benchmark``."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.generic]
Arrays = Mapping[str, Array]  # name -> one entry an example: (E,) or (E, ...)

CLASSIFICATION = {
    "accuracy": "share of the examples whose class is right",
    "f1": "macro F1: plain mean over the classes that occur in gold or predictions",
    "majority": "baseline: share of the most frequent gold class",
}
MULTIPLE_CHOICE = {"accuracy": "share of the examples whose choice is right"}
SENTENCE_RETRIEVAL = {
    "accuracy": "accuracy_from_english, accuracy_to_english, or the mean of the two: see query",
    "accuracy_to_english": "share of the foreign sentences whose nearest English one is their translation",
    "accuracy_from_english": "share of the English sentences whose nearest foreign one is their translation",
}


def classification(predicted: Array, label: Array) -> dict[str, float]:
    """Class numbers, both (E,) -> accuracy, macro F1, and the majority baseline."""
    counts = np.unique(label, return_counts=True)[1]
    return {
        "accuracy": percent_equal(predicted, label),
        "f1": macro_f1(predicted, label),
        "majority": 100.0 * float(counts.max()) / len(label),
    }


def sentence_retrieval(hits: Arrays, query: str = "mean") -> dict[str, float]:
    """``to_english`` and ``from_english``, (E,) rows of first hits -> accuracy@1 each way, and the task's.

    A hit of example e is right where it is e: source and target of an example are translations of each
    other. ``query`` is the side whose hits are the task's accuracy: "english", "foreign", or "mean" for both.
    """
    rows = np.arange(len(hits["to_english"]))
    to_english = percent_equal(hits["to_english"], rows)
    from_english = percent_equal(hits["from_english"], rows)
    return {
        "accuracy": {"english": from_english, "foreign": to_english, "mean": (to_english + from_english) / 2}[query],
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


def percent_equal(predicted: Array, label: Array) -> float:
    """The share of equal entries of ``predicted`` and ``label``, both (E,), in percent."""
    assert predicted.shape == label.shape, (predicted.shape, label.shape)
    assert len(label), "metrics of no example"
    return 100.0 * float(np.count_nonzero(predicted == label)) / len(label)
