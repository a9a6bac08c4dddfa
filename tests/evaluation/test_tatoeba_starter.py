"""The starter's real model on real Tatoeba sentences: the check values that came with its weights."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from xtrain.data import prepare
from xtrain.evaluation import evaluators
from xtrain.evaluation.evaluators import Setting
from xtrain.model import Encoder, load_encoder
from xtrain.starter import cache_folder
from xtrain.tasks import catalog

SLICE = os.environ.get("XTRAIN_SLICE", "")
MODEL = cache_folder() / "starter" / "model"
pytestmark = [
    pytest.mark.skipif(not SLICE, reason="XTRAIN_SLICE does not name a folder of real data"),
    pytest.mark.skipif(not (MODEL / "config.json").is_file(), reason=f"{MODEL} has not been made"),
]
# accuracy@1 of the first 300 pairs, each foreign sentence searched among the English ones
EXPECTED = {"de": 98.3, "hi": 97.3, "zh": 93.7, "tr": 92.0, "ka": 89.7, "sw": 79.7, "ar": 69.0, "eu": 67.7}


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return load_encoder(MODEL, torch.float32)[0].eval()


@pytest.mark.parametrize("language", EXPECTED)
def test_check_values(encoder: Encoder, tmp_path: Path, language: str) -> None:
    options = {"prefix": "query: ", "query": "foreign"}
    spec = catalog.load({"tatoeba": {"options": options}})["tatoeba"]
    shard = prepare(spec, "test", language, MODEL, 512, Path(SLICE), tmp_path, limit=300)
    setting = Setting(spec, encoder, layer=encoder.num_layers)
    [result] = evaluators.get("sentence_retrieval").evaluate(setting, {language: shard}).languages
    assert result.num_examples == 300
    assert result.metrics["accuracy"] == result.metrics["accuracy_to_english"]
    assert result.metrics["accuracy"] == pytest.approx(EXPECTED[language], abs=0.3)
