"""Sums that each rank makes for itself, as a checkpoint keeps them: a resumed run adds in the order of a calm one."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def of_all_ranks(sums: Tensor) -> list[Any]:
    """``sums`` of every rank, by rank, as JSON has them; collective."""
    ranks = [torch.empty_like(sums) for _ in range(dist.get_world_size())]
    dist.all_gather(ranks, sums)
    return [rank.tolist() for rank in ranks]


def take_back(sums: Tensor, saved: list[Any]) -> None:
    """Fill ``sums`` with this rank's of what :func:`of_all_ranks` gave; with another number of ranks rank 0 has all."""
    rank = dist.get_rank()
    ranks = torch.tensor(saved, dtype=sums.dtype).view(len(saved), *sums.shape)
    if len(saved) != dist.get_world_size():
        ranks, rank = torch.stack([ranks.sum(0), torch.zeros_like(ranks[0])]), min(rank, 1)
    sums.copy_(ranks[rank])
