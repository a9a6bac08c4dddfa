"""Read CCGbank, as the LDC gives it out (.auto) or with one sentence of word|pos|category a line."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from xtrain.errors import Problem, UserError
from xtrain.files import read_text
from xtrain.tasks.formats import ProblemList
from xtrain.tasks.readers.base import Record
from xtrain.tasks.spec import Source

# Three forms of a line, which may stand in one file:
#   ID=wsj_0001.1 PARSER=GOLD NUMPARSE=1      the head of a derivation: passed over
#   (<T NP 0 2> (<L NP/N DT DT the NP/N>) (<L N NN NN cat N>) )
#                                             a derivation; its leaves are
#                                             (<L category pos pos word category>)
#   the|DT|NP/N cat|NN|N                      items between spaces, as the C&C tools write them
_HEAD = "ID="
_LEAF = re.compile(r"\(<L (\S+) \S+ \S+ (\S+) \S+>\)")
_FORMS = "word|pos|category between spaces, or a derivation of CCGbank's .auto files"
_COLUMNS = ("tokens", "tags")


def read_ccg(source: Source, paths: Sequence[Path], problems: ProblemList) -> Iterator[Record]:
    """Sentences with the columns ``tokens`` and ``tags``, a line each."""
    for path in paths:
        text = read_text(path)
        for number, line in enumerate(text.split("\n"), 1):
            line = line.strip()
            if not line or line.startswith(_HEAD):
                continue
            where = f"{path}:{number}"
            try:
                pairs = _leaves(line, where) if line.startswith("(<") else _items(line, where)
            except UserError as error:
                problems.add(*error.problems)
                continue
            columns: Mapping[str | int, list[str]] = {
                name: [pair[n] for pair in pairs] for n, name in enumerate(_COLUMNS)
            }
            yield Record(where, columns.__getitem__, _COLUMNS)


def _leaves(line: str, where: str) -> list[tuple[str, str]]:
    """(word, category) of each leaf of a derivation."""
    pairs = [(word, category) for category, word in _LEAF.findall(line)]
    brackets = re.sub(r"<[^>]*>", "", line)  # without the nodes' own text, in which categories have brackets
    if not pairs or len(pairs) != line.count("(<L ") or brackets.count("(") != brackets.count(")"):
        raise UserError(Problem(where, f"is not a whole derivation: {line[:60]!r}", _FORMS, "copy the line again"))
    return pairs


def _items(line: str, where: str) -> list[tuple[str, str]]:
    """(word, category) of each item; the word itself may hold a |."""
    pairs, problems = [], []
    for number, item in enumerate(line.split(), 1):
        parts = item.rsplit("|", 2)
        if len(parts) < 3 or not all(parts):
            problems.append(Problem(where, f"word {number}: {item!r} is not word|pos|category", _FORMS))
            continue
        pairs.append((parts[0], parts[2]))
    if problems:
        raise UserError(*problems[:3])
    return pairs
