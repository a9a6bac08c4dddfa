"""Read treebanks in CoNLL-U (universaldependencies.org/format) with lemmas, parts of speech and features."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from xtrain.errors import Problem, UserError, counted, listed, raise_if_any
from xtrain.file_kinds import FIRST, foreign, not_utf8

COLUMNS = ("ID", "FORM", "LEMMA", "UPOS", "XPOS", "FEATS", "HEAD", "DEPREL", "DEPS", "MISC")
PARTS_OF_SPEECH = (
    "ADJ", "ADP", "ADV", "AUX", "CCONJ", "DET", "INTJ", "NOUN", "NUM", "PART", "PRON", "PROPN", "PUNCT", "SCONJ",
    "SYM", "VERB", "X",
)  # fmt: skip
NOT_GIVEN = "_"
_ID = re.compile(r"(?P<number>\d+)(?:-(?P<last>\d+)|\.(?P<empty>\d+))?")
_MOST = 20  # problems of a file that are listed


@dataclass(frozen=True)
class Word:
    """A syntactic word; what is not given is empty."""

    form: str
    lemma: str
    upos: str
    features: tuple[tuple[str, str], ...] = ()
    """Name and value of each, as ``("Case", "Acc")``; several values are one, with commas."""


def read_conllu(path: Path) -> Iterator[tuple[Word, ...]]:
    """The sentences of a file, as :func:`parse_conllu` has them."""
    try:
        with open(path, "rb") as handle:
            if problem := foreign(path, handle.read(FIRST)):
                raise UserError(problem)
            handle.seek(0)
            yield from parse_conllu(_decoded(path, handle), str(path))
    except OSError as error:
        raise UserError(Problem(str(path), f"cannot be read: {error.strerror}")) from error


def parse_conllu(lines: Iterable[str], where: str) -> Iterator[tuple[Word, ...]]:
    """The sentences of ``lines``, one at a time; ``where`` names them in messages.

    Comments, empty nodes (``8.1``) and the lines that name a range of words (``3-4``) are passed over: words are the
    syntactic words. A sentence with a mistake is left out, and all mistakes, at most 20, are one :class:`UserError`
    after the last sentence: nothing of a file is to be believed before its end.
    """
    problems: list[Problem] = []
    sentence = _Sentence()
    for number, line in enumerate(lines, 1):
        line = (line.removeprefix("\ufeff") if number == 1 else line).rstrip("\r\n")
        if not line.strip(" \t"):
            if sentence.words and not sentence.broken:
                yield tuple(sentence.words)
            sentence = _Sentence()
        elif not line.startswith("#") and not sentence.broken:
            problem = sentence.add(line, f"{where}:{number}")
            if problem is not None:
                sentence.broken = True
                problems.append(problem)
                if len(problems) == _MOST:
                    raise UserError(*problems, rest=f"only the first {_MOST} are listed")
    if sentence.words and not sentence.broken:
        yield tuple(sentence.words)
    raise_if_any(problems)


def _decoded(path: Path, lines: Iterable[bytes]) -> Iterator[str]:
    for number, raw in enumerate(lines, 1):
        try:
            yield raw.decode("utf-8")
        except UnicodeDecodeError as error:
            raise UserError(not_utf8(path, number, raw, error)) from error


@dataclass
class _Sentence:
    """A sentence while it is read."""

    words: list[Word] = field(default_factory=list)
    broken: bool = False

    def add(self, line: str, where: str) -> Problem | None:
        """Take one line that is no comment; returns what is wrong with it."""
        cells = line.split("\t")
        if len(cells) != len(COLUMNS):
            allowed = " TAB ".join(COLUMNS)
            return Problem(where, f"has {len(cells)} columns, and CoNLL-U {len(COLUMNS)}", allowed)
        misplaced = self._misplaced(cells[0], where)
        if misplaced is not None or not cells[0].isdecimal():  # a range, or an empty node: passed over
            return misplaced
        form, lemma, upos = cells[1:4]
        for name, cell in (("FORM", form), ("LEMMA", lemma)):
            if not cell.strip():
                return Problem(f"{where}: {name}", "is empty", f"text, or {NOT_GIVEN} where there is none")
        if upos not in PARTS_OF_SPEECH and upos != NOT_GIVEN:
            return Problem(f"{where}: UPOS", f"{upos!r} is no part of speech", listed((*PARTS_OF_SPEECH, NOT_GIVEN)))
        features = _features(cells[5], where)
        if isinstance(features, Problem):
            return features
        if lemma == NOT_GIVEN and form != NOT_GIVEN:  # the lemma of the word "_" is "_"
            lemma = ""
        self.words.append(Word(form, lemma, "" if upos == NOT_GIVEN else upos, features))
        return None

    def _misplaced(self, cell: str, where: str) -> Problem | None:
        """What is wrong with the first cell of a line that comes after the words there are."""
        found = _ID.fullmatch(cell)
        done = len(self.words)
        if found is None:
            return Problem(f"{where}: ID", f"{cell!r} is none", "a whole number, a range (3-4) or an empty node (8.1)")
        number = int(found["number"])
        if found["empty"] is not None:
            fits, wanted = number == done, f"{done}.1"
        elif found["last"] is not None:
            fits, wanted = number == done + 1 and int(found["last"]) >= number, f"{done + 1}-{done + 2}"
        else:
            fits, wanted = number == done + 1, str(done + 1)
        if fits:
            return None
        remedy = "look for a line that is missing, or for a blank line that should part two sentences"
        return Problem(f"{where}: ID", f"is {cell} after {counted(done, 'word')}", wanted, remedy)


def _features(cell: str, where: str) -> tuple[tuple[str, str], ...] | Problem:
    if cell == NOT_GIVEN:
        return ()
    pairs = [part.partition("=") for part in cell.split("|")]
    features = tuple((name, value) for name, _, value in pairs)
    if not all(name and value for name, value in features):
        return Problem(f"{where}: FEATS", f"{cell!r:.80} is not understood", f"Name=Value|Name=Value, or {NOT_GIVEN}")
    if len({name for name, _ in features}) < len(features):
        return Problem(f"{where}: FEATS", f"{cell!r:.80} names a feature twice", "each once, its values with commas")
    return features
