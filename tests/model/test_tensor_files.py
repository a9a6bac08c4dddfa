"""Safetensors files written and read piece by piece: the format of the library, and nothing more in memory."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from xtrain.checkpoints import FileEntry
from xtrain.model import tensor_files
from xtrain.model.tensor_files import TensorFile, TensorFileWriter


@pytest.fixture
def weights() -> dict[str, Tensor]:
    torch.manual_seed(0)
    return {
        "a": torch.randn(7, 5),
        "empty": torch.zeros(0, 3),
        "m\u00e4\u00df": torch.randn(11),
        "scalar": torch.randn(()),
    }


def write(path: Path, weights: dict[str, Tensor], piece: int = 1000) -> FileEntry:
    shapes = {name: tuple(value.shape) for name, value in weights.items()}
    with TensorFileWriter(path, shapes, {"format": "pt"}) as writer:
        for name, value in weights.items():
            for part in value.reshape(-1).split(piece) if value.numel() else (value,):
                writer.write(name, part)
        return writer.close()


def test_the_library_reads_what_we_write(weights: dict[str, Tensor], tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    entry = write(path, weights)
    found = load_file(path)
    assert found.keys() == weights.keys()
    for name, value in weights.items():
        assert torch.equal(found[name], value)
        assert found[name].shape == value.shape
    data = path.read_bytes()
    assert entry == FileEntry(len(data), hashlib.sha256(data).hexdigest())
    assert TensorFile(path).metadata == {"format": "pt"}


def test_pieces_make_the_same_file(weights: dict[str, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = write(tmp_path / "whole", weights)
    monkeypatch.setattr(tensor_files, "_CHUNK", 16)
    assert write(tmp_path / "pieces", weights, piece=3) == whole
    assert write(tmp_path / "chunks", weights) == whole


def test_the_order_and_number_announced_hold(weights: dict[str, Tensor], tmp_path: Path) -> None:
    with TensorFileWriter(tmp_path / "x", {"a": (2, 2), "b": (1,)}) as writer:
        writer.write("a", torch.ones(3))
        with pytest.raises(AssertionError, match="b comes before a"):
            writer.write("b", torch.ones(1))
        with pytest.raises(AssertionError, match="2 elements of a, and 1 are left"):
            writer.write("a", torch.ones(2))
        writer.write("a", torch.ones(1))
        with pytest.raises(AssertionError, match=r"b is torch\.bfloat16"):
            writer.write("b", torch.ones(1, dtype=torch.bfloat16))
        with pytest.raises(AssertionError, match="1 tensors are missing"):
            writer.close()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_parts_of_what_the_library_wrote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype) -> None:
    monkeypatch.setattr(tensor_files, "_CHUNK", 16)
    path, value = tmp_path / "x.safetensors", torch.randn(9, 4).to(dtype)
    save_file({"ids": torch.arange(6), "w": value}, path)
    file = TensorFile(path)
    assert file.shapes == {"ids": (6,), "w": (9, 4)}
    flat = value.float().reshape(-1)
    assert torch.equal(file.read("w"), flat)
    assert torch.equal(file.read("w", 5, 31), flat[5:31])
    assert file.read("w", 5, 5).shape == (0,)
    place = torch.zeros(2, 6)
    assert file.read("w", 3, 15, place) is place
    assert torch.equal(place.view(-1), flat[3:15])
    short = torch.zeros(12, dtype=torch.bfloat16)
    assert torch.equal(file.read("w", 3, 15, short), flat[3:15].bfloat16())
    with pytest.raises(ValueError, match="ids is I64, not F64, F32, F16, BF16"):
        file.read("ids")


def test_no_safetensors_file(weights: dict[str, Tensor], tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    write(path, weights)
    data = path.read_bytes()
    for spoilt in (
        b"",
        b"abc",
        b"\xff" * 64,
        data[:40],
        (2).to_bytes(8, "little") + b"[]",
        (4).to_bytes(8, "little") + b"\xff}{ ",
    ):
        path.write_bytes(spoilt)
        with pytest.raises(ValueError, match="not a safetensors file"):
            TensorFile(path)
    for entry in ({}, {"dtype": "F32", "shape": [2]}, {"dtype": "F32", "shape": 2, "data_offsets": [0, 8]}, 3):
        text = json.dumps({"a": entry}).encode()
        path.write_bytes(len(text).to_bytes(8, "little") + text)
        with pytest.raises(ValueError, match="its header cannot be read"):
            TensorFile(path)
    path.write_bytes(data[:-1])
    file = TensorFile(path)
    assert torch.equal(file.read("a"), weights["a"].reshape(-1))
    with pytest.raises(ValueError, match="ends in the middle of scalar"):
        file.read("scalar")
