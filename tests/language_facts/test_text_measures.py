"""Measures of text against values worked out by hand, and against the plain way to compute them."""

from __future__ import annotations

import math
from statistics import mean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xtrain.language_facts import TextMeasures, TextMeter, words_against
from xtrain.language_facts.measures import Diversity, moving_type_token_ratio, words_of


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


def test_words_against_another_language_by_hand() -> None:
    assert words_against({"1": 2, "2": 7, "3": 9}, {"1": 4, "2": 4, "4": 9}) == 9 / 8
    assert words_against({"1": 3}, {"1": 2}) == 1.5
    assert words_against({"1": 3}, {"2": 2}) is None
    assert words_against({"1": 3}, {"1": 0}) is None


@given(st.dictionaries(st.text(max_size=2), st.integers(1, 9), min_size=2), st.integers(1, 5))
def test_a_language_with_k_words_for_each_has_the_ratio_k(reference: dict[str, int], times: int) -> None:
    assert words_against({key: times * count for key, count in reference.items()}, reference) == times


def measured(language: str, *items: tuple[str, ...], window: int = 500) -> tuple[list[int], TextMeasures]:
    meter = TextMeter(language, window)
    return [meter.add(texts) for texts in items], meter.measures()


def test_a_language_is_measured() -> None:
    words, found = measured("de", ("Der Hund bellt.",), ("Nachts schläft er gut.", "Ach!"), window=4)
    assert words == [3, 5]
    assert found == TextMeasures(8, (3 + 4 + 5 + 6 + 7 + 2 + 3 + 3) / 8, 1.0)
    assert TextMeasures.of(found.as_json()) == found


def test_text_that_fills_no_window_has_no_ratio() -> None:
    assert measured("de", ("Der Hund bellt.",)) == ([3], TextMeasures(3, 4.0, None))
    assert measured("de") == ([], TextMeasures(0, None, None))


def test_a_text_of_several_items_is_measured_once_and_counts_in_each() -> None:
    paragraph = "Ein langer Absatz"
    words, found = measured("de", ("Wer?", paragraph), ("Was denn?", paragraph), ("Was denn?", "Was denn?"))
    assert words == [4, 5, 2]
    assert found.words == 1 + 3 + 2


@pytest.mark.parametrize("language", ["zh", "zh-Hant", "ja", "th", "lo", "km", "my", "bo", "wuu", "yue", "qaa"])
def test_no_words_are_counted_where_none_are_told_apart(language: str) -> None:
    assert measured(language, ("a b c",)) == ([0], TextMeasures())


@given(st.lists(st.tuples(st.text(max_size=20)), max_size=8))
def test_any_text_can_be_measured(texts: list[tuple[str]]) -> None:
    _, found = measured("en", *texts, window=5)
    for value in (found.mean_word_length, found.type_token_ratio):
        assert value is None or (math.isfinite(value) and value > 0)
