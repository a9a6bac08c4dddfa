"""Cut a global batch into micro-batches by a token budget, and deal them to the ranks."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]
WeightArray = npt.NDArray[np.float32]
Share = tuple[IntArray, WeightArray]
"""Positions in the global batch that a rank takes in a micro-step, and their weights: 1, or 0 to fill in."""


def microbatches(lengths: npt.ArrayLike, world_size: int, tokens_per_micro_batch: int) -> list[list[Share]]:
    """The micro-steps of a global batch, each with one share for every rank.

    ``lengths`` (E,) are the tokens of the batch's examples. All ranks get equally many micro-steps, as few
    as the budget allows. A share holds examples of neighbouring lengths and at most
    ``tokens_per_micro_batch`` tokens, unless it is one example that alone has more. Shares are as even in
    tokens as this allows, those of one micro-step most of all. Each example is in one share with weight 1;
    a share that would be empty (fewer examples than shares) gets the shortest one with weight 0, so that
    every rank runs the same number of passes.
    """
    sizes = np.asarray(lengths, dtype=np.int64)
    assert sizes.size > 0
    assert min(world_size, tokens_per_micro_batch) > 0
    order = np.argsort(-sizes, kind="stable")  # longest first: a budget that is too large fails at once
    ends = np.concatenate([[0], np.cumsum(sizes[order])])  # (E + 1,)
    steps = -(-len(_cut(ends, tokens_per_micro_batch)) // world_size)
    shares = _even(ends, tokens_per_micro_batch, steps * world_size)
    return _deal([order[begin:end] for begin, end in shares], sizes, world_size, steps)


def eval_batches(lengths: npt.ArrayLike, world_size: int, tokens_per_batch: int) -> list[list[Share]]:
    """The steps of an evaluation over all examples of a shard: the rules of :func:`microbatches` hold."""
    return microbatches(lengths, world_size, tokens_per_batch)


def _cut(ends: IntArray, most: int) -> list[tuple[int, int]]:
    """Consecutive runs of at most ``most`` tokens, filled greedily: as few as possible."""
    runs, begin, count = [], 0, len(ends) - 1
    while begin < count:
        end = int(np.searchsorted(ends, ends[begin] + most, side="right")) - 1
        end = max(end, begin + 1)  # one example that is longer than the budget
        runs.append((begin, end))
        begin = end
    return runs


def _even(ends: IntArray, most: int, count: int) -> list[tuple[int, int]]:
    """At most ``count`` consecutive runs, none above ``most``, the largest as small as possible."""
    low, high = max(1, int(ends[-1]) // count), most
    while low < high:  # the smallest budget with which `count` runs suffice
        middle = (low + high) // 2
        if len(_cut(ends, middle)) <= count:
            high = middle
        else:
            low = middle + 1
    runs = _cut(ends, high)
    while len(runs) < count:  # no rank idles while another has two examples
        sizes = [ends[end] - ends[begin] if end - begin > 1 else -1 for begin, end in runs]
        largest = int(np.argmax(sizes))
        if sizes[largest] < 0:
            break
        begin, end = runs[largest]
        half = (ends[begin] + ends[end]) // 2
        middle = min(max(int(np.searchsorted(ends, half)), begin + 1), end - 1)
        runs[largest : largest + 1] = [(begin, middle), (middle, end)]
    return runs


def _deal(shares: list[IntArray], sizes: IntArray, world_size: int, steps: int) -> list[list[Share]]:
    """Shares of similar size into the same micro-step; every other one is dealt backwards, as in a draft."""
    shares = sorted(shares, key=lambda share: -int(sizes[share].sum()))
    filler = (np.array([int(np.argmin(sizes))]), np.zeros(1, dtype=np.float32))
    dealt: list[list[Share]] = []
    for step in range(steps):
        row: list[Share] = [
            (share, np.ones(len(share), dtype=np.float32))
            for share in shares[step * world_size : (step + 1) * world_size]
        ]
        row += [filler] * (world_size - len(row))
        dealt.append(row[::-1] if step % 2 else row)
    return dealt
