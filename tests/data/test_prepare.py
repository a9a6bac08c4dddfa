"""Preparing a task: shards hold what the rows say, are made once, and know why they are what they are."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from tiny import make_tiny_tokenizer, pairs, sentences

from xtrain.data import Shard, collate, global_units, prepare
from xtrain.data.prepare import Wanted, prepare_all
from xtrain.errors import UserError
from xtrain.tasks import TaskSpec, catalog, formats
from xtrain.tasks.checking import DataSet
from xtrain.tasks.encoding import PairTokenizer
from xtrain.tasks.formats import Dropped, Encoded, FieldKind, ProblemList, Row
from xtrain.tasks.sampling import Sample

COLUMNS = {"text_a": "text_a", "text_b": "text_b", "label": "label"}


def write(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def task(**keys: Any) -> TaskSpec:
    entry: dict[str, Any] = {
        "format": "classification",
        "languages": ["en"],
        "labels": ["class0", "class1", "class2"],
        "sources": [{"files": {"train": "train.jsonl"}, "columns": COLUMNS}],
    }
    return catalog.load({"t": {**entry, **keys}})["t"]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write(tmp_path / "train.jsonl", pairs(60))
    return tmp_path


def make(
    data: Path, model: Path, max_length: int = 64, spec: TaskSpec | None = None, split: str = "train", **keys: Any
) -> Shard:
    return prepare(spec or task(), split, "en", model, max_length, data, data / "out", **keys)


def test_a_shard_holds_the_rows(data: Path, tiny_model: Path) -> None:
    from transformers import AutoTokenizer

    shard = make(data, tiny_model, 24)
    rows = list(pairs(60))
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    wanted = [tokenizer(row["text_a"], row["text_b"], truncation=True, max_length=24)["input_ids"] for row in rows]
    batch = collate(shard, range(60), "t")
    assert batch.input_ids.tolist() == [token for ids in wanted for token in ids]
    assert [f"class{n}" for n in batch.fields["label"].tolist()] == [row["label"] for row in rows]
    assert shard.ids([0, 59]) == ["0", "59"]
    cut = sum(len(tokenizer(row["text_a"], row["text_b"])["input_ids"]) > 24 for row in rows)
    assert shard.manifest["truncated"] == cut > 0
    assert {key: shard.manifest[key] for key in ("task", "format", "split", "language", "rows")} == {
        "task": "t", "format": "classification", "split": "train", "language": "en", "rows": 60,
    }  # fmt: skip


def test_it_is_made_once(data: Path, tiny_model: Path) -> None:
    first = make(data, tiny_model)
    marked = first.path / "manifest.json"
    before = marked.stat().st_mtime_ns
    assert make(data, tiny_model).path == first.path
    assert marked.stat().st_mtime_ns == before
    shutil.copytree(data, data / "moved")  # the same files elsewhere are the same data
    assert prepare(task(), "train", "en", tiny_model, 64, data / "moved", data / "out").path == first.path


def test_it_is_made_anew_when_anything_changes(data: Path, tiny_model: Path) -> None:
    make_tiny_tokenizer(data / "other", vocab=390)
    paths = [make(data, tiny_model).path, make(data, tiny_model, 32).path, make(data, data / "other").path]
    paths.append(make(data, tiny_model, sample=Sample(7)).path)
    paths.append(make(data, tiny_model, spec=task(labels=["class2", "class1", "class0"])).path)
    write(data / "train.jsonl", pairs(59))
    paths.append(make(data, tiny_model).path)
    assert len(set(paths)) == len(paths)
    assert len(make(data, tiny_model, sample=Sample(7))) == 7


def test_a_damaged_shard_is_made_again(data: Path, tiny_model: Path) -> None:
    first = make(data, tiny_model)
    (first.path / "tokens.npy").unlink()
    again = make(data, tiny_model)
    assert again.fingerprint == first.fingerprint
    again.verify()


def test_shards_do_not_depend_on_the_number_of_processes(data: Path, tiny_model: Path) -> None:
    found = []
    for workers in (1, 3):
        wanted = [Wanted(DataSet(task(), "train", "en"), length) for length in (8, 16, 24, 32, 48)]
        out = data / f"out-{workers}"
        with mock.patch("xtrain.data.checking.SMALL", 0):
            prepare_all(wanted, tiny_model, data, out, workers=workers)
        found.append({path.relative_to(out): path.read_bytes() for path in out.rglob("*") if path.is_file()})
    assert found[0] == found[1]
    assert len({path.parent for path in found[0]}) == 5


def test_dropped_rows_are_counted(data: Path, tiny_model: Path) -> None:
    rows = list(pairs(10))
    rows[3]["label"] = rows[7]["label"] = "-"
    write(data / "train.jsonl", rows)
    shard = make(data, tiny_model)
    assert len(shard) == 8
    assert shard.manifest["dropped"] == {"unlabelled": 2}
    assert shard.ids([3]) == ["4"]  # the number of the row in the file
    write(data / "train.jsonl", [{**row, "label": "-1"} for row in rows])
    with pytest.raises(UserError, match="no example is left of train in en: of 10 rows, 10 unlabelled"):
        make(data, tiny_model)


def test_all_problems_of_a_file_at_once(data: Path, tiny_model: Path) -> None:
    rows = list(pairs(10))
    rows[2]["label"] = "class9"
    rows[4]["text_a"] = 5
    lines = [json.dumps(row) for row in rows]
    lines[6] = "{broken"
    (data / "train.jsonl").write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(UserError) as caught:
        make(data, tiny_model)
    places = sorted(problem.where.rsplit("train.jsonl:", 1)[1] for problem in caught.value.problems)
    assert places == ["3: label", "5: text_a", "7"]
    assert list((data / "out").rglob("*.tmp")) == []


def test_progress(data: Path, tiny_model: Path) -> None:
    seen: list[int] = []
    make(data, tiny_model, progress=seen.append)
    assert seen == [60]


def test_choices_and_sentence_pairs(tmp_path: Path, tiny_model: Path) -> None:
    texts = sentences(8)
    write(
        tmp_path / "mc.jsonl",
        [{"c": text, "x": texts[: 2 + n % 3], "l": n % 2} for n, text in enumerate(texts)],
    )
    columns = {"context": "c", "choices": "x", "label": "l"}
    choice = task(format="multiple_choice", labels=[], sources=[{"files": {"train": "mc.jsonl"}, "columns": columns}])
    shard = make(tmp_path, tiny_model, spec=choice)
    assert (shard.example_offsets[1:] - shard.example_offsets[:-1]).tolist() == [2, 3, 4, 2, 3, 4, 2, 3]
    write(tmp_path / "p.jsonl", [{"s": text, "t": text[::-1]} for text in texts])
    columns = {"source": "s", "target": "t"}
    retrieval = task(
        format="sentence_retrieval", labels=[], sources=[{"files": {"test": "p.jsonl"}, "columns": columns}]
    )
    shard = prepare(retrieval, "test", "en", tiny_model, 64, tmp_path, tmp_path / "out")
    assert shard.example_offsets.tolist() == list(range(0, 17, 2))
    assert shard.fields == {}
    assert collate(shard, [3], "t").num_sequences == 2


class Tagging(formats.Format):
    """A format that the package does not have: a tag a word, on its first piece."""

    name = "toy_tagging"
    required: tuple[str, ...] = ("words", "tags")
    optional: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ("f1",)
    trained = True
    fields: Mapping[str, FieldKind] = {"label": "token"}

    def read(self, rows: Iterable[Row], spec: TaskSpec, language: str, problems: ProblemList) -> Iterator[Row]:
        yield from rows

    def tokenise(
        self, read: Iterable[Row], tokenizer: PairTokenizer, spec: TaskSpec, max_length: int
    ) -> Iterator[Encoded | Dropped]:
        for row in read:
            ids, tags = [tokenizer.begin], [-100]
            for pieces, tag in zip(tokenizer.pieces(row.values["words"]), row.values["tags"], strict=True):
                ids += pieces
                tags += [spec.labels.index(tag), *[-100] * (len(pieces) - 1)]
            yield Encoded(row.id, [[*ids, tokenizer.end]], {"label": [*tags, -100]})


def test_a_new_format_is_one_more_object(tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "_registered", {})
    formats.register(Tagging())
    rows = [{"w": text.split(), "t": ["N", "V"] * 20} for text in sentences(6)]
    write(tmp_path / "tags.jsonl", [{**row, "t": row["t"][: len(row["w"])]} for row in rows])
    columns = {"words": "w", "tags": "t"}
    spec = task(
        format="toy_tagging", metric="f1", labels=["N", "V"],
        sources=[{"files": {"train": "tags.jsonl"}, "columns": columns}],
    )  # fmt: skip
    shard = make(tmp_path, tiny_model, spec=spec)
    batch = collate(shard, [4, 1], "t")
    assert batch.fields["label"].shape == batch.input_ids.shape
    words = len(rows[4]["w"]) + len(rows[1]["w"])
    assert int((batch.fields["label"] >= 0).sum()) == words == global_units(shard, [4, 1])


def test_a_test_set_without_labels_is_kept_and_others_are_not(tmp_path: Path, tiny_model: Path) -> None:
    texts = sentences(6)
    for split in ("train", "test"):
        write(tmp_path / f"{split}.jsonl", [{"a": text} for text in texts])
    write(tmp_path / "dev.jsonl", [{"a": text, "y": (None, "x")[n % 2]} for n, text in enumerate(texts)])
    files = {split: f"{split}.jsonl" for split in ("train", "dev", "test")}
    spec = task(sources=[{"files": files, "columns": {"text_a": "a", "label": "y"}}], labels=["x", "z"])
    hidden = make(tmp_path, tiny_model, spec=spec, split="test")
    assert (len(hidden), hidden.labelled) == (6, False)
    assert set(hidden.fields["label"].tolist()) == {-100}
    with pytest.raises(UserError, match="there is no column 'y'"):
        make(tmp_path, tiny_model, spec=spec, split="train")
    shown = make(tmp_path, tiny_model, spec=spec, split="dev")
    assert (len(shown), shown.labelled, shown.manifest["dropped"]) == (3, True, {"unlabelled": 3})


def test_empty_texts_are_dropped_and_counted_but_kept_in_a_test_set(data: Path, tiny_model: Path) -> None:
    rows = list(pairs(10))
    rows[4]["text_a"], rows[7]["text_b"] = "", None
    (data / "train.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    files = dict.fromkeys(("train", "dev", "test"), "train.jsonl")
    spec = task(sources=[{"files": files, "columns": COLUMNS}])
    manifests = [
        prepare(spec, split, "en", tiny_model, 64, data, data / "out").manifest for split in ("train", "dev", "test")
    ]
    assert [found["examples"] for found in manifests] == [8, 8, 10]
    assert [found["dropped"] for found in manifests] == [{"empty text": 2}, {"empty text": 2}, {}]
    assert [found["remarks"] for found in manifests] == [{}, {}, {"empty text": 2}]
