"""Weights put together from what each rank of an engine holds, or taken apart into those of encoder and heads."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.distributed as dist
from torch import Tensor

from xtrain.model.phase_model import ENCODER_PREFIX, HEADS_PREFIX
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


def split_weights(weights: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, dict[str, Tensor]]]:
    """Weights by the names of a :class:`PhaseModel`, as the encoder's by checkpoint name and each head's.

    Where the encoder holds a part of the vocabulary, so does its table: see
    :meth:`xtrain.model.vocabulary.UsedVocabulary.expand`.
    """
    encoder: dict[str, Tensor] = {}
    heads: dict[str, dict[str, Tensor]] = {}
    for name, value in weights.items():
        if name.startswith(ENCODER_PREFIX):
            encoder[name.removeprefix(ENCODER_PREFIX)] = value
        else:
            assert name.startswith(HEADS_PREFIX), name
            task, _, parameter = name.removeprefix(HEADS_PREFIX).partition(".")
            heads.setdefault(task, {})[parameter] = value
    return encoder, heads
