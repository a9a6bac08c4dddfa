"""Data sets of the hub, here folders laid out like one, read without a network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from rows import rows_of, source, spec, write, write_jsonl

from xtrain.errors import UserError
from xtrain.tasks import hub, sources

datasets = pytest.importorskip("datasets")

ROWS = [{"premise": f"text {n}", "label": n % 2, "more": {"words": ["x", "y"]}} for n in range(6)]
COLUMNS = {"text_a": "premise", "label": "label"}
LABELS = {"0": "a", "1": "b"}


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))


def parquet(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    datasets.Dataset.from_list(rows).to_parquet(str(path))


def task(folder: Path, **keys: Any) -> Any:
    given = {"splits": {"train": "train", "dev": "validation"}, "columns": COLUMNS, "label_map": LABELS}
    return spec(sources=[source(hub=str(folder), **{**given, **keys})])


def values(rows: list[Any]) -> list[tuple[str, str]]:
    return [(row.values["text_a"], row.values["label"]) for row in rows]


def test_a_folder_of_parquet_files(tmp_path: Path) -> None:
    parquet(tmp_path / "set" / "data" / "train-00000-of-00001.parquet", ROWS)
    parquet(tmp_path / "set" / "data" / "validation-00000-of-00001.parquet", ROWS[:2])
    mine = task(tmp_path / "set")
    assert values(rows_of(mine, None)) == [(f"text {n}", "ab"[n % 2]) for n in range(6)]
    assert values(rows_of(mine, tmp_path, "dev")) == [("text 0", "a"), ("text 1", "b")]
    assert "train row 2" in rows_of(mine, None)[1].where


def test_a_folder_with_a_card_that_names_its_configurations(tmp_path: Path) -> None:
    for name, rows in (("one", ROWS[:2]), ("two", ROWS[2:])):
        parquet(tmp_path / "set" / name / "train-00000-of-00001.parquet", rows)
    configs = "".join(
        f"- config_name: {name}\n  data_files:\n  - split: train\n    path: {name}/train-*\n" for name in ("one", "two")
    )
    write(tmp_path / "set" / "README.md", f"---\nconfigs:\n{configs}---\n")
    assert len(rows_of(task(tmp_path / "set", config="two"), None)) == 4
    with pytest.raises(UserError, match="cannot be loaded"):
        rows_of(task(tmp_path / "set", config="three"), None)


def test_a_folder_laid_out_like_the_parquet_branch(tmp_path: Path) -> None:
    for language, rows in (("de", ROWS[:2]), ("fr", ROWS[2:])):
        parquet(tmp_path / "set" / language / "test" / "0000.parquet", rows)
    entry = {"hub": str(tmp_path / "set"), "config": "{lang}", "splits": {"test": "test"}}
    mine = spec(languages=["de", "fr"], sources=[source(**entry, columns=COLUMNS, label_map=LABELS)])
    assert len(rows_of(mine, None, "test", "de")) == 2
    assert len(rows_of(mine, None, "test", "fr")) == 4
    assert sources.languages_of(mine, "test", None) == ("de", "fr")


def test_jsonl_and_joined_splits(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "set" / "train.jsonl", ROWS)
    write_jsonl(tmp_path / "set" / "test.jsonl", ROWS[:3])
    mine = task(tmp_path / "set", splits={"train": "train+test"})
    assert len(rows_of(mine, None)) == 9


def test_nested_columns(tmp_path: Path) -> None:
    parquet(tmp_path / "set" / "train.parquet", ROWS)
    columns = {"context": "premise", "choices": "more.words", "label": "label"}
    entry = source(hub=str(tmp_path / "set"), splits={"train": "train"}, columns=columns)
    mine = spec(format="multiple_choice", sources=[entry])
    assert rows_of(mine, None)[0].values["choices"] == ["x", "y"]


def test_a_hash_split(tmp_path: Path) -> None:
    parquet(tmp_path / "set" / "train.parquet", [{"premise": f"t {n}", "label": 0} for n in range(100)])
    mine = task(tmp_path / "set", splits={"train": "train"}, hash_split={"dev": 0.3})
    train, dev = (values(rows_of(mine, None, split)) for split in ("train", "dev"))
    assert len(train) + len(dev) == 100
    assert dev
    assert not set(train) & set(dev)


def test_missing_columns_are_all_named(tmp_path: Path) -> None:
    parquet(tmp_path / "set" / "train.parquet", ROWS)
    columns = {"text_a": "premis", "label": "gold"}
    with pytest.raises(UserError) as caught:
        rows_of(task(tmp_path / "set", splits={"train": "train"}, columns=columns), None)
    assert len(caught.value.problems) == 2
    assert "did you mean 'premise'" in str(caught.value)


def test_an_unknown_split(tmp_path: Path) -> None:
    parquet(tmp_path / "set" / "train.parquet", ROWS)
    with pytest.raises(UserError, match="splits of the task's source"):
        rows_of(task(tmp_path / "set"), None, "dev")


def test_the_fingerprint_of_a_folder_is_its_content(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_jsonl(tmp_path / name / "train.jsonl", ROWS)
    marks = [sources.fingerprint(task(tmp_path / name), "train", "en", None) for name in ("one", "two")]
    assert marks[0] == marks[1]
    write_jsonl(tmp_path / "two" / "train.jsonl", ROWS[1:])
    assert sources.fingerprint(task(tmp_path / "two"), "train", "en", None) != marks[0]


def test_the_fingerprint_of_an_id_needs_no_network() -> None:
    def mark(**keys: Any) -> str:
        return sources.fingerprint(task(Path("some/set"), **keys), "train", "en", None)

    assert mark() == mark()
    assert len({mark(), mark(revision="v1"), mark(config="x"), mark(splits={"train": "all"})}) == 4


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (RuntimeError("Dataset scripts are no longer supported, but found x.py"), "refs/convert/parquet"),
        (ConnectionError("Couldn't reach 'some/set' on the Hub"), "name them with --data"),
        (FileNotFoundError("Dataset 'some/set' doesn't exist"), "check hub, config, revision"),
        (ValueError("BuilderConfig 'x' not found. Available: ['y']"), "Available: ['y']"),
    ],
)
def test_what_is_said_when_loading_fails(monkeypatch: pytest.MonkeyPatch, error: Exception, said: str) -> None:
    def refuse(**arguments: Any) -> None:
        assert "trust_remote_code" not in arguments
        raise error

    monkeypatch.setattr(datasets, "load_dataset", refuse)
    with pytest.raises(UserError) as caught:
        rows_of(task(Path("some/set")), None)
    assert "some/set train (main)" in str(caught.value)
    assert said in str(caught.value)


def test_what_is_asked_of_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []

    def answer(**arguments: Any) -> Any:
        asked.append(arguments)
        return datasets.Dataset.from_list(ROWS)

    monkeypatch.setattr(datasets, "load_dataset", answer)
    rows_of(task(Path("some/set"), config="c", revision="v2"), None)
    rows_of(task(Path("some/set"), config="c", revision=hub.PARQUET_BRANCH), None, "dev")
    assert asked == [
        {"path": "some/set", "revision": "v2", "name": "c", "split": "train"},
        {"path": "some/set", "revision": hub.PARQUET_BRANCH, "data_dir": "c", "split": "validation"},
    ]
