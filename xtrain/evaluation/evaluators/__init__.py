"""Evaluators: from a model and a task's shards to scores and rows of predictions, one for each format."""

from __future__ import annotations

import importlib

from xtrain.evaluation.evaluators.base import Evaluation, Evaluator, Gold, LanguageResult, Setting

__all__ = ["EVALUATORS", "Evaluation", "Evaluator", "Gold", "LanguageResult", "Setting", "get", "register"]

EVALUATORS = {
    "classification": "choices:CLASSIFICATION",
    "multiple_choice": "choices:MULTIPLE_CHOICE",
    "tagging": "tagging:TAGGING",
    "span_qa": "span_qa:SPAN_QA",
    "sentence_retrieval": "sentence_retrieval:SENTENCE_RETRIEVAL",
    "bitext_mining": "bitext_mining:BITEXT_MINING",
    "answer_retrieval": "answer_retrieval:ANSWER_RETRIEVAL",
    "mlm": "mlm:MLM",
}
"""Format -> its module here and its evaluator."""
_registered: dict[str, Evaluator] = {}


def register(task_format: str, evaluator: Evaluator) -> None:
    """Make the evaluator of a format known that is not built in."""
    assert task_format not in EVALUATORS, f"the format {task_format!r} is built in"
    _registered[task_format] = evaluator


def get(task_format: str) -> Evaluator:
    """The evaluator of a format."""
    if task_format in _registered:
        return _registered[task_format]
    assert task_format in EVALUATORS, f"no evaluator for the format {task_format!r}"
    module, _, name = EVALUATORS[task_format].partition(":")
    found: Evaluator = getattr(importlib.import_module(f"{__name__}.{module}"), name)
    return found
