"""BUCC's three files and their copy on the hub: what is made of them, and what is said to malformed ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from rows import rows_of, spec, write

from xtrain.data import prepare
from xtrain.errors import UserError
from xtrain.tasks import TaskSpec, catalog, formats
from xtrain.tasks.bitext_mining import AGAIN, ENGLISH, FIRST, FOREIGN, ONCE
from xtrain.tasks.encoding import PairTokenizer
from xtrain.tasks.formats import EMPTY, Companion, Encoded, ProblemList, Row

COLUMNS = {name: name for name in ("foreign", "english", "foreign_ids", "english_ids", "gold")}
FOREIGN_TEXT = "xx-1\tein hund\nxx-2\teine katze\n\nxx-3\tein hund \nxx-4\tein haus\r\n"
ENGLISH_TEXT = "en-1\ta tree\nen-2\ta cat\nen-3\ta dog\tor two\n"
GOLD = "xx-2\ten-2\nxx-4\ten-1\n"


def task(**entry: Any) -> TaskSpec:
    paths = ["b/{lang}.foreign", "b/{lang}.english", "b/{lang}.gold"]
    source = {"files": {"dev": paths}, "reader": "bitext", "columns": COLUMNS}
    return spec(**{"format": "bitext_mining", "metric": "f1", "languages": ["xx", "yy"], "sources": [source], **entry})


def files(root: Path, foreign: str = FOREIGN_TEXT, english: str = ENGLISH_TEXT, gold: str = GOLD) -> Path:
    for name, text in (("foreign", foreign), ("english", english), ("gold", gold)):
        write(root / f"b/xx.{name}", text)
    return root


def error(root: Path) -> str:
    with pytest.raises(UserError) as caught:
        rows_of(task(), root, "dev", "xx")
    return str(caught.value)


def encoded(row: dict[str, Any], tiny_model: Path, **options: Any) -> list[Encoded]:
    problems = ProblemList()
    tokenizer = PairTokenizer(tiny_model)
    read = formats.get("bitext_mining").encode(
        [Row("f", "0", row)], tokenizer, task(options=options), 16, "xx", problems
    )
    found = list(read)
    problems.raise_if_any()
    assert all(isinstance(item, Encoded) for item in found)
    return found  # type: ignore[return-value]


def test_the_three_files_are_one_row(tmp_path: Path) -> None:
    [row] = rows_of(task(), files(tmp_path), "dev", "xx")
    assert row.values["foreign"] == ["ein hund", "eine katze", "ein hund", "ein haus"]
    assert row.values["english"] == ["a tree", "a cat", "a dog\tor two"]
    assert row.values["foreign_ids"] == ["xx-1", "xx-2", "xx-3", "xx-4"]
    assert row.values["gold"] == [("xx-2", "en-2"), ("xx-4", "en-1")]


def test_a_sentence_is_an_example_translations_side_by_side(tmp_path: Path, tiny_model: Path) -> None:
    shard = prepare(task(), "dev", "xx", tiny_model, 16, files(tmp_path), tmp_path / "out")
    rows = range(len(shard))
    assert shard.ids(rows) == ["xx-1", "en-1", "xx-2", "en-2", "xx-3", "en-3", "xx-4"]
    assert shard.fields["side"].tolist() == [FOREIGN, ENGLISH, FOREIGN, ENGLISH, FOREIGN, ENGLISH, FOREIGN]
    assert shard.fields["copy"].tolist() == [FIRST, ONCE, ONCE, ONCE, AGAIN, ONCE, ONCE]
    notes = [{"gold": []}, None, {"gold": ["en-2"]}, None, {"gold": []}, None, {"gold": ["en-1"]}]
    assert shard.notes(rows) == notes


def test_any_first_part_has_both_sides_in_proportion_and_whole_pairs(tiny_model: Path) -> None:
    row = {
        "foreign": [f"f{n}" for n in range(60)],
        "english": [f"e{n}" for n in range(90)],
        "gold": [[n + 1, 90 - n] for n in range(0, 60, 5)],
    }
    found = encoded(row, tiny_model)
    assert len({item.id for item in found}) == len(found) == 150
    part = found[:50]
    assert 17 <= sum(item.fields["side"] == [FOREIGN] for item in part) <= 23
    there = {item.id for item in part}
    pairs = [(item.id, other) for item in part if item.note for other in item.note["gold"]]
    assert len(pairs) >= 3
    assert all(other in there for _, other in pairs)


def test_the_hubs_copy_has_places_from_one_and_ids_as_bucc_has_them(tiny_model: Path) -> None:
    row = {"foreign": ["eins", "zwei"], "english": ["two", "one", "six"], "gold": [[1, 2], [2, 1]]}
    found = {item.id: item for item in encoded(row, tiny_model, prefix="query: ")}
    assert set(found) == {"xx-000000001", "xx-000000002", "en-000000001", "en-000000002", "en-000000003"}
    assert found["xx-000000001"].note == {"gold": ["en-000000002"]}
    tokenizer = PairTokenizer(tiny_model)
    assert found["en-000000003"].sequences == [tokenizer.sequence(tokenizer.pieces(["query: six"])[0], None, 16)[0]]


def test_a_copy_on_the_hub_is_read(tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As mteb/BUCC has it: one row a language pair, lists of sentences, pairs of places."""
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    row = {"sentence1": ["eins", "zwei", "drei"], "sentence2": ["two", "one", "six", "ten"], "gold": [[1, 2], [2, 1]]}
    path = tmp_path / "hub/zh-en/test/0000.parquet"
    path.parent.mkdir(parents=True)
    datasets.Dataset.from_list([row]).to_parquet(str(path))
    bucc = catalog.load({"bucc2018_hub": {"sources": [copy_of_the_catalogues(str(tmp_path / "hub"))]}})["bucc2018_hub"]
    shard = prepare(bucc, "test", "zh", tiny_model, 16, None, tmp_path / "shards")
    rows = range(len(shard))
    gold = {id_: note["gold"] for id_, note in zip(shard.ids(rows), shard.notes(rows), strict=True) if note}
    assert gold == {"zh-000000001": ["en-000000002"], "zh-000000002": ["en-000000001"], "zh-000000003": []}
    assert len(shard) == 7


def copy_of_the_catalogues(hub: str) -> dict[str, Any]:
    [source] = catalog.load()["bucc2018_hub"].sources
    assert source.hub == "mteb/BUCC"
    return {"hub": hub, "config": source.config, "splits": dict(source.splits), "columns": dict(source.columns)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"gold": [[1, 4]]}, "gold[0]: [1, 4] is no pair of sentences"),
        ({"gold": [[0, 1]]}, "gold[0]: [0, 1] is no pair"),
        ({"gold": [[1]]}, "gold[0]: [1] is no pair"),
        ({"gold": "1-2"}, "'1-2' is not a list"),
        ({"english": []}, "there are 0 texts"),
        ({"english": ["two", " ", 7]}, "english[2]: 7 is not text"),
        ({"foreign_ids": ["a"]}, "there are 2 texts and 1 different ids"),
        ({"foreign_ids": ["en-000000001", "b"]}, "'en-000000001' is the id of a sentence of each side"),
    ],
)
def test_a_malformed_row(tiny_model: Path, change: dict[str, Any], message: str) -> None:
    row = {"foreign": ["eins", "zwei"], "english": ["two", "one", "six"], "gold": [[1, 2]], **change}
    with pytest.raises(UserError) as caught:
        encoded(row, tiny_model)
    assert message in str(caught.value)


def test_every_mistake_is_named_with_its_line(tmp_path: Path) -> None:
    files(
        tmp_path,
        foreign="xx-1\tein hund\nxx-2 eine katze\nxx-1\tein haus\nxx-5\t \n",
        english="en-1\ta tree\nxx-1\ta cat\n\tno id\n",
        gold="xx-1\ten-1\nxx-1\ten-9\nen-1\txx-1\nxx-1\ten-1\nxx-1\n",
    )
    message = error(tmp_path)
    for part in (
        "xx.foreign:2: there is no tab in 'xx-2 eine katze'",
        f"xx.foreign:3: the id 'xx-1' was there already, at {tmp_path}/b/xx.foreign:1",
        f"xx.english:2: the id 'xx-1' was there already, at {tmp_path}/b/xx.foreign:1",
        "xx.english:3: there is no id in front of the tab",
        "xx.gold:2: 'en-9' is not the id of an English sentence",
        "xx.gold:3: 'en-1' is not the id of a foreign sentence",
        "the foreign id stands first",
        "xx.gold:4: the pair was there already",
        "xx.gold:5: there is no tab in 'xx-1'",
    ):
        assert part in message


def test_an_empty_sentence_is_kept(tmp_path: Path, tiny_model: Path) -> None:
    row = {"foreign": ["eins", None], "english": ["two", " ", "six"], "gold": [[1, 2]]}
    found = encoded(row, tiny_model)
    assert sum(item.remarks == (EMPTY,) for item in found) == 2
    assert len(found) == 5


def test_files_without_lines(tmp_path: Path) -> None:
    assert "has no sentences" in error(files(tmp_path, english="\n"))
    assert "has no pairs" in error(files(tmp_path, gold=""))


def test_another_number_of_files(tmp_path: Path) -> None:
    source = {"files": {"dev": "b/{lang}.foreign"}, "reader": "bitext", "columns": COLUMNS}
    with pytest.raises(UserError, match="reads three files, and 1 is named"):
        rows_of(task(sources=[source]), files(tmp_path), "dev", "xx")


def test_a_test_set_may_lack_the_gold_pairs_and_a_dev_set_may_not(tmp_path: Path, tiny_model: Path) -> None:
    sides = ["b/{lang}.foreign", "b/{lang}.english"]
    source = {"files": {"test": sides, "dev": sides}, "reader": "bitext", "columns": COLUMNS}
    shard = prepare(task(sources=[source]), "test", "xx", tiny_model, 16, files(tmp_path), tmp_path / "out")
    assert not shard.labelled
    assert len(shard) == 7
    assert shard.notes([0, 1]) == [None, None]
    with pytest.raises(UserError, match="no column 'gold'"):
        rows_of(task(sources=[source]), tmp_path, "dev", "xx")


def test_the_threshold_is_tuned_on_dev_where_the_task_has_one() -> None:
    bucc, hub = (catalog.load()[name] for name in ("bucc2018", "bucc2018_hub"))
    mining = formats.get("bitext_mining")
    tune = (Companion("tune", "dev", "de"), Companion("tune", "dev", "zh"))
    assert mining.companions(bucc, "test", ("de", "zh")) == tune
    assert mining.companions(bucc, "dev", ("de", "zh")) == ()
    assert mining.companions(hub, "test", ("de", "zh")) == ()


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"options": {"margin": "ration"}}, "'ration' is not allowed"),
        ({"options": {"prefix": 3}}, "3 is not allowed"),
        ({"labels": ["a", "b"]}, "a mining task has none"),
        ({"metric": "accuracy"}, "f1, precision, recall"),
    ],
)
def test_wrong_entries(entry: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        task(**entry)
    assert message in str(caught.value)
