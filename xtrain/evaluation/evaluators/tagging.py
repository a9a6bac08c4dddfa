"""Evaluation of tagging: F1 of the chunks of a language's file, and the share of right tags."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np

from xtrain.evaluation.benchmark.chunks import micro_f1, token_accuracy
from xtrain.evaluation.evaluators.base import ByExample, Gold, words
from xtrain.evaluation.metrics import Arrays
from xtrain.tasks import TaskSpec
from xtrain.tasks.formats import IGNORED

Tags = list[list[str]]  # one list a sentence, one tag a word


class Tagging(ByExample):
    """``prediction`` (E,), arrays of one number a word, against the field ``label`` (T,)."""

    definitions: Mapping[str, str] = {
        "f1": "micro F1 over the chunks of the whole file, as seqeval 0.0.12 cuts them",
        "precision": "share of the predicted chunks that are right in type and both ends",
        "recall": "share of the gold chunks that are found",
        "accuracy": "share of the words whose tag is right",
        "majority": "baseline of accuracy: share of the most frequent gold tag",
        "majority_f1": "baseline of f1: the F1 of giving every word the most frequent gold tag",
    }

    def score(self, spec: TaskSpec, predictions: Arrays, gold: Gold) -> dict[str, float]:
        """The metrics of one language, in percent."""
        right, found = _tags(spec.labels, predictions, gold)
        tag, count = Counter(chain.from_iterable(right)).most_common(1)[0]
        constant = [[tag] * len(sentence) for sentence in right]
        return {
            **micro_f1(right, found),
            "accuracy": token_accuracy(right, found),
            "majority": 100 * count / sum(map(len, right)),
            "majority_f1": micro_f1(right, constant)["f1"],
        }

    def rows(self, spec: TaskSpec, predictions: Arrays, gold: Gold) -> list[dict[str, Any]]:
        """``{"id", "label", "prediction"}``: a list of tags each, one a word."""
        columns = (gold.ids, *_tags(spec.labels, predictions, gold))
        return [{"id": i, "label": None if None in g else g, "prediction": p} for i, g, p in zip(*columns, strict=True)]


TAGGING = Tagging()


def _tags(labels: Sequence[str], predictions: Arrays, gold: Gold) -> tuple[Tags, Tags]:
    """Gold and predicted tags of each sentence. Both have a tag for each labelled token, in the same order."""
    numbers = gold.fields["label"]
    flat = numbers[numbers != IGNORED]
    sentences = predictions["prediction"]
    ends = np.cumsum([len(sentence) for sentence in sentences])
    assert len(sentences) == len(gold), "a sentence is missing"
    assert ends[-1] == len(flat), f"{ends[-1]} words were tagged, and there are {len(flat)}"
    right, found = ([words(part, labels) for part in parts] for parts in (np.split(flat, ends[:-1]), sentences))
    return right, found  # type: ignore[return-value]  # words, but for withheld tags
