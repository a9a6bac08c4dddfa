"""DeepSpeed files: resolved, and refused where they contradict the study."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from toy import PROJECT

from xtrain.errors import UserError
from xtrain.study import Engine
from xtrain.training.engine import is_offloaded, read_ds_config, resolve_ds_config

FOLDER = PROJECT / "ds_configs"


@pytest.mark.parametrize("name", [path.stem for path in FOLDER.glob("*.json")])
def test_every_file_of_ours_resolves(name: str) -> None:
    config, _ = resolve_ds_config(Engine(name, precision="fp16" if "fp16" in name else "fp32"), FOLDER, 1.0)
    assert config["gradient_clipping"] == 1.0
    assert is_offloaded(config) == ("offload" in name)


def test_stage_0_in_bf16_keeps_fp32_weights_and_says_how() -> None:
    config, notes = resolve_ds_config(Engine("zero0"), FOLDER, 1.0)
    assert config["zero_optimization"]["stage"] == 1
    assert "stage 0 in bf16 runs as stage 1" in notes[0]
    config, notes = resolve_ds_config(Engine("zero0", precision="fp32"), FOLDER, 1.0)
    assert (config["zero_optimization"]["stage"], notes) == (0, [])


def test_keys_that_the_study_owns_are_refused_together(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_text(json.dumps({"train_batch_size": 8, "optimizer": {}, "fp16": {"enabled": True}}))
    with pytest.raises(UserError) as caught:
        resolve_ds_config(Engine(str(path)), FOLDER, 1.0)
    text = str(caught.value)
    assert all(part in text for part in ("train_batch_size", "recipe.*.batch_size", "optimizer", "fp16.enabled"))


def test_what_imports_modules_is_refused_wherever_it_stands(tmp_path: Path) -> None:
    path = tmp_path / "ds_config.json"
    path.write_text(
        json.dumps({"torch_autocast": {"enabled": True, "lower_precision_safe_modules": ["planted.Module"]}})
    )
    with pytest.raises(UserError, match="torch_autocast: is set by the study"):
        resolve_ds_config(Engine(str(path)), FOLDER, 1.0)
    with pytest.raises(UserError, match="torch_autocast: is not allowed"):
        read_ds_config(path)


def test_a_missing_file_names_the_known_ones() -> None:
    with pytest.raises(UserError, match="zero3_offload"):
        resolve_ds_config(Engine("zero9"), FOLDER, 1.0)
