"""Packed batches: the same tokens as example by example, fields and units included."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from shards_for_tests import make_shard

from xtrain.data import Shard, collate, global_units

Tokens = list[list[list[int]]]


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[Shard, Tokens]:
    rng = np.random.default_rng(3)
    sizes = [rng.integers(1, 30, size=rng.integers(1, 6)).tolist() for _ in range(40)]
    return make_shard(tmp_path_factory.mktemp("batches") / "s", sizes, token_field=True)


@settings(max_examples=100)
@given(indices=st.lists(st.integers(0, 39), min_size=1, max_size=20), data=st.data())
def test_a_batch_is_its_examples_end_to_end(
    both: tuple[Shard, Tokens], indices: list[int], data: st.DataObject
) -> None:
    shard, tokens = both
    weights = data.draw(st.lists(st.sampled_from([0.0, 1.0]), min_size=len(indices), max_size=len(indices)))
    batch = collate(shard, np.array(indices), "t", weights)
    sequences = [sequence for index in indices for sequence in tokens[index]]
    assert batch.input_ids.tolist() == [token for sequence in sequences for token in sequence]
    assert batch.positions.tolist() == [n for sequence in sequences for n in range(len(sequence))]
    assert batch.cu_seqlens.tolist() == np.cumsum([0] + [len(sequence) for sequence in sequences]).tolist()
    assert batch.max_seqlen == max(map(len, sequences))
    assert batch.example_offsets.tolist() == np.cumsum([0] + [len(tokens[index]) for index in indices]).tolist()
    assert batch.fields["label"].tolist() == indices
    assert batch.fields["tags"].tolist() == [t % 5 if t % 3 else -100 for t in batch.input_ids.tolist()]
    assert batch.weights.tolist() == weights
    assert batch.indices.tolist() == indices
    assert global_units(shard, indices) == len(indices)  # one label an example


def test_types_and_defaults(tmp_path: Path) -> None:
    shard, _ = make_shard(tmp_path / "s", [[3], [4, 2]])
    batch = collate(shard, [1, 0], "t")
    types = [
        batch.input_ids.dtype,
        batch.positions.dtype,
        batch.cu_seqlens.dtype,
        batch.example_offsets.dtype,
    ]
    assert types == [torch.int64, torch.int64, torch.int32, torch.int64]
    assert [batch.weights.dtype, batch.indices.dtype] == [torch.float32, torch.int64]
    assert batch.weights.tolist() == [1, 1]
    assert (batch.task, batch.num_tokens, batch.num_sequences, batch.num_examples) == ("t", 9, 3, 2)
    assert global_units(shard, [0, 1, 1]) == 3
    with pytest.raises(AssertionError, match="at least one example"):
        collate(shard, [], "t")


def test_a_shard_is_not_changed_by_a_batch(tmp_path: Path) -> None:
    shard, _ = make_shard(tmp_path / "s", [[3], [4]])
    batch = collate(shard, [0, 1], "t")
    batch.input_ids[:] = 0
    batch.fields["label"][:] = 9
    shard.verify()
    assert collate(shard, [0, 1], "t").fields["label"].tolist() == [0, 1]
