"""Evaluation of bitext mining: pairs with a margin, a threshold chosen on dev, F1 of the set of pairs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from xtrain.data import Shard
from xtrain.errors import Problem, UserError
from xtrain.evaluation.benchmark.bitext import Pair, best_threshold, pair_f1
from xtrain.evaluation.evaluators.base import Evaluation, Evaluator, LanguageResult, Setting, Shards
from xtrain.evaluation.predict import vectors
from xtrain.evaluation.retrieval import NEIGHBOURS, POOLING, mine
from xtrain.tasks.bitext_mining import AGAIN, ENGLISH, FIRST, FOREIGN, MARGINS

SEARCH = "cosine; each sentence proposes its best neighbour, the best proposals of both sides first, each sentence once"
DUPLICATES = "equal sentences of a side are searched as one, and are in no pair: which of them is meant cannot be told"


@dataclass(frozen=True)
class _Set:
    """One set of sentences, mined."""

    candidates: list[tuple[Pair, float]]
    """Pairs of ids with their scores, the best first."""
    gold: list[Pair]
    sentences: Mapping[str, int]
    duplicates: Mapping[str, int]
    """By side: the sentences that have an equal one."""


def prediction_rows(taken: Sequence[tuple[Pair, float]], gold: Sequence[Pair] | None) -> list[dict[str, Any]]:
    """``{"id", "prediction", "score"}`` of each mined pair; with gold also ``label``, and the pairs that were missed.

    A missed pair has no prediction; a foreign sentence that is in no gold pair has no label.
    """
    rows: list[dict[str, Any]] = [{"id": pair[0], "prediction": pair[1], "score": score} for pair, score in taken]
    if gold is None:
        return rows
    right = dict(gold)
    rows = [{**row, "label": right.get(row["id"])} for row in rows]
    mined = {row["id"] for row in rows}
    return rows + [{"id": one, "prediction": None, "label": other} for one, other in gold if one not in mined]


class BitextMining(Evaluator):
    """Mean-pooled vectors of one block, margin scores, and the threshold that is best on dev."""

    definitions: Mapping[str, str] = {
        "f1": "F1 of the set of mined pairs against the set of gold pairs",
        "precision": "share of the mined pairs that are gold pairs",
        "recall": "share of the gold pairs that are mined",
    }

    def evaluate(self, setting: Setting, shards: Shards, companions: Mapping[str, Shards] | None = None) -> Evaluation:
        """Each language with a threshold of its own: from its dev set, or from itself if there is none.

        Raises :class:`UserError` for a set without gold pairs that has no dev set, or none at all.
        """
        tuning = (companions or {}).get("tune", {})
        results = []
        for language, shard in shards.items():
            found = _mined(setting, shard)
            dev = tuning.get(language)
            tuned = found if dev is None else _mined(setting, dev)
            if not tuned.gold:
                raise UserError(_nothing_to_tune_on(setting, shard if dev is None else dev))
            threshold, best = best_threshold(tuned.candidates, tuned.gold)
            taken = [(pair, score) for pair, score in found.candidates if score >= threshold]
            rows = prediction_rows(taken, found.gold if shard.labelled else None)
            protocol: dict[str, Any] = {
                # no candidate is right: no threshold is better than mining nothing, and JSON has no infinity
                "threshold": threshold if math.isfinite(threshold) else None,
                "tuned_on": "dev" if dev is not None else f"{shard.manifest['split']}, which is scored: an upper bound",
                "f1_where_tuned": best,
                "sentences": found.sentences,
                "duplicates_removed": found.duplicates,
                "gold_pairs": len(found.gold),
                "candidates": len(found.candidates),
            }
            metrics = pair_f1([pair for pair, _ in taken], found.gold) if shard.labelled else {}
            results.append(LanguageResult(language, metrics, sum(found.sentences.values()), rows, protocol=protocol))
        options = setting.spec.options
        shared = {
            "layer": setting.layer,
            "num_layers": setting.encoder.num_layers,
            "pooling": POOLING,
            "search": SEARCH,
            "margin": options.get("margin", MARGINS[0]),
            "k": NEIGHBOURS,
            "duplicates": DUPLICATES,
        }
        return Evaluation(results, {**shared, **({"prefix": options["prefix"]} if "prefix" in options else {})})


def _mined(setting: Setting, shard: Shard) -> _Set:
    """The candidates of ``shard``; collective."""
    every = vectors(
        setting.encoder, shard, setting.spec.name, layer=setting.layer, ranks=setting.ranks,
        tokens_per_batch=setting.tokens_per_batch, device=setting.device, progress=setting.progress,
    )  # fmt: skip
    rows = np.arange(len(every))
    ids = shard.ids(rows)
    side, copy = (np.asarray(shard.fields[name]) for name in ("side", "copy"))
    there = set(ids)
    gold = [
        (id_, other) for id_, note in zip(ids, shard.notes(rows), strict=True) if note for other in note["gold"]
        if other in there
    ]  # fmt: skip
    searched = [rows[(side == one) & (copy != AGAIN)] for one in (FOREIGN, ENGLISH)]
    if (shard.labelled and not gold) or not all(map(len, searched)):
        raise UserError(_nothing_to_tune_on(setting, shard))
    foreign, english = (torch.from_numpy(every[part]).to(setting.device) for part in searched)
    mined = mine(foreign, english, NEIGHBOURS, setting.spec.options.get("margin", MARGINS[0]))
    pairs = zip(searched[0][mined.foreign].tolist(), searched[1][mined.english].tolist(), strict=True)
    candidates = [
        ((ids[one], ids[other]), score)
        for (one, other), score in zip(pairs, mined.scores.tolist(), strict=True)
        if copy[one] != FIRST and copy[other] != FIRST
    ]
    return _Set(candidates, gold, _by_side(side, side >= 0), _by_side(side, copy > 0))


def _nothing_to_tune_on(setting: Setting, shard: Shard) -> Problem:
    if shard.labelled:
        what, remedy = "hold no pair to find", "add the pairs that are translations to its gold file"
    else:
        what, remedy = "have no gold pairs, and the task no dev set to choose a threshold on", "name its dev files"
    return Problem(f"task.{setting.spec.name}", f"the {len(shard):,} sentences of {shard.language} {what}", "", remedy)


def _by_side(side: npt.NDArray[Any], which: npt.NDArray[np.bool_]) -> dict[str, int]:
    return {name: int((which & (side == one)).sum()) for name, one in (("foreign", FOREIGN), ("english", ENGLISH))}


BITEXT_MINING = BitextMining()
