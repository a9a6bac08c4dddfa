"""Micro-batches: every example once, the budget kept, equally many steps on all ranks."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st

from xtrain.data import eval_batches, microbatches

LENGTHS = st.lists(st.integers(1, 100), min_size=1, max_size=80)


def fewest(lengths: list[int], budget: int) -> int:
    """Runs of neighbours within the budget, filled one by one."""
    runs, load = 0, budget
    for length in lengths:
        load += length
        if load > budget:
            runs, load = runs + 1, length
    return runs


@settings(max_examples=300)
@given(lengths=LENGTHS, world_size=st.integers(1, 5), budget=st.integers(1, 400))
@example(lengths=[100], world_size=4, budget=1)
@example(lengths=[3, 3, 3, 100, 100], world_size=2, budget=9)
def test_the_contract(lengths: list[int], world_size: int, budget: int) -> None:
    sizes = np.array(lengths)
    steps = microbatches(lengths, world_size, budget)
    assert all(len(row) == world_size for row in steps)
    shares = [share for row in steps for share in row]
    weighted = [(int(p), float(w)) for positions, weights in shares for p, w in zip(positions, weights, strict=True)]
    assert sorted(p for p, w in weighted if w == 1) == list(range(len(lengths)))  # each once
    for positions, weights in shares:
        assert len(positions) == len(weights) > 0
        assert len(positions) == 1 or int(sizes[positions].sum()) <= budget
        if 0 in weights:  # a fill-in is alone, and short
            assert weights.tolist() == [0]
            assert sizes[positions[0]] == sizes.min()
    assert len(steps) == -(-fewest(sorted(lengths, reverse=True), budget) // world_size)
    # no rank idles while another has two examples
    if any((weights == 0).all() for _, weights in shares):
        assert max(len(positions) for positions, _ in shares) == 1


@settings(max_examples=100)
@given(lengths=st.lists(st.integers(5, 60), min_size=24, max_size=64), world_size=st.integers(1, 4))
def test_the_largest_share_is_as_small_as_possible(lengths: list[int], world_size: int) -> None:
    sizes = np.array(lengths)
    rows = microbatches(lengths, world_size, 256)
    largest = max(int(sizes[positions].sum()) for row in rows for positions, _ in row)
    # no way to cut the sorted examples into as many runs has a smaller largest one
    assert fewest(sorted(lengths, reverse=True), largest - 1) > len(rows) * world_size


def test_similar_lengths_are_together() -> None:
    sizes = np.random.default_rng(0).integers(5, 200, size=200)
    shares = [p for row in microbatches(sizes, 2, 1000) for p, _ in row]
    shares.sort(key=lambda p: -int(sizes[p].max()))
    for longer, shorter in pairwise(shares):
        assert sizes[longer].min() >= sizes[shorter].max()


def test_the_same_for_the_same() -> None:
    sizes = np.random.default_rng(0).integers(5, 200, size=64)
    first, second = (microbatches(sizes, 3, 1000) for _ in range(2))
    for a, b in zip(first, second, strict=True):
        for (positions_a, weights_a), (positions_b, weights_b) in zip(a, b, strict=True):
            assert positions_a.tolist() == positions_b.tolist()
            assert weights_a.tolist() == weights_b.tolist()


def test_a_large_budget_is_one_step_shared_by_the_ranks() -> None:
    steps = microbatches([10] * 32, 4, 10**6)
    assert [[len(positions) for positions, _ in row] for row in steps] == [[8, 8, 8, 8]]


def test_evaluation_takes_every_example_once() -> None:
    sizes = np.random.default_rng(0).integers(5, 200, size=1001)
    found = [
        p
        for row in eval_batches(sizes, 4, 4096)
        for positions, weights in row
        for p in positions[weights == 1].tolist()
    ]
    assert sorted(found) == list(range(1001))
