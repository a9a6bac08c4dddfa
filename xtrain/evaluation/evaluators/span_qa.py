"""Evaluation of span question answering: answers cut out of the context, F1 and exact match, no-answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from xtrain.evaluation.benchmark.answers import best_squad_v2, score_answers, score_squad_v2
from xtrain.evaluation.evaluators.base import ByExample, Evaluation, Gold, Setting, Shards
from xtrain.evaluation.metrics import Arrays
from xtrain.tasks import TaskSpec
from xtrain.tasks.span_qa import DEFAULTS

THRESHOLD = 0.0  # of the score of no answer less that of the best span, as SQuAD's script has it
_AT_BEST = ("f1_threshold", "exact_match_threshold")


@dataclass(frozen=True)
class Candidate:
    """A span that may be the answer."""

    text: str
    score: float
    start: int
    """Its first character in the context."""
    end: int
    """The character after its last one."""


class SpanQA(ByExample):
    """``spans``, ``span_scores`` and ``no_answer_score`` (E,) against the gold answers of the notes."""

    definitions: Mapping[str, str] = {
        "f1": "mean over the questions of the best F1 of the bags of words of the answer and of a gold answer",
        "exact_match": "share of the questions whose answer equals a gold answer after normalisation",
        "has_answer_f1": "f1 over the questions that have an answer",
        "has_answer_exact_match": "exact_match over the questions that have an answer",
        "no_answer_accuracy": "share of the questions without an answer that get none",
        "best_f1": "f1 at the threshold for no answer that is best for it on these questions",
        "best_exact_match": "exact_match at the threshold for no answer that is best for it on these questions",
    }

    def evaluate(self, setting: Setting, shards: Shards, companions: Mapping[str, Shards] | None = None) -> Evaluation:
        """As every format; metrics that some language has not (no question without an answer) are left out."""
        found = super().evaluate(setting, shards, companions)
        common = set.intersection(*({*one.metrics} for one in found.languages)) - {*_AT_BEST}
        languages = [
            replace(
                one,
                metrics={name: value for name, value in one.metrics.items() if name in common},
                protocol={f"best_{name}": one.metrics[name] for name in _AT_BEST if name in one.metrics},
            )
            for one in found.languages
        ]
        return replace(found, languages=languages)

    def protocol(self, setting: Setting) -> Mapping[str, Any]:
        """The task's options: windows, lengths, normalisation; and the threshold for no answer."""
        settings = {**DEFAULTS, **setting.spec.options}
        names = ("doc_stride", "max_question", "max_answer", "num_best", "normalisation")
        threshold = {"no_answer_threshold": THRESHOLD} if settings["no_answer"] else {}
        return {**{name: settings[name] for name in names}, **threshold}

    def score(self, spec: TaskSpec, predictions: Arrays, gold: Gold) -> dict[str, float]:
        """F1 and exact match in percent; with the option ``no_answer`` those of SQuAD v2.0, and their parts."""
        settings = {**DEFAULTS, **spec.options}
        best = [next(iter(candidates(*one, 1)), None) for one in _examples(predictions, gold)]
        texts = {id_: one.text if one else "" for id_, one in zip(gold.ids, best, strict=True)}
        answers = {id_: note["answers"] for id_, note in zip(gold.ids, gold.notes, strict=True)}
        if not settings["no_answer"]:
            return score_answers(texts, answers, gold.language, settings["normalisation"])
        silence = dict(zip(gold.ids, _silence(predictions, best), strict=True))
        metrics = score_squad_v2(texts, answers, silence, THRESHOLD)
        at_best = best_squad_v2(texts, answers, silence)
        metrics |= {"best_f1": at_best["f1"], "best_exact_match": at_best["exact_match"]}
        has = {id_: some for id_, some in answers.items() if some}
        if has:
            metrics |= {f"has_answer_{n}": v for n, v in score_squad_v2(texts, has, silence, THRESHOLD).items()}
        if len(has) < len(answers):
            without: dict[str, list[str]] = {id_: [] for id_ in answers if id_ not in has}
            metrics["no_answer_accuracy"] = score_squad_v2(texts, without, silence, THRESHOLD)["exact_match"]
        return metrics | {name: at_best[name] for name in _AT_BEST}

    def rows(self, spec: TaskSpec, predictions: Arrays, gold: Gold) -> list[dict[str, Any]]:
        """``{"id", "prediction", "answers", "score", "nbest"}`` and, where there may be none, ``no_answer_score``.

        Scores are sums of logits; ``no_answer_score`` is that of no answer less that of the best span, and
        the prediction is empty where it is above the threshold. ``nbest`` holds ``{"text", "score",
        "probability", "start", "end"}``, places in characters of the context; no answer, if it is one of them,
        has -1 for both. Probabilities are a softmax over these few alone.
        """
        settings = {**DEFAULTS, **spec.options}
        found = []
        for number, one in enumerate(_examples(predictions, gold)):
            some = list(candidates(*one, settings["num_best"]))
            row: dict[str, Any] = {"id": gold.ids[number], "prediction": some[0].text if some else ""}
            row |= {"answers": gold.notes[number]["answers"], "score": some[0].score if some else None}
            if settings["no_answer"]:
                null = float(predictions["no_answer_score"][number])
                row["no_answer_score"] = null - some[0].score if some else 0.0
                if row["no_answer_score"] > THRESHOLD:
                    row |= {"prediction": "", "score": null}
                some = sorted([*some, Candidate("", null, -1, -1)], key=lambda candidate: -candidate.score)
            found.append({**row, "nbest": _with_probabilities(some)})
        return found


SPAN_QA = SpanQA()


def candidates(
    context: str, spans: npt.NDArray[np.int64], scores: npt.NDArray[np.float32], most: int
) -> list[Candidate]:
    """The ``most`` best different texts among ``spans`` (n, 2) with ``scores`` (n,), best first.

    A text is what stands in the context from a span's first character to its last, white space at both ends
    left out; spans that hold nothing else are none.
    """
    found: dict[str, Candidate] = {}
    for (start, end), score in zip(spans.tolist(), scores.tolist(), strict=True):
        text = context[start:end].strip()
        if text and text not in found:
            start += len(context[start:end]) - len(context[start:end].lstrip())
            found[text] = Candidate(text, score, start, start + len(text))
            if len(found) == most:
                break
    return list(found.values())


def _examples(predictions: Arrays, gold: Gold) -> list[tuple[str, npt.NDArray[np.int64], npt.NDArray[np.float32]]]:
    columns = (gold.notes, predictions["spans"], predictions["span_scores"])
    return [(note["context"], spans, scores) for note, spans, scores in zip(*columns, strict=True)]


def _silence(predictions: Arrays, best: list[Candidate | None]) -> list[float]:
    """How much more speaks for no answer than for the best span; 0 where there is no span to choose."""
    nulls: list[float] = predictions["no_answer_score"].tolist()
    return [null - one.score if one else 0.0 for null, one in zip(nulls, best, strict=True)]


def _with_probabilities(some: list[Candidate]) -> list[dict[str, Any]]:
    scores = np.asarray([one.score for one in some], dtype=np.float64)
    shares = np.exp(scores - scores.max(initial=-np.inf))
    shares /= shares.sum() if len(some) else 1.0
    return [
        {"text": one.text, "score": one.score, "probability": share, "start": one.start, "end": one.end}
        for one, share in zip(some, shares.tolist(), strict=True)
    ]
