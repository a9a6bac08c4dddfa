"""The format bitext mining: find the translations among two large sets of sentences; no training."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from xtrain.errors import Problem, UserError
from xtrain.tasks.encoding import Example, PairTokenizer, tokenise_examples
from xtrain.tasks.formats import Companion, Dropped, Encoded, FieldKind, Format, ProblemList, Row, whole_text
from xtrain.tasks.sampling import Draw, Sample
from xtrain.tasks.spec import TaskSpec

FOREIGN, ENGLISH = 0, 1
"""The field ``side``: of which set a sentence is."""
ONCE, FIRST, AGAIN = 0, 1, 2
"""The field ``copy``: a text that is there once in its set; the first of several equal ones; a later one."""
MARGINS = ("ratio", "distance", "absolute")


class BitextMining(Format):
    """Columns ``foreign``, ``english`` (lists of texts) and ``gold`` (list of pairs); a row is a whole set.

    ``foreign_ids`` and ``english_ids`` name the sentences, and ``gold`` then has pairs of ids; without them
    sentences are numbered as BUCC does (``de-000000001``), and ``gold`` may have pairs of places from 1. An
    example is one sentence; the note of a foreign one is ``{"gold": [ids of its translations]}``. The option
    ``prefix`` is put in front of every text, ``margin`` is how a pair is scored (default "ratio").
    """

    name = "bitext_mining"
    required: tuple[str, ...] = ("foreign", "english", "gold")
    gold: tuple[str, ...] = ("gold",)
    gold_file = True
    optional: tuple[str, ...] = ("foreign_ids", "english_ids")
    options: tuple[str, ...] = ("prefix", "margin")
    sampling = "sentences drawn by a hash of their ids, and their translations; searched among these alone"
    metrics: tuple[str, ...] = ("f1", "precision", "recall")
    trained = False
    fields: Mapping[str, FieldKind] = {"side": "example", "copy": "example"}

    def check(self, spec: TaskSpec, where: str) -> list[Problem]:
        """The prefix is text, the margin a known one, and there are no labels."""
        problems = []
        prefix, margin = spec.options.get("prefix", ""), spec.options.get("margin", MARGINS[0])
        if not isinstance(prefix, str):
            problems.append(Problem(f"{where}.options.prefix", f"{prefix!r} is not allowed", "text in quotes"))
        if margin not in MARGINS:
            problems.append(Problem(f"{where}.options.margin", f"{margin!r} is not allowed", ", ".join(MARGINS)))
        if spec.labels:
            problems.append(
                Problem(f"{where}.labels", f"{list(spec.labels)}: a mining task has none", remedy="remove it")
            )
        return problems

    def companions(self, spec: TaskSpec, split: str, languages: Sequence[str]) -> tuple[Companion, ...]:
        """The dev set of each language, on which the threshold is chosen; dev itself needs none."""
        if split == "dev" or "dev" not in spec.splits:
            return ()
        return tuple(Companion("tune", "dev", language) for language in languages)

    def read(
        self, rows: Iterable[Row], spec: TaskSpec, language: str, problems: ProblemList
    ) -> Iterator[Example | Dropped]:
        """A sentence an example, both sets at an even pace, translations side by side."""
        prefix: str = spec.options.get("prefix", "")
        for row in rows:
            try:
                pool = _pool(row, language)
            except UserError as error:
                problems.add(*error.problems)
                continue
            for one in _in_step(pool):
                note = None
                if pool.gold is not None and one.side == FOREIGN:
                    note = {"gold": pool.gold.get(one.id, [])}
                yield Example(
                    [(one.text, None)],
                    {"side": [one.side], "copy": [one.copy]},
                    withheld=pool.gold is None,
                    note=note,
                    id=one.id,
                    counted=int(one.side == FOREIGN),
                    prefix=prefix,
                )

    def tokenise(
        self, read: Iterable[Example | Dropped], tokenizer: PairTokenizer, spec: TaskSpec, max_length: int
    ) -> Iterator[Encoded | Dropped]:
        """One sequence an example."""
        return tokenise_examples(read, tokenizer, max_length)

    def draw(self, sample: Sample) -> Draw:
        """Sentences with their translations."""
        return _PairDraw(sample)


@dataclass(frozen=True)
class _Sentence:
    id: str
    text: str
    side: int
    copy: int = ONCE


@dataclass(frozen=True)
class _Pool:
    """A set: both sides, and foreign id -> the ids of its translations, or None where they are withheld."""

    foreign: Sequence[_Sentence]
    english: Sequence[_Sentence]
    gold: Mapping[str, Sequence[str]] | None


def _pool(row: Row, language: str) -> _Pool:
    """The set of ``row``, checked; raises :class:`UserError` with all that is wrong with it."""
    problems = ProblemList()
    sides = [
        _side(row, column, side, code, problems)
        for column, side, code in (("foreign", FOREIGN, language), ("english", ENGLISH, "en"))
    ]
    problems.raise_if_any()
    ids = [{one.id: one.id for one in side} for side in sides]
    if clash := next((id_ for id_ in ids[0] if id_ in ids[1]), None):
        what = f"{clash!r} is the id of a sentence of each side"
        problems.add(Problem(row.where, what, remedy="give every sentence an id of its own"))
    if row.values["gold"] is None:
        problems.raise_if_any()
        return _Pool(sides[0], sides[1], None)
    gold: dict[str, list[str]] = {}
    for number, pair in enumerate(_list(row, "gold")):
        named = [_named(value, side) for value, side in zip(pair, sides, strict=True)] if _is_pair(pair) else []
        if len(named) == 2 and named[0] in ids[0] and named[1] in ids[1]:
            gold.setdefault(named[0], []).append(named[1])
        else:
            allowed = "two ids, the foreign one first, or two places from 1"
            problems.add(Problem(f"{row.where}: gold[{number}]", f"{pair!r} is no pair of sentences", allowed))
    problems.raise_if_any()
    return _Pool(sides[0], sides[1], gold)


def _side(row: Row, column: str, side: int, code: str, problems: ProblemList) -> list[_Sentence]:
    texts, found = _list(row, column), []
    names = row.values.get(f"{column}_ids")
    ids = [f"{code}-{n:09d}" for n in range(1, len(texts) + 1)] if names is None else [str(name) for name in names]
    if not texts or len(ids) != len(texts) or len(set(ids)) < len(ids):
        what = f"there are {len(texts):,} texts and {len(set(ids)):,} different ids"
        problems.add(Problem(f"{row.where}: {column}", what, "one id for each of one text or more"))
        return []
    for number, (id_, value) in enumerate(zip(ids, texts, strict=True)):
        try:
            found.append(_Sentence(id_, whole_text(row, value, f"{column}[{number}]").strip(), side))
        except UserError as error:
            problems.add(*error.problems)
    return found


def _list(row: Row, column: str) -> Sequence[Any]:
    value = row.values[column]
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise UserError(Problem(f"{row.where}: {column}", f"{str(value)[:60]!r} is not a list", allowed="a list"))
    return value


def _is_pair(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str) and len(value) == 2


def _named(value: Any, side: Sequence[_Sentence]) -> str:
    """A sentence of the gold as its id; a number is a place from 1."""
    if isinstance(value, int) and 1 <= value <= len(side):
        return side[value - 1].id
    return str(value)


def _in_step(pool: _Pool) -> Iterator[_Sentence]:
    """The sentences in the order of :func:`_paced`, each marked as once or several times there."""
    sides = (pool.foreign, pool.english)
    counts = [Counter(one.text for one in side) for side in sides]
    seen: list[set[str]] = [set(), set()]
    known = {one.id: one for side in sides for one in side}
    for id_ in _paced([one.id for one in pool.foreign], [one.id for one in pool.english], pool.gold or {}):
        one = known[id_]
        again = one.text in seen[one.side]
        seen[one.side].add(one.text)
        yield replace(one, copy=AGAIN if again else FIRST if counts[one.side][one.text] > 1 else ONCE)


def _paced(foreign: Sequence[str], english: Sequence[str], gold: Mapping[str, Sequence[str]]) -> Iterator[str]:
    """Both sides at an even pace, each in its own order, but translations right behind their sentence.

    So any first part is a smaller task of the same kind.
    """
    left, rest = dict.fromkeys(english), iter(english)
    passed = 0
    for number, id_ in enumerate(foreign, 1):
        yield id_
        for other in gold.get(id_, ()):
            if other in left:
                del left[other]
                yield other
        while passed * len(foreign) < number * len(english):
            passed += 1
            other = next(rest)
            if other in left:
                del left[other]
                yield other


class _PairDraw(Draw):
    """A smaller task of the same kind: foreign sentences, those with a translation in proportion to the others (one
    at least), their translations, and English sentences beside them at an even pace.
    """

    def __init__(self, sample: Sample) -> None:
        super().__init__(sample)
        self.sides: tuple[list[str], list[str]] = ([], [])
        self.gold: dict[str, Sequence[str]] = {}

    def offer(self, item: Example) -> None:
        """A sentence."""
        self.sides[item.fields["side"][0]].append(item.id)
        if item.note and item.note["gold"]:
            self.gold[item.id] = item.note["gold"]

    @property
    def offered(self) -> int:
        """The sentences of both sides."""
        return sum(map(len, self.sides))

    def ids(self) -> frozenset[str]:
        """The sentences that are drawn, two at least."""
        by_rank = [sorted(side, key=self.sample.rank) for side in self.sides]
        kinds = [[id_ for id_ in by_rank[FOREIGN] if (id_ in self.gold) is paired] for paired in (True, False)]
        # the k-th of n stands at k / n, so that both kinds run out together; a pair comes first
        placed = sorted((k / len(kind), number, id_) for number, kind in enumerate(kinds) for k, id_ in enumerate(kind))
        paced = _paced([id_ for _, _, id_ in placed], by_rank[ENGLISH], self.gold)
        return frozenset(itertools.islice(paced, max(2, self.sample.examples)))


FORMAT = BitextMining()
