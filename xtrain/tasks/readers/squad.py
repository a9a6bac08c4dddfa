"""Read SQuAD's JSON (v1.1, v2.0, XQuAD, MLQA, TyDiQA-GoldP, translated SQuAD): a record for each question."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from xtrain.errors import Problem, UserError
from xtrain.files import read_text
from xtrain.tasks.formats import ProblemList
from xtrain.tasks.readers.base import Record, column_names, nested
from xtrain.tasks.spec import Source

_ALLOWED = '{"data": [{"paragraphs": [{"context": ..., "qas": [{"id", "question", "answers"}, ...]}]}]}'
_ANSWER = '{"text": "...", "answer_start": a whole number}'


def read_squad(source: Source, paths: Sequence[Path], problems: ProblemList) -> Iterator[Record]:
    """The questions of all files, with the columns of the hub's copies.

    Columns: ``id``, ``question``, ``context``, ``title``, ``answers.text`` and ``answers.answer_start`` (a
    list each), ``is_impossible`` and, where paragraphs have them (XQuAD-R), ``sentence_breaks``. A record's
    place is ``file: data[3].paragraphs[1].qas[0]`` with the question's id. Raises :class:`UserError` for a
    file that is not JSON or has no ``data``.
    """
    for path in paths:
        for number, article in enumerate(_list(_document(path), "data", str(path), None)):
            where = f"{path}: data[{number}]"
            for p, paragraph in enumerate(_list(article, "paragraphs", where, problems)):
                yield from _questions(article, paragraph, f"{where}.paragraphs[{p}]", problems)


def _document(path: Path) -> Any:
    try:
        return json.loads(read_text(path))
    except json.JSONDecodeError as error:
        remedy = "fetch the file again, or name another reader"
        raise UserError(Problem(f"{path}:{error.lineno}", f"not JSON: {error.msg}", _ALLOWED, remedy)) from None


def _list(value: Any, key: str, where: str, problems: ProblemList | None) -> list[Any]:
    """The list under ``key``; where there is none a problem, raised at once if ``problems`` is None."""
    found = value.get(key) if isinstance(value, Mapping) else None
    if isinstance(found, list):
        return found
    problem = Problem(where, f"has no list {key!r}", _ALLOWED)
    if problems is None:
        raise UserError(problem)
    problems.add(problem)
    return []


def _questions(article: Any, paragraph: Any, where: str, problems: ProblemList) -> Iterator[Record]:
    of_all = paragraph if isinstance(paragraph, Mapping) else {}
    context, breaks = of_all.get("context"), of_all.get("sentence_breaks")
    for number, question in enumerate(_list(paragraph, "qas", where, problems)):
        here = f"{where}.qas[{number}]"
        if not isinstance(question, Mapping):
            problems.add(Problem(here, f"{str(question)[:60]!r} is not a JSON object", _ALLOWED))
            continue
        if "id" in question:
            here += f" (id {question['id']})"
        answers = question.get("answers") or []
        if not isinstance(answers, list) or not all(isinstance(answer, Mapping) for answer in answers):
            problems.add(Problem(f"{here}: answers", f"{str(answers)[:60]!r} is not allowed", f"a list of {_ANSWER}"))
            continue
        record = {
            **({"id": question["id"]} if "id" in question else {}),
            **({"question": question["question"]} if "question" in question else {}),
            **({"context": context} if "context" in of_all else {}),
            **({"sentence_breaks": breaks} if breaks is not None else {}),
            "title": article.get("title", ""),
            "answers": {key: [answer.get(key) for answer in answers] for key in ("text", "answer_start")},
            "is_impossible": question.get("is_impossible", False),
        }
        yield Record(here, nested(record), column_names(record))
