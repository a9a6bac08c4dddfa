"""Answer retrieval is scored on one pool of all languages, and the same on any number of ranks."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import sentences

from xtrain.data import Shard, prepare
from xtrain.errors import UserError
from xtrain.evaluation import evaluators
from xtrain.evaluation.benchmark.ranking import average_precision
from xtrain.evaluation.evaluators import Evaluation, Setting
from xtrain.evaluation.predict import predict
from xtrain.model import PhaseModel, build_head, load_encoder
from xtrain.tasks import TaskSpec, catalog

SCRIPTS = {"en": "latin", "ru": "cyrillic", "ar": "arabic"}
COLUMNS = {"id": "id", "query": "q", "candidate": "c", "right": "right"}


class ThreadRanks:
    """One of several ranks, each a thread; as many gathers as one likes."""

    def __init__(self, rank: int, values: list[Any], barrier: threading.Barrier) -> None:
        self.rank, self.values, self.barrier, self.world_size = rank, values, barrier, len(values)

    def gather(self, value: Any) -> list[Any]:
        self.values[self.rank] = value
        self.barrier.wait()
        found = list(self.values)
        self.barrier.wait()  # nobody puts the next value before all have read this one
        return found


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def xquad_r(root: Path, paragraphs: int = 6) -> None:
    """Files as XQuAD-R's: the same questions in three languages, four sentences a context."""
    for number, (language, script) in enumerate(SCRIPTS.items()):
        texts, questions = sentences(4 * paragraphs, script, seed=7), sentences(2 * paragraphs, script, seed=8)
        data = []
        for p in range(paragraphs):
            four, context, breaks = texts[4 * p : 4 * p + 4], "", []
            for text in four:
                breaks.append([len(context), len(context) + len(text)])
                context += text + " "
            qas = []
            for q in range(2):
                begin = breaks[(p + q + number) % 4][0]
                answer = {"text": context[begin : begin + 3], "answer_start": begin}
                qas.append({"id": f"p{p}q{q}", "question": questions[2 * p + q], "answers": [answer]})
            data.append({"title": "", "paragraphs": [{"context": context, "sentence_breaks": breaks, "qas": qas}]})
        path = root / f"lareqa/xquad-r/{language}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"version": "1.1", "data": data}), encoding="utf-8")


def lareqa() -> TaskSpec:
    return replace(catalog.load()["lareqa"], languages=tuple(SCRIPTS))


def task(**keys: Any) -> TaskSpec:
    entry = {
        "format": "answer_retrieval", "metric": "map@20", "languages": ["en"],
        "sources": [{"files": {"test": "mine/{lang}.jsonl"}, "columns": COLUMNS}],
    }  # fmt: skip
    return catalog.load({"mine": {**entry, **keys}})["mine"]


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> PhaseModel:
    torch.manual_seed(0)
    encoder = load_encoder(tiny_model, torch.float32)[0]
    head = build_head("answer_retrieval", encoder.hidden_size, 0, 0.0)
    return PhaseModel(encoder, {"squad_retrieval": head}).eval()


def evaluate(model: PhaseModel, spec: TaskSpec, shards: dict[str, Shard], index: Any = None, **more: Any) -> Evaluation:
    setting = Setting(spec, model.encoder, model, "squad_retrieval", **{"tokens_per_batch": 400, **more})
    return evaluators.get("answer_retrieval").evaluate(setting, shards, {"index": index} if index else {})


def vectors(model: PhaseModel, shard: Shard) -> dict[str, np.ndarray]:
    found = predict(model, shard, "squad_retrieval").arrays["vectors"][:, 0].astype(np.float64)
    return dict(zip(shard.ids(np.arange(len(shard))), found, strict=True))


def test_lareqa_is_one_pool_of_all_languages(tmp_path: Path, tiny_model: Path, model: PhaseModel) -> None:
    xquad_r(tmp_path / "data")
    spec = lareqa()
    shards = {
        language: prepare(spec, "test", language, tiny_model, 96, tmp_path / "data", tmp_path) for language in SCRIPTS
    }
    found = evaluate(model, spec, shards)
    assert (found.protocol["candidates"], found.protocol["questions"]) == (72, 36)
    assert found.protocol["pool"] == list(SCRIPTS)
    assert "sentences" not in found.protocol
    every = {id_: vector for shard in shards.values() for id_, vector in vectors(model, shard).items()}
    pool = [id_ for id_ in every if not id_.startswith("p")]
    for number, result in enumerate(found.languages):
        assert result.num_examples == 12
        assert result.loss is None
        precisions = []
        for row in result.rows:
            question = row["id"].rsplit("_", 1)[0]
            p, q = int(question[1]), int(question[3])
            right = [f"{language}_{p + 1}_{(p + q + n) % 4}" for n, language in enumerate(SCRIPTS)]
            assert row["label"] == right
            nearest = sorted(pool, key=lambda id_, row=row: -float(every[id_] @ every[row["id"]]))
            assert row["prediction"] == nearest[:20]
            precisions.append(average_precision(nearest[:20], right))
        assert result.language == list(SCRIPTS)[number]
        assert result.metrics == {"map@20": pytest.approx(100 * np.mean(precisions))}
    part = evaluate(model, spec, {"ru": shards["ru"]})
    assert part.protocol["pool"] == ["ru"]
    assert part.protocol["candidates"] == 24
    assert all(len(row["label"]) == 1 for row in part.languages[0].rows)


def test_the_same_on_several_ranks(tmp_path: Path, tiny_model: Path, model: PhaseModel) -> None:
    xquad_r(tmp_path / "data", paragraphs=3)
    shards = {
        language: prepare(lareqa(), "test", language, tiny_model, 96, tmp_path / "data", tmp_path)
        for language in ("en", "ru")
    }
    alone = evaluate(model, lareqa(), shards)
    values, barrier, results = [None] * 3, threading.Barrier(3, timeout=60), {}

    def run(rank: int) -> None:
        ranks = ThreadRanks(rank, values, barrier)
        results[rank] = evaluate(model, lareqa(), shards, ranks=ranks, tokens_per_batch=150)

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 3
    for rank, found in results.items():
        assert found.protocol == alone.protocol
        for one, other in zip(found.languages, alone.languages, strict=True):
            assert one.metrics == {"map@20": pytest.approx(other.metrics["map@20"], abs=1e-9)}
            assert [dict(row) for row in one.rows] == (other.rows if rank == 0 else [])


def test_an_index_beside_the_queries(tmp_path: Path, tiny_model: Path, model: PhaseModel) -> None:
    texts = sentences(60, "cyrillic", seed=3)
    source = {"files": {"test": "mine/{lang}.jsonl", "index": "mine/index.jsonl"}, "columns": COLUMNS}
    spec = task(sources=[source], languages=["en", "ru"])
    write(tmp_path / "mine/index.jsonl", [{"id": f"Q{n}", "q": None, "c": t, "right": ""} for n, t in enumerate(texts)])
    # a query that reads as its candidate is the nearest to it; one of them is of an entity that is not there
    for language in ("en", "ru"):
        rows = [{"id": f"m{n}", "q": texts[n], "c": None, "right": f"Q{n}"} for n in range(20)]
        write(tmp_path / f"mine/{language}.jsonl", [*rows, {"id": "m20", "q": "x", "c": None, "right": "Q999"}])
    shards = {one: prepare(spec, "test", one, tiny_model, 64, tmp_path, tmp_path) for one in ("en", "ru")}
    index = {"all": prepare(spec, "index", "all", tiny_model, 64, tmp_path, tmp_path)}
    found = evaluate(model, spec, shards, index)
    assert found.protocol["candidates"] == 60
    assert found.protocol["pool"] == ["all"]
    assert found.protocol["questions_without_answer_in_pool"] == 2
    for result in found.languages:
        assert result.metrics["map@20"] == pytest.approx(100 * 20 / 21)
        assert result.rows[3]["label"] == ["Q3"]
        assert result.rows[3]["prediction"][0] == "Q3"
        assert len(result.rows[3]["prediction"]) == 20
        assert result.rows[20]["label"] == ["Q999"]


def test_pairs_of_training_are_searched_among_themselves(tmp_path: Path, tiny_model: Path, model: PhaseModel) -> None:
    texts = sentences(30, seed=4)
    rows = [{"id": f"r{n}", "q": text, "c": text, "right": ""} for n, text in enumerate(texts)]
    rows.append({"id": "again", "q": texts[4], "c": texts[4], "right": ""})  # the same answer: not another candidate
    write(tmp_path / "mine/en.jsonl", rows)
    shard = prepare(task(), "test", "en", tiny_model, 64, tmp_path, tmp_path)
    (found,) = evaluate(model, task(), {"en": shard}).languages
    assert (found.num_examples, found.loss) == (31, None)
    assert found.metrics == {"map@20": pytest.approx(100.0)}
    assert found.rows[30]["label"] == ["r4"]
    assert found.rows[30]["prediction"][0] == "r4"
    assert len(set(found.rows[0]["prediction"])) == 20


def test_candidates_of_one_id_and_shards_without_queries(tmp_path: Path, tiny_model: Path, model: PhaseModel) -> None:
    spec = task(languages=["en", "ru"])
    for language in ("en", "ru"):
        rows = [{"id": "c1", "q": None, "c": "one", "right": ""}, {"id": "q1", "q": "one", "c": None, "right": "c1"}]
        write(tmp_path / f"mine/{language}.jsonl", rows)
    shards = {one: prepare(spec, "test", one, tiny_model, 64, tmp_path, tmp_path) for one in ("en", "ru")}
    with pytest.raises(UserError, match=r"'c1' belongs to two candidates"):
        evaluate(model, spec, shards)
    write(tmp_path / "mine/en.jsonl", rows[:1])
    with pytest.raises(UserError, match=r"no query among 1 example of mine in en"):
        evaluate(model, spec, {"en": prepare(spec, "test", "en", tiny_model, 64, tmp_path, tmp_path)})
