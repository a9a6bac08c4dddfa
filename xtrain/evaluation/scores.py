"""``scores.json``: the metrics of every language, their averages, and the protocol they were measured by."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from xtrain.tasks import TaskSpec

AVERAGE = "plain mean over the task's evaluated languages, English included where it is one of them"


@dataclass(frozen=True)
class LanguageScore:
    """One language of a task."""

    language: str
    metrics: Mapping[str, float]
    """``{name: percent}`` as the evaluator gives it; empty where the gold labels are withheld."""
    num_examples: int
    truncated: int = 0
    """Examples that lost text because they were longer than the maximum length."""
    dropped: Mapping[str, int] = field(default_factory=dict)
    """Rows of the source that are no examples, by reason."""
    split: int = 0
    """Examples that lie in several sequences because they were longer, without loss."""
    remarks: Mapping[str, int] = field(default_factory=dict)
    """What else the format counted: stray tags, answers that no window holds."""
    protocol: Mapping[str, Any] = field(default_factory=dict)
    """What belongs to the protocol of this language alone: a threshold."""


@dataclass(frozen=True)
class TaskScores:
    """A task with its languages."""

    spec: TaskSpec
    split: str
    languages: Sequence[LanguageScore]
    definitions: Mapping[str, str] = field(default_factory=dict)
    """Metric -> what it means, in words."""
    protocol: Mapping[str, Any] = field(default_factory=dict)
    """What else belongs to the protocol of this task: for retrieval ``layer`` and ``pooling``."""


def build(
    tasks: Sequence[TaskScores],
    *,
    base: str,
    step: int,
    checkpoint: str = "selected",
    disclaimer: str = "",
    extra: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The content of ``scores.json``; percent, unrounded.

    ``base`` is the model the study starts from; ``step`` and ``checkpoint`` ("selected" on English dev,
    or "last") say which weights were scored; ``disclaimer`` is set where the numbers are no benchmark;
    ``extra`` is added to the protocol.
    """
    protocol: dict[str, Any] = {"base": base, "checkpoint": checkpoint, "step": step, "average": AVERAGE}
    if disclaimer:
        protocol["disclaimer"] = disclaimer
    protocol.update(extra or {})
    protocol["tasks"] = {task.spec.name: _protocol(task) for task in tasks}
    assert len(protocol["tasks"]) == len(tasks), "a task is scored twice"
    return {"protocol": protocol, "tasks": {task.spec.name: _scores(task) for task in tasks}}


def _protocol(task: TaskScores) -> dict[str, Any]:
    return {
        "split": task.split,
        "metric": task.spec.metric,
        "score": " and ".join(counted(task.spec)),
        "metrics": dict(task.definitions),
        **task.protocol,
        "without_labels": [one.language for one in task.languages if not one.metrics],
        "examples": {one.language: one.num_examples for one in task.languages},
        "truncated": {one.language: one.truncated for one in task.languages if one.truncated},
        "split_examples": {one.language: one.split for one in task.languages if one.split},
        "remarks": {one.language: dict(one.remarks) for one in task.languages if one.remarks},
        "by_language": {one.language: dict(one.protocol) for one in task.languages if one.protocol},
        "dropped": {one.language: dict(one.dropped) for one in task.languages if one.dropped},
    }


def _scores(task: TaskScores) -> dict[str, Any]:
    assert task.languages, f"no language of {task.spec.name} was evaluated"
    assert len({one.language for one in task.languages}) == len(task.languages), f"a language of {task.spec.name} twice"
    languages = {one.language: dict(one.metrics) for one in task.languages if one.metrics}
    if not languages:
        return {"languages": {}, "average": {}, "score": None}
    names = list(next(iter(languages.values())))
    # fmean is exactly rounded: the order of the languages does not matter
    average = {name: statistics.fmean(metrics[name] for metrics in languages.values()) for name in names}
    score = statistics.fmean(average[name] for name in counted(task.spec))
    return {"languages": languages, "average": average, "score": score}


def counted(spec: TaskSpec) -> tuple[str, ...]:
    """The metrics whose mean is the task's score: of question answering both, as the benchmark has it."""
    return ("f1", "exact_match") if spec.format == "span_qa" else (spec.metric,)
