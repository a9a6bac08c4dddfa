"""Read a bitext mining set: two files of sentences with ids, and a file of the pairs that are translations."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from xtrain.errors import Problem, UserError
from xtrain.files import read_text
from xtrain.tasks.formats import ProblemList
from xtrain.tasks.readers.base import Record, column_names, nested
from xtrain.tasks.spec import Source

_SENTENCES = "id TAB sentence"
_PAIRS = "foreign id TAB English id"


def read_bitext(source: Source, paths: Sequence[Path], problems: ProblemList) -> Iterator[Record]:
    """One record: the whole set, for a sentence means nothing without those it is to be told from.

    ``paths`` are BUCC's three files: the foreign sentences, the English ones, and the gold pairs. The columns
    are ``foreign`` and ``english`` (texts), ``foreign_ids`` and ``english_ids``, and ``gold`` (pairs of ids),
    which is not there if only the two files of sentences are named.
    Lines without a tab, ids that are there twice, and gold ids without a sentence go to
    ``problems``; a file without lines, or another number of files, is raised as :class:`UserError` at once.
    """
    if len(paths) not in (2, 3):
        raise UserError(
            Problem(
                str(paths[0]),
                f"bitext mining reads three files, and {len(paths)} {'is' if len(paths) == 1 else 'are'} named",
                allowed="the foreign sentences, the English sentences, the gold pairs (a test set may lack these)",
                remedy='files = { dev = ["{lang}-en.dev.{lang}", "{lang}-en.dev.en", "{lang}-en.dev.gold"] }',
            )
        )
    seen: dict[str, str] = {}
    foreign, english = (_sentences(path, seen, problems) for path in paths[:2])
    row: dict[str, Any] = {
        "foreign": list(foreign.values()),
        "english": list(english.values()),
        "foreign_ids": list(foreign),
        "english_ids": list(english),
    }
    if len(paths) == 3:
        row["gold"] = _gold(paths[2], foreign, english, problems)
    yield Record(str(paths[0]), nested(row), column_names(row))


def _sentences(path: Path, seen: dict[str, str], problems: ProblemList) -> dict[str, str]:
    """Id -> text; ``seen`` is id -> where it was, in both files: a prediction names sentences by their ids."""
    found: dict[str, str] = {}
    for where, id_, text in _lines(path, _SENTENCES, problems):
        if id_ in seen:
            remedy = "remove one of the two lines, or give it another id"
            problems.add(Problem(where, f"the id {id_!r} was there already, at {seen[id_]}", remedy=remedy))
        else:
            found[id_] = text
        seen.setdefault(id_, where)
    if not found and not problems.found:
        raise UserError(Problem(str(path), "has no sentences", _SENTENCES))
    return found


def _gold(
    path: Path, foreign: Mapping[str, str], english: Mapping[str, str], problems: ProblemList
) -> list[tuple[str, str]]:
    pairs: dict[tuple[str, str], str] = {}
    sides = ((foreign, "a foreign sentence"), (english, "an English sentence"))
    for where, *pair in _lines(path, _PAIRS, problems):
        wrong = [(id_, side) for id_, (known, side) in zip(pair, sides, strict=True) if id_ not in known]
        turned = bool(wrong) and pair[0] in english and pair[1] in foreign
        for id_, side in wrong:
            remedy = "the foreign id stands first" if turned else "look whether the three files belong together"
            problems.add(Problem(where, f"{id_!r} is not the id of {side}", _PAIRS, remedy))
        key = (pair[0], pair[1])
        if not wrong and key in pairs:
            problems.add(Problem(where, f"the pair was there already, at {pairs[key]}", remedy="remove the line"))
        pairs.setdefault(key, where)
    if not pairs and not problems.found:
        raise UserError(Problem(str(path), "has no pairs: there would be nothing to find", _PAIRS))
    return list(pairs)


def _lines(path: Path, form: str, problems: ProblemList) -> Iterator[tuple[str, str, str]]:
    """Where, and what stands in front of the first tab and behind it; empty lines are none."""
    # only "\n" ends a line: texts may hold other line separators of Unicode
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if not line.strip():
            continue
        first, tab, second = line.partition("\t")
        where = f"{path}:{number}"
        if not tab or not first.strip():
            what = "there is no id in front of the tab" if tab else f"there is no tab in {line.strip()[:60]!r}"
            problems.add(Problem(where, what, form))
            continue
        yield where, first.strip(), second.strip()
