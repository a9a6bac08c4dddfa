"""Documents in SQuAD's form, and the task that reads them, for the tests of span question answering."""

from __future__ import annotations

from typing import Any

from rows import spec

COLUMNS = {
    "id": "id",
    "question": "question",
    "context": "context",
    "answers": "answers.text",
    "answer_starts": "answers.answer_start",
}


def source(**keys: Any) -> dict[str, Any]:
    return {"files": {"train": "train.json"}, "reader": "squad", "columns": COLUMNS, **keys}


def task(**keys: Any) -> Any:
    return spec(**{"format": "span_qa", "metric": "f1", "sources": [source()], **keys})


def document(*questions: dict[str, Any], context: Any = "one two three") -> dict[str, Any]:
    return {"version": "1.1", "data": [{"title": "t", "paragraphs": [{"context": context, "qas": list(questions)}]}]}


def question(id_: str = "q", *answers: tuple[str, int], **more: Any) -> dict[str, Any]:
    said = [{"text": text, "answer_start": start} for text, start in answers]
    return {"id": id_, "question": "which one?", "answers": said, **more}
