"""Folders laid out like a data set of the hub, read without a network. (tests/hub has the hub itself.)"""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from rows import rows_of, source, spec, write, write_jsonl

from xtrain.errors import UserError
from xtrain.tasks import hub, hub_layout, hub_repository, sources

datasets = pytest.importorskip("datasets")
huggingface_hub = pytest.importorskip("huggingface_hub")

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
    with pytest.raises(UserError, match="no configuration 'tow'") as caught:
        rows_of(task(tmp_path / "set", config="tow"), None)
    assert "did you mean 'two'" in str(caught.value)
    with pytest.raises(UserError, match="no configuration 'default'"):
        rows_of(task(tmp_path / "set"), None)
    with pytest.raises(UserError, match="no split 'validation'"):
        rows_of(task(tmp_path / "set", config="two"), None, "dev")


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
    with pytest.raises(UserError, match="splits of the task's source") as caught:
        rows_of(task(tmp_path / "set"), None, "dev")
    assert "no split 'validation'" in str(caught.value)


def test_the_fingerprint_of_a_folder_is_its_content(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_jsonl(tmp_path / name / "train.jsonl", ROWS)
    marks = [sources.fingerprint(task(tmp_path / name), "train", "en", None) for name in ("one", "two")]
    assert marks[0] == marks[1]
    write_jsonl(tmp_path / "two" / "train.jsonl", ROWS[1:])
    assert sources.fingerprint(task(tmp_path / "two"), "train", "en", None) != marks[0]


def test_an_id_that_the_cache_does_not_know(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Where the network is forbidden it is not tried; the message says where the cache is."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for call in (rows_of, lambda mine, root: sources.fingerprint(mine, "train", "en", root)):
        with pytest.raises(UserError, match="HF_HUB_OFFLINE is set") as caught:
            call(task(Path("some/set")), None)
        assert str(tmp_path / "hub") in str(caught.value)
        assert "--data" in caught.value.problems[0].remedy


def test_the_cache_is_believed_where_there_is_no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A branch is the commit in refs; a commit is itself; what a commit has is read from its snapshot."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "true")
    commit = "0123456789" * 4
    folder = tmp_path / "datasets--some--cached"
    write_jsonl(folder / "snapshots" / commit / "train.jsonl", ROWS)
    write(folder / "refs" / "main", commit)
    branch, pinned = (task(Path("some/cached"), revision=revision) for revision in ("main", commit))
    assert values(rows_of(branch, None)) == values(rows_of(pinned, None))
    marks = [hub.hub_fingerprint(mine.sources[0], "train", "en") for mine in (branch, pinned)]
    assert marks[0] == marks[1] == ["some/cached", "", commit, "train"]
    with pytest.raises(UserError, match="not in the local hub cache"):
        rows_of(task(Path("some/cached"), revision="v2"), None)


def test_rows_are_as_many_as_the_card_says(tmp_path: Path) -> None:
    rows = [{key: row[key] for key in ("premise", "label")} for row in ROWS]
    parquet(tmp_path / "set" / "train-00000-of-00001.parquet", rows)
    columns = "".join(
        f"  - name: {name}\n    dtype: {kind}\n" for name, kind in (("premise", "string"), ("label", "int64"))
    )
    info = f"dataset_info:\n  features:\n{columns}  splits:\n  - name: train\n    num_bytes: 1\n    num_examples: 7\n"
    files = "configs:\n- config_name: default\n  data_files:\n  - split: train\n    path: train-*\n"
    write(tmp_path / "set" / "README.md", f"---\n{info}{files}---\n")
    with pytest.raises(UserError, match="6 rows, and the card says 7"):
        rows_of(task(tmp_path / "set"), None)


def test_no_numbered_file_lacks(tmp_path: Path) -> None:
    for name in ("train-00000-of-00003", "train-00002-of-00003", "test-00000-of-00001"):
        parquet(tmp_path / "set" / f"{name}.parquet", ROWS)
    with pytest.raises(UserError, match="train has 3 files, and 2 of them are there"):
        rows_of(task(tmp_path / "set"), None)


def test_a_loading_script_and_nothing_that_can_be_read(tmp_path: Path) -> None:
    write(tmp_path / "script" / "script.py", "raise SystemExit")
    with pytest.raises(UserError, match="never run") as caught:
        rows_of(task(tmp_path / "script"), None)
    assert hub.PARQUET_BRANCH in str(caught.value)
    write(tmp_path / "empty" / "data.bin", "x")
    with pytest.raises(UserError, match="no files that can be read"):
        rows_of(task(tmp_path / "empty"), None)


def test_a_file_that_is_broken(tmp_path: Path) -> None:
    write(tmp_path / "set" / "train.jsonl", '{"premise": "x", "label":\n')
    with pytest.raises(UserError, match=r"train train\.jsonl:1: not JSON"):
        rows_of(task(tmp_path / "set"), None)
    write(tmp_path / "other" / "train.parquet", "no parquet at all")
    with pytest.raises(UserError, match="cannot be read"):
        rows_of(task(tmp_path / "other"), None)
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 3\n"
    for name in ("train.parquet", "train.csv"):
        write(tmp_path / name / name, pointer)
        with pytest.raises(UserError, match=r"a pointer of Git LFS[^$]*git lfs pull"):
            rows_of(task(tmp_path / name), None)


@pytest.mark.parametrize(
    ("pattern", "name", "matches"),
    [
        ("data/train-*", "data/train-00000-of-00001.parquet", True),
        ("train-*", "data/train-0.parquet", False),
        ("**/train-*", "data/en/train-0.parquet", True),
        ("**/train-*", "train-0.parquet", True),
        ("data/**", "data/en/a.csv", True),
        ("data", "data/en/a.csv", True),
        ("dat", "data/en/a.csv", False),
        ("a.b/?.csv", "a.b/x.csv", True),
        ("a.b/?.csv", "aab/x.csv", False),
    ],
)
def test_patterns_of_a_card(pattern: str, name: str, matches: bool) -> None:
    assert hub_layout._matches(name, pattern) is matches


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("a.csv", {"train": ["a.csv"]}),
        (["a.csv", "b.csv"], {"train": ["a.csv", "b.csv"]}),
        ({"test": "a.csv"}, {"test": ["a.csv"]}),
        (
            [{"split": "test", "path": ["a", "b"]}, {"split": "train", "path": "c"}],
            {"test": ["a", "b"], "train": ["c"]},
        ),
        (None, {}),
    ],
)
def test_the_forms_of_data_files(value: Any, expected: dict[str, list[str]]) -> None:
    assert hub_layout._patterns(value) == expected


def test_what_a_card_says_about_reading(tmp_path: Path) -> None:
    """Its further keys are the reader's; a tsv file needs none."""
    write(tmp_path / "set" / "a.csv", "premise;label\nx, y;1\n")
    write(tmp_path / "set" / "b.tsv", "premise\tlabel\nx, y\t1\n")
    card = "configs:\n- config_name: a\n  data_files: a.csv\n  sep: ;\n- config_name: b\n  data_files: b.tsv\n"
    write(tmp_path / "set" / "README.md", f"---\n{card}---\n")
    for config in ("a", "b"):
        assert values(rows_of(task(tmp_path / "set", config=config), None)) == [("x, y", "b")]


def test_a_token_is_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: "secret-words")
    assert hub_repository.scrubbed("a secret-words\n b hf_abcdefgh123 c") == "a hf_*** b hf_*** c"


TEXTS = ["null", "NA", "NaN", "nan", "None", "N/A", "n/a", "NULL", "<NA>", "#N/A", "-nan", "inf", "", " ", "007", "1.0",
         "1e5", "0x1F", "True", "false", "2020-01-01", "2020-01-01T00:00:00Z", "12:30", "1,234", "-", "-1", "+5", " x ",
         'say "so"', "it's", "two\nlines", "a\u2028b", "\u00e9", "e\u0301", "\U0001f600", "x" * 500]  # fmt: skip


def text_rows(tmp_path: Path, name: str, **keys: Any) -> tuple[list[Any], list[Any]]:
    """The rows that `files` and a folder like the hub's give of the same file."""
    columns = {"text_a": "x", "label": "y", "id": "nr"}
    local = spec(sources=[source(files={"train": name}, columns=columns, **keys)])
    beside = spec(sources=[source(hub=str(tmp_path), splits={"train": "train"}, columns=columns, **keys)])
    return tuple([(row.id, dict(row.values)) for row in rows_of(one, tmp_path)] for one in (local, beside))  # type: ignore[return-value]


@pytest.mark.parametrize("ending", ["csv", "tsv", "tsv quoted", "jsonl", "parquet"])
def test_text_is_text_from_files_and_from_the_hub(tmp_path: Path, ending: str) -> None:
    rows = [{"x": text, "y": "ab"[n % 2], "nr": f"{n:03}"} for n, text in enumerate(TEXTS)]
    if ending == "tsv":  # nothing is quoted there
        rows = [row for row in rows if "\n" not in row["x"]]
    quoted = {"quoted": True} if "quoted" in ending else {}
    name = f"train.{ending.partition(' ')[0]}"
    with open(tmp_path / name, "w", encoding="utf-8", newline="") as handle:
        if ending == "tsv":
            handle.writelines("\t".join(row) + "\n" for row in [["x", "y", "nr"], *(row.values() for row in rows)])
        elif ending == "jsonl":
            handle.writelines(json.dumps(row) + "\n" for row in rows)
        elif ending != "parquet":
            writer = csv.DictWriter(handle, ["x", "y", "nr"], delimiter="\t" if quoted else ",")
            writer.writeheader()
            writer.writerows(rows)
    wanted = [(row["nr"], {"text_a": row["x"], "label": row["y"], "id": row["nr"]}) for row in rows]
    if ending == "parquet":
        parquet(tmp_path / name, rows)
        columns = {"text_a": "x", "label": "y", "id": "nr"}
        beside = spec(sources=[source(hub=str(tmp_path), splits={"train": "train"}, columns=columns)])
        assert [(row.id, row.values) for row in rows_of(beside, None)] == wanted
        return
    files, beside = text_rows(tmp_path, name, **quoted)
    assert files == wanted
    assert beside == wanted


def test_values_of_json_are_what_they_are(tmp_path: Path) -> None:
    """Numbers, booleans and nulls, too; a key that only some rows have is null in the others."""
    rows = [{"x": "1", "y": 1, "nr": 7}, {"x": None, "y": True, "nr": 8.0}, {"x": "2020-01-01", "y": "b", "nr": "009"}]
    folder = tmp_path / "set"
    write_jsonl(folder / "train.jsonl", rows)
    files, beside = text_rows(folder, "train.jsonl", label_map={"1": "a", "true": "b"})
    assert files == beside
    assert [id_ for id_, _ in files] == ["7", "8", "009"]
    write_jsonl(folder / "train.jsonl", [{"y": "a", "nr": 1}, *rows])
    assert rows_of(task(folder, columns={"text_a": "x", "label": "y"}), None)[0].values["text_a"] is None


CARD = "---\nconfigs:\n- config_name: default\n  data_files: {files}\n{more}---\n"


@pytest.mark.parametrize("form", ["list", "lines", "columns", "field"])
def test_the_forms_of_json(tmp_path: Path, form: str) -> None:
    rows = [{"premise": "null", "label": "0"}, {"premise": "001", "label": "1"}]
    field = "  field: data\n" if form == "field" else ""
    content: Any = {"list": rows, "field": {"version": 1, "data": rows}}.get(form)
    content = {key: [row[key] for row in rows] for key in rows[0]} if form == "columns" else content
    text = "".join(json.dumps(row) + "\n" for row in rows) if form == "lines" else json.dumps(content, indent=1)
    write(tmp_path / "train.json", text)
    write(tmp_path / "README.md", CARD.format(files="train.json", more=field))
    assert values(rows_of(task(tmp_path), None)) == [("null", "a"), ("001", "b")]


def test_compressed_files_and_what_the_card_says(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    (folder / "a.csv.gz").write_bytes(gzip.compress(b"old\tnames\n001\t0\nnull\t1\n"))
    more = '  sep: "\\t"\n  names: [premise, label]\n  header: 0\n'
    write(folder / "README.md", CARD.format(files="a.csv.gz", more=more))
    assert values(rows_of(task(folder), None)) == [("001", "a"), ("null", "b")]
    write(folder / "README.md", CARD.format(files="a.csv.gz", more="  comment: '#'\n"))
    with pytest.raises(UserError, match="comment = '#'"):
        rows_of(task(folder), None)


def test_names_of_classes_are_their_numbers_where_the_card_says_them(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    write(folder / "train.csv", "premise,label\nnull,no\n001,yes\nx,1\n")
    names = json.dumps({"0": "no", "1": "yes"})
    label = f'{{"name": "label", "dtype": {{"class_label": {{"names": {names}}}}}}}'
    features = f'[{{"name": "premise", "dtype": "string"}}, {label}]'
    write(folder / "README.md", CARD.format(files="train.csv", more=f"dataset_info:\n  features: {features}\n"))
    assert values(rows_of(task(folder), None)) == [("null", "a"), ("001", "b"), ("x", "b")]
