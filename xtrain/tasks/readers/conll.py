"""Read tagged sentences: one word a line with its tag behind a tab, a blank line between sentences."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from xtrain.errors import Problem, UserError
from xtrain.files import read_text
from xtrain.tasks.formats import ProblemList
from xtrain.tasks.readers.base import Record
from xtrain.tasks.spec import Source

CONLLU = ("id", "form", "lemma", "upos", "xpos", "feats", "head", "deprel", "deps", "misc")
"""The columns of a CoNLL-U file (universaldependencies.org/format)."""
_DOCUMENT = "-DOCSTART-"  # CoNLL-2003 begins each document with such a line
_BLANKS = re.compile(r"[ \t]+")  # not what Unicode counts as white space besides: that stands inside words
BLANKS = "files whose columns stand between blanks, not tabs"  # a remark


class Words(list[str]):
    """The words of a sentence, which know the lines that they stand on."""

    def __init__(self, words: Sequence[str], lines: Sequence[int]) -> None:
        super().__init__(words)
        self.lines = tuple(lines)


def read_conll(source: Source, paths: Sequence[Path], problems: ProblemList) -> Iterator[Record]:
    """``word TAB tag`` lines, in the layout of XTREME's PANX and UDPOS; a record is a sentence.

    Columns are numbered from 0; each is the list of the sentence's cells. Files with Windows line ends, with a
    byte order mark, with spaces around cells, with ``-DOCSTART-`` lines and with comments (``# ...``) are read alike;
    so are those whose columns stand between blanks (CoNLL-2003, MasakhaNER), which is remarked.
    """
    for path in paths:
        yield from _Sentences(path, problems, source.separator).read()


def read_wikiann(source: Source, paths: Sequence[Path], problems: ProblemList) -> Iterator[Record]:
    """As :func:`read_conll`, for WikiANN as its authors give it out: ``de:word TAB tag``."""
    for path in paths:
        yield from _Sentences(path, problems, source.separator, word=_without_language).read()


def read_conllu(source: Source, paths: Sequence[Path], problems: ProblemList) -> Iterator[Record]:
    """Files of Universal Dependencies, of ten columns by name (``form``, ``upos``, ``xpos``, ...).

    Comments, empty nodes and the lines that name a range of words (``3-4``) are left out: words are the
    syntactic words.
    """
    for path in paths:
        yield from _Sentences(path, problems, "\t", names=CONLLU, skipped=_not_a_word).read()


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
    separator: str = ""
    """What stands between the cells of a line; " " is any number of blanks. By default tabs, else blanks."""
    word: Callable[[str], str] | None = None
    """What is done to the first cell of a line."""
    names: Sequence[str] = ()
    """The names of the columns; they are numbered if there are none."""
    skipped: Callable[[str], bool] | None = None
    """Which lines are passed over."""
    width: int = 0
    """The cells of a line: of most of them, if there are no names. 1 where there are only words, without tags."""
    rows: list[list[str]] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)
    broken: bool = False

    def read(self) -> Iterator[Record]:
        lines = [line.removesuffix("\r") for line in read_text(self.path).split("\n")]
        self._look([line for line in lines if not self._ends(line) and not self._skips(line)])
        for number, line in enumerate(lines, 1):
            if self._ends(line):
                yield from self._end()
            elif not self._skips(line):
                cells = self._cells(line)
                if not self._is_comment(line, cells):
                    self._add(number, cells)
        yield from self._end()

    def _ends(self, line: str) -> bool:
        return not line.strip(" \t") or line.startswith(_DOCUMENT)

    def _skips(self, line: str) -> bool:
        return self.skipped is not None and self.skipped(line)

    def _cells(self, line: str) -> list[str]:
        if self.separator == " ":
            return _BLANKS.split(line.strip(" \t"))
        return [cell.strip(" ") for cell in line.split(self.separator)]

    def _is_comment(self, line: str, cells: Sequence[str]) -> bool:
        """Whether it is ``# ...`` above a sentence (MultiCoNER's ``# id 7 domain=en``), and not the word ``#``."""
        return line.startswith("# ") and (len(cells) != self.width or (not self.rows and "=" in cells[-1]))

    def _look(self, lines: Sequence[str]) -> None:
        """Find out what stands between cells, and how many there are."""
        given = self.separator
        widths: list[Counter[int]] = []
        for self.separator in [given] if given else ["\t", " "]:
            widths.append(Counter(len(self._cells(line)) for line in lines if given or not line.startswith("# ")))
            self.width, count = widths[-1].most_common(1)[0] if widths[-1] else (1, 0)
            if self.width > 1 and 2 * count >= len(lines):
                break
        else:
            # XTREME's script leaves the tags out of test sets: one word a line
            if any(width > 1 for found in widths for width in found):
                self._refuse(widths)
            self.separator, self.width = given or "\t", 1
            for sign in () if given or self.names else ",;|":
                if len(lines) > 1 and {line.count(sign) for line in lines} == {lines[0].count(sign) or -1}:
                    what = f"its columns stand between {sign!r}, not tabs: {lines[0][:60]!r}"
                    remedy = f'say separator = "{sign}" in the task\'s source'
                    raise UserError(Problem(f"{self.path}:1", what, "word TAB tag", remedy))
        if self.separator == " " and not given:
            self.problems.remark(BLANKS)
        self.width = len(self.names) or self.width

    def _refuse(self, widths: Sequence[Counter[int]]) -> None:
        kinds = " or ".join(f"{min(found)} to {max(found)}" for found in widths if max(found) > 1)
        what = f"its lines have {kinds} columns: it cannot be told what stands between them"
        remedy = 'look whether the tags are missing in most lines; or say separator = " " (or ",", ...) in the source'
        raise UserError(Problem(str(self.path), what, "word TAB tag in every line", remedy))

    def _add(self, number: int, cells: list[str]) -> None:
        problem = self._wrong(number, cells)
        if problem is not None:
            self.broken = True
            self.problems.add(problem)
            return
        if self.word is not None:
            cells[0] = self.word(cells[0])
        self.rows.append(cells)
        self.lines.append(number)

    def _wrong(self, number: int, cells: list[str]) -> Problem | None:
        where, width = f"{self.path}:{number}", self.width
        between = {"\t": "tab", " ": "blank"}.get(self.separator, repr(self.separator))
        allowed = f"{len(self.names)} columns" if self.names else f"word {between.upper()} tag"
        if width > 1 and len(cells) == 1:
            what = f"there is no {between} in {cells[0][:60]!r}"
            return Problem(where, what, allowed, f"put a {between} between word and tag")
        if len(cells) != width:
            expected = f"there are {width}" if self.names else f"most lines have {width}"
            remedy = f"look for a {between} inside a word, or for one that is missing"
            return Problem(where, f"has {len(cells)} columns, and {expected}", allowed, remedy)
        if self.word is not None and ":" not in cells[0]:
            return Problem(where, f"there is no language in front of {cells[0][:60]!r}", f"language:{allowed}")
        if width > 1 and not cells[-1]:
            return Problem(
                where, f"there is nothing behind the {between} after {cells[0]!r}", allowed, "fill in the tag"
            )
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
