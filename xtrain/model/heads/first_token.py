"""Heads on a sequence's first token: classification and multiple choice.

Dimension letters: B sequences, E examples, H hidden, C classes (for multiple choice: choices).
"""

from __future__ import annotations

from typing import cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xtrain.data.batches import PackedBatch
from xtrain.model.dropout import DropoutKeys, dropout
from xtrain.model.heads.base import INIT_STD, Head, HeadShape


class _FirstTokenHead(Head):
    """First token -> dropout -> dense -> tanh -> dropout -> out: Hugging Face's RobertaClassificationHead."""

    def __init__(self, hidden_size: int, num_outputs: int, p: float) -> None:
        super().__init__()
        self.dense = nn.Linear(hidden_size, hidden_size)
        self.out_proj = nn.Linear(hidden_size, num_outputs)
        self.p = p
        for linear in (self.dense, self.out_proj):
            nn.init.normal_(linear.weight, std=INIT_STD)
            nn.init.zeros_(linear.bias)

    def forward(self, hidden: Tensor, batch: PackedBatch, keys: DropoutKeys | None = None, site: int = 0) -> Tensor:
        """``hidden`` (B, H) of the first tokens -> (B, outputs)."""
        assert hidden.shape[0] == batch.num_sequences, "a row for each sequence's first token"
        p = self.p if self.training else 0.0
        firsts = keys.at(batch.cu_seqlens[:-1].long()) if keys is not None and p else None
        inner = torch.tanh(self.dense(dropout(hidden, p, firsts, site)))  # (B, H)
        return cast(Tensor, self.out_proj(dropout(inner, p, firsts, site + 1)))

    def idle(self, hidden: Tensor) -> Tensor:
        """0, at the cost of one row."""
        return 0.0 * cast(Tensor, self.out_proj(torch.tanh(self.dense(hidden[:1])))).float().sum()


class ClassificationHead(_FirstTokenHead):
    """One of C labels for an example of one sequence (a text or a pair of texts)."""

    def loss(self, logits: Tensor, batch: PackedBatch) -> Tensor:
        """Cross entropy of ``logits`` (E, C) against ``batch.fields["label"]`` (E,)."""
        assert batch.num_examples == batch.num_sequences, "one sequence an example"
        return F.cross_entropy(logits.float(), batch.fields["label"], reduction="none")

    def predictions(self, logits: Tensor, batch: PackedBatch) -> dict[str, npt.NDArray[np.generic]]:
        """``prediction`` (E,) int64, the likeliest label, and ``scores`` (E, C) fp32, the logits."""
        return _likeliest(logits)


class MultipleChoiceHead(_FirstTokenHead):
    """One of an example's sequences; examples may have different numbers of them."""

    def __init__(self, hidden_size: int, p: float) -> None:
        super().__init__(hidden_size, 1, p)

    def loss(self, logits: Tensor, batch: PackedBatch) -> Tensor:
        """Cross entropy of the softmax over an example's sequences; ``logits`` (B, 1), labels (E,)."""
        return F.cross_entropy(_by_example(logits, batch), batch.fields["label"], reduction="none")

    def predictions(self, logits: Tensor, batch: PackedBatch) -> dict[str, npt.NDArray[np.generic]]:
        """``prediction`` (E,) int64 and ``scores`` (E, C) fp32; where an example has fewer choices, -inf."""
        return _likeliest(_by_example(logits, batch))


def build_classification(shape: HeadShape) -> Head:
    """A new classification head."""
    return ClassificationHead(shape.hidden_size, shape.num_labels, shape.dropout)


def build_multiple_choice(shape: HeadShape) -> Head:
    """A new multiple choice head."""
    return MultipleChoiceHead(shape.hidden_size, shape.dropout)


def _by_example(logits: Tensor, batch: PackedBatch) -> Tensor:
    """Scores of sequences (B, 1) as (E, C) fp32, C the most sequences of an example, -inf behind the last."""
    offsets = batch.example_offsets  # (E + 1,)
    sizes = offsets.diff()
    numbers = torch.arange(len(sizes), device=sizes.device)
    example = numbers.repeat_interleave(sizes, output_size=batch.num_sequences)  # (B,)
    choice = torch.arange(len(example), device=sizes.device) - offsets[:-1][example]  # (B,)
    most = int(batch.host.example_offsets.diff().max())
    scores = logits.new_full((len(sizes), most), -torch.inf, dtype=torch.float32)
    return scores.index_put((example, choice), logits.squeeze(-1).float())


def _likeliest(scores: Tensor) -> dict[str, npt.NDArray[np.generic]]:
    values = scores.detach().float().cpu()
    return {"prediction": values.argmax(-1).numpy(), "scores": values.numpy()}
