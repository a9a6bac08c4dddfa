"""Sentence vectors out of hidden states, as the retrieval tasks of XTREME take them."""

from __future__ import annotations

import torch
from torch import Tensor

from xtrain.data.batches import PackedBatch


def sentence_vectors(hidden: Tensor, batch: PackedBatch) -> Tensor:
    """Mean of ``hidden`` (T, H) over all tokens of each sequence, special ones included: (B, H) fp32."""
    sizes = batch.cu_seqlens.long().diff()  # (B,)
    numbers = torch.arange(len(sizes), device=hidden.device)
    sequence = numbers.repeat_interleave(sizes, output_size=batch.num_tokens)  # (T,)
    sums = hidden.new_zeros(len(sizes), hidden.shape[1], dtype=torch.float32)
    return sums.index_add_(0, sequence, hidden.float()) / sizes[:, None]


def layer_for_retrieval(num_layers: int) -> int:
    """The block, counted from 1, whose output retrieval uses: 14 of 24 as in XTREME, to the nearest."""
    return max(1, int(num_layers * 14 / 24 + 0.5))
