"""From a committed checkpoint to an encoder: the right numbers, by one process, in little memory."""

from __future__ import annotations

import json
import shutil
from math import prod
from pathlib import Path

import pytest
import torch
from made_up_run import LOOKED_AT, RECIPE, TRAINED_ON, commit, commit_holes, make_run, write_holes
from safetensors.torch import load_file
from tiny import make_tiny_model
from torch import Tensor
from toy import PROJECT, run_python
from transformers import AutoModel

from xtrain.errors import UserError
from xtrain.files import read_json, write_json
from xtrain.model import PhaseModel, build_head, load_encoder, load_heads
from xtrain.model.config_file import read_config
from xtrain.model.weight_files import WORD_EMBEDDINGS, encoder_shapes
from xtrain.phase.exporting import export_checkpoint, used_rows
from xtrain.phase.file import PhaseFile
from xtrain.run_directory import RunDirectory
from xtrain.training.schedule import LinearSchedule

TABLE = f"encoder.model.{WORD_EMBEDDINGS}"
MIB = 2**20
HEADS = {"heads.first.dense.weight": (192, 192), "heads.choose.dense.weight": (192, 192)}


@pytest.fixture
def run(tmp_path: Path, tiny_model: Path) -> RunDirectory:
    return make_run(tmp_path / "out", tiny_model)


def table_of(folder: Path) -> Tensor:
    """The whole table of word embeddings, (V, H)."""
    return load_file(folder / "model.safetensors")[WORD_EMBEDDINGS]


def trained(run: RunDirectory, base: Path, *, partly: bool) -> dict[str, Tensor]:
    """Weights of the phase's model by their names, as if trained."""
    encoder, _ = load_encoder(base, torch.float32, kept_rows=used_rows(run, PhaseFile.read(run)) if partly else None)
    heads = {"first": build_head("classification", 32, 3, 0.1), "choose": build_head("multiple_choice", 32, 0, 0.1)}
    model = PhaseModel(encoder, heads, {"first": "first", "second": "first", "choose": "choose"})
    torch.manual_seed(7)
    return {name: value.detach() + torch.randn_like(value) for name, value in model.named_parameters()}


@pytest.mark.parametrize("ranks", [1, 2, 5])
@pytest.mark.parametrize("partly", [False, True])
def test_the_encoder_and_the_heads(
    run: RunDirectory, tiny_model: Path, tmp_path: Path, ranks: int, partly: bool
) -> None:
    weights = trained(run, tiny_model, partly=partly)
    checkpoint = commit(run, "best-step-20", weights, ranks=ranks, updates=17)  # three were skipped
    done = export_checkpoint(run, checkpoint, tmp_path / "encoder")
    expected = {name.removeprefix("encoder.model."): value for name, value in weights.items() if "heads." not in name}
    if partly:
        kept = torch.tensor(sorted({0, 1, 2, *TRAINED_ON, *LOOKED_AT}))
        assert len(weights[TABLE]) == len(kept)
        schedule = LinearSchedule.of(RECIPE.learning_rate, 50, RECIPE.warmup_ratio)
        factor = schedule.decay_factor(RECIPE.weight_decay, 17)
        assert 0.9 < factor < 0.999
        table = table_of(tiny_model) * factor
        table[kept] = weights[TABLE]
        expected[WORD_EMBEDDINGS] = table
    found = load_file(done.folder / "model.safetensors")
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(found[name], value), name
    heads = load_heads(done.folder)
    for task, head in {"first": "first", "second": "first", "choose": "choose"}.items():
        for name, value in heads[task].weights.items():
            assert torch.equal(value, weights[f"heads.{head}.{name}"])
        assert len(heads[task].weights) == sum(name.startswith(f"heads.{head}.") for name in weights)
    assert heads["second"].labels == ("class0", "class1", "class2")
    notes = json.loads((done.folder / "xtrain.json").read_text())
    assert notes == {"phase": "made-up", "hash": "0123456789ab", "step": 20}
    assert (done.step, done.bytes) == (20, sum(path.stat().st_size for path in done.folder.iterdir()))


def test_everything_reads_it(run: RunDirectory, tiny_model: Path) -> None:
    weights = trained(run, tiny_model, partly=True)
    export_checkpoint(run, commit(run, "step-50", weights), run.encoder)
    model, report = AutoModel.from_pretrained(run.encoder, add_pooling_layer=False, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    encoder, ours = load_encoder(run.encoder, torch.float32)
    assert ours.unused == ()
    for name, value in model.named_parameters():
        assert torch.equal(encoder.model.state_dict()[name], value)
    assert (run.encoder / "tokenizer.json").read_bytes() == (tiny_model / "tokenizer.json").read_bytes()


def test_a_phase_that_starts_from_another(run: RunDirectory, tiny_model: Path, tmp_path: Path) -> None:
    """The rows that no batch touched are the parent's, not the base's."""
    parent = make_tiny_model(tmp_path / "out/intermediate/parent-1/encoder", seed=5)
    run = make_run(tmp_path / "out", tiny_model, parent="intermediate/parent-1")
    weights = trained(run, parent, partly=True)
    export_checkpoint(run, commit(run, "step-0", weights), run.encoder)  # nothing has decayed yet
    found = table_of(run.encoder)
    assert torch.equal(found[200:], table_of(parent)[200:])
    assert not torch.equal(found[200:], table_of(tiny_model)[200:])


def test_checkpoints_that_cannot_be_exported(run: RunDirectory, tiny_model: Path, tmp_path: Path) -> None:
    weights = trained(run, tiny_model, partly=True)
    checkpoint = commit(run, "step-3", weights)
    out = tmp_path / "encoder"

    def refused(match: str) -> None:
        with pytest.raises(UserError, match=match):
            export_checkpoint(run, checkpoint, out)
        assert not out.exists()

    shard = checkpoint / "weights-00001-of-00002.safetensors"
    data = shard.read_bytes()
    shard.write_bytes(data[:-1])
    refused(r"is no whole checkpoint: .*weights-00001-of-00002.safetensors: has .* bytes")
    shard.write_bytes(b"\xff" * len(data))
    refused("is no whole checkpoint: .*is not a safetensors file")
    shard.unlink()
    refused("is missing")
    shard.write_bytes(data)
    short = commit(run, "step-4", {**weights, TABLE: weights[TABLE][1:]})
    checkpoint = short
    refused("has 72 word embeddings, and the data of the phase use 73")
    checkpoint = tmp_path / "nowhere"
    refused("is not a folder")
    other = make_run(tmp_path / "other", tiny_model, hash="ba9876543210")
    with pytest.raises(UserError, match="is of phase 0123456789ab, and this run is ba9876543210"):
        export_checkpoint(other, run.checkpoints / "step-3", out)


def large_base(folder: Path, tiny_model: Path) -> tuple[Path, dict[str, tuple[int, ...]]]:
    """XLM-R's own vocabulary at hidden size 192, of zeros that take no room; and the shapes of its tensors."""
    shutil.copytree(tiny_model, folder)
    larger = {"vocab_size": 250_002, "hidden_size": 192, "intermediate_size": 768, "num_hidden_layers": 3}
    write_json(folder / "config.json", read_json(folder / "config.json") | larger)
    shapes = encoder_shapes(read_config(folder))
    write_holes(folder / "model.safetensors", shapes)
    return folder, shapes


MEASURED = """
import runpy, sys
sys.argv = {argv!r}
runpy.run_path(sys.argv[0], run_name="__main__")
import torch
assert "deepspeed" not in sys.modules, "DeepSpeed was imported"
assert not torch.distributed.is_initialized()
"""


def test_memory_does_not_grow_with_the_model(tiny_model: Path, tmp_path: Path) -> None:
    """Of an export of all rows and of one of the used ones, in a process of its own, without DeepSpeed."""
    base, shapes = large_base(tmp_path / "base", tiny_model)
    run = make_run(tmp_path / "out", base)
    whole = {f"encoder.model.{name}": shape for name, shape in shapes.items()} | HEADS
    partly = {**whole, TABLE: (len(used_rows(run, PhaseFile.read(run))) + 3, 192)}
    argv = [str(PROJECT / "benchmarks/export_memory.py")]
    for step, trained_shapes in enumerate((whole, partly)):
        checkpoint = commit_holes(run, f"step-{step}", trained_shapes)
        argv += [str(run.path), str(checkpoint), str(tmp_path / "encoder")]
    result = run_python(["-c", MEASURED.format(argv=argv)], tmp_path)
    assert result.returncode == 0, result.stderr
    for line in result.stdout.splitlines():
        found, table = json.loads(line), 4 * 250_002 * 192
        assert found["largest_tensor"] == table > 180 * MIB
        assert found["written"] > 4 * sum(prod(shape) for shape in shapes.values())
        assert found["peak_above"] < 1.2 * table + 256 * MIB  # what is promised
        assert found["peak_above"] < 150 * MIB  # what is so: 60 to 110 here, less than the table
    assert len(result.stdout.splitlines()) == 2
