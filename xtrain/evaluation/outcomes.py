"""What a run did with each item, from the rows of its predictions, and whether its score is above chance.

Without torch: reports read predictions on machines that have none.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from xtrain.evaluation.benchmark.answers import exact_match, normaliser, score_squad_v2, token_f1
from xtrain.evaluation.benchmark.chunks import OUTSIDE, seqeval012_chunks
from xtrain.evaluation.benchmark.ranking import average_precision
from xtrain.statistics.chance import binomial_p, permutation_p
from xtrain.statistics.measured import Floats, Outcomes
from xtrain.tasks import TaskSpec

Rows = Sequence[Mapping[str, Any]]
PERMUTATIONS = 39  # of scores that no formula has: a p of 0.025 can be told
PERMUTED_ITEMS = 300  # more are not shuffled: what is above chance is above it there
FEW, FEW_ITEMS, FAR = 5, 100, 3.0  # a first look: so many spans of the shuffled scores, and points, above them is far


@dataclass(frozen=True)
class Chance:
    """What a score has to be above to say anything of the model."""

    percent: float
    """Guessing, or the answer that is right most often."""
    p: float
    """One-sided, that the score is no better."""


class NoOutcomes(Exception):
    """This metric of this format is not a sum over items."""


def outcomes(spec: TaskSpec, metric: str, language: str, rows: Rows) -> Outcomes:
    """The items of one language; raises :class:`NoOutcomes` where the metric is not made of them."""
    parts = _PARTS.get((spec.format, metric))
    if parts is None or not rows or not _labelled(spec, rows):
        raise NoOutcomes
    above, below = parts(spec, language, rows)
    return Outcomes([str(row["id"]) for row in rows], above, below)


def chance(spec: TaskSpec, metric: str, language: str, rows: Rows, score: float) -> Chance | None:
    """Whether a score in percent is above chance; None where nobody can tell (mining, masked words)."""
    if spec.format in ("classification", "multiple_choice"):
        return _of_classes(spec, metric, rows, score)
    if spec.format == "sentence_retrieval":
        count = len(rows)
        return Chance(100.0 / count, binomial_p(round(score / 100 * count), count, 1.0 / count))
    if spec.format in ("tagging", "span_qa", "answer_retrieval"):
        return _shuffled(spec, metric, language, rows)
    return None


def _labelled(spec: TaskSpec, rows: Rows) -> bool:
    """Whether the gold is in the rows: a leaderboard's test sets have none, nor has mining of older runs."""
    if spec.format == "bitext_mining":
        return all("label" in row for row in rows)
    return all(row.get("answers" if spec.format == "span_qa" else "label") is not None for row in rows)


def _accuracy(spec: TaskSpec, language: str, rows: Rows) -> tuple[Floats, Floats]:
    return _column([row["prediction"] == row["label"] for row in rows])


def _macro_f1(spec: TaskSpec, language: str, rows: Rows) -> tuple[Floats, Floats]:
    """A part a class that occurs: twice the right ones over gold and predicted ones."""
    classes = sorted({str(row[key]) for row in rows for key in ("label", "prediction")})
    gold = np.array([[str(row["label"]) == one for one in classes] for row in rows], dtype=float)
    found = np.array([[str(row["prediction"]) == one for one in classes] for row in rows], dtype=float)
    return 2.0 * gold * found, gold + found


def _chunk_f1(spec: TaskSpec, language: str, rows: Rows) -> tuple[Floats, Floats]:
    """Micro F1 over chunks: an "O" ends each sentence, so that no chunk reaches into the next."""
    above, below = [], []
    for row in rows:
        gold, found = (set(seqeval012_chunks([*row[key], OUTSIDE])) for key in ("label", "prediction"))
        above.append(2.0 * len(gold & found))
        below.append(float(len(gold) + len(found)))
    return np.array(above)[:, None], np.array(below)[:, None]


def _token_accuracy(spec: TaskSpec, language: str, rows: Rows) -> tuple[Floats, Floats]:
    right = [sum(a == b for a, b in zip(row["label"], row["prediction"], strict=True)) for row in rows]
    return np.array(right, dtype=float)[:, None], np.array([len(row["label"]) for row in rows], dtype=float)[:, None]


def _answers(metric: str) -> Callable[[TaskSpec, str, Rows], tuple[Floats, Floats]]:
    def parts(spec: TaskSpec, language: str, rows: Rows) -> tuple[Floats, Floats]:
        return _column([_answer(spec, metric, language, row["prediction"], row["answers"]) for row in rows])

    return parts


def _answer(spec: TaskSpec, metric: str, language: str, prediction: str, answers: Sequence[str]) -> float:
    """F1 or exact match of one question, between 0 and 1."""
    if spec.options.get("no_answer"):
        return score_squad_v2({"": prediction}, {"": answers})[metric] / 100.0
    normalise = normaliser(spec.options.get("normalisation", "squad"), language)
    return (token_f1 if metric == "f1" else exact_match)(prediction, answers, normalise)


def _first_hits(spec: TaskSpec, language: str, rows: Rows) -> tuple[Floats, Floats]:
    """Of the side that asks, or the mean of both."""
    foreign = np.array([row["prediction"] == row["label"] for row in rows], dtype=float)
    english = np.array([row["prediction_from_english"] == row["label"] for row in rows], dtype=float)
    asked = {"english": english, "foreign": foreign}.get(spec.options.get("query", "mean"), (english + foreign) / 2)
    return _column(asked.tolist())


def _average_precision(spec: TaskSpec, language: str, rows: Rows) -> tuple[Floats, Floats]:
    return _column([average_precision(row["prediction"], row["label"]) for row in rows])


def _pairs(spec: TaskSpec, language: str, rows: Rows) -> tuple[Floats, Floats]:
    """F1 of mined pairs, by foreign sentence: rows are those that have a pair, or should have one."""
    right = [row["label"] is not None and row["prediction"] == row["label"] for row in rows]
    below = [float((row["label"] is not None) + (row["prediction"] is not None)) for row in rows]
    return 2.0 * np.array(right, dtype=float)[:, None], np.array(below)[:, None]


def _column(values: Sequence[float | bool]) -> tuple[Floats, Floats]:
    above = np.array(values, dtype=float)[:, None]
    return above, np.ones_like(above)


_PARTS: Mapping[tuple[str, str], Callable[[TaskSpec, str, Rows], tuple[Floats, Floats]]] = {
    ("classification", "accuracy"): _accuracy,
    ("classification", "f1"): _macro_f1,
    ("multiple_choice", "accuracy"): _accuracy,
    ("tagging", "f1"): _chunk_f1,
    ("tagging", "accuracy"): _token_accuracy,
    ("span_qa", "f1"): _answers("f1"),
    ("span_qa", "exact_match"): _answers("exact_match"),
    ("sentence_retrieval", "accuracy"): _first_hits,
    ("answer_retrieval", "map@20"): _average_precision,
    ("bitext_mining", "f1"): _pairs,
}
"""Format and metric -> the sums that the metric is made of, an item a line."""


def _of_classes(spec: TaskSpec, metric: str, rows: Rows, score: float) -> Chance:
    """Exact binomial for accuracy, against guessing or the most frequent class, whichever is right more often."""
    counts = Counter(str(row["label"]) for row in rows)
    if metric != "accuracy":
        return _shuffled(spec, metric, "", rows)
    constant = max(max(counts.values()) / len(rows), 1.0 / max(len(spec.labels), len(counts)))
    return Chance(100.0 * constant, binomial_p(round(score / 100.0 * len(rows)), len(rows), constant))


def _shuffled(spec: TaskSpec, metric: str, language: str, rows: Rows) -> Chance:
    """By permutation: every item is given the prediction of another one. Few do where the score is far above all."""
    given = _given_tags if spec.format == "tagging" else _given
    parts = _PARTS[spec.format, metric]

    def against(some: Rows, permutations: int) -> tuple[float, list[float]]:
        """The p, and the scores: as predicted first, then shuffled."""
        scores: list[float] = []

        def score(order: Sequence[int]) -> float:
            above, below = parts(spec, language, [given(row, some[i]) for row, i in zip(some, order, strict=True)])
            scores.append(Outcomes([""] * len(some), above, below).score)
            return scores[-1]

        return permutation_p(score, len(some), permutations), scores

    _, (found, *few) = against(rows[:FEW_ITEMS], FEW)
    if found > max(few) + FAR * (max(few) - min(few)) + FAR:
        return Chance(float(np.mean(few)), 1.0 / (1 + PERMUTATIONS))
    p, (_, *shuffled) = against(rows[:PERMUTED_ITEMS], PERMUTATIONS)
    return Chance(float(np.mean(shuffled)), p)


def _given(row: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """``row`` with the prediction of ``other``."""
    return {**row, "prediction": other["prediction"]}


def _given_tags(row: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """``row`` with the tags of ``other``, cut or begun again where the other sentence has another length."""
    found = other["prediction"] or [OUTSIDE]
    return {**row, "prediction": [found[i % len(found)] for i in range(len(row["label"]))]}
