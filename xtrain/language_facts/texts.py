"""Measures of the text of one language, taken while its items go by: where a data set is prepared."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from xtrain.language_facts.facts import facts
from xtrain.language_facts.measures import UNSPACED, WINDOW, MovingTypeTokenRatio, words_of


@dataclass(frozen=True)
class TextMeasures:
    """What a :class:`TextMeter` has found; None is what cannot be had."""

    words: int | None = None
    """As :func:`xtrain.language_facts.measures.words_of` has them, each text once; None where it cannot be said where
    a word ends."""
    mean_word_length: float | None = None
    """Code points of all words over their number. Vowel signs of abugidas are code points of their own."""
    type_token_ratio: float | None = None
    """:class:`xtrain.language_facts.measures.MovingTypeTokenRatio`, of all texts one after the other; None where they
    do not fill a window."""

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> TextMeasures:
        """From :meth:`as_json`."""
        return cls(**{item.name: record[item.name] for item in fields(cls)})

    def as_json(self) -> dict[str, Any]:
        """What :meth:`of` takes."""
        return asdict(self)


class TextMeter:
    """Takes the texts of one item after the other, at a constant cost for each word."""

    def __init__(self, language: str, window: int = WINDOW) -> None:
        known = facts(language)
        self.tells_words = known is not None and bool(known.script) and known.script not in UNSPACED
        """Whether white space stands between the words of the language's usual script."""
        self._before: dict[str, list[str]] = {}  # the texts of the last item
        self._words = self._characters = 0
        self._diversity = MovingTypeTokenRatio(window)

    def add(self, texts: Iterable[str]) -> int:
        """Take an item; returns its number of words, 0 where they cannot be told.

        A text that the item or the one before it had already (the paragraph of several questions, the sentence that
        several others are held against) counts as the item's own, but is measured once.
        """
        if not self.tells_words:
            return 0
        mine: dict[str, list[str]] = {}
        for text in texts:
            if text not in mine:
                mine[text] = self._before[text] if text in self._before else self._measured(text)
        self._before = mine
        return sum(map(len, mine.values()))

    def _measured(self, text: str) -> list[str]:
        words = words_of(text)
        self._words += len(words)
        for word in words:
            self._characters += len(word)
            self._diversity.add(word)
        return words

    def measures(self) -> TextMeasures:
        """Of all items so far."""
        if not self.tells_words:
            return TextMeasures()
        diversity = self._diversity.result()
        return TextMeasures(
            self._words,
            self._characters / self._words if self._words else None,
            diversity.value if diversity is not None and diversity.window else None,
        )
