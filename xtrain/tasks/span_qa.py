"""The format span_qa: the answer to a question is a span of a context, or there is none (SQuAD's form)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from xtrain.errors import Problem, UserError, listed
from xtrain.tasks.encoding import LocatedPieces, PairTokenizer, in_chunks, read_rows
from xtrain.tasks.formats import (
    EMPTY,
    MISPLACED,
    Dropped,
    Encoded,
    FieldKind,
    Format,
    LeftOut,
    ProblemList,
    Row,
    place_in_text,
    text_of,
    whole_text,
)
from xtrain.tasks.spec import TaskSpec

DEFAULTS: Mapping[str, Any] = {
    "doc_stride": 128,
    "max_question": 64,
    "max_answer": 30,
    "num_best": 20,
    "no_answer": False,
    "normalisation": "squad",
    "misplaced_answers": "error",
}
"""Options, with the values that SQuAD's scripts and the benchmarks use: tokens from the beginning of a window
to that of the next, tokens kept of a question, tokens of the longest answer, candidates kept of a window,
whether a question may have no answer, whose normalisation scores use, and what becomes of a question whose
answer does not stand where the data say ("drop" counts it and leaves it out)."""
_CHOICES = {"normalisation": ("squad", "mlqa"), "misplaced_answers": ("error", "drop")}
MLQA_LANGUAGES = ("en", "es", "de", "vi", "ar", "hi", "zh")
"""The languages that MLQA's normalisation is defined for (as in xtrain.evaluation.benchmark.answers)."""
NOT_HERE = -1
"""In ``char_begin`` and ``char_end``: no answer begins, or ends, with this token."""
TOO_LONG = "no window holds the whole answer"  # remarks, counted in the manifest
INSIDE = "the answer begins or ends inside a token"
_CHUNK = 1024  # questions whose texts are tokenised in one call
_SPECIAL = 4  # <s> question </s></s> window </s>

Places = npt.NDArray[np.int64]


class SpanQA(Format):
    """Columns ``question``, ``context``, ``answers`` (texts), ``answer_starts`` and ``impossible`` (optional).

    An example is one question; each of its sequences is the pair (question, window of the context). Windows
    overlap: one begins every ``doc_stride`` tokens until the context is covered. Fields:

    - ``start``, ``end`` (B,): the places in the sequence of the first and the last token of the first gold
      answer; 0, the place of ``<s>``, where the window does not hold it whole.
    - ``char_begin``, ``char_end`` (T,): where a token of the context begins and ends in the text as it was
      given, in characters; NOT_HERE for all others. A token that is in several windows has its
      ``char_begin`` only in the one where it has the most context, so that no answer is found twice.

    The note is ``{"context", "answers"}``, the texts. An answer is cut out of the context by characters, so
    it is right in scripts without white space too. Source of windows and rule: run_squad.py of transformers.
    """

    name = "span_qa"
    required: tuple[str, ...] = ("question", "context", "answers", "answer_starts")
    gold: tuple[str, ...] = ("answers", "answer_starts")
    optional: tuple[str, ...] = ("impossible",)
    options: tuple[str, ...] = tuple(DEFAULTS)
    metrics: tuple[str, ...] = ("f1", "exact_match")
    fields: Mapping[str, FieldKind] = {
        "start": "sequence",
        "end": "sequence",
        "char_begin": "token",
        "char_end": "token",
    }

    def check(self, spec: TaskSpec, where: str) -> list[Problem]:
        """Options of the right kind, MLQA's normalisation in its languages only, and no ``labels``."""
        problems = []
        for option, value in spec.options.items():
            allowed = _allowed(option, value)
            if allowed:
                problems.append(Problem(f"{where}.options.{option}", f"{value!r} is not allowed", allowed))
        strange = [language for language in spec.languages if language not in MLQA_LANGUAGES]
        if spec.options.get("normalisation") == "mlqa" and strange:
            what = f'"mlqa" is not defined for {listed(strange)}'
            problems.append(Problem(f"{where}.options.normalisation", what, listed(MLQA_LANGUAGES), 'use "squad"'))
        if spec.labels:
            what = f"{list(spec.labels)}: a task of the format span_qa has none"
            problems.append(Problem(f"{where}.labels", what, remedy="remove it"))
        return problems

    def read(
        self, rows: Iterable[Row], spec: TaskSpec, language: str, problems: ProblemList
    ) -> Iterator[_Question | Dropped]:
        """A question a row; one without any gold answer is marked as such, unless the task says ``no_answer``."""
        settings = {**DEFAULTS, **spec.options}
        return read_rows(rows, lambda row: _read(row, settings), problems)

    def tokenise(
        self, read: Iterable[_Question | Dropped], tokenizer: PairTokenizer, spec: TaskSpec, max_length: int
    ) -> Iterator[Encoded | Dropped]:
        """One sequence a window. An example counts as split if it has several windows, as truncated if its
        question was cut; the remark TOO_LONG counts those of which no window holds the whole answer.
        """
        settings = {**DEFAULTS, **spec.options}
        for chunk in in_chunks(read, _CHUNK):
            questions = [item for item in chunk if isinstance(item, _Question)]
            contexts = iter(tokenizer.located_pieces([question.context for question in questions]))
            asked = iter(tokenizer.pieces([question.text for question in questions]))
            for item in chunk:
                if isinstance(item, Dropped):
                    yield item
                else:
                    yield _encode(item, next(asked), next(contexts), tokenizer, max_length, settings)


FORMAT = SpanQA()


def _allowed(option: str, value: Any) -> str:
    """What is allowed for an option, where ``value`` is not; else an empty text."""
    default = DEFAULTS.get(option)
    if option in _CHOICES:
        return "" if value in _CHOICES[option] else listed(_CHOICES[option])
    if isinstance(default, bool):
        return "" if isinstance(value, bool) else "true or false"
    if isinstance(default, int):
        return "" if isinstance(value, int) and not isinstance(value, bool) and value > 0 else "a whole number >= 1"
    return ""  # an option that the format does not have is told elsewhere


# ---------------------------------------------------------------- what a row says


@dataclass(frozen=True)
class _Question:
    id: str
    text: str
    context: str
    answers: list[str]
    """Every gold answer as it stands in the source; empty if there is none."""
    span: tuple[int, int]
    """The first gold answer's characters in the context, white space around it left out; (0, 0) if none."""
    withheld: bool = False
    """Whether there is an answer which the source does not give."""


def _read(row: Row, settings: Mapping[str, Any]) -> _Question | Dropped:
    text, context = text_of(row, "question"), whole_text(row, row.values["context"], "context")
    if not context.strip() and not row.owed:
        raise LeftOut(EMPTY)
    answers = _answers(row)
    impossible = row.values.get("impossible") in (True, 1, "1", "true", "True", "TRUE")
    if impossible and not settings["no_answer"]:
        raise UserError(
            Problem(
                f"{row.where}: impossible",
                "the question has no answer, and the task's questions all have one",
                remedy="set options.no_answer = true for the task, or remove the question",
            )
        )
    if impossible or not answers:
        return _Question(row.id, text, context, [], (0, 0), withheld=not settings["no_answer"])
    try:
        spans = [_span(context, *answer, f"{row.where}: answers[{n}]") for n, answer in enumerate(answers)]
    except UserError:
        if settings["misplaced_answers"] == "drop":
            return Dropped(row.id, MISPLACED)
        raise
    return _Question(row.id, text, context, [answer for answer, _ in answers], spans[0])


def _answers(row: Row) -> list[tuple[str, Any]]:
    """The gold answers and where they are said to begin, the empty ones left out (of hidden test sets, and of
    questions without an answer: those begin nowhere, at -1)."""
    texts, starts = row.values["answers"], row.values["answer_starts"]
    if texts is None:
        return []
    if starts is None and isinstance(texts, (list, tuple)):
        starts = [None] * len(texts)
    for column, value in (("answers", texts), ("answer_starts", starts)):
        if not isinstance(value, (list, tuple)):
            allowed = "a list of texts and one of as many whole numbers, empty if there is no answer"
            raise UserError(Problem(f"{row.where}: {column}", f"{value!r} is not a list", allowed))
    if len(texts) != len(starts):
        what = f"there are {len(texts)} answers and {len(starts)} answer_starts"
        raise UserError(Problem(f"{row.where}: answers", what, "one place for each answer"))
    found = []
    for number, (text, start) in enumerate(zip(texts, starts, strict=True)):
        answer = whole_text(row, text, f"answers[{number}]")
        if answer.strip():
            found.append((answer, place_in_text(start)))
    return found


def _span(context: str, answer: str, start: Any, where: str) -> tuple[int, int]:
    """The characters of ``answer``, which has to stand at ``start``; raises :class:`UserError` if it does not.

    White space around it may be missing (as in TyDiQA, whose answers may begin with a blank); all else has
    to be equal: in XQuAD, MLQA and TyDiQA it is, and XTREME's own script asserts it.
    """
    bare, there = answer.strip(), "nothing"
    if isinstance(start, int) and start >= 0:
        for place in (start + len(answer) - len(answer.lstrip()), start):
            if context.startswith(bare, place):
                return place, place + len(bare)
        there = repr(context[start : start + len(answer)][:60])
    elsewhere = context.find(bare)
    what = f"answer not in context: {answer[:60]!r} is said to stand at {start!r}, where {there} stands"
    remedy = (
        f"it stands at {elsewhere}: correct answer_start"
        if elsewhere >= 0
        else "correct the answer, or remove the question"
    )
    remedy += '; options.misplaced_answers = "drop" leaves such questions out and counts them'
    raise UserError(Problem(where, what, "an answer_start counted in characters of the context, from 0", remedy))


# ---------------------------------------------------------------- windows


def windows(length: int, room: int, stride: int) -> list[tuple[int, int]]:
    """The windows of a context of ``length`` tokens, as first token and the one after the last.

    Each has ``room`` tokens but the last, which ends where the context does. One begins ``stride`` tokens
    after another, or ``room`` if that is less, so that they cover everything.
    """
    assert room > 0
    assert stride > 0
    found = [(0, min(length, room))]
    while found[-1][1] < length:
        begin = found[-1][0] + min(stride, room)
        found.append((begin, min(length, begin + room)))
    return found


def most_context(spans: list[tuple[int, int]], length: int) -> Places:
    """The window (of ``spans``) in which each of ``length`` tokens has the most context, (length,).

    How much it has is the smaller of what is to its left and to its right, and a hundredth of the window's
    length decides between equals; then the first counts. Source: run_squad.py's ``max context``.
    """
    place = np.arange(length)
    begin, end = np.asarray(spans, dtype=np.int64).T[:, :, None]  # (W, 1) each
    context = np.minimum(place - begin, end - 1 - place) + 0.01 * (end - begin)  # (W, length)
    best: Places = np.where((place >= begin) & (place < end), context, -np.inf).argmax(0)
    return best


def _encode(
    question: _Question,
    asked: list[int],
    context: LocatedPieces,
    tokenizer: PairTokenizer,
    max_length: int,
    settings: Mapping[str, Any],
) -> Encoded:
    # a short maximum length (of a test, or a toy) leaves half of it to the context
    kept = asked[: max(1, min(settings["max_question"], (max_length - _SPECIAL) // 2))]
    head = [tokenizer.begin, *kept, tokenizer.end, tokenizer.end]
    spans = windows(len(context.ids), max_length - _SPECIAL - len(kept), settings["doc_stride"])
    owner = most_context(spans, len(context.ids))
    first, last = _covering(context, question.span)
    sequences: list[list[int]] = []
    fields: dict[str, list[int]] = {"start": [], "end": [], "char_begin": [], "char_end": []}
    before, after = [NOT_HERE] * len(head), [NOT_HERE]
    for number, (begin, end) in enumerate(spans):
        held = begin <= first <= last < end
        fields["start"].append(len(head) + first - begin if held else 0)
        fields["end"].append(len(head) + last - begin if held else 0)
        starts = np.where(owner[begin:end] == number, context.begin[begin:end], NOT_HERE)
        fields["char_begin"] += [*before, *starts.tolist(), *after]
        fields["char_end"] += [*before, *context.end[begin:end].tolist(), *after]
        sequences.append([*head, *context.ids[begin:end], tokenizer.end])
    begin, end = question.span
    cut = context.text[context.begin[first] : context.end[last]].strip() if first <= last else ""
    remarks = (
        (TOO_LONG, begin < end and not any(fields["start"])),
        (INSIDE, cut != context.text[begin:end]),
        (EMPTY, not question.text or not context.text.strip()),
    )
    return Encoded(
        question.id,
        sequences,
        fields,
        truncated=len(kept) < len(asked),
        split=len(spans) > 1,
        withheld=question.withheld,
        note={"context": question.context, "answers": question.answers},
        remarks=tuple(remark for remark, holds in remarks if holds),
        text=tokenizer.count(question.text, asked) + tokenizer.count(question.context, context.ids),
        texts=(question.text, question.context),
    )


def _covering(context: LocatedPieces, span: tuple[int, int]) -> tuple[int, int]:
    """The first and the last token that have a character of ``span``; (0, -1) if none has.

    Two tokens may share a character (a ligature). Where the outer one goes beyond the span, and the other ends with it,
    that is the one.
    """
    begin, end = span
    first = int(np.searchsorted(context.end, begin, side="right"))
    last = int(np.searchsorted(context.begin, end, side="left")) - 1
    if begin >= end or first > last:
        return 0, -1
    if context.begin[first] < begin:
        later = int(np.searchsorted(context.begin, begin))
        first = later if later <= last and context.begin[later] == begin else first
    if context.end[last] > end:
        earlier = int(np.searchsorted(context.end, end, side="right")) - 1
        last = earlier if earlier >= first and context.end[earlier] == end else last
    return first, last
