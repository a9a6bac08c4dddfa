"""A packed batch: the one layout from the sampler to the loss, without padding."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

# Dimension letters used in the whole package:
#   B sequences, E examples, T tokens of the pack, N heads, D head size, H hidden, C classes, V vocabulary.
# An example is one or more sequences: a pair is one, a question with four choices is four.


@dataclass(frozen=True)
class PackedBatch:
    """Examples of one task and one language group, laid end to end."""

    task: str
    input_ids: Tensor  # (T,) int64
    positions: Tensor  # (T,) int64, from 0 in every sequence; the encoder adds padding_idx + 1
    cu_seqlens: Tensor  # (B + 1,) int32: sequence b is rows cu_seqlens[b] to cu_seqlens[b + 1]
    max_seqlen: int  # the longest sequence, in tokens
    example_offsets: Tensor  # (E + 1,) int64: example e is sequences example_offsets[e] to example_offsets[e + 1]
    fields: dict[str, Tensor]  # what the head needs: "label" (E,); per-token fields are (T,)
    weights: Tensor  # (E,) float32: 1, or 0 for an example that only fills a rank's micro-batch
    indices: Tensor  # (E,) int64: the example's row in its shard, by which predictions are gathered

    @property
    def num_tokens(self) -> int:
        """T, fill-in examples included."""
        return int(self.input_ids.numel())

    @property
    def num_sequences(self) -> int:
        """B."""
        return int(self.cu_seqlens.numel()) - 1

    @property
    def num_examples(self) -> int:
        """E."""
        return int(self.example_offsets.numel()) - 1

    def to(self, device: torch.device) -> PackedBatch:
        """The same batch on ``device``."""
        return replace(
            self,
            input_ids=self.input_ids.to(device, non_blocking=True),
            positions=self.positions.to(device, non_blocking=True),
            cu_seqlens=self.cu_seqlens.to(device, non_blocking=True),
            example_offsets=self.example_offsets.to(device, non_blocking=True),
            fields={name: value.to(device, non_blocking=True) for name, value in self.fields.items()},
            weights=self.weights.to(device, non_blocking=True),
            indices=self.indices,
        )
