"""Measures of text: pure functions of words and counts, each with its formula and where it comes from."""

from __future__ import annotations

import unicodedata
from collections import Counter, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache

WINDOW = 500
"""Tokens of a window: the usual choice."""
UNSPACED = frozenset({"Hans", "Hant", "Hani", "Jpan", "Hira", "Kana", "Hrkt", "Thai", "Laoo", "Khmr", "Mymr", "Tibt"})
"""Scripts that put no white space between words (Chinese, Japanese, Thai, Lao, Khmer, Burmese, Tibetan)."""


def words_of(text: str) -> list[str]:
    """The words of ``text``: what stands between white space, in NFC and without case.

    Punctuation and symbols at both ends of a word are taken off; what is nothing else is no word. Of scripts in
    :data:`UNSPACED` this gives clauses.
    """
    folded = unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).casefold())
    bare = (_without_marks(token) for token in folded.split())
    return [word for word in bare if word]


def _without_marks(token: str) -> str:
    begin, end = 0, len(token)
    while begin < end and _is_mark(token[begin]):
        begin += 1
    while begin < end and _is_mark(token[end - 1]):
        end -= 1
    return token[begin:end]


@cache
def _is_mark(character: str) -> bool:
    """Whether it is punctuation or a symbol."""
    return unicodedata.category(character)[0] in "PS"


# Diversity of the vocabulary.


@dataclass(frozen=True)
class Diversity:
    """A type-token ratio, and what it was taken of."""

    value: float
    tokens: int
    window: int
    """Tokens of a window; 0 if there were fewer tokens than that, and ``value`` is the ratio of the whole text."""


class MovingTypeTokenRatio:
    """The moving-average type-token ratio of tokens that come one by one, at a constant cost each.

    With ``V_i`` different tokens among those from ``i`` to ``i + W - 1``, ``MATTR = sum(V_i) / (W * (N - W + 1))`` over
    the ``N - W + 1`` windows (Covington & McFall 2010, "Cutting the Gordian knot", Journal of Quantitative
    Linguistics 17(2), 94-100). It does not depend on ``N`` but for its noise. Of fewer than ``W`` tokens it is the
    plain ratio ``V / N``, which does: that is said (:attr:`Diversity.window`).
    """

    def __init__(self, window: int = WINDOW) -> None:
        assert window > 0, f"a window has tokens: {window}"
        self._window = window
        self._last: deque[str] = deque()
        self._counts: Counter[str] = Counter()
        self._tokens = 0
        self._types = 0  # over all windows; a whole number, so that no rounding adds up

    def add(self, token: str) -> None:
        """Take the next token."""
        self._tokens += 1
        self._last.append(token)
        self._counts[token] += 1
        if len(self._last) > self._window:
            oldest = self._last.popleft()
            self._counts[oldest] -= 1
            if not self._counts[oldest]:
                del self._counts[oldest]
        if len(self._last) == self._window:
            self._types += len(self._counts)

    def result(self) -> Diversity | None:
        """The ratio of what came so far; None if nothing did."""
        if not self._tokens:
            return None
        if self._tokens < self._window:
            return Diversity(len(self._counts) / self._tokens, self._tokens, 0)
        windows = self._tokens - self._window + 1
        return Diversity(self._types / (self._window * windows), self._tokens, self._window)


def moving_type_token_ratio(tokens: Iterable[str], window: int = WINDOW) -> Diversity | None:
    """As :class:`MovingTypeTokenRatio` has it, of all ``tokens``; they are compared as they are."""
    moving = MovingTypeTokenRatio(window)
    for token in tokens:
        moving.add(token)
    return moving.result()


# Parallel text.


def words_against(own: Mapping[str, int], reference: Mapping[str, int]) -> float | None:
    """How many words a language takes for what the other says in one: ``sum(own) / sum(reference)``.

    The sums run over the ids that both have; None if the other language has no words there.
    """
    shared = [(own[key], reference[key]) for key in own if key in reference]
    total = sum(other for _, other in shared)
    return sum(mine for mine, _ in shared) / total if total else None
