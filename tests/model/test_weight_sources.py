"""Sources of weights: parts, names, and the whole vocabulary bit for bit as if it had been in memory."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import make_tiny_model
from torch import Tensor

from xtrain.model import UsedVocabulary, save_encoder
from xtrain.model.config_file import read_config
from xtrain.model.loading import load_encoder, used_vocabulary
from xtrain.model.weight_files import WORD_EMBEDDINGS
from xtrain.model.weight_sources import Expanded, InMemory, LazyTensors, Part, WeightSource, base_table

DECAY = 0.98765432109


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("base") / "model", prefix="roberta.")


@pytest.fixture
def folder(base: Path, tmp_path: Path) -> Path:
    """A copy to change."""
    return shutil.copytree(base, tmp_path / "model")


def table_of(folder: Path, prefix: str = "roberta.") -> Tensor:
    """The whole table, (V, H) fp32, as the library reads it."""
    files = [load_file(path) for path in folder.glob("*.safetensors")]
    (table,) = [file[prefix + WORD_EMBEDDINGS] for file in files if prefix + WORD_EMBEDDINGS in file]
    return table.float()


def expanded(folder: Path, decay: float = DECAY) -> tuple[Expanded, Tensor]:
    """Trained rows over the table of ``folder``, and what :meth:`UsedVocabulary.expand` makes of them."""
    config = read_config(folder)
    torch.manual_seed(0)
    vocabulary = used_vocabulary(config, torch.randint(0, config.vocab_size, (60,)))
    trained = torch.randn(len(vocabulary), config.hidden_size)
    expected = vocabulary.expand(trained, table_of(folder), decay)
    source = InMemory({WORD_EMBEDDINGS: trained, "embeddings.LayerNorm.bias": torch.arange(4.0)})
    return Expanded(source, vocabulary, base_table(folder), decay), expected


def in_blocks(source: WeightSource, name: str, step: int) -> Tensor:
    size = torch.Size(source.shapes[name]).numel()
    blocks = [source.read(name, start, min(start + step, size)) for start in range(0, size, step)]
    return torch.cat(blocks).view(source.shapes[name])


@pytest.mark.parametrize("step", [7, 32, 96, 100, 10**6])  # elements; a row has 32
def test_any_blocks_of_the_whole_vocabulary(base: Path, step: int) -> None:
    source, expected = expanded(base)
    found = in_blocks(source, WORD_EMBEDDINGS, step)
    assert found.shape == expected.shape
    assert torch.equal(found.view(torch.int32), expected.view(torch.int32))
    assert torch.equal(source.read("embeddings.LayerNorm.bias", 1, 3), torch.tensor([1.0, 2.0]))
    untouched = ~torch.isin(torch.arange(len(expected)), source.vocabulary.kept)
    assert untouched.sum() > 100
    assert torch.equal(found[untouched], table_of(base)[untouched] * DECAY)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_base_in_another_dtype(folder: Path, dtype: torch.dtype) -> None:
    weights = load_file(folder / "model.safetensors")
    save_file({name: value.to(dtype) for name, value in weights.items()}, folder / "model.safetensors")
    source, expected = expanded(folder)
    assert torch.equal(in_blocks(source, WORD_EMBEDDINGS, 320), expected)


def test_a_base_in_several_files(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    whole, _ = expanded(folder)
    (folder / "model.safetensors").unlink()
    places = {}
    for number, name in enumerate(sorted(weights)):
        places[name] = f"model-{number % 2}.safetensors"
    for file in set(places.values()):
        save_file({name: value for name, value in weights.items() if places[name] == file}, folder / file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    source, expected = expanded(folder)
    assert torch.equal(in_blocks(source, WORD_EMBEDDINGS, 320), expected)
    assert source.shapes == whole.shapes


def test_the_exported_table_is_the_expanded_one(base: Path, tmp_path: Path) -> None:
    config = read_config(base)
    encoder, _ = load_encoder(base, torch.float32, kept_rows=torch.arange(100, 150))
    assert encoder.vocabulary is not None
    weights = {name: value * 2 for name, value in encoder.model.state_dict().items()}
    expected = encoder.vocabulary.expand(weights[WORD_EMBEDDINGS], table_of(base), DECAY)
    source = Expanded(InMemory(weights), encoder.vocabulary, base_table(base), DECAY)
    save_encoder(source, {}, config, base, tmp_path / "encoder")
    found = load_file(tmp_path / "encoder/model.safetensors")
    assert found.keys() == weights.keys()
    for name, value in {**weights, WORD_EMBEDDINGS: expected}.items():
        assert torch.equal(found[name], value), name


def test_rows_of_another_vocabulary(base: Path) -> None:
    vocabulary = UsedVocabulary(torch.arange(50), 400, special=[0], padding_id=1)
    with pytest.raises(AssertionError, match="49 trained rows, and 50 are kept"):
        Expanded(InMemory({WORD_EMBEDDINGS: torch.zeros(49, 32)}), vocabulary, base_table(base), 1.0)


def test_parts_and_lazy_tensors() -> None:
    weights = {"heads.a.w": torch.arange(6.0).view(2, 3), "heads.ab.w": torch.ones(2), "heads.a.b": torch.tensor(5.0)}
    part = Part(InMemory(weights), "heads.a.")
    assert part.shapes == {"w": (2, 3), "b": ()}
    assert torch.equal(part.read("w", 2, 5), torch.tensor([2.0, 3.0, 4.0]))
    lazy = LazyTensors(part)
    assert len(lazy) == 2
    assert torch.equal(lazy["w"], weights["heads.a.w"])
    assert dict(lazy)["b"].shape == ()
    half = InMemory({"w": torch.ones(3, 2, dtype=torch.bfloat16).t()})
    assert half.read("w", 1, 3).dtype == torch.float32
