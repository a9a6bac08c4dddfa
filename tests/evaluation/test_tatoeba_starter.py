"""The starter's real model on real Tatoeba sentences: the check values that came with its weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from real_data import SLICE, on_real_data, real_model

from xtrain.data import prepare
from xtrain.evaluation import evaluators
from xtrain.evaluation.evaluators import Setting
from xtrain.model import Encoder, load_encoder
from xtrain.tasks import catalog

pytestmark = on_real_data
# accuracy@1 of the first 300 pairs, each foreign sentence searched among the English ones
EXPECTED = {"zh": 93.7, "ar": 69.0}


@pytest.fixture(scope="module")
def model() -> Path:
    return real_model()


@pytest.fixture(scope="module")
def encoder(model: Path) -> Encoder:
    return load_encoder(model, torch.float32)[0].eval()


@pytest.mark.parametrize("language", EXPECTED)
def test_check_values(model: Path, encoder: Encoder, tmp_path: Path, language: str) -> None:
    options = {"prefix": "query: ", "query": "foreign"}
    spec = catalog.load({"tatoeba": {"options": options}})["tatoeba"]
    shard = prepare(spec, "test", language, model, 512, SLICE, tmp_path, limit=300)
    setting = Setting(spec, encoder, layer=encoder.num_layers)
    [result] = evaluators.get("sentence_retrieval").evaluate(setting, {language: shard}).languages
    assert result.num_examples == 300
    assert result.metrics["accuracy"] == result.metrics["accuracy_to_english"]
    assert result.metrics["accuracy"] == pytest.approx(EXPECTED[language], abs=0.3)
