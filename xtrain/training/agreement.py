"""What all ranks must decide alike, decided over CPUs: a few numbers at each step boundary."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import torch
import torch.distributed as dist

T = TypeVar("T")


class Agreement:
    """Small collectives of all ranks over Gloo; every rank must make the same calls in the same order.

    Uses the default group where that is Gloo's, so its calls must come from the thread that trains; a background
    thread needs a group of its own, made with ``separate=True`` (a collective as well). Over CPUs since the answer is
    needed at once by Python: a tensor on a GPU would make every step wait for the GPU's queue.
    """

    def __init__(self, *, separate: bool = False) -> None:
        self.rank = dist.get_rank() if dist.is_initialized() else 0
        self.world_size = dist.get_world_size() if dist.is_initialized() else 1
        self._group: dist.ProcessGroup | None = None
        if dist.is_initialized() and (separate or dist.get_backend() != "gloo"):
            self._group = dist.new_group(backend="gloo")

    def worst(self, values: Sequence[int]) -> list[int]:
        """The largest of each of ``values`` [n] over all ranks."""
        return self._reduced(values, dist.ReduceOp.MAX)

    def least(self, values: Sequence[int]) -> list[int]:
        """The smallest of each of ``values`` [n] over all ranks."""
        return self._reduced(values, dist.ReduceOp.MIN)

    def gather(self, value: Any) -> list[Any]:
        """Every rank's ``value``, by rank."""
        if self.world_size == 1:
            return [value]
        values: list[Any] = [None] * self.world_size
        dist.all_gather_object(values, value, group=self._group)
        return values

    def first(self, value: T) -> T:
        """Rank 0's ``value``, on every rank."""
        found: T = self.gather(value)[0]
        return found

    def barrier(self) -> None:
        """Return once all ranks have called it."""
        # Not dist.barrier: with NCCL's default group beside, it may pick a GPU to meet on.
        self.worst([0])

    def _reduced(self, values: Sequence[int], operation: Any) -> list[int]:
        if self.world_size == 1:
            return list(values)
        tensor = torch.tensor(list(values), dtype=torch.int64)  # [n]
        dist.all_reduce(tensor, operation, group=self._group)
        return [int(value) for value in tensor.tolist()]
