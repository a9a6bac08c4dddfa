"""Evaluation of masked language modelling: the tokens of a fixed masking, predicted."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from xtrain.data import Shard
from xtrain.data.masking import Masking
from xtrain.evaluation.evaluators.base import ByExample, Evaluation, Gold, Setting, Shards
from xtrain.evaluation.metrics import Array, Arrays, percent_equal
from xtrain.evaluation.predict import Transform
from xtrain.tasks import TaskSpec
from xtrain.tasks.mlm import option

SEED, OCCURRENCE = 0, 0  # of the masking: the same tokens in every evaluation


class Mlm(ByExample):
    """Accuracy, loss and perplexity over the masked tokens of a language, each token counting the same."""

    definitions: Mapping[str, str] = {
        "accuracy": "share of the masked tokens whose likeliest token is the right one",
        "loss": "mean cross entropy of a masked token, in nats; not a percentage",
        "perplexity": "exp(loss); not a percentage",
    }

    def evaluate(self, setting: Setting, shards: Shards, companions: Mapping[str, Shards] | None = None) -> Evaluation:
        """As its base; the loss is that of a token, not of an example."""
        found = super().evaluate(setting, shards, companions)
        return replace(found, languages=[replace(one, loss=one.metrics["loss"]) for one in found.languages])

    def transform(self, setting: Setting, shard: Shard) -> Transform:
        """The fixed masking, with the tokenizer of the encoder's folder."""
        assert setting.encoder.folder is not None, "an encoder that was loaded"
        masking = Masking.of(setting.encoder.folder, setting.spec, SEED)
        return lambda batch: masking.apply(batch, OCCURRENCE)

    def protocol(self, setting: Setting) -> Mapping[str, Any]:
        """How the tokens were masked."""
        shares = ("mask_probability", "mask_share", "random_share")
        return {"masking": {"seed": SEED, **{name: option(setting.spec, name) for name in shares}}}

    def score(self, spec: TaskSpec, predictions: Arrays, gold: Gold) -> dict[str, float]:
        """The metrics of :attr:`definitions`."""
        label, predicted = _joined(predictions["label"]), _joined(predictions["prediction"])
        loss = float(predictions["loss"].sum(dtype=np.float64)) / len(label)
        return {
            "accuracy": percent_equal(predicted, label),
            "loss": loss,
            "perplexity": math.exp(loss) if loss < 700 else math.inf,
        }

    def rows(self, spec: TaskSpec, predictions: Arrays, gold: Gold) -> list[dict[str, Any]]:
        """``{"id", "label", "prediction"}``: ids of the masked tokens, from the example's first to its last."""
        columns = (gold.ids, predictions["label"], predictions["prediction"])
        return [{"id": i, "label": g.tolist(), "prediction": p.tolist()} for i, g, p in zip(*columns, strict=True)]


def _joined(parts: Array) -> Array:
    """The arrays of all examples, (E,) of (m,), end to end."""
    return np.concatenate(list(parts))


MLM = Mlm()
