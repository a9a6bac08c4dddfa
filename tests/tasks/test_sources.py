"""Which source is taken, what is said when files are missing, hash splits, languages and fingerprints."""

from __future__ import annotations

import subprocess
import sys
from itertools import chain
from pathlib import Path

import pytest
from rows import rows_of, source, spec, write, write_jsonl

from xtrain.errors import UserError
from xtrain.tasks import TaskSpec, sources

ROWS = [{"text": f"text {n}", "label": "ab"[n % 2]} for n in range(400)]


def test_missing_data_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--data .*nowhere: no such folder"):
        sources.choose(spec(), tmp_path / "nowhere")
    with pytest.raises(UserError, match="is not a folder"):
        sources.choose(spec(), write(tmp_path / "file", ""))


def test_the_first_source_whose_training_file_is_there_is_taken(tmp_path: Path) -> None:
    full = source(files={"train": "train.jsonl", "dev": "dev.jsonl"})
    half = source(files={"train": "dev.jsonl"}, hash_split={"dev": 0.2})
    task = spec(sources=[full, half])
    write_jsonl(tmp_path / "dev.jsonl", ROWS)
    assert sources.choose(task, tmp_path) == task.sources[1]
    write_jsonl(tmp_path / "train.jsonl", ROWS)
    assert sources.choose(task, tmp_path) == task.sources[0]
    assert len(rows_of(task, tmp_path, "dev")) == 400


def test_missing_files_are_named_and_the_hub_is_no_silent_replacement(tmp_path: Path) -> None:
    task = spec(sources=[source(), source(hub="no/such", splits={"train": "train"})])
    with pytest.raises(UserError) as caught:
        sources.choose(task, tmp_path)
    assert str(tmp_path / "train.jsonl") in str(caught.value)
    assert "without --data it is read from the hub" in str(caught.value)
    assert sources.choose(task, None) == task.sources[1]


def test_the_hub_is_taken_where_the_task_has_no_files(tmp_path: Path) -> None:
    task = spec(sources=[source(hub="no/such", splits={"train": "train"})])
    assert sources.choose(task, tmp_path) == task.sources[0]


def test_files_without_data_and_without_a_hub(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--data is not given") as caught:
        sources.choose(spec(), None)
    assert "train.jsonl" in str(caught.value)


def test_absolute_paths_need_no_data_folder(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "train.jsonl", ROWS)
    assert len(rows_of(spec(sources=[source(files={"train": str(path)})]), None)) == 400


def test_a_missing_split_and_a_missing_language(tmp_path: Path) -> None:
    task = spec(languages=["de", "en"], sources=[source(files={"train": "{lang}.jsonl"})])
    write_jsonl(tmp_path / "en.jsonl", ROWS)
    with pytest.raises(UserError, match=r"de\.jsonl: no such file \(t, train, de\)"):
        rows_of(task, tmp_path, language="de")
    with pytest.raises(UserError, match="has no test set") as caught:
        rows_of(task, tmp_path, "test")
    assert "allowed: train" in str(caught.value)


def test_the_hash_split_is_a_partition_that_hangs_on_the_text_alone(tmp_path: Path) -> None:
    task = spec(sources=[source(hash_split={"dev": 0.2, "test": 0.1})])
    write_jsonl(tmp_path / "train.jsonl", ROWS)
    splits = {
        name: [row.values["text_a"] for row in rows_of(task, tmp_path, name)] for name in ("train", "dev", "test")
    }
    assert sorted(chain.from_iterable(splits.values())) == sorted(row["text"] for row in ROWS)
    assert 55 < len(splits["dev"]) < 105
    assert 20 < len(splits["test"]) < 65
    # the same rows in another order and in another file fall the same way, for ever
    write_jsonl(tmp_path / "train.jsonl", [*reversed(ROWS[:50]), {"text": "a new one", "label": "a"}])
    again = {row.values["text_a"] for row in rows_of(task, tmp_path, "dev")}
    assert again - {"a new one"} == set(splits["dev"]) & {row["text"] for row in ROWS[:50]}
    assert splits["dev"][:5] == ["text 6", "text 12", "text 13", "text 14", "text 17"]


def test_rows_that_share_the_hashed_column_stay_together(tmp_path: Path) -> None:
    columns = {"text_a": "text", "text_b": "more", "label": "label"}
    task = spec(sources=[source(columns=columns, hash_split={"dev": 0.3}, hash_by=["text_a"])])
    rows = [{"text": f"passage {n % 20}", "more": f"question {n}", "label": "a"} for n in range(200)]
    write_jsonl(tmp_path / "train.jsonl", rows)
    train, dev = ({row.values["text_a"] for row in rows_of(task, tmp_path, split)} for split in ("train", "dev"))
    assert train
    assert dev
    assert not train & dev


def test_where_keeps_the_rows_of_a_split_and_language(tmp_path: Path) -> None:
    files = {"train": "all.jsonl", "test": "all.jsonl"}
    where = {"part": "{split}", "language": "{lang}"}
    task = spec(languages=["de", "en"], sources=[source(files=files, where=where)])
    write_jsonl(
        tmp_path / "all.jsonl",
        [
            {"text": "one", "label": "a", "part": "train", "language": "en"},
            {"text": "zwei", "label": "b", "part": "test", "language": "de"},
        ],
    )
    assert [row.values["text_a"] for row in rows_of(task, tmp_path, "train", "en")] == ["one"]
    assert [row.values["text_a"] for row in rows_of(task, tmp_path, "test", "de")] == ["zwei"]
    assert rows_of(task, tmp_path, "train", "de") == []
    marks = {sources.fingerprint(task, s, lang, tmp_path) for s in ("train", "test") for lang in ("de", "en")}
    assert len(marks) == 4
    lost = spec(sources=[source(files={"train": "all.jsonl"}, where={"prt": "train"})])
    with pytest.raises(UserError, match="no column 'prt'"):
        rows_of(lost, tmp_path)


def every(tmp_path: Path, pattern: str = "{lang}/test.{lang}.jsonl") -> TaskSpec:
    return spec(languages=["*"], language_codes={"de": "deu"}, sources=[source(files={"test": pattern})])


def test_every_language_whose_file_is_there(tmp_path: Path) -> None:
    task = every(tmp_path)
    with pytest.raises(UserError, match="no data of t"):
        sources.languages_of(task, "test", tmp_path)
    for code in ("deu", "zh-Hans", "fr"):
        write_jsonl(tmp_path / code / f"test.{code}.jsonl", ROWS[:2])
    write_jsonl(tmp_path / "fr" / "test.xx.jsonl", ROWS[:2])
    assert sources.languages_of(task, "test", tmp_path) == ("de", "fr", "zh-Hans")
    assert len(rows_of(task, tmp_path, "test", "de")) == 2
    assert sources.languages_of(spec(), "test", tmp_path) == ("en",)


def test_evaluation_split() -> None:
    both = spec(sources=[source(files={"train": "a.jsonl", "dev": "b.jsonl", "test": "c.jsonl"})])
    assert [both.evaluation_split(split) for split in ("dev", "test")] == ["dev", "test"]
    one = spec(sources=[source(hash_split={"dev": 0.1})])
    assert one.evaluation_split("test") == "dev"


def test_the_fingerprint_knows_content_and_meaning_but_not_the_place(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there" / "deep"
    write_jsonl(here / "train.jsonl", ROWS)
    write_jsonl(there / "train.jsonl", ROWS)
    mark = sources.fingerprint(spec(), "train", "en", here)
    assert sources.fingerprint(spec(), "train", "en", there) == mark
    assert sources.fingerprint(spec(labels=["b", "a"]), "train", "en", here) != mark
    mapped = spec(sources=[source(label_map={"x": "a"})])
    assert sources.fingerprint(mapped, "train", "en", here) != mark
    write_jsonl(there / "train.jsonl", ROWS[1:])
    assert sources.fingerprint(spec(), "train", "en", there) != mark
    with pytest.raises(UserError, match=r"looked for .*train\.jsonl"):
        sources.fingerprint(spec(), "train", "en", tmp_path)
    split = spec(sources=[source(hash_split={"dev": 0.1})])
    assert sources.fingerprint(split, "train", "en", here) != sources.fingerprint(split, "dev", "en", here)


def test_the_fingerprint_is_the_same_in_another_process(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "mnli.jsonl", ROWS)
    code = (
        "from pathlib import Path; from xtrain.tasks import catalog, sources;"
        "columns = {'text_a': 'text', 'label': 'label'};"
        "source = {'files': {'train': 'mnli.jsonl'}, 'columns': columns};"
        "entry = {'format': 'classification', 'languages': ['en'], 'labels': ['a', 'b']};"
        "entry['sources'] = [source];"
        "task = catalog.load({'t': entry})['t'];"
        f"print(sources.fingerprint(task, 'train', 'en', Path({str(tmp_path)!r})))"
    )
    marks = {
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout for _ in "ab"
    }
    assert len(marks) == 1
    files = {"train": "mnli.jsonl"}
    assert marks.pop().strip() == sources.fingerprint(spec(sources=[source(files=files)]), "train", "en", tmp_path)
