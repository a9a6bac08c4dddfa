"""Predictions on one rank and on several: the same, each example once, in the shard's order."""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import make_tiny_model, pairs, sentences

from xtrain.data import Shard, collate, prepare
from xtrain.errors import UserError
from xtrain.evaluation import evaluators
from xtrain.evaluation.evaluators import LanguageResult, Setting
from xtrain.evaluation.predict import GroupRanks, embed, predict
from xtrain.model import Encoder, PhaseModel, build_head, load_encoder, sentence_vectors
from xtrain.tasks import Source, TaskSpec

LABELS = ("class0", "class1", "class2")


@dataclass
class Meeting:
    """Where threads that play ranks exchange what they have."""

    world_size: int
    values: dict[int, Any] = field(default_factory=dict)
    barrier: threading.Barrier = field(init=False)

    def __post_init__(self) -> None:
        self.barrier = threading.Barrier(self.world_size, timeout=60)


@dataclass(frozen=True)
class ThreadRanks:
    """One of several ranks, each a thread."""

    rank: int
    world_size: int
    meeting: Meeting

    def gather(self, value: Any) -> list[Any]:
        self.meeting.values[self.rank] = value
        self.meeting.barrier.wait()
        return [self.meeting.values[rank] for rank in range(self.world_size)]


def on_ranks(world_size: int, work: Any) -> list[Any]:
    """``work(ranks)`` on every rank at once."""
    meeting, results = Meeting(world_size), {}

    def run(rank: int) -> None:
        torch.set_grad_enabled(True)
        results[rank] = work(ThreadRanks(rank, world_size, meeting))

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(world_size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [results[rank] for rank in range(world_size)]


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("model") / "tiny", layers=3)


def spec(name: str, format_name: str, columns: dict[str, Any], labels: tuple[str, ...] = ()) -> TaskSpec:
    source = Source(files={"test": f"{name}.jsonl"}, columns=columns)
    return TaskSpec(name=name, format=format_name, languages=("en",), sources=(source,), labels=labels)


CLASSES = spec("pairs", "classification", {"text_a": "text_a", "text_b": "text_b", "label": "label"}, LABELS)
CHOICES = spec("choice", "multiple_choice", {"context": "context", "choices": "choices", "label": "label"})
RETRIEVAL = spec("mining", "sentence_retrieval", {"source": "source", "target": "target"})


def shard_of(task: TaskSpec, rows: list[dict[str, Any]], model_folder: Path, folder: Path) -> Shard:
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (folder / f"{task.name}.jsonl").write_text(text, encoding="utf-8")
    return prepare(task, "test", "en", model_folder, 64, folder, folder / "shards")


@pytest.fixture(scope="module")
def classes(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Shard:
    return shard_of(CLASSES, list(pairs(37)), model_folder, tmp_path_factory.mktemp("classes"))


@pytest.fixture(scope="module")
def choices(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Shard:
    words = sentences(400, seed=3)
    rows = []
    for n in range(21):
        count = 2 + n % 4
        picked = words[n * 8 : n * 8 + count]
        rows.append({"context": words[-n - 1], "choices": picked, "label": n % count})
    return shard_of(CHOICES, rows, model_folder, tmp_path_factory.mktemp("choices"))


@pytest.fixture(scope="module")
def mining(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Shard:
    rows = [{"source": s, "target": f"{s} {t}"} for s, t in zip(sentences(25), sentences(25, seed=9), strict=True)]
    return shard_of(RETRIEVAL, rows, model_folder, tmp_path_factory.mktemp("mining"))


@pytest.fixture(scope="module")
def model(model_folder: Path, classes: Shard) -> PhaseModel:
    torch.manual_seed(0)
    encoder = load_encoder(model_folder, torch.float32)[0]
    heads = {
        "pairs": build_head("classification", encoder.hidden_size, 3, 0.1),
        "choice": build_head("multiple_choice", encoder.hidden_size, 0, 0.1),
    }
    with torch.no_grad():
        for head in heads.values():
            head.dense.weight.normal_()
            head.out_proj.weight.normal_()
        model = PhaseModel(encoder, heads).train()
        # a random encoder's first tokens are much alike: centred, predictions differ from example to example
        heads["pairs"].out_proj.bias -= torch.from_numpy(predict(model, classes, "pairs").arrays["scores"]).mean(0)
    return model


def one_by_one(model: PhaseModel, shard: Shard, task: str) -> tuple[list[int], float]:
    """The reference: each example in a batch of its own."""
    model.eval()
    found, loss_sum = [], 0.0
    with torch.no_grad():
        for index in range(len(shard)):
            batch = collate(shard, [index], task)
            loss, logits = model(batch)
            loss_sum += float(loss)
            found.append(int(model.heads[task].predictions(logits, batch)["prediction"][0]))
    model.train()
    return found, loss_sum / len(shard)


@pytest.mark.parametrize("task", ["pairs", "choice"])
@pytest.mark.parametrize("tokens_per_batch", [1, 60, 10**6])
def test_predictions_are_those_of_each_example_alone(
    model: PhaseModel, classes: Shard, choices: Shard, task: str, tokens_per_batch: int
) -> None:
    shard = classes if task == "pairs" else choices
    found = predict(model, shard, task, tokens_per_batch=tokens_per_batch)
    reference, loss = one_by_one(model, shard, task)
    assert found.arrays["prediction"].tolist() == reference
    assert len(set(reference)) > 1, "a test that could not fail"
    assert found.loss == pytest.approx(loss, rel=1e-4)
    assert found.arrays["scores"].shape[0] == len(found) == len(shard)
    assert model.training, "the training mode is restored"
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("world_size", [2, 3, 5])
def test_any_number_of_ranks_gives_the_same_on_every_rank(model: PhaseModel, classes: Shard, world_size: int) -> None:
    alone = predict(model, classes, "pairs", tokens_per_batch=90)
    model.eval()  # threads share the model, and would else switch its mode back and forth
    found = on_ranks(world_size, lambda ranks: predict(model, classes, "pairs", ranks=ranks, tokens_per_batch=90))
    model.train()
    for one in found:
        assert one.arrays["prediction"].tolist() == alone.arrays["prediction"].tolist()
        np.testing.assert_allclose(one.arrays["scores"], alone.arrays["scores"], atol=1e-5)
        assert one.loss == pytest.approx(alone.loss, rel=1e-5)


def test_more_ranks_than_examples(model: PhaseModel, classes: Shard) -> None:
    model.eval()
    found = on_ranks(40, lambda ranks: predict(model, classes, "pairs", ranks=ranks))
    model.train()
    reference = predict(model, classes, "pairs").arrays["prediction"].tolist()
    assert [one.arrays["prediction"].tolist() for one in found] == [reference] * 40


@pytest.mark.parametrize("world_size", [1, 3])
def test_progress_counts_every_token_once(model: PhaseModel, classes: Shard, world_size: int) -> None:
    model.eval()
    told: list[int] = []

    def work(ranks: ThreadRanks) -> None:
        predict(
            model,
            classes,
            "pairs",
            ranks=ranks,
            tokens_per_batch=50,
            progress=told.append if ranks.rank == 0 else None,
        )

    on_ranks(world_size, work)
    model.train()
    assert len(told) > 3
    assert sum(told) == int(classes.lengths.sum())


def test_an_example_that_is_missing_is_our_mistake(model: PhaseModel, classes: Shard) -> None:
    class Deaf(ThreadRanks):
        def gather(self, value: Any) -> list[Any]:
            return [value]

    with pytest.raises(AssertionError, match="missing"):
        predict(model, classes, "pairs", ranks=Deaf(0, 2, Meeting(2)))


def test_an_encoder_that_has_diverged_is_named(model_folder: Path, classes: Shard, mining: Shard) -> None:
    encoder = load_encoder(model_folder, torch.float32)[0]
    with torch.no_grad():
        next(iter(encoder.parameters())).fill_(torch.nan)
    broken = PhaseModel(encoder, {"pairs": build_head("classification", encoder.hidden_size, 3, 0.1)})
    with pytest.raises(UserError, match="not a number"):
        predict(broken, classes, "pairs")
    with pytest.raises(UserError, match="not a number"):
        embed(encoder, mining, "mining", layer=1)


@pytest.fixture(scope="module")
def encoder(model: PhaseModel) -> Encoder:
    return model.encoder


@pytest.mark.parametrize("layer", [1, 3])
def test_vectors_are_those_of_each_sentence_alone(encoder: Encoder, mining: Shard, layer: int) -> None:
    source, target = embed(encoder, mining, "mining", layer=layer, tokens_per_batch=100)
    assert source.shape == target.shape == (len(mining), encoder.hidden_size)
    encoder.eval()
    with torch.no_grad():
        for index in range(len(mining)):
            batch = collate(mining, [index], "mining")
            expected = sentence_vectors(encoder(batch, num_layers=layer), batch).numpy()
            np.testing.assert_allclose(source[index], expected[0], atol=1e-5)
            np.testing.assert_allclose(target[index], expected[1], atol=1e-5)
    encoder.train()


def evaluated(spec: TaskSpec, model: PhaseModel, shard: Shard, **more: Any) -> LanguageResult:
    """The one language of ``shard``."""
    setting = Setting(spec, model.encoder, model, spec.name, **more)
    (result,) = evaluators.get(spec.format).evaluate(setting, {"en": shard}).languages
    return result


def test_retrieval_finds_the_same_on_any_number_of_ranks(model: PhaseModel, mining: Shard) -> None:
    alone = evaluated(RETRIEVAL, model, mining, layer=2)
    model.eval()
    found = on_ranks(3, lambda ranks: evaluated(RETRIEVAL, model, mining, layer=2, ranks=ranks, tokens_per_batch=80))
    model.train()
    for one in found:
        assert one.rows == alone.rows
    assert alone.metrics["accuracy"] > 20, "much better than chance (4)"
    assert set(alone.rows[0]) == {"id", "label", "prediction", "prediction_from_english", "line"}
    assert {row["prediction"] for row in alone.rows} <= {row["label"] for row in alone.rows}


def test_predictions_are_words(model: PhaseModel, classes: Shard) -> None:
    found = predict(model, classes, "pairs")
    result = evaluated(CLASSES, model, classes)
    assert [set(row) for row in result.rows] == [{"id", "label", "prediction"}] * len(classes)
    assert [row["label"] for row in result.rows] == [row["label"] for row in pairs(37)]
    assert [row["prediction"] for row in result.rows] == [LABELS[n] for n in found.arrays["prediction"]]
    right = np.mean([row["label"] == row["prediction"] for row in result.rows])
    assert result.metrics["accuracy"] == pytest.approx(100 * right)
    assert result.loss == pytest.approx(found.loss)


def test_choices_are_numbers(model: PhaseModel, choices: Shard) -> None:
    rows = evaluated(CHOICES, model, choices).rows
    assert len(rows) == len(choices)
    assert rows[3]["label"] == 3
    assert all(isinstance(row["prediction"], int) for row in rows)


def test_without_a_process_group_there_is_one_rank() -> None:
    ranks = GroupRanks.of()
    assert (ranks.rank, ranks.world_size, ranks.gather("x")) == (0, 1, ["x"])
