"""The 4-bit weight file: dequantising, the mapping to XLM-R, and files that are not whole."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from transformers import AutoModel

from xtrain.errors import UserError
from xtrain.starter import weights


def test_a_block_worked_by_hand() -> None:
    block = np.zeros(1, dtype=weights.Q4_0_BLOCK)
    block["scale"] = 0.5
    block["nibbles"][0, 0] = 0xF0  # value 0 is 0, value 16 is 15
    block["nibbles"][0, 1:] = 0x88
    expected = np.zeros(32)
    expected[0], expected[16] = -4.0, 3.5
    assert weights.dequantise(block).tolist() == expected.tolist()
    assert block.dtype.itemsize == 18


def test_all_values_survive_in_pieces(
    tmp_path: Path, e5_file: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights, "PIECE_BLOCKS", 5)  # no divisor of 24 blocks: the last piece is short
    made = e5_file(tmp_path / "w.bin")
    opened = weights.WeightFile(made.path)
    assert set(opened.tensors) == set(made.values)
    for name, values in made.values.items():
        read = np.concatenate(list(opened.pieces(name)))
        np.testing.assert_array_equal(read, values.reshape(-1), err_msg=name)


def test_converted_folder_is_an_xlm_roberta(tmp_path: Path, e5_file: Callable[..., Any]) -> None:
    made = e5_file(tmp_path / "w.bin")
    out = tmp_path / "model"
    out.mkdir()
    weights.convert(made.path, out)
    model, report = AutoModel.from_pretrained(out, add_pooling_layer=False, output_loading_info=True)
    assert type(model).__name__ == "XLMRobertaModel"
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    state = {name: tensor.numpy() for name, tensor in model.state_dict().items() if "weight" in name or "bias" in name}
    pairs = {
        "embeddings.word_embeddings.weight": made.values["emb.word"],
        "embeddings.token_type_embeddings.weight": made.values["emb.type"][:1],
        "embeddings.LayerNorm.bias": made.values["emb.ln.b"],
        "encoder.layer.1.attention.self.key.weight": made.values["l1.k.w"],
        "encoder.layer.1.attention.output.LayerNorm.weight": made.values["l1.aln.w"],
        "encoder.layer.0.intermediate.dense.weight": made.values["l0.fi.w"],
        "encoder.layer.0.intermediate.dense.bias": made.values["l0.fi.b"],
        "encoder.layer.0.output.dense.weight": made.values["l0.fo.w"],
        "encoder.layer.0.output.LayerNorm.bias": made.values["l0.oln.b"],
    }
    for name, values in pairs.items():
        np.testing.assert_array_equal(state[name], values, err_msg=name)
    positions = state["embeddings.position_embeddings.weight"]
    assert not positions[:2].any()
    np.testing.assert_array_equal(positions[2:], made.values["emb.pos"])
    assert (model.config.layer_norm_eps, model.config.max_position_embeddings) == (1e-12, 14)
    with torch.no_grad():  # twelve tokens: as many as there are positions
        hidden = model(input_ids=torch.arange(4, 16)[None]).last_hidden_state
    assert hidden.shape == (1, 12, 32)
    assert torch.isfinite(hidden).all()


def test_every_tensor_is_written_once(tmp_path: Path, e5_file: Callable[..., Any]) -> None:
    made = e5_file(tmp_path / "w.bin")
    sizes = weights.convert(made.path, tmp_path)
    written = load_file(tmp_path / "model.safetensors")
    assert set(written) == {tensor.name for tensor in weights.mapping(sizes)}
    assert {tensor.source for tensor in weights.mapping(sizes)} == set(made.values)
    assert all(values.dtype == np.float32 for values in written.values())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"magic": b"GGUF"}, "begins with b'GGUF'"),
        ({"version": 9}, "version 9"),
        ({"leave_out": "l1.fo.b"}, "'l1.fo.b' is missing"),
    ],
)
def test_another_file_is_refused(
    tmp_path: Path, e5_file: Callable[..., Any], options: dict[str, Any], said: str
) -> None:
    made = e5_file(tmp_path / "w.bin", **options)
    with pytest.raises(UserError, match=said) as caught:
        weights.convert(made.path, tmp_path)
    assert str(made.path) in str(caught.value)
    assert not (tmp_path / "model.safetensors").exists()


@pytest.mark.parametrize("length", [0, 3, 20, 45, 60, 90, 130, 400, -1])
def test_a_file_that_ends_early_is_refused(tmp_path: Path, e5_file: Callable[..., Any], length: int) -> None:
    made = e5_file(tmp_path / "w.bin")
    made.path.write_bytes(made.path.read_bytes()[:length])
    with pytest.raises(UserError, match=r"the file ends|cannot be read"):
        weights.WeightFile(made.path)
