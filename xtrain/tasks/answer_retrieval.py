"""The format answer retrieval: find the right candidates of a query in one pool; LAReQA and Mewsli-X."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from xtrain.errors import Problem, UserError, listed
from xtrain.tasks.encoding import PairTokenizer, in_chunks, read_rows
from xtrain.tasks.formats import (
    EMPTY,
    MISPLACED,
    Companion,
    Dropped,
    Encoded,
    FieldKind,
    Format,
    LeftOut,
    ProblemList,
    Row,
    label_word,
    place_in_text,
    text_of,
    whole_text,
)
from xtrain.tasks.sampling import Draw, Sample
from xtrain.tasks.sentences import sentence_at, sentence_spans
from xtrain.tasks.spec import INDEX_LANGUAGE, Source, TaskSpec

PAIR, QUERY, CANDIDATE = 0, 1, 2
"""The kinds of examples, as the field ``kind`` has them."""
SENTENCES = "sentences"  # the option ``pool``: every sentence of every context is a candidate
BY_RULE = "rule"  # in a query's note, where the sentences of its pool are not the data's own
_POOLS = ("rows", SENTENCES)

Span = tuple[int, int]


class AnswerRetrieval(Format):
    """Pairs to train on, and queries and candidates to evaluate on; a row is what its columns make it.

    - ``query`` and ``candidate``: a pair, two sequences. ``context`` is laid beside the candidate, so that
      its sequence is the pair (candidate, context).
    - ``query``, ``context`` and ``answer_start`` (a number, or a list whose first counts; ``answer`` is the
      text that should be there): the candidate is the sentence of the context that holds the answer, by
      :func:`~xtrain.tasks.sentences.sentence_spans`, or by the column ``breaks`` ([begin, end] of each).
      With the option ``pool = "sentences"`` such a row is no pair: it is a query, and each sentence of its
      context a candidate, once. Their ids are then LAReQA's, ``ID_LANGUAGE`` and ``LANGUAGE_n_m``, and
      queries of one ``id`` in several languages have each other's right answers.
    - ``query`` alone, with ``right``: a query, and the id (or a list of ids) of its right candidates.
    - ``candidate`` alone (with ``context`` or without): a candidate.

    Options: ``query_length`` and ``candidate_length``, in tokens (the recipe's ``max_length`` bounds both),
    and ``pool``. A query's note is ``{"right": [ids]}``, with ``"question"`` where languages share it, and
    ``"sentences": "rule"`` where those of its pool were cut by rule.
    """

    name = "answer_retrieval"
    required: tuple[str, ...] = ()
    optional: tuple[str, ...] = ("query", "candidate", "context", "answer", "answer_start", "breaks", "right")
    options: tuple[str, ...] = ("query_length", "candidate_length", "pool")
    sampling = "queries (or pairs) drawn by a hash of their ids; all candidates stay"
    metrics: tuple[str, ...] = ("map@20",)
    fields: Mapping[str, FieldKind] = {"kind": "example", "group": "example"}

    def check(self, spec: TaskSpec, where: str) -> list[Problem]:
        """Options of the right kind, columns that make an example, and no ``labels``."""
        problems = []
        for option in ("query_length", "candidate_length"):
            length = spec.options.get(option, 8)
            if not isinstance(length, int) or isinstance(length, bool) or length < 8:
                problems.append(Problem(f"{where}.options.{option}", f"{length!r} is not allowed", "a number >= 8"))
        if spec.options.get("pool", "rows") not in _POOLS:
            problems.append(
                Problem(f"{where}.options.pool", f"{spec.options['pool']!r} is not allowed", listed(_POOLS))
            )
        for number, source in enumerate(spec.sources):
            problems += _check_columns(source, f"{where}.sources[{number}]")
        if spec.labels:
            what = f"{list(spec.labels)}: a retrieval task has none"
            problems.append(Problem(f"{where}.labels", what, remedy="remove it"))
        return problems

    def companions(self, spec: TaskSpec, split: str, languages: Sequence[str]) -> tuple[Companion, ...]:
        """The pool of candidates, where the task has one for all its languages."""
        return (Companion("index", "index", INDEX_LANGUAGE),) if "index" in spec.splits else ()

    def read(
        self, rows: Iterable[Row], spec: TaskSpec, language: str, problems: ProblemList
    ) -> Iterator[_Item | Dropped]:
        """One item a row; with ``pool = "sentences"``, those of the sentences before the first query."""
        pool = _Pool(language) if spec.options.get("pool") == SENTENCES else None
        for found in read_rows(rows, lambda row: _read(row, pool), problems):
            yield from (found,) if isinstance(found, Dropped) else found

    def tokenise(
        self, read: Iterable[_Item | Dropped], tokenizer: PairTokenizer, spec: TaskSpec, max_length: int
    ) -> Iterator[Encoded | Dropped]:
        """One example an item, of one sequence or two."""
        lengths = [min(max_length, int(spec.options.get(f"{side}_length", max_length))) for side in _SIDES]
        for chunk in in_chunks(read):
            yield from _encoded(chunk, tokenizer, lengths)

    def draw(self, sample: Sample) -> Draw:
        """A query by its question, which several languages may share."""
        return Draw(sample, key=lambda item: str((item.note or {}).get("question", item.id)))

    def always(self, item: _Item) -> bool:
        """Candidates: the pool is part of the task."""
        return item.kind == CANDIDATE


FORMAT = AnswerRetrieval()
_SIDES = ("query", "candidate")


def _check_columns(source: Source, where: str) -> list[Problem]:
    problems = []
    for columns in (source.columns, *source.split_columns.values()):
        if columns and not {"query", "candidate"} & set(columns):
            problems.append(
                Problem(f"{where}.columns", "has neither query nor candidate", remedy='add query = "its column"')
            )
        if "answer_start" in columns and not {"query", "context"} <= set(columns):
            what = "answer_start without query and context"
            problems.append(Problem(f"{where}.columns", what, remedy="answer_start is a place in context: map both"))
    return problems


@dataclass(frozen=True)
class _Item:
    """An example before tokenisation."""

    id: str
    kind: int
    query: str | None = None
    candidate: str | None = None
    context: str | None = None
    note: Any = None

    @property
    def group(self) -> int:
        """A number of 31 bits that equal candidates share; 0 where there is none."""
        if self.candidate is None:
            return 0
        text = f"{self.candidate}\x1f{self.context or ''}"
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4]) >> 1

    @property
    def texts(self) -> list[tuple[int, str, str | None]]:
        """Side (0 query, 1 candidate), text and second text of each sequence."""
        found: list[tuple[int, str, str | None]] = []
        if self.query is not None:
            found.append((0, self.query, None))
        if self.candidate is not None:
            found.append((1, self.candidate, self.context))
        return found


@dataclass
class _Pool:
    """The sentences of a language's contexts, as candidates."""

    language: str
    known: dict[str, tuple[str, list[Span]]] = field(default_factory=dict)
    """Context -> the beginning of its candidates' ids, and its sentences."""

    def add(self, context: str, spans: Callable[[], list[Span]]) -> Iterator[_Item]:
        """The candidates of ``context``, if it is new."""
        if context not in self.known:
            name = f"{self.language}_{len(self.known) + 1}"
            self.known[context] = name, spans()
            for number, (begin, end) in enumerate(self.known[context][1]):
                yield _Item(f"{name}_{number}", CANDIDATE, None, context[begin:end].strip(), context.strip())

    def right(self, context: str, sentence: str) -> list[str]:
        """The ids of the candidates of ``context`` that read ``sentence``."""
        name, spans = self.known[context]
        return [f"{name}_{n}" for n, (begin, end) in enumerate(spans) if context[begin:end] == sentence]


def _read(row: Row, pool: _Pool | None) -> list[_Item | Dropped]:
    """What a row is; raises :class:`UserError` for what is wrong with it."""
    has = {column for column in ("query", "candidate", "context") if row.values.get(column) is not None}
    if row.values.keys() >= {"query", "candidate"} and not row.values.keys() & {"right", "answer_start"}:
        has |= {"query", "candidate"}  # of a set of pairs: a null is an empty text there
    query = text_of(row, "query") if "query" in has else None
    if "candidate" in has:
        context = (text_of(row, "context") or None) if "context" in has else None
        kind = CANDIDATE if query is None else PAIR
        return [_Item(row.id, kind, query, text_of(row, "candidate"), context)]
    if query is None and "query" in row.values:
        query = text_of(row, "query")
    if query is None:
        what = "has neither a query nor a candidate"
        raise UserError(Problem(row.where, what, remedy="fill in one of the two, or remove the row from the file"))
    if "answer_start" in row.values:
        return _answered(row, query, pool)
    right = row.values.get("right")
    ids = [label_word(one) for one in (right if isinstance(right, (list, tuple)) else [right])]
    if not any(ids):
        return [Dropped(row.id, "unlabelled")]
    return [_Item(row.id, QUERY, query, note={"right": ids})]


def _answered(row: Row, query: str, pool: _Pool | None) -> list[_Item | Dropped]:
    """A query with its context: a pair with the sentence that holds the answer, or a query and a pool."""
    context = whole_text(row, row.values.get("context"), "context")
    if not context.strip():  # in a test set, too: the question has no right answer
        raise LeftOut(EMPTY)
    spans = _breaks(row, context)
    found: list[_Item | Dropped] = []
    if pool is not None:
        found += pool.add(context, lambda: spans)
    place = _answer_place(row, context)
    number = None if place is None else sentence_at(spans, place)
    if number is None:
        reason = "unlabelled" if place is None else MISPLACED if place < 0 else "the answer begins in no sentence"
        return [*found, Dropped(row.id, reason)]
    sentence = context[slice(*spans[number])]
    if pool is None:
        return [_Item(row.id, PAIR, query, sentence.strip(), context.strip())]
    note: dict[str, Any] = {"right": pool.right(context, sentence), "question": row.id}
    if "breaks" not in row.values:
        note["sentences"] = BY_RULE
    return [*found, _Item(f"{row.id}_{pool.language}", QUERY, query, note=note)]


def _breaks(row: Row, context: str) -> list[Span]:
    """The sentences of ``context``: as the row says, or by rule."""
    if "breaks" not in row.values:
        return sentence_spans(context)
    value, spans = row.values["breaks"], []
    for span in value if isinstance(value, (list, tuple)) else [value]:
        begin, end = span if isinstance(span, (list, tuple)) and len(span) == 2 else (None, None)
        if type(begin) is not int or type(end) is not int or not 0 <= begin < end <= len(context):
            begin = end = 0
        if not context[begin:end].strip():
            raise UserError(
                Problem(
                    f"{row.where}: breaks",
                    f"{span!r} is no sentence of the context",
                    allowed=f"a list of [begin, end], characters of the context ({len(context)})",
                    remedy="fetch the file again: its context and its sentences do not belong together",
                )
            )
        spans.append((begin, end))
    return spans


def _answer_place(row: Row, context: str) -> int | None:
    """Where the (first) answer begins in ``context``; None where the row has no answer, -1 where the row
    says that its answer is nowhere.

    Where the answer's text is not at its place, its nearest occurrence counts: white space at the beginning
    of a context is lost in the hub's copies, and places are not counted anew.
    """
    place, answer = (_first(row.values.get(column)) for column in ("answer_start", "answer"))
    place = place_in_text(place)
    if place is None or (place == -1 and not str(answer or "").strip()):
        return None
    if place == -1:  # how sets say that an answer is not in its context
        return -1
    if not isinstance(place, int) or not 0 <= place < len(context):
        what = f"{place!r} is no place in the context"
        raise UserError(Problem(f"{row.where}: answer_start", what, f"0 to {len(context) - 1}"))
    if answer is None or context.startswith(str(answer), place):
        return place
    found = [n for n in range(len(context)) if context.startswith(str(answer), n)]
    if not found or not str(answer).strip():
        raise UserError(
            Problem(
                f"{row.where}: answer",
                f"{str(answer)[:60]!r} is not in the context",
                allowed="a text that stands in the context, at answer_start",
                remedy="mend the answer or its place, or remove the question from the file",
            )
        )
    return min(found, key=lambda n: abs(n - place))


def _first(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return value[0] if value else None
    return value


def _encoded(
    read: Sequence[_Item | Dropped], tokenizer: PairTokenizer, lengths: Sequence[int]
) -> Iterator[Encoded | Dropped]:
    """The examples of a chunk, tokenised in one call."""
    items = [item for item in read if isinstance(item, _Item)]
    words = [text for item in items for _, *pair in item.texts for text in pair if text is not None]
    pieces = iter(tokenizer.pieces(words))
    for item in read:
        if isinstance(item, Dropped):
            yield item
            continue
        texts = [(first, second) for _, first, second in item.texts]
        sequences, cut, amount = tokenizer.sequences(texts, pieces, [lengths[side] for side, _, _ in item.texts])
        fields = {"kind": [item.kind], "group": [item.group]}
        remarks = (EMPTY,) if "" in (item.query, item.candidate) else ()
        yield Encoded(
            item.id, sequences, fields, cut, note=item.note, remarks=remarks, text=amount,
            texts=tuple(text for pair in texts for text in pair if text),
        )  # fmt: skip
