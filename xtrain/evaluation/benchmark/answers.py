"""Exact match and token F1 of extracted answers: SQuAD v1.1, SQuAD v2.0 and MLQA, each with its normalisation."""

from __future__ import annotations

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from typing import Literal

Normalise = Callable[[str], str]
Rules = Literal["squad", "mlqa"]

_ASCII_PUNCTUATION = frozenset(string.punctuation)
_ENGLISH_ARTICLES = re.compile(r"\b(a|an|the)\b")
_MLQA_ARTICLES: Mapping[str, re.Pattern[str] | None] = {
    "en": _ENGLISH_ARTICLES,
    "es": re.compile(r"\b(un|una|unos|unas|el|la|los|las)\b"),
    "de": re.compile(r"\b(ein|eine|einen|einem|eines|einer|der|die|das|den|dem|des)\b"),
    "vi": re.compile(r"\b(của|là|cái|chiếc|những)\b"),
    # the script's own expression: the first branch can match nothing ("^" after text), and the second takes the
    # two letters of the article out wherever they stand, within words too
    "ar": re.compile(r"\sال^|ال"),  # noqa: RUF001
    "hi": None,
    "zh": None,
}
MLQA_LANGUAGES = tuple(_MLQA_ARTICLES)
_CHINESE = re.compile("([\u4e00-\u9fa5])")


def squad_normalise(text: str) -> str:
    """Lower case, ASCII punctuation out, the articles a, an, the out, white space to single spaces.

    The normalisation of the SQuAD scripts (v1.1 and v2.0). XTREME uses it for XQuAD and TyDiQA in every
    language.
    """
    kept = "".join(character for character in text.lower() if character not in _ASCII_PUNCTUATION)
    return " ".join(_ENGLISH_ARTICLES.sub(" ", kept).split())


def mlqa_normalise(text: str, language: str) -> str:
    """Lower case, punctuation of every script out, the language's articles out, tokens joined by spaces.

    In Chinese every character from U+4E00 to U+9FA5 is a token, and the rest is split on white space; in the
    other six languages tokens are what white space separates. ``language`` is that of the answers. Source:
    ``mlqa_evaluation_v1.py`` of facebookresearch/MLQA.
    """
    assert language in _MLQA_ARTICLES, f"MLQA has no rules for {language!r}"
    kept = "".join(character for character in text.lower() if not _is_punctuation(character))
    articles = _MLQA_ARTICLES[language]
    if articles is not None:
        kept = articles.sub(" ", kept)
    if language == "zh":
        kept = _CHINESE.sub(r" \1 ", kept)
    return " ".join(kept.split())


@cache
def _is_punctuation(character: str) -> bool:
    return character in _ASCII_PUNCTUATION or unicodedata.category(character).startswith("P")


def normaliser(rules: Rules, language: str) -> Normalise:
    """The normalisation that a benchmark's task uses in ``language``."""
    return squad_normalise if rules == "squad" else partial(mlqa_normalise, language=language)


def exact_match(prediction: str, answers: Sequence[str], normalise: Normalise = squad_normalise) -> float:
    """1 if the prediction equals any of ``answers`` once both are normalised, else 0."""
    found = normalise(prediction)
    return float(any(found == normalise(answer) for answer in answers))


def token_f1(prediction: str, answers: Sequence[str], normalise: Normalise = squad_normalise) -> float:
    """The best F1 of the bags of tokens of the prediction and any of ``answers``, between 0 and 1.

    0 where they share no token, so also where both are empty (SQuAD v1.1 and MLQA).
    """
    found = normalise(prediction).split()
    return max(_bag_f1(found, normalise(answer).split()) for answer in answers)


def _bag_f1(found: Sequence[str], right: Sequence[str]) -> float:
    common = sum((Counter(found) & Counter(right)).values())
    if not common:
        return 0.0
    precision, recall = common / len(found), common / len(right)
    return 2 * precision * recall / (precision + recall)


def score_answers(
    predictions: Mapping[str, str], gold: Mapping[str, Sequence[str]], language: str, rules: Rules = "squad"
) -> dict[str, float]:
    """``f1`` and ``exact_match`` in percent, the mean over the questions of ``gold``.

    Of several gold answers the best counts, for each of the two metrics by itself. A question that
    ``predictions`` lacks scores 0; predictions for other questions do not count. ``rules`` are "squad"
    (v1.1: XQuAD, TyDiQA) or "mlqa", which depend on ``language``. Every question needs a gold answer.
    """
    assert gold, "no question to score"
    normalise = normaliser(rules, language)
    f1 = exact = 0.0
    for question, answers in gold.items():
        assert answers, f"question {question!r} has no gold answer"
        if question in predictions:
            f1 += token_f1(predictions[question], answers, normalise)
            exact += exact_match(predictions[question], answers, normalise)
    return {"f1": 100 * f1 / len(gold), "exact_match": 100 * exact / len(gold)}


def score_squad_v2(
    predictions: Mapping[str, str],
    gold: Mapping[str, Sequence[str]],
    no_answer: Mapping[str, float] | None = None,
    threshold: float = 0.0,
) -> dict[str, float]:
    """SQuAD v2.0: ``f1`` and ``exact_match`` in percent, where a question may have no answer.

    A question without gold answers is right if the prediction is empty. ``no_answer`` says by question how
    much speaks for there being no answer; where it is above ``threshold`` the prediction counts as empty.
    A question that ``predictions`` lacks scores 0. Source: SQuAD's ``evaluate-v2.0.py``.
    """
    assert gold, "no question to score"
    f1 = exact = 0.0
    for question, answers in gold.items():
        if question in predictions:
            silent = no_answer is not None and no_answer[question] > threshold
            one_f1, one_exact = _squad_v2("" if silent else predictions[question], answers)
            f1, exact = f1 + one_f1, exact + one_exact
    return {"f1": 100 * f1 / len(gold), "exact_match": 100 * exact / len(gold)}


def _squad_v2(prediction: str, answers: Sequence[str]) -> tuple[float, float]:
    """F1 and exact match of one question, each between 0 and 1."""
    answers = [answer for answer in answers if squad_normalise(answer)] or [""]
    exact = exact_match(prediction, answers)
    if squad_normalise(prediction) and answers != [""]:
        return token_f1(prediction, answers), exact
    return exact, exact  # where either is empty, both must be


def best_squad_v2(
    predictions: Mapping[str, str], gold: Mapping[str, Sequence[str]], no_answer: Mapping[str, float]
) -> dict[str, float]:
    """The best that a threshold on ``no_answer`` can reach: SQuAD v2.0's ``best_f1`` and ``best_exact``.

    ``predictions`` hold the best answer of every question whether or not there is one. Returns ``f1`` and
    ``exact_match`` in percent, each at the threshold that is best for it: ``f1_threshold`` and
    ``exact_match_threshold``, to be used as in :func:`score_squad_v2`. Thresholds are 0 or scores that
    occur; questions of equal scores are never parted.
    """
    assert gold, "no question to score"
    values = {
        question: _squad_v2(predictions[question], gold[question]) for question in gold if question in predictions
    }
    result: dict[str, float] = {}
    for place, metric in enumerate(("f1", "exact_match")):
        # what a question adds when it is answered instead of kept silent
        gains: dict[float, float] = {}
        silent = 0.0  # what is right where every question is kept silent
        for question, scores in values.items():
            answerable = any(squad_normalise(answer) for answer in gold[question])
            silent += not answerable
            score = no_answer[question]
            gains[score] = gains.get(score, 0.0) + scores[place] - (not answerable)
        best, threshold, total = silent, _below(gains), silent
        for score in sorted(gains):
            total += gains[score]
            if total > best:
                best, threshold = total, score
        result[metric] = 100 * best / len(gold)
        result[f"{metric}_threshold"] = threshold
    return result


def _below(scores: Mapping[float, object]) -> float:
    """A threshold below all ``scores``: every question is kept silent."""
    lowest = min(scores, default=0.0)
    return 0.0 if lowest > 0 else lowest - 1.0
