"""The text of a test set is measured while it is prepared, whatever the format: words of each example, and of all."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from xtrain.data.account import Account
from xtrain.data.prepare import prepare
from xtrain.data.shards import Shard
from xtrain.language_facts import TextMeasures
from xtrain.tasks import catalog
from xtrain.tasks.sampling import Sample

CLASSES: dict[str, Any] = {"format": "classification", "labels": ["p", "q"]}
PAIRS = ({"a": "Ein kurzer Satz.", "b": "Noch einer", "y": "p"}, {"a": "Ein kurzer Satz.", "b": "Aber nein!", "y": "q"})


def shard(
    data: Path, model: Path, entry: Mapping[str, Any], columns: Mapping[str, Any], rows: Sequence[Mapping[str, Any]],
    *, split: str = "test", language: str = "de", sample: Sample | None = None,
) -> Shard:  # fmt: skip
    files = {"train": "train.jsonl", "test": "test.jsonl"}
    source = {"files": files, "columns": columns}
    spec = catalog.load({"t": {"languages": [language], "sources": [source], **entry}})["t"]
    for name in files.values():
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (data / name).write_text(text, encoding="utf-8")
    return prepare(spec, split, language, model, 32, data, data / "out", sample)


def test_a_pair_and_the_next_of_the_same_premise(tmp_path: Path, tiny_model: Path) -> None:
    found = shard(tmp_path, tiny_model, CLASSES, {"text_a": "a", "text_b": "b", "label": "y"}, PAIRS)
    assert found.words() == {"0": 5, "1": 5}
    measures = Account.of(found.manifest).measures
    words = ["ein", "kurzer", "satz", "noch", "einer", "aber", "nein"]
    assert measures == TextMeasures(7, sum(map(len, words)) / 7, None)
    assert Account.of(found.manifest).tokens()["mean_word_length"] == measures.mean_word_length
    assert "type_token_ratio" not in Account.of(found.manifest).tokens(), "there is no window"


@pytest.mark.parametrize(
    ("entry", "columns", "row", "words"),
    [
        ({"format": "multiple_choice"}, {"context": "c", "choices": "x", "label": "y"},
         {"c": "Wer kommt da?", "x": ["niemand", "der Wind"], "y": 0}, 6),
        ({"format": "tagging", "labels": ["p", "q"], "metric": "f1"}, {"tokens": "w", "tags": "y"},
         {"w": ["Anna", "schläft", "."], "y": ["p", "q", "q"]}, 2),
        ({"format": "span_qa", "metric": "f1"}, {"question": "q", "context": "c", "answers": "a", "answer_starts": "s"},
         {"q": "Wer schläft?", "c": "Es ist Anna.", "a": ["Anna"], "s": [7]}, 5),
        ({"format": "sentence_retrieval"}, {"source": "s", "target": "t"}, {"s": "Guten Tag", "t": "One good day"}, 2),
        ({"format": "answer_retrieval", "metric": "map@20"}, {"query": "q", "candidate": "c"},
         {"q": "Wer denn?", "c": "Anna war es"}, 5),
    ],
    ids=lambda value: value.get("format", "") if isinstance(value, dict) else "",
)  # fmt: skip
def test_every_format(
    entry: dict[str, Any], columns: dict[str, Any], row: dict[str, Any], words: int, tmp_path: Path, tiny_model: Path
) -> None:
    found = shard(tmp_path, tiny_model, entry, columns, [row])
    assert list(found.words().values()) == [words]
    assert Account.of(found.manifest).measures.words == words


def test_what_was_drawn_is_measured(tmp_path: Path, tiny_model: Path) -> None:
    rows = [{"a": "wort " * (n + 1), "y": "pq"[n % 2]} for n in range(20)]
    found = shard(tmp_path, tiny_model, CLASSES, {"text_a": "a", "label": "y"}, rows, sample=Sample(6))
    assert len(found.words()) == 6
    assert found.words() == {id_: int(id_) + 1 for id_ in found.words()}


@pytest.mark.parametrize(("split", "language"), [("train", "de"), ("test", "zh"), ("test", "qaa")])
def test_training_sets_and_languages_without_words_are_not(
    split: str, language: str, tmp_path: Path, tiny_model: Path
) -> None:
    columns = {"text_a": "a", "text_b": "b", "label": "y"}
    found = shard(tmp_path, tiny_model, CLASSES, columns, PAIRS, split=split, language=language)
    assert found.words() == {}
    assert Account.of(found.manifest).measures == TextMeasures()


def test_an_account_of_an_older_run_has_no_measures() -> None:
    older = Account("t", "test", "de", rows=3).as_json()
    del older["measures"]
    assert Account.of(older) == Account("t", "test", "de", rows=3)
