"""Export: a directory that AutoModel reads as our encoder, heads beside it, whole or not at all."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
import torch
from packs import make_batch, padded
from safetensors import safe_open
from safetensors.torch import save_file
from tiny import make_tiny_model
from transformers import AutoModel, AutoTokenizer
from whole import split_weights

from xtrain.errors import UserError
from xtrain.model import PhaseModel, SavedHead, export, load_encoder, load_heads, save_encoder
from xtrain.model.heads import build


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("base") / "model")


def phase_model(base: Path) -> PhaseModel:
    torch.manual_seed(0)
    heads = {"nli": build("classification", 32, 3, 0.1), "qa": build("multiple_choice", 32, 0, 0.1)}
    return PhaseModel(load_encoder(base, torch.float32, dropout=0.4)[0], heads)


def save(model: PhaseModel, base: Path, out: Path) -> None:
    weights, heads = split_weights(model.state_dict())
    saved = {
        "nli": SavedHead("classification", ("no", "yes", "perhaps"), heads["nli"]),
        "qa": SavedHead("multiple_choice", (), heads["qa"]),
    }
    save_encoder(weights, saved, model.encoder.config, base, out)


def test_automodel_reads_it(base: Path, tmp_path: Path) -> None:
    model, out = phase_model(base), tmp_path / "a" / "encoder"
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.01)
    save(model, base, out)
    theirs, report = AutoModel.from_pretrained(out, add_pooling_layer=False, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    batch = make_batch([5, 17, 1])
    ids, mask = padded(batch)
    with torch.no_grad():
        expected = theirs.eval()(input_ids=ids, attention_mask=mask).last_hidden_state[mask.bool()]
        assert (model.eval().encoder(batch) - expected).abs().max() < 1e-5
    assert {p.dtype for p in theirs.parameters()} == {torch.float32}
    assert (
        AutoTokenizer.from_pretrained(out)("ab cd")["input_ids"]
        == AutoTokenizer.from_pretrained(base)("ab cd")["input_ids"]
    )
    config = json.loads((out / "config.json").read_text())
    assert (config["architectures"], config["dtype"]) == (["XLMRobertaModel"], "float32")
    assert config["hidden_dropout_prob"] == 0.1  # the base's, not the phase's
    with safe_open(out / "model.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}
    assert [path.name for path in out.parent.iterdir()] == ["encoder"]


def test_back_into_an_encoder_and_heads(base: Path, tmp_path: Path) -> None:
    model, out = phase_model(base), tmp_path / "encoder"
    save(model, base, out)
    encoder, report = load_encoder(out, torch.float32)
    assert report.unused == ()
    for name, value in model.encoder.state_dict().items():
        assert torch.equal(encoder.state_dict()[name], value)
    heads = load_heads(out)
    assert heads["nli"].labels == ("no", "yes", "perhaps")
    assert heads["qa"].format == "multiple_choice"
    for task, head in heads.items():
        model.heads[task].load_state_dict(head.weights)  # strict: every name is there
        assert torch.equal(head.weights["dense.weight"], model.heads[task].dense.weight)


def test_an_older_one_is_replaced(base: Path, tmp_path: Path) -> None:
    model, out = phase_model(base), tmp_path / "encoder"
    save(model, base, out)
    (out / "left over").touch()
    with torch.no_grad():
        model.encoder.model.embeddings.LayerNorm.bias.fill_(7)
    save(model, base, out)
    assert not (out / "left over").exists()
    assert load_encoder(out, torch.float32)[0].model.embeddings.LayerNorm.bias.eq(7).all()
    assert [path.name for path in tmp_path.iterdir()] == ["encoder"]


def test_no_heads(base: Path, tmp_path: Path) -> None:
    encoder, _ = load_encoder(base, torch.float32)
    save_encoder(encoder.model.state_dict(), {}, encoder.config, base, tmp_path / "encoder")
    assert load_heads(tmp_path / "encoder") == {}
    assert load_heads(base) == {}


def test_a_short_table_is_never_written(base: Path, tmp_path: Path) -> None:
    encoder, _ = load_encoder(base, torch.float32, kept_rows=torch.arange(50))
    with pytest.raises(AssertionError, match="expand the vocabulary first"):
        save_encoder(encoder.model.state_dict(), {}, encoder.config, base, tmp_path / "encoder")


def test_a_place_that_cannot_be_written(base: Path, tmp_path: Path) -> None:
    encoder, _ = load_encoder(base, torch.float32)
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be written"):
        save_encoder(encoder.model.state_dict(), {}, encoder.config, base, tmp_path / "file" / "runs" / "encoder")


def test_a_full_disk_leaves_the_old_one(base: Path, tmp_path: Path) -> None:
    model, disk = phase_model(base), tmp_path / "disk"
    save(model, base, tmp_path / "measured")
    size = sum(path.stat().st_size for path in (tmp_path / "measured").iterdir())
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size * 3 // 2}", "tmpfs", str(disk)]
    if os.geteuid() != 0 or subprocess.run(mount).returncode:
        pytest.skip("no tmpfs can be mounted here")
    try:
        out = disk / "encoder"
        save(model, base, out)
        before = {path.name: path.read_bytes() for path in out.iterdir()}
        with pytest.raises(UserError, match="the disk is full"):
            save(model, base, out)  # there is room for one
        assert {path.name: path.read_bytes() for path in out.iterdir()} == before
        assert [path.name for path in disk.iterdir()] == ["encoder"]
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def test_what_a_killed_process_left_goes(base: Path, tmp_path: Path) -> None:
    for name in (".encoder.123.tmp", ".encoder.123.old", ".encoder-last.123.tmp"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").touch()
    save(phase_model(base), base, tmp_path / "encoder")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".encoder-last.123.tmp", "encoder"]


def test_the_file_is_that_of_safetensors_itself(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, out = phase_model(base), tmp_path / "encoder"
    weights, heads = split_weights(model.state_dict())
    for block in (16, 1000, export.BLOCK):  # less than a row, some rows, everything
        monkeypatch.setattr(export, "BLOCK", block)
        save(model, base, out)
        save_file(weights, tmp_path / "expected", metadata={"format": "pt"})
        assert (out / "model.safetensors").read_bytes() == (tmp_path / "expected").read_bytes()
        tensors = {f"{task}/{name}": value for task, head in heads.items() for name, value in head.items()}
        save_file(tensors, tmp_path / "expected", metadata={"format": "pt"})
        assert (out / "heads.safetensors").read_bytes() == (tmp_path / "expected").read_bytes()


def test_notes(base: Path, tmp_path: Path) -> None:
    encoder, _ = load_encoder(base, torch.float32)
    save_encoder(encoder.model.state_dict(), {}, encoder.config, base, tmp_path / "encoder", {"step": 7})
    assert json.loads((tmp_path / "encoder/xtrain.json").read_text()) == {"step": 7}
