"""What every head has: hidden states of packed rows to logits, per-example losses and predictions.

Dimension letters: B sequences, E examples, T tokens, H hidden, C classes, V vocabulary.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

from xtrain.data.batches import PackedBatch
from xtrain.model.dropout import DropoutKeys

INIT_STD = 0.02  # of new weights, as in every model of BERT's family


@dataclass(frozen=True)
class HeadShape:
    """What a head is built from: sizes of the encoder, labels and options of the task."""

    hidden_size: int
    num_labels: int = 0
    dropout: float = 0.0
    vocab_size: int = 0
    layer_norm_eps: float = 1e-5
    options: Mapping[str, Any] = field(default_factory=dict)


class Head(nn.Module, ABC):
    """What stands on the encoder for one task."""

    first_only = True
    """Whether the head reads each sequence's first token alone, (B, H); else it gets all, (T, H)."""
    in_batch = False
    """Whether the loss compares all examples of the global batch with one another: see ``contrast`` there."""
    tied = False
    """Whether ``forward`` takes the encoder's word embeddings, (V, H), as the argument ``table``."""

    @abstractmethod
    def forward(self, hidden: Tensor, batch: PackedBatch, keys: DropoutKeys | None = None, site: int = 0) -> Tensor:
        """``hidden`` (B or T, H) -> logits; dropout takes masks from ``keys`` at ``site`` and after it."""

    @abstractmethod
    def idle(self, hidden: Tensor) -> Tensor:
        """A scalar 0 that depends on every parameter, for a step of another task; ``hidden`` as in forward."""

    @abstractmethod
    def loss(self, logits: Tensor, batch: PackedBatch) -> Tensor:
        """Summed loss of each example, (E,) fp32."""

    @abstractmethod
    def predictions(self, logits: Tensor, batch: PackedBatch) -> dict[str, npt.NDArray[np.generic]]:
        """What is predicted for each example, by name, (E, ...) on the CPU."""
