"""What every evaluator takes and gives, and the loop over languages that most formats share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from xtrain.data import Shard
from xtrain.evaluation.metrics import Array, Arrays
from xtrain.evaluation.predict import SINGLE, Ranks, Transform, predict
from xtrain.model import Encoder, PhaseModel
from xtrain.tasks import TaskSpec

Shards = Mapping[str, Shard]  # by language


def _nobody(tokens: int) -> None:
    """Nobody is told how far it is."""


@dataclass(frozen=True)
class Setting:
    """With what, and how, something is evaluated."""

    spec: TaskSpec
    encoder: Encoder
    model: PhaseModel | None = None
    """The encoder with its heads; None for a format without training."""
    task: str = ""
    """The task whose head predicts."""
    ranks: Ranks = SINGLE
    tokens_per_batch: int = 16384
    device: torch.device = torch.device("cpu")
    layer: int = 0
    """Block whose output is pooled for retrieval, from 1."""
    progress: Callable[[int], None] = _nobody
    """Told the tokens that are done, of all ranks together, after each micro-step."""


@dataclass(frozen=True)
class Gold:
    """What the data say of the examples that were predicted."""

    fields: Arrays
    """The shard's fields: (E,), (B,) or (T,)."""
    notes: Sequence[Any]
    """The examples' notes, E."""
    ids: Sequence[str]
    language: str

    def __len__(self) -> int:
        """E."""
        return len(self.ids)

    @classmethod
    def of(cls, shard: Shard) -> Gold:
        """The gold of all examples of ``shard``."""
        rows = np.arange(len(shard))
        return cls(shard.fields, shard.notes(rows), shard.ids(rows), shard.language)


@dataclass(frozen=True)
class LanguageResult:
    """One language of a task."""

    language: str
    metrics: Mapping[str, float]
    """``{name: percent}``, unrounded; the task's own metric among them. Empty where there are no gold labels."""
    num_examples: int
    rows: Sequence[Mapping[str, Any]] = ()
    """What is written to ``predictions/``, one object a line."""
    loss: float | None = None
    """Mean loss a unit; None where the format has none."""
    protocol: Mapping[str, Any] = field(default_factory=dict)
    """What belongs to the protocol of this language alone (a threshold)."""


@dataclass(frozen=True)
class Evaluation:
    """A task in all its languages."""

    languages: Sequence[LanguageResult]
    protocol: Mapping[str, Any] = field(default_factory=dict)
    """What belongs to the protocol of the scores, beyond what every task has."""


class Evaluator(ABC):
    """How the tasks of a format are evaluated."""

    definitions: Mapping[str, str]
    """Each metric's name -> what it means, in words: part of the protocol."""

    @abstractmethod
    def evaluate(self, setting: Setting, shards: Shards, companions: Mapping[str, Shards] | None = None) -> Evaluation:
        """Evaluate every language of ``shards``. All ranks must call it, and all get the same result.

        ``companions`` are the shards that the format asked for beside these: role -> language -> shard.
        """


class ByExample(Evaluator):
    """An evaluator of formats whose examples are predicted one by one, each language for itself."""

    def evaluate(self, setting: Setting, shards: Shards, companions: Mapping[str, Shards] | None = None) -> Evaluation:
        """Predict with the head, then :meth:`score` and :meth:`rows` for each language."""
        assert setting.model is not None, "a head predicts"
        results = []
        for language, shard in shards.items():
            found = predict(
                setting.model, shard, setting.task, ranks=setting.ranks, tokens_per_batch=setting.tokens_per_batch,
                device=setting.device, progress=setting.progress,
                transform=self.transform(setting, shard),
            )  # fmt: skip
            gold = Gold.of(shard)
            metrics = self.score(setting.spec, found.arrays, gold) if shard.labelled else {}
            rows = self.rows(setting.spec, found.arrays, gold) if setting.ranks.rank == 0 else []
            results.append(LanguageResult(language, metrics, len(found), rows, found.loss if shard.labelled else None))
        return Evaluation(results, self.protocol(setting))

    def transform(self, setting: Setting, shard: Shard) -> Transform | None:
        """What is done to each batch before the model sees it (masking), or None."""
        return None

    def protocol(self, setting: Setting) -> Mapping[str, Any]:
        """What belongs to the protocol of the scores."""
        return {}

    @abstractmethod
    def score(self, spec: TaskSpec, predictions: Arrays, gold: Gold) -> dict[str, float]:
        """The metrics of one language: ``{name: percent}``; ``predictions`` (E, ...) are the head's."""

    @abstractmethod
    def rows(self, spec: TaskSpec, predictions: Arrays, gold: Gold) -> list[dict[str, Any]]:
        """One object an example, for ``predictions/``."""


def words(numbers: Array, labels: Sequence[str]) -> list[str | int | None]:
    """Class numbers (E,) as the labels' words, or themselves where there are none; None for what is withheld."""
    return [None if n < 0 else labels[n] if labels else int(n) for n in numbers.tolist()]
