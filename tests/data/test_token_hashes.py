"""A hash for each example: the same for the same tokens in any shard, another one otherwise."""

from __future__ import annotations

import numpy as np
import pytest

from xtrain.data import shards
from xtrain.data.shards import token_hashes


def hashed(*examples: list[int]) -> list[int]:
    offsets = np.concatenate([[0], np.cumsum([len(one) for one in examples])]).astype(np.int64)
    found: list[int] = token_hashes(np.array([t for one in examples for t in one], dtype=np.uint32), offsets).tolist()
    return found


def test_equal_tokens_wherever_they_stand() -> None:
    one, other = hashed([0, 5, 6, 2], [0, 7, 2], []), hashed([9], [0, 7, 2], [0, 5, 6, 2], [])
    assert (one[0], one[1], one[2]) == (other[2], other[1], other[3])
    assert len(set(other)) == 4


def test_order_and_length_count() -> None:
    assert len(set(hashed([0, 5, 6, 2], [0, 6, 5, 2], [0, 5, 6], [0, 0, 5, 6, 2], [5, 0, 6, 2]))) == 5


def test_a_hundred_thousand_have_no_hash_in_common() -> None:
    rng = np.random.default_rng(0)
    rows = np.unique(rng.integers(0, 50, (100_000, 5)), axis=0).astype(np.uint32)
    found = token_hashes(rows.ravel(), np.arange(len(rows) + 1) * 5)
    assert len(np.unique(found)) == len(rows)


def test_in_parts_it_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    examples = [[n, n + 1, *range(n % 4)] for n in range(23)]
    whole = hashed(*examples)
    monkeypatch.setattr(shards, "_HASHED_AT_ONCE", 5)
    assert hashed(*examples) == whole
