"""Evaluation of masked language modelling: each masked token once, the same tokens every time."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import make_tiny_model, sentences
from torch.nn import functional as F

from xtrain.data import Shard, collate, prepare
from xtrain.data.masking import Masking
from xtrain.evaluation import evaluators
from xtrain.evaluation.evaluators import Gold, Setting
from xtrain.evaluation.evaluators.mlm import MLM
from xtrain.model import PhaseModel, build_head, load_encoder
from xtrain.tasks import Source, TaskSpec
from xtrain.tasks.formats import IGNORED

SPEC = TaskSpec(
    name="wiki",
    format="mlm",
    languages=("en", "ru"),
    sources=(Source(files={"dev": "{lang}.txt"}, reader="text", columns={"text": "text"}),),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("model") / "tiny", prefix="roberta.")


@pytest.fixture(scope="module")
def shards(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Shard]:
    root = tmp_path_factory.mktemp("text")
    found = {}
    for language, script in {"en": "latin", "ru": "cyrillic"}.items():
        (root / f"{language}.txt").write_text("\n".join(sentences(40, script)), encoding="utf-8")
        found[language] = prepare(SPEC, "dev", language, folder, 32, root, root / "shards")
    return found


@pytest.fixture(scope="module")
def model(folder: Path) -> PhaseModel:
    torch.manual_seed(0)
    encoder, _ = load_encoder(folder, torch.float32)
    head = build_head("mlm", encoder.hidden_size, 0, 0.1, vocab_size=400)
    with torch.no_grad():
        head.dense.weight.normal_(std=0.5)  # type: ignore[union-attr,operator]
    return PhaseModel(encoder, {"wiki": head}).eval()


def setting(model: PhaseModel, tokens_per_batch: int) -> Setting:
    return Setting(SPEC, model.encoder, model, "wiki", tokens_per_batch=tokens_per_batch)


def test_metrics_are_means_over_masked_tokens(model: PhaseModel, shards: dict[str, Shard], folder: Path) -> None:
    """Against the full logits of each example alone."""
    found = MLM.evaluate(setting(model, 200), shards)
    assert [one.language for one in found.languages] == ["en", "ru"]
    masking = Masking.of(folder, SPEC, 0)
    head, table = model.heads["wiki"], model.encoder.model.embeddings.word_embeddings.weight
    for one in found.languages:
        shard = shards[one.language]
        losses, right = [], []
        for row in range(len(shard)):
            batch = masking.apply(collate(shard, [row], "wiki"), 0)
            chosen = batch.fields["label"] != IGNORED
            with torch.no_grad():
                hidden = head._transformed(model.encoder(batch)[chosen])  # type: ignore[operator]
                logits = hidden @ table.t() + head.decoder.bias  # type: ignore[union-attr]
            labels = batch.fields["label"][chosen]
            losses += F.cross_entropy(logits, labels, reduction="none").tolist()
            right += (logits.argmax(1) == labels).tolist()
        assert one.metrics["loss"] == pytest.approx(np.mean(losses), rel=1e-5)
        assert one.loss == one.metrics["loss"], "a token's, not an example's"
        assert one.metrics["perplexity"] == pytest.approx(math.exp(np.mean(losses)), rel=1e-4)
        assert one.metrics["accuracy"] == pytest.approx(100 * np.mean(right))
        assert set(one.metrics) == set(MLM.definitions)
        assert one.num_examples == len(shard)


def test_any_batches_mask_the_same_tokens(model: PhaseModel, shards: dict[str, Shard]) -> None:
    one, other = (MLM.evaluate(setting(model, tokens), shards).languages for tokens in (40, 10_000))
    for left, right in zip(one, other, strict=True):
        assert left.rows == right.rows
        assert left.metrics["loss"] == pytest.approx(right.metrics["loss"], rel=1e-5)


def test_rows_and_protocol(model: PhaseModel, shards: dict[str, Shard]) -> None:
    found = MLM.evaluate(setting(model, 200), shards)
    row = found.languages[0].rows[0]
    assert set(row) == {"id", "label", "prediction"}
    assert len(row["label"]) == len(row["prediction"]) >= 1
    assert set(row["label"]) <= set(shards["en"].tokens.tolist())
    masking = {"seed": 0, "mask_probability": 0.15, "mask_share": 0.8, "random_share": 0.1}
    assert found.protocol == {"masking": masking}
    assert evaluators.get("mlm") is MLM


def test_each_token_counts_the_same() -> None:
    label, prediction = np.empty(2, dtype=object), np.empty(2, dtype=object)
    label[0], label[1] = np.array([5]), np.array([6, 7, 8])
    prediction[0], prediction[1] = np.array([5]), np.array([0, 7, 0])
    arrays = {"label": label, "prediction": prediction, "loss": np.array([1.0, 7.0], dtype=np.float32)}
    found = MLM.score(SPEC, arrays, Gold({}, [None, None], ["a", "b"], "en"))
    assert found == {"accuracy": 50.0, "loss": 2.0, "perplexity": pytest.approx(math.exp(2))}
    assert MLM.rows(SPEC, arrays, Gold({}, [None, None], ["a", "b"], "en"))[1] == {
        "id": "b",
        "label": [6, 7, 8],
        "prediction": [0, 7, 0],
    }
    overflowing = {**arrays, "loss": np.array([4000.0, 0.0], dtype=np.float32)}
    assert MLM.score(SPEC, overflowing, Gold({}, [None, None], ["a", "b"], "en"))["perplexity"] == math.inf
