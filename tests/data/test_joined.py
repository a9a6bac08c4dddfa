"""Joined shards and the sampling of their parts: what is read, and how often each part is drawn."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shards_for_tests import make_shard

from xtrain.data import GlobalBatches, JoinedShard, Shard, collate, global_units


@settings(max_examples=80)
@given(
    sizes=st.lists(st.integers(1, 40), min_size=2, max_size=5),
    exponent=st.floats(0.0, 0.9),
    seed=st.integers(0, 2**40),
)
def test_an_epoch_has_each_part_by_its_power(sizes: list[int], exponent: float, seed: int) -> None:
    total = sum(sizes)
    batches = GlobalBatches([5] * total, 4, seed, 3 * total, parts=sizes, exponent=exponent)
    wanted = np.array(sizes) ** exponent / sum(size**exponent for size in sizes) * total
    ends = np.cumsum(sizes)
    for epoch in range(3):
        drawn = batches.stream(epoch * total, (epoch + 1) * total)
        counts = np.bincount(np.searchsorted(ends, drawn, side="right"), minlength=len(sizes))
        assert counts.sum() == total
        assert np.abs(counts - wanted).max() < 1
    # a part is seen whole before any of it is seen again
    everything = Counter(batches.stream(0, 3 * total).tolist())
    for begin, size in zip(ends - sizes, sizes, strict=True):
        times = [everything[begin + n] for n in range(size)]
        assert max(times) - min(times) <= 1


def test_the_exponent_of_one_changes_nothing() -> None:
    plain = GlobalBatches([5] * 30, 4, 7, 60)
    parts = GlobalBatches([5] * 30, 4, 7, 60, parts=[10, 20], exponent=1.0)
    assert plain.stream(0, 60).tolist() == parts.stream(0, 60).tolist()


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> list[Shard]:
    root = tmp_path_factory.mktemp("parts")
    sizes = [[[3, 5], [7]], [[4]] * 9, [[2, 2, 6], [1], [8, 3]]]
    return [make_shard(root / str(n), part, token_field=True, seed=n)[0] for n, part in enumerate(sizes)]


@settings(max_examples=50)
@given(data=st.data())
def test_a_batch_has_each_example_as_its_part_has_it(parts: list[Shard], data: st.DataObject) -> None:
    joined = JoinedShard(parts)
    rows = data.draw(st.lists(st.integers(0, len(joined) - 1), min_size=1, max_size=12, unique=True))
    weights = [float(n % 2) for n in range(len(rows))]
    batch = collate(joined, rows, "t", weights)
    assert sorted(batch.indices.tolist()) == sorted(rows)
    assert dict(zip(batch.indices.tolist(), batch.weights.tolist(), strict=True)) == dict(
        zip(rows, weights, strict=True)
    )
    assert joined.lengths[rows].sum() == batch.num_tokens
    assert global_units(joined, rows) == len(rows)
    for place, row in enumerate(batch.indices.tolist()):
        owner = int(np.searchsorted(joined.offsets, row, side="right")) - 1
        alone = collate(parts[owner], [row - int(joined.offsets[owner])], "t")
        first, last = batch.example_offsets[place], batch.example_offsets[place + 1]
        tokens = slice(int(batch.cu_seqlens[first]), int(batch.cu_seqlens[last]))
        assert batch.input_ids[tokens].tolist() == alone.input_ids.tolist()
        assert batch.positions[tokens].tolist() == alone.positions.tolist()
        assert batch.fields["label"][place] == alone.fields["label"][0]
        assert batch.fields["tags"][tokens].tolist() == alone.fields["tags"].tolist()


def test_names_tell_where_an_example_is_from(parts: list[Shard]) -> None:
    joined = JoinedShard(parts)
    first = joined.ids([int(joined.offsets[1])])[0]
    assert first.endswith(f"/{parts[1].ids([0])[0]}")
    assert joined.fingerprint != JoinedShard(parts[::-1]).fingerprint
    assert set(joined.vocabulary().tolist()) == set().union(*(part.vocabulary().tolist() for part in parts))
