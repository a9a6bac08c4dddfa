"""Cut a text into sentences by rules, for data that has none marked: where each begins and ends."""

from __future__ import annotations

import re
from collections.abc import Sequence

# A sentence ends with one of these, closing quotes and brackets and Wikipedia's notes ("[12]") behind it, if white
# space follows and then no small letter; the full stops of Chinese and Japanese need no white space.
_WIDE = "\u3002\uff01\uff1f"  # of Chinese and Japanese
_CLOSING = "'\"\u201d\u2019\u00bb)\\]"
_END = re.compile(
    rf"""
    (?: [.?!\u2026\u0964\u061f\u06d4]+ (?: [{_CLOSING}] | \[[^\[\]]{{1,30}}\] )*  (?=\s)
      | [{_WIDE}]+ [{_CLOSING}\u300d\u300f\uff09]*
      | \n+ )
    """,
    re.VERBOSE,
)
_BEFORE = re.compile(r"[\w.]+$")  # the word in front of an end
_NEXT = re.compile(r"[\W_]*(\w+)")  # the first word behind it
_ABBREVIATIONS = frozenset([
    "Mr", "Mrs", "Ms", "Dr", "Prof", "Fr", "Rev", "Msgr", "St", "Sta", "Lt", "Gen", "Col", "Maj", "Adm", "Capt", "Sgt",
    "Rep", "Gov", "Sen", "Pres", "Mt", "Ft", "e.g", "i.e", "eg", "ie", "vs", "v", "cf", "a.k.a", "approx", "p", "pp",
    "ca", "c", "b", "d", "r", "fl", "Jan", "Feb", "Aug", "Sept", "Oct", "Nov", "Dec", "No", "Nos", "Art", "Sec", "Vol",
    "Op", "ch", "al", "Bros", "z.B", "bzw", "u.a",
])  # fmt: skip
"""Words that end with a full stop inside a sentence, without it."""
_STARTERS = frozenset([
    "The", "This", "That", "These", "It", "In", "On", "By", "During", "After", "Under", "However", "Meanwhile",
    "Although", "He", "She", "They",
])  # fmt: skip
"""Words that often begin a sentence: a full stop in front of one ends it, after an initial too."""


def sentence_spans(text: str) -> list[tuple[int, int]]:
    """``(begin, end)`` of each sentence of ``text``, in characters, without the white space between them.

    Together they hold every character of ``text`` that is not white space; none is empty.
    """
    spans, begin = [], 0
    for end in _END.finditer(text):
        if _is_end(text, begin, end):
            spans.append((begin, end.end()))
            begin = end.end()
    spans.append((begin, len(text)))
    return [span for span in (_stripped(text, *span) for span in spans) if span[0] < span[1]]


def sentence_at(spans: Sequence[tuple[int, int]], place: int) -> int | None:
    """The number of the span that holds the character ``place``; of none (white space, the end), None."""
    return next((number for number, (begin, end) in enumerate(spans) if begin <= place < end), None)


def _is_end(text: str, begin: int, end: re.Match[str]) -> bool:
    if "\n" in end[0] or end[0][0] in _WIDE:
        return True
    following = _NEXT.match(text, end.end())
    if following is None:
        return True
    word = following[1]
    if word[0].islower():
        return False
    if end[0] != ".":
        return True
    before = _BEFORE.search(text, begin, end.start())
    last = before[0] if before else ""
    if last in _ABBREVIATIONS:
        return False
    is_initial = len(last.rpartition(".")[2]) == 1 and last[-1:].isupper()
    return not is_initial or word in _STARTERS


def _stripped(text: str, begin: int, end: int) -> tuple[int, int]:
    while begin < end and text[begin].isspace():
        begin += 1
    while end > begin and text[end - 1].isspace():
        end -= 1
    return begin, end
