"""Parameters put together from the pieces of any number of ranks, and clear errors where pieces are missing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from weight_shards import write_shards

from xtrain.model.sharded_weights import FILE_NAME, ShardedWeights
from xtrain.model.tensor_files import TensorFileWriter

PARAMETERS = {"a.weight": (7, 5), "a.bias": (5,), "b.weight": (3, 4, 2), "scale": ()}


@pytest.fixture
def weights() -> dict[str, Tensor]:
    torch.manual_seed(0)
    return {name: torch.randn(shape) for name, shape in PARAMETERS.items()}


@pytest.mark.parametrize("ranks", [1, 2, 3, 8])
def test_any_part_of_any_number_of_ranks(weights: dict[str, Tensor], tmp_path: Path, ranks: int) -> None:
    found = ShardedWeights(tmp_path, PARAMETERS, write_shards(tmp_path, weights, ranks, seed=ranks))
    found.check()
    assert found.shapes == PARAMETERS
    for name, value in weights.items():
        assert torch.equal(found.whole(name), value)
        flat = value.reshape(-1)
        for start in range(len(flat) + 1):
            for stop in range(start, len(flat) + 1):
                assert torch.equal(found.read(name, start, stop), flat[start:stop])


def test_into_what_is_there(weights: dict[str, Tensor], tmp_path: Path) -> None:
    found = ShardedWeights(tmp_path, PARAMETERS, write_shards(tmp_path, weights, 2))
    place = torch.zeros(10, dtype=torch.bfloat16)
    assert found.read("a.weight", 3, 9, place[2:8]).data_ptr() == place[2:].data_ptr()
    assert torch.equal(place[2:8], weights["a.weight"].reshape(-1)[3:9].bfloat16())
    assert not place[[0, 1, 8, 9]].any()
    with pytest.raises(AssertionError, match="into 3 elements"):
        found.read("a.weight", 0, 2, torch.empty(3))
    with pytest.raises(AssertionError, match="of 35 elements"):
        found.read("a.weight", 30, 36)


def test_moments_lie_beside_the_weights(weights: dict[str, Tensor], tmp_path: Path) -> None:
    squares = {name: value**2 for name, value in weights.items()}
    names = write_shards(tmp_path, weights, 2)
    names += write_shards(tmp_path, {name: -value for name, value in weights.items()}, 2, "exp_avg")
    names += write_shards(tmp_path, squares, 2, "exp_avg_sq")
    names.append("trainer.json")
    for prefix, expected in (("weights", weights["a.bias"]), ("exp_avg", -weights["a.bias"]),
                             ("exp_avg_sq", squares["a.bias"])):  # fmt: skip
        assert torch.equal(ShardedWeights(tmp_path, PARAMETERS, names, prefix).whole("a.bias"), expected)


def test_a_gap(weights: dict[str, Tensor], tmp_path: Path) -> None:
    names = []
    for rank, (start, stop) in enumerate([(0, 10), (20, 35)]):
        names.append(FILE_NAME.format(prefix="weights", rank=rank, world_size=2))
        with TensorFileWriter(tmp_path / names[-1], {f"a.weight:{start}": (stop - start,)}) as writer:
            writer.write(f"a.weight:{start}", weights["a.weight"].reshape(-1)[start:stop])
            writer.close()
    found = ShardedWeights(tmp_path, {"a.weight": (7, 5)}, names)
    assert torch.equal(found.read("a.weight", 20, 35), weights["a.weight"].reshape(-1)[20:])
    for read in (found.check, lambda: found.whole("a.weight")):
        with pytest.raises(ValueError, match=rf"{tmp_path}: elements 10 to 20 of a\.weight"):
            read()
    with pytest.raises(ValueError, match=r"elements 12 to 15 of a\.weight"):
        found.read("a.weight", 12, 15)
    with pytest.raises(ValueError, match=r"elements 10 to 35 of a\.weight are in none of the weights files"):
        ShardedWeights(tmp_path, {"a.weight": (7, 5)}, names[:1]).read("a.weight")
    with pytest.raises(ValueError, match=r"elements 0 to 4 of b are in none of the exp_avg files"):
        ShardedWeights(tmp_path, {"b": (4,)}, names, "exp_avg").check()


def test_elements_that_are_there_twice_or_too_many(weights: dict[str, Tensor], tmp_path: Path) -> None:
    first = write_shards(tmp_path, weights, 1)
    for name, value in weights.items():
        weights[name] = torch.zeros_like(value)
    again = write_shards(tmp_path, weights, 2)
    with pytest.raises(
        ValueError, match=r"of a\.weight are there twice, in weights-0000\d-of-0000[12]\.safetensors and"
    ):
        ShardedWeights(tmp_path, PARAMETERS, [*first, *again])
    with pytest.raises(ValueError, match=r"a\.bias has 3 elements, its weights files 5"):
        ShardedWeights(tmp_path, {**PARAMETERS, "a.bias": (3,)}, first).check()
