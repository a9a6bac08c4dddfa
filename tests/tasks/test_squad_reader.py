"""Reading SQuAD's JSON, from files and from the hub's copies: records with their places, and files of another form."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from rows import rows_of, spec, write
from squad_files import COLUMNS, document, question, source, task

from xtrain.errors import UserError


def test_squad_files_become_one_record_a_question(tmp_path: Path) -> None:
    first = document(question("a", ("two", 4), ("three", 8)), question("b", ("one", 0)))
    first["data"] += document(question("c", is_impossible=True), context="four")["data"]
    write(tmp_path / "train.json", "\ufeff" + json.dumps(first))
    write(tmp_path / "more.json", json.dumps(document({"id": 7, "question": "why?"})))
    mine = task(
        sources=[
            source(files={"train": ["train.json", "more.json"]}, columns={**COLUMNS, "impossible": "is_impossible"})
        ]
    )
    rows = rows_of(mine, tmp_path)
    assert [row.id for row in rows] == ["a", "b", "c", "7"]
    assert rows[0].values["answers"] == ["two", "three"]
    assert rows[0].values["answer_starts"] == [4, 8]
    assert [row.values["impossible"] for row in rows] == [False, False, True, False]
    assert [row.values["context"] for row in rows] == ["one two three", "one two three", "four", "one two three"]
    assert rows[3].values["answers"] == []
    assert [row.where.rsplit("/", 1)[1] for row in rows[1:3]] == [
        "train.json: data[0].paragraphs[0].qas[1] (id b)",
        "train.json: data[1].paragraphs[0].qas[0] (id c)",
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"data": [\n{]', r"train\.json:2: not JSON"),
        ('{"version": "1.1"}', r"train\.json: has no list 'data'"),
        ("[1, 2]", r"train\.json: has no list 'data'"),
        ('{"data": [{"title": "t"}]}', r"data\[0\]: has no list 'paragraphs'"),
        ('{"data": [{"paragraphs": [{"context": "x"}]}]}', r"data\[0\]\.paragraphs\[0\]: has no list 'qas'"),
        ('{"data": [{"paragraphs": [{"context": "x", "qas": ["y"]}]}]}', r"qas\[0\]: 'y' is not a JSON object"),
        (
            '{"data": [{"paragraphs": [{"qas": [{"id": "q", "question": "y", "answers": []}]}]}]}',
            r"there is no column 'context'",
        ),
        (
            '{"data": [{"paragraphs": [{"context": "x", "qas": [{"id": "q", "answers": []}]}]}]}',
            r"qas\[0\] \(id q\): there is no column 'question'",
        ),
        (
            '{"data": [{"paragraphs": [{"context": "x", "qas": [{"id": "q", "answers": "y"}]}]}]}',
            r"\(id q\): answers: 'y' is not allowed",
        ),
    ],
)
def test_files_of_another_form(tmp_path: Path, content: str, message: str) -> None:
    write(tmp_path / "train.json", content)
    with pytest.raises(UserError, match=message):
        rows_of(task(), tmp_path)


def test_ids_that_are_there_twice(tmp_path: Path) -> None:
    write(tmp_path / "train.json", json.dumps(document(question("a", ("one", 0)), question("a", ("two", 4)))))
    with pytest.raises(UserError, match=r"qas\[1\] \(id a\): id: 'a' was there already, at .*qas\[0\]"):
        rows_of(task(), tmp_path)


def test_one_table_of_the_hub_for_all_languages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    rows = [
        {"id": f"{name}-{n}", "title": "t", "question": f"{name}?", "context": "one two",
         "answers": {"text": ["two"], "answer_start": [4]}}
        for name, count in (("english", 3), ("korean", 2)) for n in range(count)
    ]  # fmt: skip
    folder = tmp_path / "set" / "secondary_task"
    folder.mkdir(parents=True)
    datasets.Dataset.from_list(rows).to_parquet(str(folder / "validation-00000-of-00001.parquet"))
    on_hub = {
        "hub": str(tmp_path / "set"),
        "config": "secondary_task",
        "splits": {"test": "validation"},
        "where": {"id": "{lang}-*"},
        "language_codes": {"en": "english", "ko": "korean"},
        "columns": COLUMNS,
    }
    mine = spec(format="span_qa", metric="f1", languages=["en", "ko"], sources=[on_hub])
    assert [row.id for row in rows_of(mine, None, "test", "ko")] == ["korean-0", "korean-1"]
    assert len(rows_of(mine, None, "test", "en")) == 3
    assert rows_of(mine, None, "test", "ko")[0].values["answer_starts"] == [4]
