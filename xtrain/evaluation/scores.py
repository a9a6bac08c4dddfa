"""``scores.json``: the metrics of every language, their averages, and the protocol they were measured by."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from xtrain.data.account import Account
from xtrain.tasks import TaskSpec

SELECTED, LAST = "selected", "last"
"""The checkpoint that was best on English dev, and that of the last step: its scores stand below this key."""
AVERAGE = "plain mean over the task's evaluated languages, English included where it is one of them"


@dataclass(frozen=True)
class LanguageScore:
    """One language of a task."""

    language: str
    metrics: Mapping[str, float]
    """``{name: percent}`` as the evaluator gives it; empty where the gold labels are withheld."""
    num_examples: int
    account: Account = field(default_factory=Account)
    """What became of the rows of its data set."""
    protocol: Mapping[str, Any] = field(default_factory=dict)
    """What belongs to the protocol of this language alone: a threshold."""
    words_against_english: float | None = None
    """:func:`xtrain.language_facts.words_against`, over the examples that English has as well."""


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
        "sample": _sample({one.language: one.account for one in task.languages}),
        "truncated": {one.language: one.account.truncated for one in task.languages if one.account.truncated},
        "split_examples": {
            one.language: one.account.split_examples for one in task.languages if one.account.split_examples
        },
        "remarks": {one.language: dict(one.account.remarks) for one in task.languages if one.account.remarks},
        "by_language": {one.language: dict(one.protocol) for one in task.languages if one.protocol},
        "dropped": {one.language: dict(one.account.dropped) for one in task.languages if one.account.dropped},
        "tokens": {one.language: _tokens(one) for one in task.languages if one.account.text.pieces},
    }


def _tokens(one: LanguageScore) -> dict[str, float]:
    against = one.words_against_english
    return one.account.tokens() | ({} if against is None else {"words_against_english": against})


def _sample(accounts: Mapping[str, Account]) -> dict[str, Any] | None:
    """How the examples were drawn from larger sets; None where all are scored."""
    drawn = {language: one.drawn for language, one in accounts.items() if one.drawn}
    if not drawn:
        return None
    first = next(iter(drawn.values()))
    return {
        "how": first["how"],
        "seed": first["seed"],
        "examples": {language: one["examples"] for language, one in drawn.items()},
        "of": {language: one["of"] for language, one in drawn.items()},
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
