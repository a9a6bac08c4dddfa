"""Measures of text against values worked out by hand, and against the plain way to compute them."""

from __future__ import annotations

import math
from statistics import mean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xtrain.language_facts import TextMeasures, measure
from xtrain.language_facts.measures import (
    Diversity,
    moving_type_token_ratio,
    subwords_per_character,
    subwords_per_word,
    unknown_share,
    words_against,
    words_of,
)
from xtrain.tasks.formats import TextCount


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", []),
        ("  Der  Hund,\n der bellt! ", ["der", "hund", "der", "bellt"]),
        ("« L'eau » — 3,5 %", ["l'eau", "3,5"]),
        ("¿Qué? (no) ...", ["qué", "no"]),
        ("cafe\u0301 caf\u00e9", ["caf\u00e9", "caf\u00e9"]),
        ("STRASSE Straße ΣΟΦΟΣ", ["strasse", "strasse", "σοφοσ"]),
        ("हिन्दी।", ["हिन्दी"]),
    ],
)
def test_words_stand_between_white_space(text: str, words: list[str]) -> None:
    assert words_of(text) == words


def test_the_moving_ratio_by_hand() -> None:
    # windows: a b a (2 types), b a c (3), a c c (2), c c c (1)
    assert moving_type_token_ratio("abaccc", window=3) == Diversity(8 / 12, 6, 3)


def test_a_short_text_has_the_plain_ratio_and_says_so() -> None:
    assert moving_type_token_ratio("aba", window=4) == Diversity(2 / 3, 3, 0)
    assert moving_type_token_ratio([]) is None


@given(st.lists(st.sampled_from("abcdefgh"), max_size=60), st.integers(1, 12))
def test_the_moving_ratio_is_the_mean_over_all_windows(tokens: list[str], window: int) -> None:
    found = moving_type_token_ratio(iter(tokens), window)
    if not tokens:
        assert found is None
        return
    assert found is not None
    if len(tokens) < window:
        assert found.value == len(set(tokens)) / len(tokens)
        return
    ratios = [len(set(tokens[n : n + window])) / window for n in range(len(tokens) - window + 1)]
    assert found.value == pytest.approx(mean(ratios), rel=1e-12)
    assert (found.tokens, found.window) == (len(tokens), window)


def test_rates_of_what_the_tokenizer_made() -> None:
    count = TextCount(words=4, characters=20, pieces=8, unknown=2)
    assert (subwords_per_word(count), subwords_per_character(count), unknown_share(count)) == (2.0, 0.4, 0.25)
    nothing = TextCount()
    assert (subwords_per_word(nothing), subwords_per_character(nothing), unknown_share(nothing)) == (None, None, None)


def test_words_against_another_language_by_hand() -> None:
    # shared: 2 to 4 and 6 to 4, R = 8 / 8; residuals -2 and 2: sqrt(2 / 1 * 8) / 8
    found = words_against({"1": 2, "2": 6, "3": 9}, {"1": 4, "2": 4, "4": 9})
    assert found is not None
    assert (found.value, found.items) == (1.0, 2)
    assert found.standard_error == pytest.approx(0.5)


def test_no_error_of_one_item_and_no_ratio_to_nothing() -> None:
    one = words_against({"1": 3}, {"1": 2})
    assert one is not None
    assert (one.value, one.standard_error) == (1.5, None)
    assert words_against({"1": 3}, {"2": 2}) is None
    assert words_against({"1": 3}, {"1": 0}) is None


@given(st.dictionaries(st.text(max_size=2), st.integers(1, 9), min_size=2), st.integers(1, 5))
def test_a_language_with_k_words_for_each_has_the_ratio_k(reference: dict[str, int], times: int) -> None:
    found = words_against({key: times * count for key, count in reference.items()}, reference)
    assert found is not None
    assert (found.value, found.standard_error) == (times, 0.0)


ENGLISH = [("1", "The dog barks."), ("2", "He sleeps well at night.")]
GERMAN = [("1", "Der Hund bellt."), ("2", "Nachts schläft er gut."), ("3", "Ach!")]
CHINESE = [("1", "狗在叫。"), ("2", "他晚上睡得很好。")]


def test_languages_are_measured_each_with_its_gaps() -> None:
    counts = {"de": TextCount(words=8, characters=41, pieces=12, unknown=0)}
    found = measure({"de": GERMAN, "en": iter(ENGLISH), "zh": CHINESE}, window=4, counts=counts)
    assert list(found) == ["de", "en", "zh"]

    german = found["de"]
    assert (german.script, german.texts, german.items, german.words) == ("Latn", 3, 3, 8)
    assert german.characters == len("Der Hund bellt.") + len("Nachts schläft er gut.") + len("Ach!")
    assert german.mean_word_length == (3 + 4 + 5 + 6 + 7 + 2 + 3 + 3) / 8
    assert (german.type_token_ratio, german.type_token_window) == (1.0, 4)
    assert german.words_against_english == pytest.approx(7 / 8)
    assert german.items_with_english == 2
    assert (german.subwords_per_word, german.unknown_share) == (1.5, 0.0)
    assert german.missing == {}

    assert found["en"].words_against_english == 1.0
    assert found["en"].missing["unknown_share"] == "the text was not tokenised"

    chinese = found["zh"]
    assert chinese.script == "Hans"
    assert (chinese.words, chinese.type_token_ratio, chinese.mean_word_length) == (None, None, None)
    assert chinese.characters == 4 + 8
    assert "no white space" in chinese.missing["words_against_english"]
    assert chinese.words_against_english is None


@pytest.mark.parametrize("language", ["zh", "zh-Hant", "ja", "th", "lo", "km", "my", "bo", "wuu", "yue"])
def test_no_words_are_counted_where_none_are_told_apart(language: str) -> None:
    one = measure({language: [("1", "a b c")]}, counts={language: TextCount(3, 5, 4, 1)})[language]
    assert one.words is None
    assert one.subwords_per_word is None
    assert (one.subwords_per_character, one.unknown_share) == (0.8, 0.25)
    assert set(one.missing) == {
        "mean_word_length", "type_token_ratio", "words_against_english", "subwords_per_word",
    }  # fmt: skip


def test_several_texts_of_an_item_count_together() -> None:
    english = [("1", "one two"), ("1", "three"), ("2", "four")]
    other = [("1", "un deux trois"), ("1", "quatre"), ("2", "cinq")]
    found = measure({"fr": other, "en": english})["fr"]
    assert (found.texts, found.items, found.items_with_english) == (3, 2, 2)
    assert found.words_against_english == 5 / 4


def test_an_unknown_language_is_measured_where_its_script_is_given() -> None:
    texts = {"qaa": [("1", "ba bo")]}
    unknown = measure(texts)["qaa"]
    assert (unknown.script, unknown.words) == ("", None)
    assert "scripts" in unknown.missing["type_token_ratio"]
    told = measure(texts, scripts={"qaa": "Latn"})["qaa"]
    assert (told.words, told.type_token_ratio, told.type_token_window) == (2, 1.0, 0)


def test_without_english_there_is_nothing_to_hold_words_against() -> None:
    found = measure({"de": GERMAN})["de"]
    assert found.words_against_english is None
    assert "'en'" in found.missing["words_against_english"]


def test_no_text_has_no_measures() -> None:
    found = measure({"de": []})["de"]
    assert (found.words, found.mean_word_length, found.type_token_ratio) == (0, None, None)
    assert found.missing["type_token_ratio"] == "there is no text"


def test_a_record_comes_back_from_json() -> None:
    for one in measure({"de": GERMAN, "en": ENGLISH, "zh": CHINESE}).values():
        assert TextMeasures.of(one.as_json()) == one


@given(st.lists(st.tuples(st.sampled_from("123"), st.text(max_size=20)), max_size=8))
def test_any_text_can_be_measured(texts: list[tuple[str, str]]) -> None:
    one = measure({"en": texts})["en"]
    assert one.texts == len(texts)
    for value in (one.mean_word_length, one.type_token_ratio, one.words_against_english):
        assert value is None or (math.isfinite(value) and value > 0)
