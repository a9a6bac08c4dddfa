"""The whole fp32 weights of an engine in any ZeRO stage, put together from what each rank holds."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from xtrain.training.engine import TrainEngine
from xtrain.training.pieces import WEIGHTS


def whole_weights(engine: TrainEngine) -> dict[str, Tensor]:
    """By name, on every rank; all must call it."""
    weights = {name: torch.zeros(shape) for name, shape in engine.state.shapes().items()}
    for piece in engine.state.owned():
        live = engine.state.view(piece, WEIGHTS)
        weights[piece.name].view(-1)[piece.start : piece.start + piece.count] = live
    for value in weights.values():
        dist.all_reduce(value)  # each element is on one rank, and zero on the others
    return weights
