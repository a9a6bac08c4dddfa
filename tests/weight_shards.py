"""Weights cut into pieces and dealt to files, as the ranks of a training leave them in a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

import numpy as np
from torch import Tensor

from xtrain.model.sharded_weights import FILE_NAME, KEY
from xtrain.model.tensor_files import TensorFileWriter


def write_shards(
    folder: Path, weights: Mapping[str, Tensor], ranks: int, prefix: str = "weights", seed: int = 0
) -> list[str]:
    """Cut every parameter at random places, deal the pieces to ``ranks`` files; returns the files' names."""
    rng = np.random.default_rng(seed)
    held: list[dict[str, Tensor]] = [{} for _ in range(ranks)]
    for name, value in weights.items():
        flat = value.reshape(-1)
        places = {0, len(flat)} | {int(n) for n in rng.integers(0, len(flat) + 1, size=ranks)}
        cuts = sorted(places)
        for start, stop in pairwise(cuts):
            held[int(rng.integers(ranks))][KEY.format(name=name, start=start)] = flat[start:stop]
    names = []
    for rank, pieces in enumerate(held):
        names.append(FILE_NAME.format(prefix=prefix, rank=rank, world_size=ranks))
        with TensorFileWriter(folder / names[-1], {key: piece.shape for key, piece in pieces.items()}) as writer:
            for key, piece in pieces.items():
                writer.write(key, piece)
            writer.close()
    return names
