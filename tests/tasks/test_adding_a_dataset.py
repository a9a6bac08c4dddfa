"""The examples of docs/adding_a_dataset.md do what the page says, and the page explains every key."""

from __future__ import annotations

import dataclasses
import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from rows import rows_of, write, write_jsonl
from tiny import sentences

from xtrain.data import prepare
from xtrain.errors import UserError
from xtrain.tasks import TaskSpec, catalog, formats
from xtrain.tasks.formats import IGNORED
from xtrain.tasks.sources import languages_of
from xtrain.tasks.spec import READER_NAMES, SPLITS

PAGE = (Path(__file__).parents[2] / "docs" / "adding_a_dataset.md").read_text(encoding="utf-8")


def example(name: str) -> dict[str, TaskSpec]:
    block = re.search(rf"<!-- example: {name} -->\n```toml\n(.*?)```", PAGE, flags=re.DOTALL)
    assert block, f"the page has no example {name!r}"
    entries: dict[str, Any] = tomllib.loads(block[1])["task"]
    specs = catalog.load(entries, "docs/adding_a_dataset.md")
    return {entry: specs[entry] for entry in entries}


def test_the_files(tmp_path: Path, tiny_model: Path) -> None:
    specs = example("files")
    texts = sentences(40)
    reviews = [
        {"body": text, "title": text[:9], "stars": (1, 2, 4, 5)[n % 4], "nr": f"r{n}"} for n, text in enumerate(texts)
    ]
    write_jsonl(tmp_path / "reviews" / "train.jsonl", reviews)
    for language in ("de", "fr"):
        lines = [f"{n}\t{text[:5]}\t{text}\t{('good', 'bad')[n % 2]}\n" for n, text in enumerate(texts[:10])]
        write(tmp_path / "reviews" / f"test-{language}.tsv", "".join(lines))
    out = tmp_path / "out"
    train, dev = (prepare(specs["reviews"], split, "en", tiny_model, 64, tmp_path, out) for split in ("train", "dev"))
    assert len(train) + len(dev) == 40
    assert len(dev) > 0
    assert set(train.fields["label"].tolist()) == {0, 1}
    assert train.ids([0])[0].startswith("r")
    abroad = specs["reviews_abroad"]
    assert abroad.training_tasks() == ("reviews",)
    for language in languages_of(abroad, "test", tmp_path):
        shard = prepare(abroad, "test", language, tiny_model, 64, tmp_path, out)
        assert shard.fields["label"].tolist() == [1, 0] * 5


def test_the_csv(tmp_path: Path, tiny_model: Path) -> None:
    spec = example("csv")["riddles"]
    header = "riddle,first,second,third,right\n"
    for split in ("train", "dev"):
        write(tmp_path / "riddles" / f"{split}.csv", header + '"what, then?",a,b,c,2\nwho?,x,y,z,B\n')
    shard = prepare(spec, "dev", "en", tiny_model, 64, tmp_path, tmp_path / "out")
    assert shard.fields["label"].tolist() == [2, 1]
    assert shard.example_offsets.tolist() == [0, 3, 6]


def test_the_hub(tmp_path: Path) -> None:
    spec = example("hub")["opinions"]
    datasets = pytest.importorskip("datasets")
    for language in ("de", "en"):
        folder = tmp_path / "opinions" / language / "test"
        folder.mkdir(parents=True)
        rows = [{"text": f"{language} {n}", "label": n % 2} for n in range(4)]
        datasets.Dataset.from_list(rows).to_parquet(str(folder / "0000.parquet"))
    copy = dataclasses.replace(spec.sources[0], hub=str(tmp_path / "opinions"))
    local = dataclasses.replace(spec, sources=(copy,))
    found = rows_of(local, None, "test", "de")
    assert [row.values["label"] for row in found] == ["negative", "positive"] * 2


def test_the_tags(tmp_path: Path, tiny_model: Path) -> None:
    spec = example("tags")["medicines"]
    text = "take\tO\naspirin\tB-DRUG\nforte\tI-DRUG\n\nno\tO\n\n"
    for split, language in (("train", "en"), ("train", "de"), ("dev", "en"), ("test", "de")):
        write(tmp_path / "medicines" / f"{split}-{language}.txt", text)
    shard = prepare(spec, "test", "de", tiny_model, 32, tmp_path, tmp_path / "out")
    labels = shard.fields["label"]
    assert len(shard) == 2
    assert labels[labels != IGNORED].tolist() == [0, 1, 2, 0]
    assert spec.default_train_languages == ("en",)
    write(tmp_path / "medicines" / "test-en.txt", "take\tO\nforte\tI-DRUG\n")
    with pytest.raises(UserError, match=r"test-en\.txt:2: tags: 'I-DRUG' follows 'O'"):
        prepare(spec, "test", "en", tiny_model, 32, tmp_path, tmp_path / "out")


def test_the_questions(tmp_path: Path, tiny_model: Path) -> None:
    spec = example("questions")["manuals"]

    def answer(number: int) -> dict[str, Any]:
        return {"text": "twice", "answer_start": len(f"Turn key {number} ")}

    paragraphs = [
        {
            "context": f"Turn key {n} twice.",
            "qas": [{"id": f"q{n}", "question": "How often?", "answers": [answer(n)]}],
        }
        for n in range(60)
    ]
    document = {"data": [{"title": "locks", "paragraphs": paragraphs}]}
    write(tmp_path / "manuals" / "questions.json", json.dumps(document))
    found = {split: prepare(spec, split, "en", tiny_model, 96, tmp_path, tmp_path / "out") for split in SPLITS[:3]}
    assert sum(len(shard) for shard in found.values()) == 60
    assert min(len(shard) for shard in found.values()) > 0
    assert found["test"].notes([0])[0]["answers"] == ["twice"]


def test_several_sets_as_one(tmp_path: Path) -> None:
    specs = example("several")
    whole = specs["all_reviews"]
    assert whole.members == ("books", "reviews_translated")
    assert not whole.sources
    assert specs["reviews_translated"].translated_from == "en"
    parts = [(name, language) for name in whole.members for language in specs[name].default_train_languages]
    assert parts == [("books", "en"), *(("reviews_translated", language) for language in ("de", "fr", "sw"))]
    with pytest.raises(UserError, match="Made with our own translation model"):
        rows_of(specs["reviews_translated"], tmp_path, "train", "de")


def test_every_reader_and_format_is_explained() -> None:
    keys = set(READER_NAMES)  # keys of entries, their sources and recipes: tests/test_keys.py
    for name in formats.names():
        format_ = formats.get(name)
        keys |= {name, *format_.required, *format_.optional, *format_.options, *format_.metrics}
    missing = sorted(key for key in keys if f"`{key}`" not in PAGE)
    assert not missing, f"not on the page: {missing}"
