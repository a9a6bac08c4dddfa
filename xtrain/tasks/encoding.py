"""Text to token ids: XLM-R's sequences, tokenised in batches and truncated as transformers does it."""

from __future__ import annotations

import itertools
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import tokenizers

from xtrain.errors import Problem, UserError
from xtrain.files import content_hash
from xtrain.tasks.formats import EMPTY, Dropped, Encoded, LeftOut, ProblemList, Row, TextCount
from xtrain.tasks.hashes import file_hash

TOKENIZER_FILES = ("tokenizer.json", "sentencepiece.bpe.model")
"""The files that may define a tokenizer, the preferred first."""
_CHUNK = 4096  # rows that are tokenised in one call
T = TypeVar("T")


def tokenizer_file(folder: Path) -> Path:
    """The file in ``folder`` that defines its tokenizer; none is a :class:`UserError`."""
    for name in TOKENIZER_FILES:
        if (folder / name).is_file():
            return folder / name
    raise UserError(
        Problem(
            str(folder),
            "has no tokenizer",
            allowed=f"a Hugging Face directory with {' or '.join(TOKENIZER_FILES)}",
            remedy="copy the tokenizer of the base model into it (for XLM-R: FacebookAI/xlm-roberta-base)",
        )
    )


def tokenizer_hash(folder: Path) -> str:
    """Hash of the tokenizer in ``folder``: two folders with equal hashes give equal token ids."""
    file = tokenizer_file(folder)
    return content_hash([file.name, file_hash(file)])


class PairTokenizer:
    """The tokenizer of an XLM-R-shaped directory: ``<s> A </s>`` and ``<s> A </s></s> B </s>``."""

    def __init__(self, folder: Path) -> None:
        file = tokenizer_file(folder)
        backend = _load(file)
        backend.no_truncation()
        backend.no_padding()
        self._backend = backend
        begin, end = backend.token_to_id("<s>"), backend.token_to_id("</s>")
        if begin is None or end is None or backend.encode("", "").ids != [begin, end, end, end]:
            raise UserError(
                Problem(
                    str(file),
                    f"does not build pairs as XLM-R does: {backend.encode('', '').tokens}",
                    allowed="<s> A </s></s> B </s>",
                    remedy="use an XLM-R-shaped base model",
                )
            )
        self.begin, self.end = int(begin), int(end)
        unknown = backend.token_to_id("<unk>")
        self.unknown = self.end if unknown is None else int(unknown)
        self._has_unknown = unknown is not None
        self._normaliser = backend.normalizer
        self._removed: dict[str, bool] = {}
        """Whether the normaliser makes nothing of a character, of those that were met."""
        added = sorted((token.content for token in backend.get_added_tokens_decoder().values()), key=len, reverse=True)
        self._special = re.compile("|".join(map(re.escape, added)))
        self._boundary = backend.token_to_id("▁")  # None if the vocabulary has no such piece

    def vocabulary(self) -> dict[str, int]:
        """Every token and its id, special ones included."""
        return dict(self._backend.get_vocab(with_added_tokens=True))

    def pieces(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, without special tokens; on all cores, each distinct text once."""
        distinct = {text: n for n, text in enumerate(dict.fromkeys(texts))}
        encodings = self._backend.encode_batch_fast(list(distinct), add_special_tokens=False)
        ids = [encoding.ids for encoding in encodings]
        return [ids[distinct[text]] for text in texts]

    def located_pieces(self, texts: Sequence[str]) -> list[LocatedPieces]:
        """As :meth:`pieces`, with the place of each piece in the text as it was given; equal texts share one."""
        distinct = {text: n for n, text in enumerate(dict.fromkeys(texts))}
        parts = [self._parts(text) for text in distinct]
        wanted = [text[begin:end] for text, own in zip(distinct, parts, strict=True) for begin, end in own]
        encodings = iter(self._backend.encode_batch(wanted, add_special_tokens=False))
        located = [self._located(text, [(begin, next(encodings)) for begin, _ in own])
                   for text, own in zip(distinct, parts, strict=True)]  # fmt: skip
        return [located[distinct[text]] for text in texts]

    def _parts(self, text: str) -> list[tuple[int, int]]:
        """What is tokenised of ``text`` for places: all of it, but for what the normaliser removes at the beginning.

        The library counts removed characters towards the one before; where there is none it forgets them, and all
        its places are too small (seen with tokenizers 0.23.3). It normalises from one special token to the next.
        """
        if not self._removes(text):
            return [(0, len(text))]
        found, begin = [], 0
        for special in [*self._special.finditer(text), None]:
            end = special.start() if special else len(text)
            while begin < end and self._removes(text[begin]):
                begin += 1
            found.append((begin, end))
            if special:
                found.append(special.span())
                begin = special.end()
        return found

    def _removes(self, text: str) -> bool:
        """Whether the normaliser makes nothing of some character of ``text``: XLM-R's of most control characters."""
        if self._normaliser is not None:
            for character in {*text} - self._removed.keys():
                self._removed[character] = not self._normaliser.normalize_str(character)
        return any(self._removed.get(character, False) for character in {*text})

    def _located(self, text: str, encodings: Sequence[tuple[int, Any]]) -> LocatedPieces:
        """The pieces of ``text`` from those of its parts, each with the place where the part begins."""
        spans = np.concatenate([np.asarray(one.offsets, dtype=np.int64).reshape(-1, 2) + at for at, one in encodings])
        ids = [id_ for _, one in encodings for id_ in one.ids]
        begin, end = spans[:, 0], spans[:, 1].copy()
        # a lone "▁" stands for the boundary before a word, but is given the word's first character
        end[np.asarray(ids, dtype=np.int64) == self._boundary] = 0
        removed = np.fromiter((self._removed.get(character, False) for character in text), dtype=bool, count=len(text))
        blank = removed | np.fromiter((character.isspace() for character in text), dtype=bool, count=len(text))
        # (n + 1,) the end of the last character before a place that is no white space, and not removed
        preceding = np.maximum.accumulate(np.append(0, np.where(blank, 0, np.arange(1, len(text) + 1))))
        # of a character that becomes several, the last one may be given the place of what is removed behind it
        begin = np.where(np.append(removed, False)[begin], preceding[begin] - 1, _next_without(blank)[begin])
        # several pieces may stand for one character: a boundary between two of these ends where they do
        end = np.maximum.accumulate(np.maximum(begin, preceding[end]))
        if not text.isascii():
            # of a letter and the accents that the normalisation joins to it, the library names the letter alone
            joined = np.fromiter((_joins(character) for character in text), dtype=bool, count=len(text))
            end = np.maximum(end, np.minimum(_next_without(joined)[end], np.append(begin[1:], len(text))[: len(end)]))
        return LocatedPieces(text, ids, begin, end)

    def count(self, text: str, ids: list[int]) -> TextCount:
        """The amount of ``text``, whose pieces are ``ids``, uncut."""
        return TextCount(len(text.split()), len(text), len(ids), self.num_unknown(ids))

    def num_unknown(self, ids: list[int]) -> int:
        """How many of the pieces are ``<unk>``; none, where the vocabulary has no such piece."""
        return ids.count(self.unknown) if self._has_unknown else 0

    def sequence(self, first: list[int], second: list[int] | None, max_length: int) -> tuple[list[int], bool]:
        """One or two texts as a sequence of at most ``max_length`` ids, and whether it was cut."""
        if second is None:
            room = max_length - 2
            return [self.begin, *first[:room], self.end], len(first) > room
        room = max_length - 4
        keep_first, keep_second = longest_first(len(first), len(second), room)
        ids = [self.begin, *first[:keep_first], self.end, self.end, *second[:keep_second], self.end]
        return ids, keep_first + keep_second < len(first) + len(second)

    def sequences(
        self,
        texts: Sequence[tuple[str, str | None]],
        pieces: Iterator[list[int]],
        lengths: Sequence[int],
        counted: int | None = None,
    ) -> tuple[list[list[int]], bool, TextCount]:
        """The sequences of an example: of each of ``texts``, whose ids are the next of ``pieces``, with its length.

        Also whether one was cut, and the amount of text in the first ``counted`` of them (in all by default).
        """
        found, cut, amount = [], False, TextCount()
        for number, ((first, second), length) in enumerate(zip(texts, lengths, strict=True)):
            ids = [next(pieces) for text in (first, second) if text is not None]
            sequence, was_cut = self.sequence(ids[0], None if second is None else ids[1], length)
            found.append(sequence)
            cut |= was_cut
            if counted is None or number < counted:
                for text, own in zip((first, second), ids, strict=False):
                    amount += self.count(text or "", own)
        return found, cut, amount


@dataclass(frozen=True)
class LocatedPieces:
    """The pieces of a text, and where they stand in it."""

    text: str
    ids: list[int]
    begin: npt.NDArray[np.int64]
    """(n,) the first character of each piece, counted in the text before any normalisation; never falls."""
    end: npt.NDArray[np.int64]
    """(n,) the place after its last one; never falls. White space at both ends is left out, so that a piece
    that stands for the boundary of a word alone is empty."""


def _next_without(marked: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """The first place from each one on that is not ``marked`` (n,), or n where there is none, (n + 1,)."""
    places = np.append(np.where(marked, len(marked), np.arange(len(marked))), len(marked))
    found: npt.NDArray[np.int64] = np.minimum.accumulate(places[::-1])[::-1]
    return found


def _joins(character: str) -> bool:
    """Whether a normalisation may join ``character`` to the one before: marks, Korean vowels and finals."""
    return unicodedata.category(character)[0] == "M" or "\u1160" <= character <= "\u11ff"


def _load(file: Path) -> Any:
    try:
        if file.name == "tokenizer.json":
            # the same ids as AutoTokenizer's, without the seconds that importing transformers takes
            return tokenizers.Tokenizer.from_file(str(file))
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(str(file.parent), trust_remote_code=False).backend_tokenizer
    except Exception as error:  # tokenizers raises plain Exceptions, transformers several kinds
        reason = " ".join(str(error).split())[:300]
        remedy = "copy tokenizer.json of the base model beside it"
        raise UserError(Problem(str(file), f"cannot be read as a tokenizer: {reason}", remedy=remedy)) from error


def longest_first(first: int, second: int, room: int) -> tuple[int, int]:
    """How many tokens of two texts are kept so that both fit into ``room``: the longer one is cut first.

    The rule of the tokenizers library's ``longest_first``, in closed form: cut the longer text down to
    the length of the shorter, then both alike; the odd token goes to the longer one (to the second of two
    that are equally long).
    """
    short, long = sorted((first, second))
    if short > room:
        long = short  # both are cut to the same length below
    else:
        long = min(long, max(short, room - short))
    if short + long > room:
        short = room // 2
        long = short + room % 2
    return (long, short) if first > second else (short, long)


@dataclass(frozen=True)
class Example:
    """What a format makes of a row, before tokenisation."""

    texts: list[tuple[str, str | None]]
    """One sequence each: a text, or a pair."""
    fields: dict[str, list[int]]
    withheld: bool = False
    """Whether its gold label is not given."""
    note: Any = None
    id: str = ""
    """The row's; :func:`read_examples` puts it in."""
    counted: int | None = None
    """The first so many sequences are in its language (by default all): the others do not count as its text."""
    empty: bool = False
    """Whether a part of one of its texts is empty, which does not show in it."""
    prefix: str = ""
    """What the model wants before every text; no word of the language."""

    @property
    def given(self) -> list[tuple[str, str | None]]:
        """The texts as the model gets them."""
        return [(first and self.prefix + first, second and self.prefix + second) for first, second in self.texts]

    @property
    def remarks(self) -> tuple[str, ...]:
        """Whether one of its texts is empty."""
        return (EMPTY,) if self.empty or any("" in pair for pair in self.texts) else ()


def read_rows(rows: Iterable[Row], read_row: Callable[[Row], T], problems: ProblemList) -> Iterator[T | Dropped]:
    """``read_row`` over ``rows``; a :class:`UserError` of it goes to ``problems`` and the row is passed over."""
    for row in rows:
        try:
            item = read_row(row)
        except UserError as error:
            problems.add(*error.problems)
        except LeftOut as reason:
            yield Dropped(row.id, str(reason))
        else:
            yield item


def read_examples(
    rows: Iterable[Row], read_row: Callable[[Row], Example | Dropped], problems: ProblemList
) -> Iterator[Example | Dropped]:
    """As :func:`read_rows`; each example gets the id of its row."""

    def read(row: Row) -> Example | Dropped:
        item = read_row(row)
        return replace(item, id=row.id) if isinstance(item, Example) else item

    return read_rows(rows, read, problems)


def in_chunks(items: Iterable[T], size: int = _CHUNK) -> Iterator[list[T]]:
    """``items``, ``size`` at a time, so that what they hold is tokenised in one call."""
    source = iter(items)
    while chunk := list(itertools.islice(source, size)):
        yield chunk


def tokenise_examples(
    read: Iterable[Example | Dropped], tokenizer: PairTokenizer, max_length: int
) -> Iterator[Encoded | Dropped]:
    """The texts of examples as sequences, tokenised in large batches; the order is kept."""
    for chunk in in_chunks(read):
        pairs = [pair for example in chunk if isinstance(example, Example) for pair in example.given]
        pieces = iter(tokenizer.pieces([text for pair in pairs for text in pair if text is not None]))
        for example in chunk:
            if isinstance(example, Dropped):
                yield example
                continue
            lengths = [max_length] * len(example.texts)
            sequences, cut, amount = tokenizer.sequences(example.given, pieces, lengths, example.counted)
            yield Encoded(
                example.id, sequences, example.fields, cut, withheld=example.withheld, note=example.note,
                remarks=example.remarks, text=amount,
                texts=tuple(text for pair in example.texts[: example.counted] for text in pair if text),
            )  # fmt: skip
