"""The starter's real model on real Tatoeba sentences: the check values that came with its weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from real_data import SLICE, on_real_data, real_model

from xtrain.data import prepare
from xtrain.evaluation import evaluators
from xtrain.evaluation.evaluators import Setting
from xtrain.files import make_folder
from xtrain.model import Encoder, load_encoder
from xtrain.tasks import catalog
from xtrain.tasks.sources import existing_files

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
    for path in existing_files(spec, "test", language, SLICE):
        first = path.read_text(encoding="utf-8").split("\n")[:300]
        (make_folder(tmp_path / "tatoeba") / path.name).write_text("\n".join(first), encoding="utf-8")
    shard = prepare(spec, "test", language, model, 512, tmp_path, tmp_path)
    setting = Setting(spec, encoder, layer=encoder.num_layers)
    [result] = evaluators.get("sentence_retrieval").evaluate(setting, {language: shard}).languages
    assert result.num_examples == 300
    assert result.metrics["accuracy"] == result.metrics["accuracy_to_english"]
    assert result.metrics["accuracy"] == pytest.approx(EXPECTED[language], abs=0.3)
