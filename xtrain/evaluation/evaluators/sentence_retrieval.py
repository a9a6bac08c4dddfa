"""Evaluation of sentence retrieval: the nearest sentence of the other language, both ways."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from xtrain.evaluation import metrics
from xtrain.evaluation.evaluators.base import Evaluation, Evaluator, LanguageResult, Setting, Shards
from xtrain.evaluation.predict import embed
from xtrain.evaluation.retrieval import POOLING, SIMILARITY, search

QUERY = {
    "english": "english: each English sentence, searched among the foreign ones (XTREME, XTREME-R; mteb the other way)",
    "foreign": "foreign: each foreign sentence, searched among the English ones (mteb; XTREME the other way)",
    "mean": "mean: both ways, and the mean of the two accuracies",
}


class SentenceRetrieval(Evaluator):
    """Mean-pooled vectors of one block, cosine, first hit."""

    definitions = metrics.SENTENCE_RETRIEVAL

    def evaluate(self, setting: Setting, shards: Shards, companions: Mapping[str, Shards] | None = None) -> Evaluation:
        """Each language against English."""
        options = setting.spec.options
        query: str = options.get("query", "mean")
        results = []
        for language, shard in shards.items():
            source, target = embed(
                setting.encoder, shard, setting.spec.name, layer=setting.layer, ranks=setting.ranks,
                tokens_per_batch=setting.tokens_per_batch, device=setting.device, progress=setting.progress,
            )  # fmt: skip
            hits = search(*(torch.from_numpy(part).to(setting.device) for part in (source, target)))
            ids, notes = (of(np.arange(len(source))) for of in (shard.ids, shard.notes))
            rows = [
                {
                    "id": id_,
                    "label": id_,
                    "prediction": ids[there],
                    "prediction_from_english": ids[back],
                    **(note or {}),
                }
                for id_, note, there, back in zip(ids, notes, hits["to_english"], hits["from_english"], strict=True)
            ]
            results.append(LanguageResult(language, metrics.sentence_retrieval(hits, query), len(ids), rows))
        protocol = {"layer": setting.layer, "num_layers": setting.encoder.num_layers, "pooling": POOLING}
        prefix = {"prefix": options["prefix"]} if "prefix" in options else {}
        return Evaluation(results, {**protocol, "search": SIMILARITY, "query": QUERY[query], **prefix})


SENTENCE_RETRIEVAL = SentenceRetrieval()
