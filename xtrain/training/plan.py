"""Which task and which examples form each global step, and what is left to do to a batch before the model."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from xtrain.data import GlobalBatches, JoinedShard, Mixture, PackedBatch, Shard, collate, global_units
from xtrain.study import Recipe


class Masking(Protocol):
    """What masked language modelling does to its batches: see :mod:`xtrain.data.masking`."""

    def num_units(self, shard: Shard | JoinedShard, indices: np.ndarray, occurrence: int) -> int:
        """How many tokens are masked in the examples ``indices``."""

    def apply(self, batch: PackedBatch, occurrence: int) -> PackedBatch:
        """``batch`` with its tokens masked, and a field ``label``."""


@dataclass(frozen=True)
class Plan:
    """Which task and which examples form global step n: a function of (seed, n) alone."""

    shards: Mapping[str, Shard | JoinedShard]
    num_steps: int
    batches: Mapping[str, GlobalBatches]
    mixture: Mixture

    maskings: Mapping[str, Masking] = field(default_factory=dict)
    """Of the tasks of masked language modelling."""

    @classmethod
    def of(
        cls,
        shards: Mapping[str, Shard | JoinedShard],
        recipe: Recipe,
        seed: int,
        exponents: Mapping[str, float] | None = None,
        maskings: Mapping[str, Masking] | None = None,
    ) -> Plan:
        """The plan of a phase over its training shards, one a task.

        ``exponents`` say how the parts of a joined shard are sampled, where that is not by their sizes.
        """
        sizes = {name: len(shard) for name, shard in shards.items()}
        num_examples, num_steps = planned(sizes, recipe)
        mixture = Mixture(sizes, num_steps, seed, recipe.size_cap, recipe.temperature)
        exact = len(sizes) == 1 and recipe.max_steps is None  # the last batch is as short as the data make it
        batches = {
            name: GlobalBatches(
                shard.lengths,
                batch_size=recipe.batch_size,
                seed=seed,
                num_examples_total=num_examples if exact else mixture.steps(name) * recipe.batch_size,
                window_batches=recipe.window_batches,
                parts=shard.sizes if isinstance(shard, JoinedShard) else (),
                exponent=(exponents or {}).get(name, 1.0),
            )
            for name, shard in shards.items()
            if mixture.steps(name)
        }
        return cls(shards, num_steps, batches, mixture, maskings or {})

    def batch(self, step: int) -> GlobalBatch:
        """What is trained in global step ``step``."""
        name, task_step = self.mixture.at(step)
        indices = self.batches[name].batch(task_step)
        return GlobalBatch(name, self.shards[name], indices, task_step, self.maskings.get(name))


def planned(sizes: Mapping[str, int], recipe: Recipe) -> tuple[int, int]:
    """Examples of all epochs, and optimizer steps, of a phase whose tasks have ``sizes`` training examples."""
    capped = sizes.values() if len(sizes) == 1 else [min(size, recipe.size_cap) for size in sizes.values()]
    num_examples = math.ceil(recipe.epochs * sum(capped))
    return num_examples, recipe.max_steps or math.ceil(num_examples / recipe.batch_size)


@dataclass(frozen=True)
class GlobalBatch:
    """The examples of one optimizer step, on all ranks together."""

    task: str
    shard: Shard | JoinedShard
    indices: np.ndarray
    """Their rows in the shard, (E,)."""
    task_step: int
    """Which of the task's own steps it is, from 0."""
    masking: Masking | None = None

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each example, (E,)."""
        lengths: np.ndarray = self.shard.lengths[self.indices]
        return lengths

    def num_units(self) -> int:
        """What its loss is divided by: examples, sequences or labelled tokens."""
        if self.masking is not None:
            return self.masking.num_units(self.shard, self.indices, self.task_step)
        return global_units(self.shard, self.indices)

    def part(self, positions: np.ndarray, weights: np.ndarray) -> PackedBatch:
        """The examples at ``positions`` of it, with their weights, as a packed batch."""
        batch = collate(self.shard, self.indices[positions], self.task, weights)
        return batch if self.masking is None else self.masking.apply(batch, self.task_step)
