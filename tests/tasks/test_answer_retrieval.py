"""Answer retrieval: pairs, queries and candidates of rows; sentences by rule; Mewsli-X's files; XQuAD-R's counts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from real_data import SLICE, on_real_data
from rows import rows_of, source, spec, write, write_jsonl

from xtrain.data import Shard, prepare
from xtrain.errors import UserError
from xtrain.tasks import TaskSpec, catalog
from xtrain.tasks.answer_retrieval import CANDIDATE, FORMAT, PAIR, QUERY
from xtrain.tasks.formats import Companion
from xtrain.tasks.sentences import sentence_at, sentence_spans

COLUMNS = {"id": "id", "query": "q", "candidate": "c", "context": "x", "right": "r"}
ANSWERS = {"id": "id", "query": "q", "context": "x", "answer": "a", "answer_start": "s"}


def task(columns: dict[str, Any] | None = None, **entry: Any) -> TaskSpec:
    given = {"format": "answer_retrieval", "metric": "map@20", "sources": [source(columns=columns or COLUMNS)]}
    return spec(**{**given, **entry})


def shard_of(
    task: TaskSpec, root: Path, model: Path, split: str = "train", language: str = "en", length: int = 64
) -> Shard:
    return prepare(task, split, language, model, length, root, root / "shards")


def row(id_: str, **values: Any) -> dict[str, Any]:
    return {"id": id_, "q": None, "c": None, "x": None, "r": None, **values}


def problems(text: str, task: TaskSpec, root: Path, model: Path, file: str = "train.jsonl", **where: Any) -> str:
    write(root / file, text)
    with pytest.raises(UserError) as error:
        shard_of(task, root, model, **where)
    return str(error.value)


def test_a_row_is_what_its_columns_make_it(tmp_path: Path, tiny_model: Path) -> None:
    rows = [
        row("p", q="abc def", c="ghi", x="ghi jkl"),
        row("q", q="abc", r=["c", "d"]),
        row("one", q="abc", r=7),
        row("c", c="ghi"),
        row("d", c="ghi", x="ghi jkl"),
        row("none", q="abc"),
    ]
    write_jsonl(tmp_path / "train.jsonl", rows)
    shard = shard_of(task(), tmp_path, tiny_model)
    assert shard.fields["kind"].tolist() == [PAIR, QUERY, QUERY, CANDIDATE, CANDIDATE]
    assert shard.example_offsets.tolist() == [0, 2, 3, 4, 5, 6]
    assert shard.ids(range(5)) == ["p", "q", "one", "c", "d"]
    assert shard.notes(range(5)) == [None, {"right": ["c", "d"]}, {"right": ["7"]}, None, None]
    assert shard.manifest["dropped"] == {"unlabelled": 1}
    groups = shard.fields["group"].tolist()
    assert groups[0] == groups[4] != groups[3]  # the same candidate with the same context
    assert groups[1] == groups[2] == 0
    begin, end = shard.sequence_offsets[1:3]
    assert shard.tokens[begin:end].tolist().count(2) == 3  # <s> candidate </s></s> context </s>


def test_each_side_has_its_own_length(tmp_path: Path, tiny_model: Path) -> None:
    long = " ".join(["abc"] * 60)
    write_jsonl(tmp_path / "train.jsonl", [row("p", q=long, c="abc", x=long), row("s", q="a", c="b")])
    short = task(options={"query_length": 10, "candidate_length": 30})
    shard = shard_of(short, tmp_path, tiny_model)
    assert [int(n) for n in shard.sequence_offsets[1:3] - shard.sequence_offsets[:2]] == [10, 30]
    assert shard.manifest["truncated"] == 1
    assert shard_of(short, tmp_path, tiny_model, length=16).lengths[0] == 26  # max_length bounds both


def test_the_sentence_that_holds_the_answer_is_the_candidate(tmp_path: Path, tiny_model: Path) -> None:
    context = "  First one. The second one is here. A third."
    write_jsonl(
        tmp_path / "train.jsonl",
        [
            {"id": "1", "q": "Q", "x": context, "a": ["second"], "s": [17]},
            {"id": "2", "q": "Q", "x": context, "a": ["third"], "s": [36]},  # two off, as in a stripped context
            {"id": "3", "q": "Q", "x": context, "a": [], "s": []},
        ],
    )
    write_jsonl(tmp_path / "plain.jsonl", [row("1", q="Q", c="The second one is here.", x=context.strip())])
    shard = shard_of(task(ANSWERS), tmp_path, tiny_model)
    assert shard.fields["kind"].tolist() == [PAIR, PAIR]
    assert shard.manifest["dropped"] == {"unlabelled": 1}
    plain = task(sources=[source(columns=COLUMNS, files={"train": "plain.jsonl"})])
    assert shard.fields["group"][0] == shard_of(plain, tmp_path, tiny_model).fields["group"][0]
    assert shard.fields["group"][1] != shard.fields["group"][0]


def paragraph(context: str, starts: list[int], **more: Any) -> dict[str, Any]:
    qas = [
        {"id": f"q{s}", "question": f"What {s}?", "answers": [{"text": context[s : s + 2], "answer_start": s}]}
        for s in starts
    ]
    return {"context": context, "qas": qas, **more}


def squad_file(*paragraphs: dict[str, Any]) -> str:
    return json.dumps({"version": "1.1", "data": [{"title": "t", "paragraphs": list(paragraphs)}]})


def test_every_sentence_of_every_context_is_a_candidate(tmp_path: Path, tiny_model: Path) -> None:
    lareqa = catalog.load()["lareqa"]
    one = paragraph("abcd efgh ab", [5, 0], sentence_breaks=[[0, 4], [5, 9], [10, 12]])
    two = paragraph("ab. ab. cd", [4, 8, 3], sentence_breaks=[[0, 3], [4, 7], [8, 10]])
    write(tmp_path / "lareqa/xquad-r/de.json", squad_file(one, two))
    shard = shard_of(lareqa, tmp_path, tiny_model, "test", "de")
    ids = shard.ids(range(len(shard)))
    assert ids == [
        "de_1_0", "de_1_1", "de_1_2", "q5_de", "q0_de",
        "de_2_0", "de_2_1", "de_2_2", "q4_de", "q8_de",
    ]  # fmt: skip
    assert shard.fields["kind"].tolist() == [2, 2, 2, 1, 1, 2, 2, 2, 1, 1]
    assert shard.notes([3, 8]) == [
        {"right": ["de_1_1"], "question": "q5"},
        {"right": ["de_2_0", "de_2_1"], "question": "q4"},  # the same words twice: both are right, as in LAReQA
    ]
    assert shard.manifest["dropped"] == {"the answer begins in no sentence": 1}


def test_sentences_cut_by_rule_are_marked(tmp_path: Path, tiny_model: Path) -> None:
    rows = [{"id": n, "q": f"Q{n}", "x": "One is. Two is. Three", "a": None, "s": s} for n, s in enumerate((0, 8))]
    write_jsonl(tmp_path / "train.jsonl", rows)
    shard = shard_of(task(ANSWERS, options={"pool": "sentences"}), tmp_path, tiny_model)
    assert shard.ids(range(5)) == ["en_1_0", "en_1_1", "en_1_2", "0_en", "1_en"]
    assert shard.notes([4]) == [{"right": ["en_1_1"], "question": "1", "sentences": "rule"}]


def test_what_is_wrong_with_rows_is_told(tmp_path: Path, tiny_model: Path) -> None:
    rows = [row("1"), row("2", q=" ", c="c"), row("3", q="q", c=5)]
    told = problems("".join(json.dumps(one) + "\n" for one in rows), task(), tmp_path, tiny_model)
    assert told.count("train.jsonl") == 1
    assert "train.jsonl:3: candidate: 5 is not text" in told
    wrong = [{"id": "1", "q": "Q", "x": "abc", "a": "xyz", "s": 0}, {"id": "2", "q": "Q", "x": "abc", "a": "b", "s": 9}]
    told = problems("".join(json.dumps(one) + "\n" for one in wrong), task(ANSWERS), tmp_path, tiny_model)
    assert "train.jsonl:1: answer: 'xyz' is not in the context" in told
    assert "train.jsonl:2: answer_start: 9 is no place in the context" in told


@pytest.mark.parametrize("breaks", [[[0, 99]], [[3, 2]], [[0, 1, 2]], ["ab"], "ab", [[True, 2]], [[4, 5]], 7])
def test_wrong_sentence_breaks(tmp_path: Path, tiny_model: Path, breaks: Any) -> None:
    text = squad_file(paragraph("abcd efgh", [0], sentence_breaks=breaks))
    told = problems(
        text, catalog.load()["lareqa"], tmp_path, tiny_model, "lareqa/xquad-r/de.json", split="test", language="de"
    )
    assert "de.json: data[0].paragraphs[0].qas[0] (id q0): breaks" in told
    assert "is no sentence of the context" in told


def test_xquad_is_not_xquad_r(tmp_path: Path, tiny_model: Path) -> None:
    text = squad_file(paragraph("abcd efgh", [0]))
    told = problems(
        text, catalog.load()["lareqa"], tmp_path, tiny_model, "lareqa/xquad-r/de.json", split="test", language="de"
    )
    assert "there is no column 'sentence_breaks' for breaks" in told


def test_what_is_wrong_with_a_task_is_told() -> None:
    with pytest.raises(UserError) as error:
        task({"id": "id", "answer_start": "s"}, options={"query_length": 2, "pool": "all"}, labels=["a"])
    told = str(error.value)
    for part in (
        "options.query_length: 2 is not allowed", "options.pool: 'all' is not allowed",
        "has neither query nor candidate", "answer_start without query and context",
        "labels: ['a']: a retrieval task has none",
    ):  # fmt: skip
        assert part in told


# Sentences by rule.


@given(st.text(alphabet="ab A.?!\n \u3002\u0964\"')]", max_size=60))
def test_sentences_hold_all_but_white_space(text: str) -> None:
    spans = sentence_spans(text)
    assert "".join("".join(text[a:b].split()) for a, b in spans) == "".join(text.split())
    assert all(text[a:b].strip() == text[a:b] != "" for a, b in spans)
    assert all(spans[n][1] <= spans[n + 1][0] for n in range(len(spans) - 1))
    for place, letter in enumerate(text):
        number = sentence_at(spans, place)
        assert (number is None) <= letter.isspace()
        assert number is None or spans[number][0] <= place < spans[number][1]


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("One. Two! Three? four", 3),
        ("Mr. Smith met Dr. Who at 3 p. 4. Then he left.", 2),
        ("J. R. R. Tolkien wrote. It sold.", 2),
        ("It was by J. The end.", 2),
        ('He said "Go." Then he went.[12] Later [citation needed] he came.', 3),
        ("\u4e2d\u6587\u3002\u4e2d\u6587\uff01\u201d\u4e2d\u6587", 3),
        ("\u0939\u093f\u0902\u0926\u0940\u0964 \u0939\u093f\u0902\u0926\u0940\u0964", 2),
        ("", 0),
    ],
)
def test_sentences_by_rule(text: str, count: int) -> None:
    assert len(sentence_spans(text)) == count


# Mewsli-X.


def entity(id_: str, *parts: str) -> dict[str, Any]:
    spans, text = [], ""
    for part in parts:
        spans.append({"start": len(text), "end": len(text) + len(part)})
        text += part + "\n"
    return {"entity_id": id_, "title": "t", "description": text, "sentence_spans": spans}


def context(language: str, *parts: str) -> dict[str, Any]:
    made = entity("", *parts)
    return {"language": language, "text": made["description"], "sentence_spans": made["sentence_spans"]}


def mention(id_: str, begin: int, text: str, right: str) -> dict[str, Any]:
    span = {"start": begin, "end": begin + len(text), "text": text}
    return {"example_id": id_, "entity_id": right, "mention_span": span}


def mewslix(root: Path) -> Path:
    news = [
        {"context": context("de", "Ein Satz.", "Die {Stadt}  Bonn liegt da."),
         "mentions": [mention("m1", 23, "Bonn", "Q586"), mention("m2", 0, "Ein", "Q1")]},
        {"context": context("tr", "Bonn'da."), "mentions": [mention("m3", 0, "Bonn", "Q586")]},
    ]  # fmt: skip
    write_jsonl(root / "mewslix/wikinews_mentions-test.jsonl", news)
    write_jsonl(
        root / "mewslix/candidate_set_entities.jsonl", [entity("Q586", "Bonn is.", "A city."), entity("Q1", "All.")]
    )
    pair = {"contextual_mention": {"context": context("en", "Bonn is."), "mention": mention("w1", 0, "Bonn", "Q586")},
            "entity": entity("Q586", "Bonn is.")}  # fmt: skip
    for split in ("train", "dev"):
        write_jsonl(root / f"mewslix/wikipedia_pairs-{split}.jsonl", [pair])
    return root


def test_mewslix_from_its_files(tmp_path: Path, tiny_model: Path) -> None:
    root, tasks = mewslix(tmp_path), catalog.load()
    (first, second) = rows_of(tasks["mewslix"], root, "test", "de")
    assert first.values == {"id": "m1", "query": "Bonn: Die (Stadt) { Bonn } liegt da.", "right": "Q586"}
    assert second.values["query"] == "Ein: { Ein } Satz."
    assert [one.id for one in rows_of(tasks["mewslix"], root, "test", "tr")] == ["m3"]
    index = rows_of(tasks["mewslix"], root, "index", "all")
    assert [(one.id, one.values["candidate"]) for one in index] == [("Q586", "Bonn is. A city."), ("Q1", "All.")]
    (pair,) = rows_of(tasks["mewslix_pairs"], root)
    assert (pair.values["query"], pair.values["candidate"]) == ("Bonn: { Bonn } is.", "Bonn is.")
    assert FORMAT.companions(tasks["mewslix"], "test", ["de"]) == (Companion("index", "index", "all"),)
    assert FORMAT.companions(tasks["lareqa"], "test", ["de"]) == ()
    shard = shard_of(tasks["mewslix"], root, tiny_model, "test", "de")
    assert shard.notes([0, 1]) == [{"right": ["Q586"]}, {"right": ["Q1"]}]
    assert shard_of(tasks["mewslix"], root, tiny_model, "index", "all").fields["kind"].tolist() == [CANDIDATE] * 2
    assert shard_of(tasks["mewslix_pairs"], root, tiny_model).fields["kind"].tolist() == [PAIR]


def without(value: dict[str, Any], *keys: str, **new: Any) -> dict[str, Any]:
    return {key: one for key, one in value.items() if key not in keys} | new


NEWS = {"context": context("de", "Die Stadt Bonn."), "mentions": [mention("m1", 10, "Bonn", "Q586")]}
TWO = context("de", "Die Stadt", "Bonn.")
BAD = [
    ("{", "not JSON"),
    ("[]", "'[]' is not a JSON object"),
    (json.dumps({"text": "x"}), "is neither an entity, nor mentions, nor a pair"),
    (json.dumps(without(NEWS, context=without(NEWS["context"], text=""))), "(example_id m1): has no text"),
    (json.dumps(without(NEWS, mentions=[mention("m1", 9, "Bonn", "Q586")])), "'Bonn' is not at 9 to 13"),
    (json.dumps({"context": TWO, "mentions": [mention("m1", 8, "t\nBonn", "Q586")]}), "lies in no sentence"),
    (json.dumps(without(NEWS, mentions=[without(NEWS["mentions"][0], "entity_id")])), "has no entity_id"),
    (json.dumps(without(NEWS, context=without(NEWS["context"], sentence_spans="x"))), "sentence_spans is 'x'"),
]


@pytest.mark.parametrize(("line", "told"), BAD)
def test_what_is_wrong_with_mewslix_is_told(tmp_path: Path, line: str, told: str) -> None:
    write(mewslix(tmp_path) / "mewslix/wikinews_mentions-test.jsonl", json.dumps(NEWS) + "\n" + line + "\n")
    with pytest.raises(UserError) as error:
        rows_of(catalog.load()["mewslix"], tmp_path, "test", "de")
    assert "wikinews_mentions-test.jsonl:2" in str(error.value)
    assert told in str(error.value)
    assert "download_mewslix_data.sh" in str(error.value)


def test_mewslix_from_a_folder_like_the_hubs(tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    contents = {
        "wikipedia_pairs/train": [{"mention": "a", "entity": "b"}],
        "candidate_entities/test": [{"entity_id": f"Q{n}", "description": f"entity {n}"} for n in (1, 2)],
        "de/test": [{"mention": "eins", "entity_id": "Q1"}],
    }  # fmt: skip
    for folder, rows in contents.items():
        path = tmp_path / "hub" / folder / "0000.parquet"
        path.parent.mkdir(parents=True)
        datasets.Dataset.from_list(rows).to_parquet(str(path))
    known = catalog.load()
    sources = {
        name: [{**_plain(known[name].sources[1]), "hub": str(tmp_path / "hub")}]
        for name in ("mewslix", "mewslix_pairs")
    }
    mine = catalog.load({name: {"sources": value} for name, value in sources.items()})
    assert rows_of(mine["mewslix"], None, "test", "de")[0].values == {"query": "eins", "right": "Q1"}
    index = prepare(mine["mewslix"], "index", "all", tiny_model, 64, None, tmp_path / "shards")
    assert index.ids([0, 1]) == ["Q1", "Q2"]
    assert rows_of(mine["mewslix_pairs"], None)[0].values == {"query": "a", "candidate": "b"}


def _plain(source: Any) -> dict[str, Any]:
    keys = ("config", "splits", "language_codes", "columns", "split_columns")
    return {key: getattr(source, key) for key in keys if getattr(source, key)}


@on_real_data
def test_xquad_r_has_the_published_counts(tmp_path: Path, tiny_model: Path) -> None:
    lareqa = catalog.load()["lareqa"]
    counts = {QUERY: 0, CANDIDATE: 0}
    for language in lareqa.languages:
        shard = prepare(lareqa, "test", language, tiny_model, 64, SLICE, tmp_path)
        assert shard.manifest["dropped"] == {}
        for kind in counts:
            counts[kind] += int((shard.fields["kind"] == kind).sum())
    assert counts == {QUERY: 13090, CANDIDATE: 13014}


@pytest.mark.parametrize("pool", ["rows", "sentences"])
def test_an_answer_that_is_nowhere_is_counted(tmp_path: Path, tiny_model: Path, pool: str) -> None:
    said = [("One", 0.0), ("xyz", -1), ("", "-1"), ("One", None), ("Two", "8")]
    rows = [{"id": str(n), "q": f"Q{n}", "x": "One is. Two is.", "a": a, "s": s} for n, (a, s) in enumerate(said)]
    write_jsonl(tmp_path / "train.jsonl", rows)
    shard = shard_of(task(ANSWERS, options={"pool": pool}), tmp_path, tiny_model)
    assert shard.manifest["dropped"] == {"answer not in context": 1, "unlabelled": 2}
    assert len(shard) == (2 if pool == "rows" else 4)
