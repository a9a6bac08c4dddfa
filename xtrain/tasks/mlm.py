"""The format mlm: running text, of which tokens are masked anew each time and predicted."""

from __future__ import annotations

import heapq
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from xtrain.errors import Problem
from xtrain.tasks.encoding import PairTokenizer, read_rows
from xtrain.tasks.formats import EMPTY, Dropped, Encoded, Format, LeftOut, ProblemList, Row, TextCount, text_of
from xtrain.tasks.sampling import Sample
from xtrain.tasks.spec import TaskSpec

DEFAULTS: dict[str, float] = {
    "mask_probability": 0.15,  # share of the tokens that are predicted
    "mask_share": 0.8,  # of those, the share that <mask> stands for
    "random_share": 0.1,  # and the share that a random token stands for; the rest stays as it is
    "min_tokens": 1,  # a shorter piece of text is dropped, special tokens not counted
    "max_examples": 0,  # at most so many examples of a language, the first: the rest is not even fetched; 0: all
}
_CHUNK_CHARACTERS = 1_000_000  # of text that are tokenised in one call


def option(spec: TaskSpec, name: str) -> Any:
    """The option ``name`` of a task of this format, or what it is where the task does not say."""
    return spec.options.get(name, DEFAULTS[name])


class Mlm(Format):
    """Column ``text``: a document, a paragraph or a sentence.

    A text of more than ``max_length`` tokens becomes several examples, as few as possible and of even lengths:
    nothing is lost. Their ids are the row's with ``.0``, ``.1``, ... behind it. Masks are not in the shard: see
    :mod:`xtrain.data.masking`. The options are those of :data:`DEFAULTS`.
    """

    name = "mlm"
    required: tuple[str, ...] = ("text",)
    options: tuple[str, ...] = tuple(DEFAULTS)
    sampling = "texts drawn by a hash of their ids, and then their examples; it is texts that are counted"
    metrics: tuple[str, ...] = ("accuracy",)

    def check(self, spec: TaskSpec, where: str) -> list[Problem]:
        """Shares between 0 and 1 that leave something to predict, counts that are whole numbers; no labels."""
        problems = []
        for name in ("mask_probability", "mask_share", "random_share"):
            value = option(spec, name)
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if not number or not 0 <= value <= 1 or (name == "mask_probability" and value == 0):
                allowed = "a number above 0, at most 1" if name == "mask_probability" else "a number from 0 to 1"
                problems.append(Problem(f"{where}.options.{name}", f"{value!r} is not allowed", allowed))
        for name, least in (("min_tokens", 1), ("max_examples", 0)):
            value = option(spec, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                problems.append(
                    Problem(f"{where}.options.{name}", f"{value!r} is not allowed", f"a whole number >= {least}")
                )
        if not problems and option(spec, "mask_share") + option(spec, "random_share") > 1 + 1e-9:
            what = "mask_share and random_share together are more than 1"
            problems.append(Problem(f"{where}.options", what, "at most 1; the rest stays as it is"))
        if spec.labels:
            what = f"{list(spec.labels)}: masked language modelling has none"
            problems.append(Problem(f"{where}.labels", what, remedy="remove it"))
        return problems

    def read(
        self, rows: Iterable[Row], spec: TaskSpec, language: str, problems: ProblemList
    ) -> Iterator[_Text | Dropped]:
        """A text a row, no more of them than ``max_examples``; empty ones are dropped, which are no mistake here."""
        most, count = option(spec, "max_examples"), 0
        for item in read_rows(rows, _read, problems):
            yield item
            count += isinstance(item, _Text)
            if most and count == most:
                return

    def tokenise(
        self, read: Iterable[_Text | Dropped], tokenizer: PairTokenizer, spec: TaskSpec, max_length: int
    ) -> Iterator[Encoded | Dropped]:
        """One sequence an example, several examples a long text; texts without tokens are dropped."""
        fewest, most, count = option(spec, "min_tokens"), option(spec, "max_examples"), 0
        for chunk in _chunks(read):
            pieces = iter(tokenizer.pieces([item.text for item in chunk if isinstance(item, _Text)]))
            for text in chunk:
                if isinstance(text, Dropped):
                    yield text
                    continue
                for item in _examples(text, next(pieces), tokenizer, max_length, fewest):
                    yield item
                    count += isinstance(item, Encoded)
                    if most and count == most:
                        return

    def thinned(self, items: Iterable[Encoded | Dropped], sample: Sample) -> Iterator[Encoded | Dropped]:
        """As many of the drawn texts' examples as were wanted, drawn by their own ids; in order."""
        lowest: list[tuple[int, int, Encoded]] = []
        for number, item in enumerate(items):
            if isinstance(item, Dropped):
                yield item
                continue
            packed = replace(item, sequences=[array("I", sequence) for sequence in item.sequences])
            entry = (-sample.rank(item.id), number, packed)
            if len(lowest) < sample.examples:
                heapq.heappush(lowest, entry)
            else:
                heapq.heappushpop(lowest, entry)
        yield from (item for _, _, item in sorted(lowest, key=lambda entry: entry[1]))


@dataclass(frozen=True)
class _Text:
    """A row that has been checked."""

    id: str
    text: str


def _read(row: Row) -> _Text | Dropped:
    text = text_of(row, "text")
    if not text:  # of a test set, too: there is no token to predict
        raise LeftOut(EMPTY)
    return _Text(row.id, text)


def _chunks(read: Iterable[_Text | Dropped]) -> Iterator[list[_Text | Dropped]]:
    """As many texts as make up a chunk: a corpus need not fit into memory."""
    chunk: list[_Text | Dropped] = []
    characters = 0
    for item in read:
        chunk.append(item)
        characters += len(item.text) if isinstance(item, _Text) else 0
        if characters >= _CHUNK_CHARACTERS:
            yield chunk
            chunk, characters = [], 0
    if chunk:
        yield chunk


def _examples(
    text: _Text, ids: list[int], tokenizer: PairTokenizer, max_length: int, fewest: int
) -> Iterator[Encoded | Dropped]:
    """The examples of one text; of a text that is cut, the first one is marked as split."""
    if not ids:
        yield Dropped(text.id, "no tokens")
        return
    whole = tokenizer.count(text.text, ids)
    parts = -(-len(ids) // (max_length - 2))
    ends = [len(ids) * part // parts for part in range(parts + 1)]
    for part in range(parts):
        piece = ids[ends[part] : ends[part + 1]]
        name = text.id if parts == 1 else f"{text.id}.{part}"
        if len(piece) < fewest:
            yield Dropped(name, f"shorter than {fewest} tokens")
            continue
        sequence, cut = tokenizer.sequence(piece, None, max_length)
        assert not cut, "a piece is no longer than a sequence"
        # a part has its share of the text's words and characters: where a word ends in tokens is not known
        words, characters = (
            count * ends[part + 1] // len(ids) - count * ends[part] // len(ids)
            for count in (whole.words, whole.characters)
        )
        amount = TextCount(words, characters, len(piece), tokenizer.num_unknown(piece))
        yield Encoded(name, [sequence], {}, split=parts > 1 and part == 0, text=amount)


FORMAT = Mlm()
