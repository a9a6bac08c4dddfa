"""Bitext mining and sentence retrieval from vectors to scores: thresholds, duplicates, directions, protocol."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import make_tiny_model, sentences

from xtrain.data import Shard, prepare
from xtrain.errors import UserError
from xtrain.evaluation import evaluators
from xtrain.evaluation.evaluators import LanguageResult, Setting, bitext_mining, sentence_retrieval
from xtrain.evaluation.predict import vectors
from xtrain.model import Encoder, load_encoder
from xtrain.tasks import Source, TaskSpec
from xtrain.tasks.sampling import Sample

FILES = ("m/{split}-{{lang}}.foreign", "m/{split}-{{lang}}.english", "m/{split}-{{lang}}.gold")
NAMES = ("foreign", "english", "foreign_ids", "english_ids", "gold")


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="module")
def encoder(model_folder: Path) -> Encoder:
    return load_encoder(model_folder, torch.float32)[0].eval()


def mining(**options: Any) -> TaskSpec:
    files = {split: tuple(name.format(split=split) for name in FILES) for split in ("dev", "test")}
    source = Source(files=files, reader="bitext", columns={name: name for name in NAMES})
    return TaskSpec("mine", "bitext_mining", ("xx",), (source,), metric="f1", options=options)


def write_pool(
    root: Path, split: str, foreign: list[str], english: list[str], gold: list[tuple[int, int]], language: str = "xx"
) -> None:
    (root / "m").mkdir(exist_ok=True)
    for name, code, texts in (("foreign", language, foreign), ("english", "en", english)):
        text = "".join(f"{code}-{n}\t{one}\n" for n, one in enumerate(texts))
        (root / f"m/{split}-{language}.{name}").write_text(text, encoding="utf-8")
    text = "".join(f"{language}-{f}\ten-{e}\n" for f, e in gold)
    (root / f"m/{split}-{language}.gold").write_text(text, encoding="utf-8")


class Chosen:
    """Stands in for the encoder: the vector of each sentence, by its id."""

    def __init__(self, by_id: dict[str, list[float]]) -> None:
        self.by_id = by_id

    def __call__(self, encoder: Any, shard: Shard, task: str, **how: Any) -> np.ndarray:
        ids = shard.ids(np.arange(len(shard)))
        return np.array([self.by_id[f"{shard.manifest['split']}:{id_}"] for id_ in ids], dtype=np.float32)


def evaluate(
    monkeypatch: pytest.MonkeyPatch, encoder: Encoder, by_id: dict[str, list[float]], shard: Shard,
    dev: Shard | None = None, **options: Any,
) -> LanguageResult:  # fmt: skip
    monkeypatch.setattr(bitext_mining, "vectors", Chosen(by_id))
    setting = Setting(mining(**options), encoder, layer=1)
    companions = {} if dev is None else {"tune": {"xx": dev}}
    return evaluators.get("bitext_mining").evaluate(setting, {"xx": shard}, companions).languages[0]


def prepared(root: Path, model_folder: Path, split: str, sample: Sample | None = None) -> Shard:
    return prepare(mining(), split, "xx", model_folder, 32, root, root / "shards", sample)


AXES = np.eye(6)


def mined(rows: Sequence[Mapping[str, Any]]) -> set[tuple[str, str]]:
    """The pairs; the others are gold pairs that were missed."""
    return {(row["id"], row["prediction"]) for row in rows if row["prediction"] is not None}


def test_the_threshold_of_dev_is_applied_to_test(
    tmp_path: Path, model_folder: Path, encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the cosine itself as score: on dev .9 is right and .6 wrong, on test .8 and .7 are right, .8 wrong."""

    def at(axis: int, cosine: float) -> list[float]:
        other = np.sqrt(1 - cosine**2) * AXES[5]
        return list(cosine * AXES[axis] + other)

    write_pool(tmp_path, "dev", ["a b", "c d"], ["e f", "g h"], [(0, 0)])
    write_pool(tmp_path, "test", ["a b", "c d", "i j"], ["e f", "g h", "k l"], [(0, 0), (2, 2)])
    by_id = {f"{split}:en-{n}": list(AXES[n]) for split in ("dev", "test") for n in range(3)}
    by_id |= {"dev:xx-0": at(0, 0.9), "dev:xx-1": at(1, 0.6)}
    by_id |= {"test:xx-0": at(0, 0.8), "test:xx-1": at(1, 0.82), "test:xx-2": at(2, 0.7)}
    dev, test = (prepared(tmp_path, model_folder, split) for split in ("dev", "test"))

    found = evaluate(monkeypatch, encoder, by_id, test, dev, margin="absolute")
    assert found.protocol["threshold"] == pytest.approx(0.75)
    assert found.protocol["tuned_on"] == "dev"
    assert [(row["id"], row["prediction"]) for row in found.rows] == [
        ("xx-1", "en-1"), ("xx-0", "en-0"), ("xx-2", None),
    ], "the missed pairs come last"  # fmt: skip
    assert found.rows[1]["score"] == pytest.approx(0.8)
    assert [row["label"] for row in found.rows] == [None, "en-0", "en-2"], "xx-1 is in no gold pair"
    assert dict(found.metrics) == pytest.approx({"f1": 50, "precision": 50, "recall": 50})
    assert found.num_examples == 6

    itself = evaluate(monkeypatch, encoder, by_id, test, margin="absolute")
    assert itself.protocol["tuned_on"] == "test, which is scored: an upper bound"
    assert itself.protocol["threshold"] == pytest.approx(0.7)
    assert itself.metrics["f1"] == pytest.approx(80)


def test_a_set_without_gold_is_mined_with_the_threshold_of_dev(
    tmp_path: Path, model_folder: Path, encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_pool(tmp_path, "dev", ["a b", "c d"], ["e f", "g h"], [(0, 0)])
    write_pool(tmp_path, "test", ["a b", "c d"], ["e f", "g h"], [])
    by_id = {f"{split}:{code}-{n}": list(AXES[n]) for split in ("dev", "test") for code in ("xx", "en") for n in (0, 1)}
    by_id["dev:xx-1"] = list(AXES[1] + AXES[2])
    files = {"test": tuple(name.format(split="test") for name in FILES[:2])}
    bare = replace(mining(), sources=(replace(mining().sources[0], files=files),))
    test = prepare(bare, "test", "xx", model_folder, 32, tmp_path, tmp_path / "shards")
    found = evaluate(monkeypatch, encoder, by_id, test, prepared(tmp_path, model_folder, "dev"), margin="absolute")
    assert found.metrics == {}
    assert {(row["id"], row["prediction"]) for row in found.rows} == {("xx-0", "en-0"), ("xx-1", "en-1")}
    with pytest.raises(UserError, match="no dev set to choose a threshold on"):
        evaluate(monkeypatch, encoder, by_id, test, margin="absolute")


def test_equal_sentences_are_searched_as_one_and_are_in_no_pair(
    tmp_path: Path, model_folder: Path, encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Were a copy searched too, foreign 3 would be left over for English 2; it proposes its own, wrong one."""
    write_pool(tmp_path, "test", ["a b", "c d", "a b ", "i j"], ["e f", "g h", "k l"], [(0, 0), (1, 1), (2, 0), (3, 2)])
    by_id = {f"test:en-{n}": list(AXES[n]) for n in range(3)}
    by_id |= {"test:xx-0": list(AXES[0]), "test:xx-1": list(AXES[1]), "test:xx-2": list(AXES[0])}
    by_id |= {"test:xx-3": list(AXES[0] + 0.5 * AXES[2])}
    test = prepared(tmp_path, model_folder, "test")
    found = evaluate(monkeypatch, encoder, by_id, test, margin="absolute")
    assert found.protocol["duplicates_removed"] == {"foreign": 2, "english": 0}
    assert found.protocol["sentences"] == {"foreign": 4, "english": 3}
    assert found.protocol["gold_pairs"] == 4
    assert found.protocol["candidates"] == 2
    assert mined(found.rows) == {("xx-1", "en-1"), ("xx-3", "en-2")}
    assert dict(found.metrics) == pytest.approx({"precision": 100, "recall": 50, "f1": 200 / 3})


def test_a_sample_is_mined_among_itself(
    tmp_path: Path, model_folder: Path, encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [f"{one} {n}" for n, one in enumerate(sentences(20))]
    write_pool(tmp_path, "test", texts, texts, [(n, n) for n in range(10, 20)])
    drawn = np.random.default_rng(0).normal(size=(30, 40))
    by_id = {f"test:xx-{n}": list(drawn[n]) for n in range(20)}
    by_id |= {f"test:en-{n}": list(drawn[n if n >= 10 else n + 20]) for n in range(20)}
    for examples, pairs in ((2, 1), (8, 2), (30, 7)):
        found = evaluate(monkeypatch, encoder, by_id, prepared(tmp_path, model_folder, "test", Sample(examples)))
        assert sum(found.protocol["sentences"].values()) == examples
        assert found.protocol["gold_pairs"] == pytest.approx(pairs, abs=1)
    assert found.metrics["f1"] == pytest.approx(100)


def test_where_nothing_is_right_nothing_is_mined_and_the_protocol_is_json(
    tmp_path: Path, model_folder: Path, encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_pool(tmp_path, "test", ["a b", "c d"], ["e f", "g h"], [(0, 1)])
    by_id = {f"test:{code}-{n}": list(AXES[n]) for code in ("xx", "en") for n in range(2)}
    found = evaluate(monkeypatch, encoder, by_id, prepared(tmp_path, model_folder, "test"), margin="absolute")
    assert found.protocol["threshold"] is None
    assert mined(found.rows) == set()
    assert all(row["label"] for row in found.rows), "what was missed"
    assert found.metrics["f1"] == 0


def test_sentences_are_mined_by_a_real_encoder(tmp_path: Path, model_folder: Path, encoder: Encoder) -> None:
    """Foreign sentences that are their translations with two words more, among others."""
    same, rest = sentences(30), sentences(60, seed=7)
    write_pool(
        tmp_path, "test", [f"{one} a b" for one in same] + rest[:30], same + rest[30:], [(n, n) for n in range(30)]
    )
    shard = prepared(tmp_path, model_folder, "test")
    evaluation = evaluators.get("bitext_mining").evaluate(Setting(mining(), encoder, layer=2), {"xx": shard})
    assert evaluation.languages[0].metrics["f1"] > 30
    for key, value in {"layer": 2, "num_layers": 2, "margin": "ratio", "k": 4}.items():
        assert evaluation.protocol[key] == value
    assert "mean over all tokens" in evaluation.protocol["pooling"]
    found = vectors(encoder, shard, "mine", layer=2, tokens_per_batch=50)
    assert found.shape == (len(shard), encoder.hidden_size)


def retrieval(query: str | None) -> TaskSpec:
    source = Source(files={"test": ("t.xx", "t.en")}, reader="lines", columns={"source": 0, "target": 1})
    return TaskSpec("find", "sentence_retrieval", ("xx",), (source,), options={"query": query} if query else {})


@pytest.mark.parametrize(("query", "accuracy"), [("english", 75.0), ("foreign", 50.0), ("mean", 62.5), (None, 62.5)])
def test_accuracy_is_that_of_the_side_that_asks(
    tmp_path: Path,
    model_folder: Path,
    encoder: Encoder,
    monkeypatch: pytest.MonkeyPatch,
    query: str | None,
    accuracy: float,
) -> None:
    (tmp_path / "t.xx").write_text("a\nb\nc\nd\n")
    (tmp_path / "t.en").write_text("z\ny\nb\na\n")
    spec = retrieval(query)
    shard = prepare(spec, "test", "xx", model_folder, 16, tmp_path, tmp_path / "shards")
    foreign = AXES[:4]
    english = np.stack([AXES[0] + 0.1 * AXES[1], AXES[3], AXES[2], AXES[3] + AXES[4]])
    monkeypatch.setattr(sentence_retrieval, "embed", lambda *_, **__: (foreign.astype("f4"), english.astype("f4")))
    evaluation = evaluators.get("sentence_retrieval").evaluate(Setting(spec, encoder, layer=1), {"xx": shard})
    result = evaluation.languages[0]
    assert result.metrics["accuracy"] == accuracy
    assert (result.metrics["accuracy_from_english"], result.metrics["accuracy_to_english"]) == (75.0, 50.0)
    assert [row["line"] for row in result.rows] == [3, 2, 1, 0], "lines of the sorted English file"
    assert str(evaluation.protocol["query"]).startswith(query or "mean")
