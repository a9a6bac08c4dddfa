"""A packed batch: the one layout from the sampler to the loss, without padding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from xtrain.data.joined import JoinedShard
from xtrain.data.shards import Shard
from xtrain.tasks.formats import IGNORED

# Dimension letters used in the whole package:
#   B sequences, E examples, T tokens of the pack, N heads, D head size, H hidden, C classes, V vocabulary.
# An example is one or more sequences: a pair is one, a question with four choices is four.


@dataclass(frozen=True)
class PackedBatch:
    """Examples of one task, laid end to end."""

    task: str
    input_ids: Tensor  # (T,) int64
    positions: Tensor  # (T,) int64, from 0 in every sequence; the encoder adds padding_idx + 1
    cu_seqlens: Tensor  # (B + 1,) int32: sequence b is rows cu_seqlens[b] to cu_seqlens[b + 1]
    max_seqlen: int  # the longest sequence, in tokens
    example_offsets: Tensor  # (E + 1,) int64: example e is sequences example_offsets[e] to example_offsets[e + 1]
    fields: dict[str, Tensor]  # what the head needs, one number an example (E,), sequence (B,) or token (T,)
    weights: Tensor  # (E,) float32: 1, or 0 for an example that only fills a rank's micro-batch
    indices: Tensor  # (E,) int64: the example's row in its shard, by which predictions are gathered
    _host: PackedBatch | None = field(default=None, repr=False)

    @property
    def host(self) -> PackedBatch:
        """The same batch on the CPU: what depends on its numbers is read here, without waiting for a GPU."""
        return self._host or self

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
        """The same batch on ``device``; its :attr:`host` stays where it is."""
        if device == self.input_ids.device:
            return self
        return replace(
            self,
            input_ids=self.input_ids.to(device, non_blocking=True),
            positions=self.positions.to(device, non_blocking=True),
            cu_seqlens=self.cu_seqlens.to(device, non_blocking=True),
            example_offsets=self.example_offsets.to(device, non_blocking=True),
            fields={name: value.to(device, non_blocking=True) for name, value in self.fields.items()},
            weights=self.weights.to(device, non_blocking=True),
            _host=self.host,
        )

    def pin_memory(self) -> PackedBatch:
        """The same batch in page-locked memory, from which ``to`` does not wait for the copy to a GPU."""
        return replace(
            self,
            input_ids=self.input_ids.pin_memory(),
            positions=self.positions.pin_memory(),
            cu_seqlens=self.cu_seqlens.pin_memory(),
            example_offsets=self.example_offsets.pin_memory(),
            fields={name: value.pin_memory() for name, value in self.fields.items()},
            weights=self.weights.pin_memory(),
        )


def collate(
    shard: Shard | JoinedShard, indices: npt.ArrayLike, task: str, weights: npt.ArrayLike | None = None
) -> PackedBatch:
    """The examples ``indices`` (E,) of ``shard``, laid end to end in this order (of a joined shard: part by part).

    ``weights`` (E,) are 1 or 0 (see :mod:`xtrain.data.microbatches`), all 1 by default.
    """
    rows = np.asarray(indices, dtype=np.int64)
    assert rows.ndim == 1
    assert rows.size > 0, "a batch has at least one example"
    ones = np.ones(len(rows)) if weights is None else np.asarray(weights)
    if isinstance(shard, JoinedShard):
        batches = [
            replace(collate(part, local, task, ones[places]), indices=torch.from_numpy(rows[places]))
            for part, local, places in shard.divided(rows)
        ]
        return concatenated(batches)
    first, last = shard.example_offsets[rows], shard.example_offsets[rows + 1]  # (E,) sequences
    sequences = ranges(first, last - first)  # (B,)
    begin = shard.sequence_offsets[sequences]  # (B,)
    sizes = shard.sequence_offsets[sequences + 1] - begin  # (B,)
    tokens = ranges(begin, sizes)  # (T,) places in the shard
    places = {"example": rows, "sequence": sequences, "token": tokens}
    fields = {
        name: torch.from_numpy(values[places[shard.field_kinds[name]]].astype(np.int64))
        for name, values in shard.fields.items()
    }
    return PackedBatch(
        task=task,
        input_ids=torch.from_numpy(shard.tokens[tokens].astype(np.int64)),
        positions=torch.from_numpy(tokens - np.repeat(begin, sizes)),
        cu_seqlens=torch.from_numpy(_offsets(sizes).astype(np.int32)),
        max_seqlen=int(sizes.max()),
        example_offsets=torch.from_numpy(_offsets(last - first)),
        fields=fields,
        weights=torch.from_numpy(ones.astype(np.float32)),
        indices=torch.from_numpy(rows),
    )


def ranges(begin: npt.NDArray[np.int64], sizes: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """``begin[0], begin[0] + 1, ...`` of each range, one after the other, (sum of sizes,)."""
    before = np.cumsum(sizes) - sizes  # where each range begins in the result
    flat: npt.NDArray[np.int64] = np.arange(int(sizes.sum())) + np.repeat(begin - before, sizes)
    return flat


def _offsets(sizes: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    return np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(sizes)])


def concatenated(batches: Sequence[PackedBatch]) -> PackedBatch:
    """Batches of one task, one behind the other."""
    if len(batches) == 1:
        return batches[0]
    return PackedBatch(
        task=batches[0].task,
        input_ids=torch.cat([batch.input_ids for batch in batches]),
        positions=torch.cat([batch.positions for batch in batches]),
        cu_seqlens=_joined_offsets([batch.cu_seqlens for batch in batches]),
        max_seqlen=max(batch.max_seqlen for batch in batches),
        example_offsets=_joined_offsets([batch.example_offsets for batch in batches]),
        fields={name: torch.cat([batch.fields[name] for batch in batches]) for name in batches[0].fields},
        weights=torch.cat([batch.weights for batch in batches]),
        indices=torch.cat([batch.indices for batch in batches]),
    )


def _joined_offsets(offsets: Sequence[Tensor]) -> Tensor:
    """(n + 1,), (m + 1,), ... offsets, each from 0, as those of the whole, (n + m + ... + 1,)."""
    sizes = torch.cat([one.diff() for one in offsets])
    return torch.cat([torch.zeros(1, dtype=sizes.dtype), sizes.cumsum(0).to(sizes.dtype)])


def global_units(shard: Shard | JoinedShard, indices: npt.ArrayLike) -> int:
    """How many units of loss the examples ``indices`` have: what the loss of a global batch is divided by.

    One an example; where a format has a label a token, one for each token that is not ``IGNORED``; where
    it has a field a sequence, one a sequence.
    """
    rows = np.asarray(indices, dtype=np.int64)
    if isinstance(shard, JoinedShard):
        return sum(global_units(part, local) for part, local, _ in shard.divided(rows))
    if shard.field_kinds.get("label") == "token":
        begin = shard.sequence_offsets[shard.example_offsets[rows]]
        tokens = ranges(begin, shard.lengths[rows])
        return int((shard.fields["label"][tokens] != IGNORED).sum())
    if "sequence" in shard.field_kinds.values():
        return int((shard.example_offsets[rows + 1] - shard.example_offsets[rows]).sum())
    return len(rows)
