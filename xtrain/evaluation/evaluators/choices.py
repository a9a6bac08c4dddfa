"""Evaluation of classification and of multiple choice: one class or choice an example."""

from __future__ import annotations

from typing import Any

from xtrain.evaluation import metrics
from xtrain.evaluation.evaluators.base import ByExample, Gold, words
from xtrain.evaluation.metrics import Arrays
from xtrain.tasks import TaskSpec


class _OneOfSeveral(ByExample):
    """``prediction`` (E,) against the field ``label`` (E,)."""

    def rows(self, spec: TaskSpec, predictions: Arrays, gold: Gold) -> list[dict[str, Any]]:
        """``{"id", "label", "prediction"}``: words where the task names its labels, else numbers from 0."""
        columns = (gold.ids, words(gold.fields["label"], spec.labels), words(predictions["prediction"], spec.labels))
        return [{"id": i, "label": g, "prediction": p} for i, g, p in zip(*columns, strict=True)]


class Classification(_OneOfSeveral):
    """Accuracy, macro F1 and the majority baseline."""

    definitions = metrics.CLASSIFICATION

    def score(self, spec: TaskSpec, predictions: Arrays, gold: Gold) -> dict[str, float]:
        """The metrics of :func:`xtrain.evaluation.metrics.classification`."""
        return metrics.classification(predictions["prediction"], gold.fields["label"])


class MultipleChoice(_OneOfSeveral):
    """Accuracy."""

    definitions = metrics.MULTIPLE_CHOICE

    def score(self, spec: TaskSpec, predictions: Arrays, gold: Gold) -> dict[str, float]:
        """The share of right choices."""
        return {"accuracy": metrics.percent_equal(predictions["prediction"], gold.fields["label"])}


CLASSIFICATION = Classification()
MULTIPLE_CHOICE = MultipleChoice()
