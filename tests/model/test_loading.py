"""Loading: every weight filled or a clear error; prefixes, shards, kept rows, fingerprints."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from packs import make_batch
from safetensors.torch import load_file, save_file
from tiny import make_tiny_model
from transformers import AutoModel

from xtrain.errors import UserError
from xtrain.model import base_fingerprint, bases, load_encoder, loading, resolve


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("base") / "model")


@pytest.fixture
def folder(base: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    return shutil.copytree(base, tmp_path / "model")


def change_config(folder: Path, **values: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.mark.parametrize("prefix", ["", "roberta.", "model.", "text_model.roberta."])
def test_any_prefix_and_the_report(prefix: str, tmp_path: Path, base: Path) -> None:
    folder = make_tiny_model(tmp_path / "model", prefix=prefix)
    tensors = load_file(folder / "model.safetensors")
    tensors |= {"lm_head.bias": torch.zeros(3), f"{prefix}pooler.dense.bias": torch.zeros(3)}
    save_file(tensors, folder / "model.safetensors")
    encoder, report = load_encoder(folder, torch.float32)
    exact = AutoModel.from_pretrained(base, add_pooling_layer=False).state_dict()
    assert encoder.model.state_dict().keys() == exact.keys()
    assert all(torch.equal(value, exact[name]) for name, value in encoder.model.state_dict().items())
    count = sum(value.numel() for value in exact.values())
    assert str(report) == (
        f"encoder: {len(exact)} of {len(exact)} tensors, {count:,} parameters filled (100 %); "
        f"unused in the file: lm_head.bias, {prefix}pooler.dense.bias"
    )


def test_dtype_dropout_and_sizes(base: Path) -> None:
    encoder, _ = load_encoder(base, torch.bfloat16, dropout=0.25)
    assert {p.dtype for p in encoder.parameters()} == {torch.bfloat16}
    assert all(p.requires_grad and not p.is_meta for p in encoder.parameters())
    assert not [name for name, buffer in encoder.named_buffers() if buffer.is_meta]
    assert (encoder.hidden_p, encoder.attention_p) == (0.25, 0.25)
    assert encoder.config.hidden_dropout_prob == 0.1
    assert (encoder.hidden_size, encoder.num_layers, encoder.max_length) == (32, 2, 512)
    assert load_encoder(base, torch.float32)[0].hidden_p == 0.1


def test_shards_with_an_index(folder: Path, base: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    names = sorted(tensors)
    parts = {"model-1.safetensors": names[:7], "model-2.safetensors": names[7:]}
    for file, part in parts.items():
        save_file({name: tensors[name] for name in part}, folder / file)
    (folder / "model.safetensors").unlink()
    index = {"weight_map": {name: file for file, part in parts.items() for name in part}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    encoder, _ = load_encoder(folder, torch.float32)
    for name, value in load_encoder(base, torch.float32)[0].state_dict().items():
        assert torch.equal(encoder.state_dict()[name], value)
    (folder / "model-2.safetensors").unlink()
    with pytest.raises(UserError, match=r"model-2\.safetensors: missing, though the index names it"):
        load_encoder(folder, torch.float32)


def test_missing_tensors_are_named(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    gone = [name for name in tensors if "layer.1." in name]
    save_file({name: value for name, value in tensors.items() if name not in gone}, folder / "model.safetensors")
    with pytest.raises(UserError) as caught:
        load_encoder(folder, torch.float32)
    message = str(caught.value)
    assert f"{len(gone)} of the encoder's {len(tensors)} tensors are missing" in message
    assert all(name in message for name in gone)
    assert "to do:" in message


def test_two_kinds_of_mistake_at_once(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    del tensors["embeddings.LayerNorm.bias"]
    save_file(tensors, folder / "model.safetensors")
    change_config(folder, vocab_size=500)
    with pytest.raises(UserError) as caught:
        load_encoder(folder, torch.float32)
    assert len(caught.value.problems) == 2
    assert "embeddings.word_embeddings.weight [400, 32], not [500, 32]" in str(caught.value)


def test_another_architecture(folder: Path) -> None:
    change_config(folder, model_type="t5")
    for call in (lambda: load_encoder(folder, torch.float32), lambda: resolve(str(folder))):
        with pytest.raises(UserError, match="model_type: 't5' is not of XLM-R's shape") as caught:
            call()
        assert caught.value.problems[0].allowed == "xlm-roberta, roberta, camembert"


@pytest.mark.parametrize("model_type", ["roberta", "camembert"])
def test_its_twins_load(folder: Path, base: Path, model_type: str) -> None:
    change_config(folder, model_type=model_type)
    batch = make_batch([4, 9])
    with torch.no_grad():
        twin, own = (load_encoder(f, torch.float32)[0].eval()(batch) for f in (folder, base))
    assert torch.equal(twin, own)


def test_pickled_weights_are_refused_with_the_way_out(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    for call in (lambda: load_encoder(folder, torch.float32), lambda: resolve(str(folder))):
        with pytest.raises(UserError, match=r"no model\.safetensors, only pytorch_model\.bin") as caught:
            call()
        assert "save_pretrained" in caught.value.problems[0].remedy
    (folder / "pytorch_model.bin").unlink()
    with pytest.raises(UserError, match=r"no model\.safetensors"):
        resolve(str(folder))


def test_a_file_cut_short(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match="not safetensors"):
        load_encoder(folder, torch.float32)


def test_resolve(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert resolve(str(base)) == base
    monkeypatch.setattr(bases.starter, "model_folder", lambda: base)
    assert resolve("starter") == base
    with pytest.raises(UserError, match="no such directory"):
        resolve(str(tmp_path / "nothing"))


def test_hub_without_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UserError, match="hub cannot be reached") as caught:
        resolve("org/name")
    assert "network" in caught.value.problems[0].remedy


def test_kept_rows_are_the_full_tables(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "_CHUNK_ROWS", 37)  # so that a small table has many chunks
    batch = make_batch([6, 20, 1])
    encoder, report = load_encoder(base, torch.float32, kept_rows=batch.input_ids)
    full, _ = load_encoder(base, torch.float32)
    kept = encoder.vocabulary.kept
    assert {0, 1, 2} <= set(kept.tolist())
    assert f"{len(kept)} of 400 word embeddings kept in memory" in str(report)
    assert torch.equal(
        encoder.model.embeddings.word_embeddings.weight, full.model.embeddings.word_embeddings.weight[kept]
    )
    with torch.no_grad():
        assert torch.equal(encoder.eval()(batch), full.eval()(batch))
    other = make_batch([3])
    other.input_ids[:] = int(next(n for n in range(400) if n not in kept.tolist()))
    with pytest.raises(AssertionError, match="kept vocabulary"):
        encoder(other)


def test_fingerprint_follows_the_content(folder: Path, base: Path, tmp_path: Path) -> None:
    first = base_fingerprint(folder)
    assert first == base_fingerprint(base)  # the same content elsewhere
    tensors = load_file(folder / "model.safetensors")
    tensors["embeddings.LayerNorm.bias"] += 1
    save_file(tensors, folder / "model.safetensors")
    os.utime(folder / "model.safetensors", ns=(1, 1))  # another time even on a coarse clock
    second = base_fingerprint(folder)
    assert second != first
    change_config(folder, layer_norm_eps=1e-6)
    assert base_fingerprint(folder) not in (first, second)
    snapshot = tmp_path / "snapshots" / ("0123456789" * 4)
    shutil.copytree(base, snapshot)
    assert base_fingerprint(snapshot) == "0123456789" * 4
