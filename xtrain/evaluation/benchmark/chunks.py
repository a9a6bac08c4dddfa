"""Chunks of a tag sequence as seqeval 0.0.12 cuts them, and the micro F1 and accuracy over them."""

from __future__ import annotations

from collections.abc import Sequence

OUTSIDE = "O"
Chunk = tuple[str, int, int]  # type, first and last position

_LONE = frozenset("ES")  # a tag with this prefix is the last of its chunk
_OPENING = frozenset("BS")  # a tag with this prefix is the first of its chunk
_INNER = frozenset("EI")
_OUTSIDE = frozenset("O.")


def seqeval012_chunks(tags: Sequence[str]) -> list[Chunk]:
    """The chunks of ``tags`` as (type, first position, last position), in order.

    The rules of ``get_entities`` in seqeval 0.0.12, which produced XTREME's published numbers: the prefix
    is a tag's first character, the type is what follows its last "-", the whole tag if it has none. So
    tags without B- and I- (UDPOS) form chunks too: runs of one tag merge, except where the first letter
    happens to be B, E, I, O or S, which act as prefixes. Sentences are to be joined with "O" between
    them: see :func:`file_chunks`.
    """
    found: list[Chunk] = []
    prefix, kind, begin = OUTSIDE, "", 0
    for position, tag in enumerate([*tags, OUTSIDE]):
        next_prefix, next_kind = tag[0], tag.rsplit("-", 1)[-1]
        if _ends(prefix, kind, next_prefix, next_kind):
            found.append((kind, begin, position - 1))
        if _starts(prefix, kind, next_prefix, next_kind):
            begin = position
        prefix, kind = next_prefix, next_kind
    return found


def _ends(prefix: str, kind: str, next_prefix: str, next_kind: str) -> bool:
    """Whether a chunk ends between two neighbouring tags."""
    if prefix in _LONE or (prefix in "BI" and next_prefix in "BSO"):
        return True
    return prefix not in _OUTSIDE and kind != next_kind


def _starts(prefix: str, kind: str, next_prefix: str, next_kind: str) -> bool:
    """Whether a chunk starts with the second of two neighbouring tags."""
    if next_prefix in _OPENING or (next_prefix in _INNER and prefix in "ESO"):
        return True
    return next_prefix not in _OUTSIDE and kind != next_kind


def file_chunks(sentences: Sequence[Sequence[str]]) -> set[Chunk]:
    """The chunks of all sentences of a file, positions counted through it, an "O" after each sentence."""
    return set(seqeval012_chunks([tag for sentence in sentences for tag in (*sentence, OUTSIDE)]))


def micro_f1(gold: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]) -> dict[str, float]:
    """``f1``, ``precision`` and ``recall`` in percent over the chunks of all sentences together.

    A chunk is right if its type and both its ends are; each is 0 where its denominator is. Source:
    seqeval 0.0.12, as google-research/xtreme's ``evaluate.py`` calls it.
    """
    assert [len(sentence) for sentence in gold] == [len(sentence) for sentence in predicted], "tags are lost"
    right, found = file_chunks(gold), file_chunks(predicted)
    return set_f1(len(right & found), len(found), len(right))


def set_f1(correct: int, predicted: int, gold: int) -> dict[str, float]:
    """F1, precision and recall in percent of two sets that share ``correct`` members."""
    precision = correct / predicted if predicted else 0.0
    recall = correct / gold if gold else 0.0
    f1 = 2 * precision * recall / (precision + recall) if correct else 0.0
    return {"f1": 100 * f1, "precision": 100 * precision, "recall": 100 * recall}


def token_accuracy(gold: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]) -> float:
    """Share of the tokens whose tag is right, in percent, over all sentences together."""
    pairs = [
        (right, found)
        for sentence, tags in zip(gold, predicted, strict=True)
        for right, found in zip(sentence, tags, strict=True)
    ]
    assert pairs, "accuracy of no token"
    return 100 * sum(right == found for right, found in pairs) / len(pairs)


def accuracy(gold: Sequence[object], predicted: Sequence[object]) -> float:
    """Share of the places in which the two agree, in percent."""
    assert gold, "accuracy of nothing"
    return 100 * sum(right == found for right, found in zip(gold, predicted, strict=True)) / len(gold)
