"""config.json: every key that is read, and everything that it may hold instead of what it should."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from xtrain.errors import UserError
from xtrain.model.config_file import _KEYS, EncoderConfig, read_config

WHOLE = [name for name, key in _KEYS.items() if key.allowed.startswith("a whole number")]
NUMBERS = ["layer_norm_eps", "hidden_dropout_prob", "attention_probs_dropout_prob"]
WORDS = ["model_type", "hidden_act", "position_embedding_type"]
SWITCHES = ["is_decoder", "add_cross_attention"]
OPTIONAL = ["bos_token_id", "eos_token_id", "position_embedding_type", *SWITCHES]


@pytest.fixture
def values(tiny_model: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((tiny_model / "config.json").read_text())
    return found


def refused(values: object, *parts: str) -> None:
    with pytest.raises(UserError) as caught:
        EncoderConfig.of(values, "config.json")
    for part in ("config.json", *parts):
        assert part in str(caught.value)


def test_the_table_is_all_that_is_read(values: dict[str, Any]) -> None:
    assert {*WHOLE, *NUMBERS, *WORDS, *SWITCHES} == set(_KEYS)
    config = EncoderConfig.of(values, "config.json")
    assert (config.vocab_size, config.max_length, config.layer_norm_eps) == (400, 512, 1e-5)
    assert config.values == values


@pytest.mark.parametrize("key", [*WHOLE, *NUMBERS, *WORDS, *SWITCHES])
def test_what_no_key_may_hold(values: dict[str, Any], key: str) -> None:
    wrong: list[Any] = [None, [], ["a"], {}, {"a": 1}, "nonsense", float("nan"), -1, -0.5, 1e30]
    wrong += [True] if key not in SWITCHES else [0, 1, "false"]
    wrong += [1.0, "1", 10**30] if key in WHOLE else []
    wrong += ["0.1", 1, 7.5, float("inf")] if key in NUMBERS else []
    for value in wrong:
        shown = repr(value) if isinstance(value, str) else json.dumps(value)
        refused({**values, key: value}, f"config.json: {key}: ", shown, "allowed: ")
    if key in OPTIONAL:
        EncoderConfig.of({name: value for name, value in values.items() if name != key}, "config.json")
    else:
        refused({name: value for name, value in values.items() if name != key}, f"config.json: {key}: missing")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"layer_norm_eps": 0}, "layer_norm_eps: 0 is not allowed"),
        ({"num_attention_heads": 0}, "num_attention_heads: 0 is not allowed"),
        ({"num_attention_heads": 5}, "num_attention_heads: 5 heads cannot share hidden_size = 32"),
        ({"pad_token_id": 400}, "pad_token_id: 400 is no token: vocab_size = 400"),
        ({"eos_token_id": 401}, "eos_token_id: 401 is no token"),
        ({"bos_token_id": 999}, "bos_token_id: 999 is no token"),
        ({"max_position_embeddings": 9}, "max_position_embeddings: 9 leaves sequences of 7 tokens"),
        ({"max_position_embeddings": 2}, "max_position_embeddings: 2 leaves sequences of 0 tokens"),
        ({"hidden_act": "gelu_nonsense"}, "hidden_act: 'gelu_nonsense'"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type: 'relative_key'"),
        ({"is_decoder": True}, "is_decoder: true"),
        ({"model_type": "xlm-robreta"}, "did you mean 'xlm-roberta'?"),
    ],
)
def test_what_cannot_be(values: dict[str, Any], changes: dict[str, Any], said: str) -> None:
    refused({**values, **changes}, said)


@pytest.mark.parametrize(
    ("key", "table", "said"),
    [
        ("quantization_config", {"quant_method": "bitsandbytes", "load_in_8bit": True}, "(bitsandbytes)"),
        ("quantization_config", {"quant_method": "gptq", "bits": 4}, "(gptq)"),
        ("quantization_config", {"quant_method": "awq", "bits": 4}, "(awq)"),
        ("quantization_config", {"quant_method": "torchao", "quant_type": "int8"}, "(torchao)"),
        ("quantization_config", {"quant_method": "compressed-tensors"}, "(compressed-tensors)"),
        ("quantization_config", {"quant_method": "fp8"}, "(fp8)"),
        ("quantization_config", {}, "({})"),
        ("quantization_config", "int8", "('int8')"),
        ("compression_config", {"format": "pack-quantized"}, "pack-quantized"),
        ("quantization", {"group_size": 64, "bits": 4}, '"bits": 4'),
    ],
)
def test_quantised_models_are_named(values: dict[str, Any], key: str, table: object, said: str) -> None:
    refused({**values, key: table}, f"{key}: the weights are quantised (", said, "unquantised")
    EncoderConfig.of({**values, key: None}, "config.json")


def test_all_mistakes_at_once(values: dict[str, Any]) -> None:
    wrong = {**values, "pad_token_id": None, "layer_norm_eps": "1e-5", "hidden_size": 0}
    with pytest.raises(UserError) as caught:
        EncoderConfig.of(wrong, "config.json")
    assert len(caught.value.problems) == 3


@pytest.mark.parametrize(
    ("text", "said"),
    [(None, "has no config.json"), ("", "not JSON"), ('{"a": 1,', "not JSON"), ("[1]", "holds [1], not an object"),
     ("null", "holds null"), ("3", "holds 3")],
)  # fmt: skip
def test_a_file_that_is_none(tiny_model: Path, tmp_path: Path, text: str | None, said: str) -> None:
    folder = shutil.copytree(tiny_model, tmp_path / "model")
    path = folder / "config.json"
    path.unlink()
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError) as caught:
        read_config(folder)
    assert said in str(caught.value)
    assert str(folder) in str(caught.value)
