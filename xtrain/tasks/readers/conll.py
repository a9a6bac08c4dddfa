"""Read tagged sentences: one word a line with its tag behind a tab, a blank line between sentences."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from xtrain.errors import Problem
from xtrain.files import read_text
from xtrain.tasks.formats import ProblemList
from xtrain.tasks.readers.base import Record
from xtrain.tasks.spec import Source

CONLLU = ("id", "form", "lemma", "upos", "xpos", "feats", "head", "deprel", "deps", "misc")
"""The columns of a CoNLL-U file (universaldependencies.org/format)."""
_DOCUMENT = "-DOCSTART-"  # CoNLL-2003 begins each document with such a line


class Words(list[str]):
    """The words of a sentence, which know the lines that they stand on."""

    def __init__(self, words: Sequence[str], lines: Sequence[int]) -> None:
        super().__init__(words)
        self.lines = tuple(lines)


def read_conll(source: Source, paths: Sequence[Path], problems: ProblemList) -> Iterator[Record]:
    """``word TAB tag`` lines, in the layout of XTREME's PANX and UDPOS; a record is a sentence.

    Columns are numbered from 0; each is the list of the sentence's cells. Files with Windows line ends, with a
    byte order mark, with spaces around cells, and with ``-DOCSTART-`` lines are read alike.
    """
    for path in paths:
        yield from _Sentences(path, problems).read()


def read_wikiann(source: Source, paths: Sequence[Path], problems: ProblemList) -> Iterator[Record]:
    """As :func:`read_conll`, for WikiANN as its authors give it out: ``de:word TAB tag``."""
    for path in paths:
        yield from _Sentences(path, problems, word=_without_language).read()


def read_conllu(source: Source, paths: Sequence[Path], problems: ProblemList) -> Iterator[Record]:
    """Files of Universal Dependencies, of ten columns by name (``form``, ``upos``, ``xpos``, ...).

    Comments, empty nodes and the lines that name a range of words (``3-4``) are left out: words are the
    syntactic words.
    """
    for path in paths:
        yield from _Sentences(path, problems, names=CONLLU, skipped=_not_a_word).read()


def _without_language(cell: str) -> str:
    return cell.partition(":")[2].strip(" ") if ":" in cell else ""


def _not_a_word(line: str) -> bool:
    """Whether a line of a CoNLL-U file is a comment, a range of words or an empty node."""
    return line.startswith("#") or re.match(r"\d+[-.]\d+\t", line) is not None


@dataclass
class _Sentences:
    """One file: its lines to sentences, what is wrong with a line to ``problems``."""

    path: Path
    problems: ProblemList
    word: Callable[[str], str] | None = None
    """What is done to the first cell of a line."""
    names: Sequence[str] = ()
    """The names of the columns; they are numbered if there are none."""
    skipped: Callable[[str], bool] | None = None
    """Which lines are passed over."""
    width: int = 0
    """The cells of a line; of the first one, if there are no names."""
    rows: list[list[str]] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)
    broken: bool = False
    bare: bool = False
    """Whether there are only words, without tags."""

    def read(self) -> Iterator[Record]:
        text = read_text(self.path)
        self.width = len(self.names)
        # XTREME's script leaves the tags out of test sets: one word a line
        self.bare = "\t" not in text and not any(" " in line.strip() for line in text.split("\n"))
        for number, line in enumerate(text.split("\n"), 1):
            line = line.removesuffix("\r")
            if not line.strip(" \t") or line.startswith(_DOCUMENT):
                yield from self._end()
            elif self.skipped is None or not self.skipped(line):
                self._add(number, [cell.strip(" ") for cell in line.split("\t")])
        yield from self._end()

    def _add(self, number: int, cells: list[str]) -> None:
        problem = self._wrong(number, cells)
        if problem is not None:
            self.broken = True
            self.problems.add(problem)
            return
        self.width = self.width or len(cells)
        if self.word is not None:
            cells[0] = self.word(cells[0])
        self.rows.append(cells)
        self.lines.append(number)

    def _wrong(self, number: int, cells: list[str]) -> Problem | None:
        where, width = f"{self.path}:{number}", self.width
        allowed = f"{len(self.names)} columns" if self.names else "word TAB tag"
        if self.bare and not self.names:
            return None
        if len(cells) == 1:
            return Problem(where, f"there is no tab in {cells[0][:60]!r}", allowed, "put a tab between word and tag")
        if width and len(cells) != width:
            expected = f"there are {width}" if self.names else f"the first line has {width}"
            remedy = "look for a tab inside a word, or for one that is missing"
            return Problem(where, f"has {len(cells)} columns, and {expected}", allowed, remedy)
        if not (cells[0] if self.word is None else self.word(cells[0])):
            form = "language:word TAB tag" if self.word is not None else allowed
            return Problem(where, "there is no word in the first column", form, "fill it in or remove the line")
        if not cells[-1]:
            return Problem(where, f"there is nothing behind the tab after {cells[0]!r}", allowed, "fill in the tag")
        return None

    def _end(self) -> Iterator[Record]:
        """The sentence that ends here; one with a broken line is passed over."""
        rows, lines, broken = self.rows, self.lines, self.broken
        self.rows, self.lines, self.broken = [], [], False
        if not rows or broken:
            return
        names: Sequence[str | int] = self.names or range(self.width)
        columns: Mapping[str | int, list[str]] = {
            name: Words([cells[n] for cells in rows], lines) for n, name in enumerate(names)
        }
        yield Record(f"{self.path}:{lines[0]}", columns.__getitem__, [str(name) for name in names])
