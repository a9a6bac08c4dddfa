"""Reads the leaderboard's files, predictions and labels, and says of each mistake on which line it stands.

Line ends of any system, a byte order mark, white space around a line and empty lines at the end change nothing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xtrain.errors import Problem, UserError, listed, nearest
from xtrain.evaluation.benchmark.bitext import Pair
from xtrain.files import read_text

MOST = 5  # problems listed of one file


class FileProblems:
    """What is wrong with one file: the first few in full, the rest as a count."""

    def __init__(self, path: Path, *, strict: bool = False) -> None:
        """``strict`` says that a label which the benchmark does not have is a problem, and not a wrong answer."""
        self.path, self.strict = path, strict
        self._found: list[Problem] = []
        self._more = 0
        self.unknown: list[tuple[int, str]] = []
        """Lines and labels that are none of the usual ones, nor another spelling of one: they are wrong."""

    def add(self, place: int | str, what: str, allowed: str = "", remedy: str = "") -> None:
        """Note a problem at a line (a number), at a key (text), or with the whole file (0)."""
        if len(self._found) == MOST:
            self._more += 1
            return
        where = f"{self.path}:{place}" if isinstance(place, int) and place else str(self.path)
        self._found.append(Problem(f"{where}: {place}" if isinstance(place, str) else where, what, allowed, remedy))

    @property
    def found(self) -> list[Problem]:
        """All of them, the last with the count of those left out."""
        if not self._more:
            return self._found
        last = self._found[-1]
        rest = f"(and {self._more} more in this file)"
        return [*self._found[:-1], Problem(last.where, last.what, last.allowed, f"{last.remedy} {rest}".strip())]


@dataclass(frozen=True)
class Sentences:
    """The tags of a file, sentence by sentence, and the line on which each sentence begins."""

    tags: Sequence[Sequence[str]]
    begins: Sequence[int]


def read_labels(path: Path, allowed: Collection[str], problems: FileProblems) -> list[str]:
    """One label a line; ``allowed`` are the labels there are."""
    labels = _lines(path, problems)
    for number, label in enumerate(labels, 1):
        if label not in allowed:
            check_label(number, label, _not_a_label(label), allowed, problems)
    return labels


def check_label(place: int, label: str, what: str, allowed: Collection[str], problems: FileProblems) -> None:
    """Note a label that is not among ``allowed``.

    The benchmark's script compares texts, so a word of the model's own making is a wrong answer there; but
    no model writes an empty line, two columns, or a label in capitals: that is a mistake in the file.
    """
    same = any(known.casefold() == label.casefold() for known in allowed)
    if same or problems.strict or not label or "\t" in label:
        problems.add(place, what, listed(allowed), label_hint(label, allowed))
    else:
        problems.unknown.append((place, label))


def read_indices(path: Path, problems: FileProblems) -> list[str]:
    """One whole number a line, as it is written."""
    indices = _lines(path, problems)
    for number, index in enumerate(indices, 1):
        if not re.fullmatch("[0-9]+", index):
            problems.add(number, f"{index!r} is no index" if index else "is empty", "a whole number from 0, one a line")
    return indices


def read_choices(path: Path, allowed: Collection[str], problems: FileProblems) -> list[str]:
    """The numbers under ``label`` of the objects of a jsonl file, as text."""
    choices: list[str] = []
    for number, line in enumerate(_lines(path, problems), 1):
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            problems.add(number, f"not JSON: {error.msg}" if line else "is empty", 'an object a line: {"label": 0}')
            row = {"label": 0}
        label = row.get("label") if isinstance(row, dict) else None
        if isinstance(label, bool) or not isinstance(label, int) or str(label) not in allowed:
            what = f"the label {label!r} is not allowed" if label is not None else 'has no "label"'
            problems.add(number, what, f"{listed(allowed)}, as a number without quotes")
        choices.append(str(label))
    return choices


def read_tags(path: Path, problems: FileProblems) -> Sentences:
    """One tag a line, empty lines between sentences."""
    tags: list[list[str]] = []
    begins: list[int] = []
    inside = False
    for number, tag in enumerate(_lines(path, problems), 1):
        if tag and not inside:
            tags.append([])
            begins.append(number)
        if tag:
            tags[-1].append(tag)
        inside = bool(tag)
    return Sentences(tags, begins)


def read_pairs(path: Path, problems: FileProblems, *, may_be_empty: bool) -> list[Pair]:
    """Two ids a line, separated by a tab: the foreign sentence's and the English one's."""
    pairs: list[Pair] = []
    for number, line in enumerate(_lines(path, problems, may_be_empty=may_be_empty), 1):
        cells = [cell.strip() for cell in line.split("\t")]
        if len(cells) != 2 or not all(cells):
            problems.add(number, f"{line[:60]!r} is no pair of ids", "two ids, separated by a tab")
            continue
        pairs.append((cells[0], cells[1]))
    return pairs


def read_predicted_answers(path: Path, problems: FileProblems) -> dict[str, str]:
    """``{"question id": "answer text"}``."""
    return {key: text for key, text in _object(path, problems).items() if _is_text(key, text, problems)}


def _is_text(key: str, text: Any, problems: FileProblems) -> bool:
    if not isinstance(text, str):
        problems.add(key, f"{str(text)[:60]} is no answer", 'text in quotes; "" for no answer')
    return isinstance(text, str)


def read_rankings(path: Path, problems: FileProblems, *, gold: bool) -> dict[str, list[str]]:
    """``{"query id": ["answer id", ...]}``, the best first; in ``gold`` files the right ones, at least one."""
    rankings: dict[str, list[str]] = {}
    for query, answers in _object(path, problems).items():
        if not isinstance(answers, list) or not all(isinstance(answer, str) for answer in answers):
            problems.add(query, f"{str(answers)[:60]} is no list of ids", "a list of texts in quotes")
        elif gold and not answers:
            problems.add(query, "has no right answer", "one id or more")
        else:  # the benchmark's script strips gold ids, and only those
            rankings[query] = [answer.strip() for answer in answers] if gold else answers
    return rankings


def read_gold_answers(path: Path, problems: FileProblems) -> dict[str, list[str]]:
    """Question id -> gold answers, of a SQuAD json file (``data`` > ``paragraphs`` > ``qas`` > ``answers``)."""
    document = _json(path, problems)
    if document is None and problems.found:
        return {}
    articles = document.get("data") if isinstance(document, dict) else document
    gold: dict[str, list[str]] = {}
    for article, where in _items(articles, "data", problems):
        for paragraph, there in _items(article.get("paragraphs"), f"{where}.paragraphs", problems):
            for question, place in _items(paragraph.get("qas"), f"{there}.qas", problems):
                _add_question(question, place, gold, problems)
    if not gold and not problems.found:
        problems.add(0, "holds no question", "SQuAD json: data > paragraphs > qas > answers")
    return gold


def _add_question(question: Mapping[str, Any], place: str, gold: dict[str, list[str]], problems: FileProblems) -> None:
    key, answers = question.get("id"), question.get("answers")
    if not isinstance(key, str):
        problems.add(place, f"the id {key!r} is not allowed", "text in quotes")
        return
    if key in gold:
        problems.add(place, f"the id {key!r} comes twice", remedy="ids must differ within a file")
        return
    texts = [answer.get("text") for answer in answers if isinstance(answer, dict)] if isinstance(answers, list) else []
    if not texts or not all(isinstance(text, str) for text in texts):
        remedy = "are these the files with the answers? The download script takes them out of the test sets"
        problems.add(place, f"question {key!r} has no gold answer", 'answers = [{"text": ...}, ...]', remedy)
        return
    gold[key] = [str(text) for text in texts]


def _items(value: Any, name: str, problems: FileProblems) -> Iterable[tuple[Mapping[str, Any], str]]:
    """The objects of a list in SQuAD json, each with its path."""
    if not isinstance(value, list):
        problems.add(name, "is not there" if value is None else "is no list", "SQuAD json: data > paragraphs > qas")
        return
    for number, item in enumerate(value):
        if isinstance(item, dict):
            yield item, f"{name}[{number}]"
        else:
            problems.add(f"{name}[{number}]", "is no object", "SQuAD json: data > paragraphs > qas")


def _text(path: Path, problems: FileProblems) -> str:
    try:
        return read_text(path)
    except UserError as error:
        for problem in error.problems:
            line = problem.where.removeprefix(f"{path}:")
            problems.add(int(line) if line.isdigit() else 0, problem.what, problem.allowed, problem.remedy)
        return ""


def _lines(path: Path, problems: FileProblems, *, may_be_empty: bool = False) -> list[str]:
    """The lines without the white space around them; empty ones at the end are left out."""
    lines = [line.strip() for line in re.split("\r\n|\r|\n", _text(path, problems))]
    while lines and not lines[-1]:
        lines.pop()
    if not lines and not may_be_empty and not problems.found:
        problems.add(0, "is empty")
    return lines


class _Twice(ValueError):
    """A key that comes twice in one JSON object."""


def _without_repeats(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key, value in pairs:
        if key in values:
            raise _Twice(key)
        values[key] = value
    return values


def _json(path: Path, problems: FileProblems, *, by_id: bool = False) -> Any:
    """The file's JSON value; None where it cannot be read, which is then among the problems.

    ``by_id`` says that keys are ids, none of which may come twice.
    """
    text = _text(path, problems)
    if problems.found:
        return None
    try:
        return json.loads(text, object_pairs_hook=_without_repeats if by_id else None)
    except json.JSONDecodeError as error:
        problems.add(error.lineno, f"not JSON: {error.msg}", remedy="is the file complete?")
    except _Twice as error:
        key = str(error)
        problems.add(_second_line(text, key), f"the id {key!r} comes twice", remedy="ids must differ within a file")
    return None


def _second_line(text: str, key: str) -> int:
    """The line on which ``key`` stands as a key for the second time; 0 if it is written in some other way."""
    spellings = {json.dumps(key), json.dumps(key, ensure_ascii=False)}
    found = [match.start() for spelling in spellings for match in re.finditer(re.escape(spelling) + r"\s*:", text)]
    return text.count("\n", 0, sorted(found)[1]) + 1 if len(found) > 1 else 0


def _object(path: Path, problems: FileProblems) -> dict[str, Any]:
    """The file's JSON object; one under the key ``data``, as the benchmark's script allows, stands for the whole."""
    before = len(problems.found)
    value = _json(path, problems, by_id=True)
    if isinstance(value, dict):
        inner = value.get("data")
        return inner if isinstance(inner, dict) else value
    if len(problems.found) == before:
        problems.add(0, "is no JSON object", "an object of ids: {id: ...}")
    return {}


def _not_a_label(label: str) -> str:
    return f"{label[:60]!r} is no label" if label else "is empty"


def label_hint(label: str, allowed: Collection[str]) -> str:
    """What to do about a label that is not allowed."""
    for known in allowed:
        if known.casefold() == label.casefold():
            return f"write {known!r}: capitals count"
    if "\t" in label:
        return "one label a line and nothing else"
    return nearest(label, allowed)
