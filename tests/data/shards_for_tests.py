"""Shards of generated numbers, for tests that need no tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from xtrain.data.shards import Shard, write_shard


def make_shard(
    path: Path, examples: Sequence[Sequence[int]], token_field: bool = False, seed: int = 0
) -> tuple[Shard, list[list[list[int]]]]:
    """A shard whose example e has sequences of the lengths ``examples[e]``, and their tokens."""
    rng = np.random.default_rng(seed)
    tokens = [[rng.integers(4, 1000, size=size).tolist() for size in sizes] for sizes in examples]
    fields: dict[str, list[int]] = {"label": list(range(len(examples)))}
    kinds = {"label": "example"}
    if token_field:
        fields["tags"] = [t % 5 if t % 3 else -100 for example in tokens for seq in example for t in seq]
        kinds["tags"] = "token"
    shard = write_shard(
        path,
        [np.array(sequence, dtype=np.uint32) for example in tokens for sequence in example],
        [len(sequence) for example in tokens for sequence in example],
        [len(example) for example in tokens],
        fields,
        [f"id{n}" for n in range(len(examples))],
        {"task": "t", "format": "f", "language": "en", "split": "train", "fields": kinds},
    )
    return shard, tokens
