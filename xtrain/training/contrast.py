"""In-batch losses over the whole global batch, whatever the number of micro-batches and ranks.

A loss that compares every example with every other does not fall apart into micro-batches. So a step has two
passes (gradient caching: Gao et al. 2021, arXiv 2101.06983): the first, without gradients, gives the vectors
of all examples; the loss is a function of these alone, and so are its gradients with respect to them; the
second pass hands each micro-batch the gradients of its own vectors. Dropout has the same masks in both.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from xtrain.data import PackedBatch
from xtrain.model import PhaseModel
from xtrain.training.engine import TrainEngine

Share = tuple[np.ndarray, np.ndarray]  # positions in the global batch, and weights: of one micro-batch


@dataclass(frozen=True)
class GlobalContrast:
    """The loss of a global batch of E pairs, and its gradient with respect to every vector."""

    loss: Tensor  # (E,) fp32
    vector_gradient: Tensor  # (E, 2, H) fp32, of the loss summed over the batch
    scale_gradient: Tensor  # () fp32, likewise

    def given_to(self, batch: PackedBatch, positions: np.ndarray) -> PackedBatch:
        """``batch``, the examples at ``positions``, with the gradients that its second pass needs."""
        rows = _there(positions, self.loss.device)
        share = self.scale_gradient / len(self.loss)  # the weights of all examples sum to their number
        fields = {"vector_gradient": self.vector_gradient[rows], "scale_gradient": share.expand(len(rows))}
        return replace(batch, fields={**batch.fields, **fields})

    def loss_of(self, positions: np.ndarray, weights: np.ndarray) -> Tensor:
        """The summed loss of a micro-batch, a scalar."""
        rows, counted = (_there(array, self.loss.device) for array in (positions, weights))
        return (self.loss[rows] * counted).sum()


def contrast(
    engine: TrainEngine,
    task: str,
    num_examples: int,
    dealt: Sequence[Share],
    batch_of: Callable[[int], PackedBatch],
) -> GlobalContrast:
    """The first pass over a global batch; collective.

    ``dealt`` are this rank's shares; ``batch_of(number)`` gives the micro-batch on the engine's device and
    seeds its dropout.
    """
    model = cast(PhaseModel, engine.model)
    vectors = groups = None
    for number, (positions, weights) in enumerate(dealt):
        batch = batch_of(number)
        with torch.no_grad():
            _, found = model(batch)  # (2e, H)
        found = found.float().view(len(positions), 2, -1)
        if vectors is None:
            vectors = found.new_zeros((num_examples, *found.shape[1:]))
            groups = batch.fields["group"].new_zeros(num_examples)
        assert groups is not None
        kept, rows = (_there(array, found.device) for array in (np.flatnonzero(weights), positions[weights > 0]))
        vectors[rows], groups[rows] = found[kept], batch.fields["group"][kept]
    assert vectors is not None, "a rank without a micro-batch"
    assert groups is not None
    dist.all_reduce(vectors)  # each row is on one rank, and zero on the others
    dist.all_reduce(groups)
    head: Any = model.head(task)  # a dual encoder's
    with engine.whole(head):
        result = head.contrast(vectors, groups)
    return GlobalContrast(result.loss, result.vector_gradient, result.scale_gradient)


def _there(array: np.ndarray, device: torch.device) -> Tensor:
    """``array`` on ``device``, without waiting for what that has to do."""
    return torch.from_numpy(array).to(device, non_blocking=True)
