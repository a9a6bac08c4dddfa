"""Answers: against the published scripts' rules written out again, in every language with its own."""

from __future__ import annotations

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xtrain.evaluation.benchmark.answers import (
    MLQA_LANGUAGES,
    best_squad_v2,
    mlqa_normalise,
    score_answers,
    score_squad_v2,
    squad_normalise,
)
from xtrain.evaluation.benchmark.layout import BENCHMARKS

ARTICLES = {
    "en": "a an the", "es": "un una unos unas el la los las", "vi": "của là cái chiếc những",
    "de": "ein eine einen einem eines einer der die das den dem des",
}  # fmt: skip
PIECES = [
    *" ".join(ARTICLES.values()).split(), "The", "DER", "casa", "Haus", "x", "1,000", "U.S.", "¿qué?", "«так»",
    "2019年", "北京", "大学，", "ABC公司", "。", "कुल", "।", "الكتاب", "قال", "ال", "في", "،", "nhà", "-", "'s",
    "\u3000", "\n", "\t", "İ", "ß", "$5", "+",
]  # fmt: skip
TEXT = st.lists(st.sampled_from(PIECES), max_size=6).flatmap(
    lambda pieces: st.sampled_from(["", " ", "  "]).map(lambda gap: gap.join(pieces))
)
PUNCTUATION = set(string.punctuation)


def reference_squad(text: str) -> list[str]:
    kept = "".join(c for c in text.lower() if c not in PUNCTUATION)
    return re.sub(r"\b(a|an|the)\b", " ", kept).split()


def reference_mlqa(text: str, language: str) -> list[str]:
    kept = "".join(c for c in text.lower() if c not in PUNCTUATION and not unicodedata.category(c).startswith("P"))
    if language in ARTICLES:
        kept = re.sub(rf"\b({'|'.join(ARTICLES[language].split())})\b", " ", kept)
    if language == "ar":
        kept = kept.replace("\u0627\u0644", " ")
    if language != "zh":
        return kept.split()
    tokens, word = [], ""
    for c in kept:
        if "\u4e00" <= c <= "\u9fa5":
            tokens += word.split() + [c]
            word = ""
        else:
            word += c
    return tokens + word.split()


def reference_score(
    predictions: dict[str, str], gold: dict[str, list[str]], tokens: Callable[[str], list[str]]
) -> dict[str, float]:
    exact, f1 = [], []
    for question, answers in gold.items():
        best_exact = best_f1 = 0.0
        for answer in answers if question in predictions else []:
            found, right = tokens(predictions[question]), tokens(answer)
            best_exact = max(best_exact, float(" ".join(found) == " ".join(right)))
            left = Counter(right)
            common = 0
            for token in found:
                if left[token] > 0:
                    left[token] -= 1
                    common += 1
            if common:
                best_f1 = max(best_f1, 2 * common / (len(found) + len(right)))
        exact.append(best_exact)
        f1.append(best_f1)
    return {"exact_match": 100 * sum(exact) / len(exact), "f1": 100 * sum(f1) / len(f1)}


@st.composite
def answered(draw: st.DrawFn, fewest: int = 1) -> tuple[dict[str, str], dict[str, list[str]]]:
    """Predictions and gold answers; some questions are not predicted, some predictions are for no question."""
    gold = {f"q{n}": draw(st.lists(TEXT, min_size=fewest, max_size=3)) for n in range(draw(st.integers(1, 4)))}
    predictions = {}
    for question, answers in gold.items():
        if draw(st.integers(0, 3)):
            predictions[question] = draw(st.sampled_from([*answers, *answers]) if answers else TEXT)
            if draw(st.booleans()):
                predictions[question] = draw(TEXT)
    if draw(st.booleans()):
        predictions["of no question"] = "x"
    return predictions, gold


@pytest.mark.parametrize("language", MLQA_LANGUAGES)
@given(case=answered())
@settings(max_examples=60)
def test_mlqa_agrees_with_the_script(language: str, case: tuple[dict[str, str], dict[str, list[str]]]) -> None:
    expected = reference_score(*case, lambda text: reference_mlqa(text, language))
    assert score_answers(*case, language, "mlqa") == pytest.approx(expected, abs=1e-9)


@given(case=answered())
@settings(max_examples=100)
def test_squad_agrees_with_the_script_in_every_language(case: tuple[dict[str, str], dict[str, list[str]]]) -> None:
    expected = reference_score(*case, reference_squad)
    languages = {lang for name in ("xquad", "tydiqa") for lang in BENCHMARKS["xtreme-r"].tasks[name].languages}
    for language in languages:
        assert score_answers(*case, language, "squad") == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("language", MLQA_LANGUAGES)
@given(text=st.text(max_size=30))
@settings(max_examples=50)
def test_any_text_is_normalised_as_the_script_does(language: str, text: str) -> None:
    assert mlqa_normalise(text, language).split() == reference_mlqa(text, language)
    assert squad_normalise(text) == " ".join(reference_squad(text))


def test_normalisations_by_hand() -> None:
    assert squad_normalise("The  U.S. — an «ally»!") == "us — «ally»"  # English punctuation only
    assert mlqa_normalise("The U.S. — an «ally»!", "en") == "us ally"
    assert mlqa_normalise("Der Hund des Mannes", "de") == "hund mannes"
    assert mlqa_normalise("la casa de las Américas", "es") == "casa de américas"
    assert mlqa_normalise("cái nhà", "vi") == "nhà"
    assert mlqa_normalise("की", "hi") == "की"
    assert mlqa_normalise("约ABC 公司2号，", "zh") == "约 abc 公 司 2 号"
    assert mlqa_normalise("قال", "ar") == "ق"  # the two letters go within words too


def test_a_missing_id_scores_0_and_the_best_gold_answer_counts() -> None:
    gold = {"a": ["one", "two three"], "b": ["four"]}
    assert score_answers({"a": "two three"}, gold, "en") == {"f1": 50.0, "exact_match": 50.0}
    assert score_answers({}, gold, "en") == {"f1": 0.0, "exact_match": 0.0}


def test_an_answer_of_articles_alone_matches_but_has_no_f1() -> None:
    assert score_answers({"a": "the"}, {"a": ["the"]}, "en") == {"f1": 0.0, "exact_match": 100.0}


def reference_squad_v2(prediction: str, answers: list[str]) -> tuple[float, float]:
    golds = [tokens for answer in answers if (tokens := reference_squad(answer))] or [[]]
    found = reference_squad(prediction)
    exact = max(float(found == gold) for gold in golds)
    f1 = 0.0
    for gold in golds:
        common = sum((Counter(found) & Counter(gold)).values())
        if not found or not gold:
            f1 = max(f1, float(found == gold))
        elif common:
            f1 = max(f1, 2 * common / (len(found) + len(gold)))
    return exact, f1


@given(case=answered(fewest=0), data=st.data())
@settings(max_examples=100)
def test_squad_v2_and_its_best_thresholds(
    case: tuple[dict[str, str], dict[str, list[str]]], data: st.DataObject
) -> None:
    predictions, gold = case
    scores = {question: data.draw(st.sampled_from([-2.0, -0.5, 0.0, 0.5, 3.0])) for question in gold}
    tried: dict[str, list[float]] = {"f1": [], "exact_match": []}
    for threshold in (-9.0, -2.0, -0.5, 0.0, 0.5, 3.0):
        values = [
            reference_squad_v2("" if scores[q] > threshold else predictions[q], answers)
            for q, answers in gold.items()
            if q in predictions
        ]
        expected = {
            "exact_match": 100 * sum(exact for exact, _ in values) / len(gold),
            "f1": 100 * sum(f1 for _, f1 in values) / len(gold),
        }
        assert score_squad_v2(predictions, gold, scores, threshold) == pytest.approx(expected, abs=1e-9)
        for metric, value in expected.items():
            tried[metric].append(value)
    best = best_squad_v2(predictions, gold, scores)
    for metric, values_of in tried.items():
        assert best[metric] == pytest.approx(max(values_of), abs=1e-9)
        at_best = score_squad_v2(predictions, gold, scores, best[f"{metric}_threshold"])
        assert at_best[metric] == pytest.approx(best[metric], abs=1e-9)
