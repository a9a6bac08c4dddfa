"""Evaluation of sentence retrieval: the nearest sentence of the other language, both ways."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from xtrain.evaluation import metrics
from xtrain.evaluation.evaluators.base import Evaluation, Evaluator, LanguageResult, Setting, Shards
from xtrain.evaluation.predict import embed
from xtrain.evaluation.retrieval import POOLING, SIMILARITY, search


class SentenceRetrieval(Evaluator):
    """Mean-pooled vectors of one block, cosine, first hit."""

    definitions = metrics.SENTENCE_RETRIEVAL

    def evaluate(self, setting: Setting, shards: Shards, companions: Mapping[str, Shards] | None = None) -> Evaluation:
        """Each language against English."""
        results = []
        for language, shard in shards.items():
            source, target = embed(
                setting.encoder, shard, setting.spec.name, layer=setting.layer, ranks=setting.ranks,
                tokens_per_batch=setting.tokens_per_batch, device=setting.device, limit=setting.limit,
                progress=setting.progress,
            )  # fmt: skip
            hits = search(*(torch.from_numpy(part).to(setting.device) for part in (source, target)))
            ids = shard.ids(np.arange(len(source)))
            rows = [
                {"id": id_, "label": id_, "prediction": ids[there], "prediction_from_english": ids[back]}
                for id_, there, back in zip(ids, hits["to_english"], hits["from_english"], strict=True)
            ]
            results.append(LanguageResult(language, metrics.sentence_retrieval(hits), len(ids), rows))
        protocol = {"layer": setting.layer, "num_layers": setting.encoder.num_layers}
        return Evaluation(results, {**protocol, "pooling": POOLING, "search": SIMILARITY})


SENTENCE_RETRIEVAL = SentenceRetrieval()
