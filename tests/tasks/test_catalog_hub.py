"""Every hub source of the catalogue is read, from folders that have the real configurations, splits and columns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from xtrain.data import prepare
from xtrain.tasks import TaskSpec, catalog
from xtrain.tasks.sources import read
from xtrain.tasks.spec import EVERY, INDEX_LANGUAGE, Source


@pytest.fixture(scope="module")
def specs() -> Mapping[str, TaskSpec]:
    return catalog.load()


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))


NLI = {"premise": "It rains.", "hypothesis": "It is wet.", "label": 0}
GLUE = {"sentence1": "One.", "sentence2": "Two.", "label": 1, "idx": 0}
PAWS = {"id": 1, "sentence1": "One.", "sentence2": "Two.", "label": 1}
COPA = {"premise": "It rained.", "choice1": "wet", "choice2": "dry", "question": "effect", "label": 0, "idx": 0}
ANSWERS = {"text": ["Ada"], "answer_start": [0]}
QA = {"id": "q1", "title": "t", "context": "Ada wrote it.", "question": "Who?", "answers": ANSWERS}
XQUAD = {key: value for key, value in QA.items() if key != "title"}
COSMOS = {"id": "c1", "context": "A day.", "question": "Why?", **{f"answer{n}": f"a{n}" for n in range(4)}, "label": 2}
SIQA = {"context": "Kim ran.", "question": "Why?", "answerA": "x", "answerB": "y", "answerC": "z", "label": "3"}
CSQA = {"id": "s1", "question": "Where?", "question_concept": "x", "answerKey": "B",
        "choices": {"label": list("ABCDE"), "text": list("vwxyz")}}  # fmt: skip
NER = {"tokens": ["Ada", "left"], "ner_tags": [1, 0], "langs": ["de", "de"], "spans": ["PER: Ada"]}
PART = {"tokens": ["Hund", "bellt"], "pos_tags": [7, 15]}
UD = {"sent_id": "1", "text": "Hund", "tokens": ["zum", "Hund"], "upos": ["_", "NOUN"], "xpos": ["_", "NN"]}

# Task -> for each of its hub sources (or for each kind of its rows): configuration and first split on the hub,
# language, a row, the split here, and the label (or tags, or answers) that is read
Case = tuple[str, str, str, Mapping[str, Any], str, Any]
CASES: Mapping[str, list[Case]] = {
    "mnli": [("mnli", "validation_matched", "en", {**NLI, "idx": 0}, "dev", "entailment")],
    "snli": [("plain_text", "train", "en", NLI, "train", "entailment")],
    "anli": [("plain_text", "dev_r1", "en", {**NLI, "uid": "u", "label": 2, "reason": ""}, "dev", "contradiction")],
    "rte": [("rte", "train", "en", GLUE, "train", "not_entailment")],
    "qnli": [("qnli", "train", "en", {"question": "Q?", "sentence": "S.", "label": 0}, "train", "entailment")],
    "qqp": [("qqp", "train", "en", {"question1": "A?", "question2": "B?", "label": 1}, "train", "duplicate")],
    "mrpc": [("mrpc", "test", "en", GLUE, "test", "equivalent")],
    "boolq": [("", "train", "en", {"question": "q", "answer": True, "passage": "p"}, "train", True)],
    "paws": [("labeled_final", "train", "en", PAWS, "train", 1)],
    "pawsx": [("ja", "test", "ja", PAWS, "test", 1)],
    "pawsx_translated": [("ja", "train", "ja", PAWS, "train", 1)],
    "xnli": [("sw", "test", "sw", NLI, "test", "entailment")],
    "xnli_translated": [("sw", "train", "sw", NLI, "train", "entailment")],
    "hellaswag": [("", "train", "en", {"ctx": "A man", "endings": list("wxyz"), "label": "3"}, "train", "3")],
    "cosmosqa": [("default", "train", "en", COSMOS, "train", 2)],
    "commonsense_qa": [("", "validation", "en", CSQA, "dev", "B")],
    "socialiqa": [("default", "validation", "en", SIQA, "dev", "C")],
    "copa": [("copa", "train", "en", COPA, "train", 0)],
    "xcopa": [("qu", "test", "qu", {**COPA, "changed": False}, "test", 0)],
    "panx": [
        ("pa", "validation", "pa", NER, "dev", ["B-PER", "O"]),
        ("PAN-X.de", "test", "de", NER, "test", ["B-PER", "O"]),
    ],
    "wikiann": [("als", "train", "als", NER, "train", ["B-PER", "O"])],
    "udpos": [
        ("udpos.German", "test", "de", PART, "test", ["NOUN", "VERB"]),
        ("wo", "test", "wo", PART, "test", ["NOUN", "VERB"]),
    ],
    "ud": [("de_gsd", "dev", "de", UD, "dev", ["_", "NOUN"])],
    "squad": [("plain_text", "train", "en", QA, "train", ["Ada"])],
    "squad_v2": [("squad_v2", "train", "en", {**QA, "answers": {"text": [], "answer_start": []}}, "train", [])],
    "squad_translated": [("de", "translate_train", "de", XQUAD, "train", ["Ada"])],
    "mlqa_translated": [("mlqa-translate-train.de", "train", "de", XQUAD, "train", ["Ada"])],
    "xquad": [("xquad.ro", "validation", "ro", XQUAD, "test", ["Ada"])],
    "mlqa": [("MLQA.de.de", "validation", "de", QA, "dev", ["Ada"])],
    "tydiqa": [("secondary_task", "validation", "ko", {**QA, "id": "korean-1-1"}, "test", ["Ada"])],
    "tydiqa_goldp": [("secondary_task", "train", "te", {**QA, "id": "telugu-1-1"}, "train", ["Ada"])],
    "tatoeba": [("cmn-eng", "test", "zh", {"sentence1": "一", "sentence2": "one", "lang": "cmn-eng"}, "test", "one")],
    "bucc2018_hub": [
        ("fr-en", "test", "fr", {"sentence1": ["un"], "sentence2": ["two", "one"], "gold": [[1, 2]]}, "test", [[1, 2]])
    ],
    "squad_retrieval": [("plain_text", "train", "en", QA, "train", ["Ada"])],
    "lareqa": [("th", "validation", "th", XQUAD, "test", ["Ada"])],
    "mewslix_pairs": [("wikipedia_pairs", "train", "en", {"mention": "m", "entity": "e"}, "train", "e")],
    "mewslix": [
        ("fa", "test", "fa", {"mention": "m", "entity_id": "Q1"}, "test", "Q1"),
        ("candidate_entities", "test", INDEX_LANGUAGE, {"entity_id": "Q1", "description": "d"}, "index", "d"),
    ],
    "mlm": [
        ("20231101.sw", "train", "sw", {"id": "7", "url": "", "title": "t", "text": "Habari."}, "train", "Habari.")
    ],
}
GOLD = ("label", "tags", "answers", "gold", "answer", "right", "target", "candidate", "text")


def hub_sources(spec: TaskSpec) -> list[Source]:
    return [source for source in spec.sources if source.hub]


@pytest.mark.parametrize("task", CASES)
def test_a_data_set_of_the_hub(tmp_path: Path, tiny_model: Path, specs: Mapping[str, TaskSpec], task: str) -> None:
    cases, sources = CASES[task], hub_sources(specs[task])
    sources = sources * len(cases) if len(sources) == 1 else sources
    for number, (source, case) in enumerate(zip(sources, cases, strict=True)):
        config, part, language, row, split, expected = case
        assert source.config.replace("{lang}", source.code(language)) == config
        parts = source.splits[source.base_split(split)].split("+")
        assert parts[0] == part
        folder = tmp_path / str(number)
        for name in parts:
            path = folder / (f"{config}/{name}/0000.parquet" if config else f"data/{name}-00000-of-00001.parquet")
            path.parent.mkdir(parents=True, exist_ok=True)
            pq.write_table(pa.Table.from_pylist([{**row, "uid": name} if "uid" in row else row]), path)
        # next to nothing is carved out for dev, so that the one row is there, whatever its hash
        share = {"dev": 1e-9} if source.hash_split else {}
        spec = replace(specs[task], sources=(replace(source, hub=str(folder), revision="main", hash_split=share),))
        rows = list(read(spec, split, language, None))
        assert [next(row.values[name] for name in GOLD if name in row.values) for row in rows] == [expected] * len(
            parts
        )
        assert len(prepare(spec, split, language, tiny_model, 64, None, tmp_path / "out"))


def test_every_hub_source_is_here(specs: Mapping[str, TaskSpec]) -> None:
    assert set(CASES) == {name for name, spec in specs.items() if hub_sources(spec)}
    for name, spec in specs.items():
        assert len(CASES.get(name, ())) >= len(hub_sources(spec)), name
        assert spec.languages == (EVERY,) or all(source.splits for source in hub_sources(spec))
