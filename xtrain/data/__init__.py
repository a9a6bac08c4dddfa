"""Data: shards made once, global batches that depend on the seed and the step alone, packed batches.

From file to loss: :func:`prepare` turns a task's rows into a :class:`Shard`; :class:`GlobalBatches` says
which examples form global step n; :func:`microbatches` cuts them by a token budget and deals them to the
ranks; :func:`collate` lays a rank's share end to end as a :class:`PackedBatch`, which the model takes.
"""

from __future__ import annotations

from xtrain.data.batches import PackedBatch, collate, global_units
from xtrain.data.joined import JoinedShard
from xtrain.data.microbatches import eval_batches, microbatches
from xtrain.data.prepare import prepare
from xtrain.data.sampler import GlobalBatches, Mixture
from xtrain.data.shards import Shard
from xtrain.tasks.encoding import tokenizer_hash

__all__ = [
    "GlobalBatches",
    "JoinedShard",
    "Mixture",
    "PackedBatch",
    "Shard",
    "collate",
    "eval_batches",
    "global_units",
    "microbatches",
    "prepare",
    "tokenizer_hash",
]
