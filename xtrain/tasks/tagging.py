"""The format tagging: every word of a sentence gets one of a fixed set of tags."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from xtrain.errors import Problem, UserError, listed
from xtrain.tasks.encoding import PairTokenizer, in_chunks, read_rows
from xtrain.tasks.formats import (
    EMPTY,
    IGNORED,
    UNLABELLED,
    WITHHELD,
    Dropped,
    Encoded,
    FieldKind,
    Format,
    LeftOut,
    ProblemList,
    Row,
    TextCount,
    label_word,
    wrong_label,
)
from xtrain.tasks.spec import EVERY, TaskSpec

SCHEMES = ("", "BIO")
FOUND = (EVERY,)
"""As ``labels``: the tags that occur in the training and dev sets, see :mod:`xtrain.tasks.labels`."""
STAND_IN = "words without pieces"  # remarks, counted in the manifest
EMPTY_WORD = "empty word"  # why a sentence is dropped
LOOSE = "I- tags that continue nothing"
_SPECIAL = 2  # <s> and </s>


class Tagging(Format):
    """Columns ``tokens`` and ``tags``, lists of equal length; an example is a sentence.

    Words are tokenised each for itself, as in XTREME's run_tag.py, so that each begins with "▁". The field
    ``label`` has the place of a word's tag in ``labels`` at its first piece and IGNORED everywhere else, so
    each word has exactly one labelled token, in the order of the words: a word that the tokenizer makes
    nothing of (zero-width characters) gets ``<unk>`` as its piece. A sentence longer than the maximum length
    is split between words into several sequences; only a single word that is longer loses pieces.

    Options: ``scheme = "BIO"`` checks that each I-X follows B-X or I-X; in the languages of ``loose_bio``
    (``["*"]``: all) such a tag is counted instead. Words with a tag in ``skip_tags`` are left out.
    """

    name = "tagging"
    required: tuple[str, ...] = ("tokens", "tags")
    gold: tuple[str, ...] = ("tags",)
    options: tuple[str, ...] = ("scheme", "loose_bio", "skip_tags")
    metrics: tuple[str, ...] = ("f1", "accuracy")
    fields: Mapping[str, FieldKind] = {"label": "token"}

    def check(self, spec: TaskSpec, where: str) -> list[Problem]:
        """At least two different labels or ``["*"]``, those of the scheme; label maps that lead to them."""
        found = spec.labels == FOUND
        problems = list(_check_options(spec, where))
        if not found and (len(spec.labels) < 2 or len(set(spec.labels)) < len(spec.labels) or EVERY in spec.labels):
            allowed = 'two different labels or more, or ["*"] for those that occur in the training and dev sets'
            problems.append(Problem(f"{where}.labels", f"{list(spec.labels)} is not allowed", allowed))
        if found and (spec.train_on or spec.joined):
            remedy = "list the labels: they must be those of the tasks in train_on and joined"
            problems.append(Problem(f"{where}.labels", '["*"] needs a training set of the task\'s own', remedy=remedy))
        for n, source in enumerate(spec.sources):
            for word, label in source.label_map.items():
                if not found and label not in spec.labels and label not in spec.options.get("skip_tags", ()):
                    key = f"{where}.sources[{n}].label_map.{word}"
                    problems.append(Problem(key, f"{label!r} is not a label", listed(spec.labels)))
        return problems

    def read(
        self, rows: Iterable[Row], spec: TaskSpec, language: str, problems: ProblemList
    ) -> Iterator[_Sentence | Dropped]:
        """A sentence a row; one without tags is marked as such."""
        return read_rows(rows, _Reader(spec, language).read, problems)

    def tokenise(
        self, read: Iterable[_Sentence | Dropped], tokenizer: PairTokenizer, spec: TaskSpec, max_length: int
    ) -> Iterator[Encoded | Dropped]:
        """One or several sequences an example."""
        for chunk in in_chunks(read):
            words = [word for item in chunk if isinstance(item, _Sentence) for word in item.words]
            pieces = iter(tokenizer.pieces(words))
            for item in chunk:
                if isinstance(item, Dropped):
                    yield item
                else:
                    yield _encoded(item, list(itertools.islice(pieces, len(item.words))), tokenizer, max_length)


FORMAT = Tagging()


def _check_options(spec: TaskSpec, where: str) -> Iterator[Problem]:
    scheme = spec.options.get("scheme", "")
    if scheme not in SCHEMES:
        yield Problem(f"{where}.options.scheme", f"{scheme!r} is not allowed", 'BIO, or "" for tags of one kind')
    for name in ("loose_bio", "skip_tags"):
        value = spec.options.get(name, ())
        if not isinstance(value, (list, tuple)) or not all(isinstance(item, str) for item in value):
            yield Problem(f"{where}.options.{name}", f"{value!r} is not allowed", "a list of words in quotes")
    if scheme == "BIO" and spec.labels != FOUND:
        for label in spec.labels:
            kind = label[2:]
            if label != "O" and (label[:2] not in ("B-", "I-") or not kind or f"B-{kind}" not in spec.labels):
                remedy = 'remove options.scheme = "BIO" if the tags are of another kind'
                yield Problem(f"{where}.labels", f"{label!r} is no tag of BIO", "O, B-X, and I-X with its B-X", remedy)


@dataclass(frozen=True)
class _Sentence:
    """A row that has been checked."""

    id: str
    words: Sequence[str]
    labels: list[int]
    loose: bool
    """Whether an I- tag continues nothing."""

    @property
    def withheld(self) -> bool:
        """Whether its tags are not given."""
        return WITHHELD in self.labels


class _Reader:
    """Rows to sentences, for one task and language."""

    def __init__(self, spec: TaskSpec, language: str) -> None:
        self.spec = spec
        self.numbers = {label: n for n, label in enumerate(spec.labels)}
        self.skipped = frozenset(spec.options.get("skip_tags", ()))
        self.bio = spec.options.get("scheme") == "BIO"
        self.loose = bool({language, EVERY} & set(spec.options.get("loose_bio", ())))

    def read(self, row: Row) -> _Sentence | Dropped:
        """The sentence of a row; raises :class:`UserError` with all that is wrong with it."""
        words, values = _checked_words(row), row.values["tags"]
        if values is None or (isinstance(values, (list, tuple)) and values and all(map(self._is_unlabelled, values))):
            return _Sentence(row.id, words, [WITHHELD] * len(words), loose=False)
        if not isinstance(values, (list, tuple)) or len(values) != len(words):
            count = f"there are {len(values)}" if isinstance(values, (list, tuple)) else f"{values!r} is not a list"
            raise UserError(Problem(f"{row.where}: tags", count, f"{len(words)}: one for each of the tokens"))
        tags = [label_word(value) for value in values]
        kept = [n for n, tag in enumerate(tags) if tag not in self.skipped]
        if not kept:
            return Dropped(row.id, "without words")
        problems = [problem for n in kept if tags[n] not in self.numbers for problem in self._unknown(row, n, tags[n])]
        breaks = self._breaks(row, kept, tags) if self.bio and not problems else []
        if problems or (breaks and not self.loose):
            raise UserError(*problems, *breaks)
        return _Sentence(row.id, [words[n] for n in kept], [self.numbers[tags[n]] for n in kept], bool(breaks))

    def _is_unlabelled(self, value: Any) -> bool:
        word = label_word(value)
        return word in UNLABELLED and word not in self.numbers and word not in self.skipped

    def _unknown(self, row: Row, place: int, tag: str) -> tuple[Problem, ...]:
        return wrong_label(replace(row, where=_place(row, place)), tag, self.spec.labels).problems

    def _breaks(self, row: Row, kept: list[int], tags: list[str]) -> list[Problem]:
        """A problem for each I-X that follows neither B-X nor I-X."""
        problems = []
        before = "O"
        for place in kept:
            tag = tags[place]
            if tag.startswith("I-") and before[2:] != tag[2:]:
                what = f"{tag!r} follows {before!r}" if place else f"{tag!r} begins a sentence"
                remedy = (
                    f"write B-{tag[2:]} where an entity begins; if the data are as they should be, name the language "
                    "in options.loose_bio, and such tags are counted instead"
                )
                kind = tag[2:]
                problems.append(Problem(f"{_place(row, place)}: tags", what, f"B-{kind} or I-{kind} before it", remedy))
            before = tag
        return problems


def _checked_words(row: Row) -> Sequence[str]:
    """The words; a sentence without any is left out, and one of an empty word where no prediction is owed."""
    words = row.values["tokens"]
    if words is None or (isinstance(words, (list, tuple)) and not words):
        raise LeftOut(EMPTY)
    if not isinstance(words, (list, tuple)) or not all(word is None or isinstance(word, str) for word in words):
        raise UserError(
            Problem(f"{row.where}: tokens", f"{str(words)[:60]!r} is not a list of texts", "a list of words")
        )
    if not all(word and word.strip(" ") for word in words) and not row.owed:
        raise LeftOut(EMPTY_WORD)
    return [word or "" for word in words]


def _place(row: Row, place: int) -> str:
    """Where a word stands: its own line, if each word has one."""
    lines = getattr(row.values["tokens"], "lines", None)
    if lines is None:
        return f"{row.where}, word {place + 1}"
    return f"{row.where.rpartition(':')[0]}:{lines[place]}"


def _encoded(sentence: _Sentence, pieces: Sequence[list[int]], tokenizer: PairTokenizer, max_length: int) -> Encoded:
    """The sequences of a sentence: words are put into one until the next would not fit."""
    room = max_length - _SPECIAL
    assert room > 0, f"no word fits into {max_length} tokens"
    sequences: list[list[int]] = []
    field: list[int] = []
    ids: list[int] = []
    labels: list[int] = []

    def end() -> None:
        sequences.append([tokenizer.begin, *ids, tokenizer.end])
        field.extend((IGNORED, *labels, IGNORED))
        ids.clear()
        labels.clear()

    for word, label in zip(pieces, sentence.labels, strict=True):
        kept = word[:room] or [tokenizer.unknown]
        if len(ids) + len(kept) > room:
            end()
        ids += kept
        labels += [label] + [IGNORED] * (len(kept) - 1)
    end()
    remarks = ((STAND_IN,) if not all(pieces) else ()) + ((LOOSE,) if sentence.loose else ())
    return Encoded(
        sentence.id,
        sequences,
        {"label": field},
        truncated=any(len(word) > room for word in pieces),
        split=len(sequences) > 1,
        withheld=sentence.withheld,
        remarks=remarks,
        text=_amount(sentence, pieces, tokenizer),
        texts=(" ".join(sentence.words),),
    )


def _amount(sentence: _Sentence, pieces: Sequence[list[int]], tokenizer: PairTokenizer) -> TextCount:
    ids = [id_ for word in pieces for id_ in word or [tokenizer.unknown]]
    return TextCount(len(sentence.words), sum(map(len, sentence.words)), len(ids), tokenizer.num_unknown(ids))
