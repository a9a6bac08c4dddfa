"""Measures of the raw text of several languages: from texts by language to one record a language."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from xtrain.language_facts.facts import facts
from xtrain.language_facts.measures import (
    UNSPACED,
    WINDOW,
    Counted,
    MovingTypeTokenRatio,
    subwords_per_character,
    subwords_per_word,
    unknown_share,
    words_against,
    words_of,
)

_OF_WORDS = ("mean_word_length", "type_token_ratio", "words_against_english", "subwords_per_word")
"""The measures that need to know where a word ends."""
_OF_COUNTS = ("subwords_per_word", "subwords_per_character", "unknown_share")


@dataclass(frozen=True)
class TextMeasures:
    """What :func:`measure` finds in the text of one language; ``missing`` says why a measure is None."""

    language: str
    script: str
    """ISO 15924; empty if it is not known."""
    texts: int
    items: int
    """Different ids: an item may have several texts (a premise and a hypothesis)."""
    characters: int
    """Code points in NFC, without white space at both ends of a text."""
    words: int | None = None
    """As :func:`xtrain.language_facts.measures.words_of` has them."""
    mean_word_length: float | None = None
    """Code points of all words over their number. Vowel signs of abugidas are code points of their own."""
    type_token_ratio: float | None = None
    """:class:`xtrain.language_facts.measures.MovingTypeTokenRatio`, of all texts one after the other."""
    type_token_window: int | None = None
    """Words of a window; 0: there are fewer, and the ratio is that of the whole text, not to be compared."""
    words_against_english: float | None = None
    """:func:`xtrain.language_facts.measures.words_against`."""
    words_against_english_error: float | None = None
    """Standard error."""
    items_with_english: int | None = None
    subwords_per_word: float | None = None
    subwords_per_character: float | None = None
    unknown_share: float | None = None
    missing: Mapping[str, str] = field(default_factory=dict)
    """Measure -> reason."""

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> TextMeasures:
        """From :meth:`as_json`."""
        return cls(**{item.name: record[item.name] for item in fields(cls)})

    def as_json(self) -> dict[str, Any]:
        """What :meth:`of` takes."""
        return asdict(self)


def measure(
    texts: Mapping[str, Iterable[tuple[str, str]]],
    *,
    english: str = "en",
    window: int = WINDOW,
    counts: Mapping[str, Counted] | None = None,
    scripts: Mapping[str, str] | None = None,
) -> dict[str, TextMeasures]:
    """Language -> what is measured in its ``texts``, which are pairs of an item's id and a text, each read once.

    Items of the same id say the same in every language (parallel text); ``english`` is the language that the others'
    words are counted against. ``counts`` has what the tokenizer made of the same text, ``scripts`` the script of
    languages that :func:`xtrain.language_facts.facts` does not know, or whose text is not in their usual script.
    """
    order = sorted(texts, key=lambda language: language != english)  # the others are held against it
    reference: Mapping[str, int] = {}
    found: dict[str, TextMeasures] = {}
    for language in order:
        known = facts(language)
        script = (scripts or {}).get(language, "" if known is None else known.script)
        one = _Text(window)
        for key, text in texts[language]:
            one.add(key, text)
        if language == english:
            reference = one.words
        found[language] = _measured(language, script, one, reference, english, (counts or {}).get(language))
    return {language: found[language] for language in texts}


class _Text:
    """One language's text, while it goes by."""

    def __init__(self, window: int) -> None:
        self.texts = self.characters = self._word_characters = 0
        self.words: Counter[str] = Counter()  # by item
        self._diversity = MovingTypeTokenRatio(window)

    def add(self, key: str, text: str) -> None:
        words = words_of(text)
        self.texts += 1
        self.characters += len(unicodedata.normalize("NFC", text).strip())
        self.words[key] += len(words)
        self._word_characters += sum(map(len, words))
        for word in words:
            self._diversity.add(word)

    def of_words(self) -> dict[str, Any]:
        """The measures that need words, and no other language."""
        total = self.words.total()
        diversity = self._diversity.result()
        return {
            "words": total,
            "mean_word_length": self._word_characters / total if total else None,
            "type_token_ratio": None if diversity is None else diversity.value,
            "type_token_window": None if diversity is None else diversity.window,
        }


def _measured(
    language: str, script: str, text: _Text, reference: Mapping[str, int], english: str, count: Counted | None
) -> TextMeasures:
    values: dict[str, Any] = {}
    missing: dict[str, str] = {}
    if count is None:
        missing |= dict.fromkeys(_OF_COUNTS, "the text was not tokenised")
    else:
        values["subwords_per_character"] = subwords_per_character(count)
        values["unknown_share"] = unknown_share(count)
    reason = _no_words(language, script)
    if reason:
        missing |= dict.fromkeys(_OF_WORDS, reason)
    else:
        values |= text.of_words()
        if count is not None:
            values["subwords_per_word"] = subwords_per_word(count)
        ratio = words_against(text.words, reference)
        if ratio is None:
            missing["words_against_english"] = f"no item with words has a text in {english!r}, too"
        else:
            values["words_against_english"] = ratio.value
            values["words_against_english_error"] = ratio.standard_error
            values["items_with_english"] = ratio.items
    for name in (*_OF_WORDS, *_OF_COUNTS):
        if values.get(name) is None:
            missing.setdefault(name, "there is no text")
    return TextMeasures(language, script, text.texts, len(text.words), text.characters, missing=missing, **values)


def _no_words(language: str, script: str) -> str:
    """Why words cannot be told apart; empty if they can."""
    if not script:
        return f"the script of {language!r} is not known: give it in scripts"
    if script in UNSPACED:
        return f"there is no white space between words ({script})"
    return ""
