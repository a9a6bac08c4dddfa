"""Memory of the host for copies of the state: pinned where a GPU's copies run beside training, and what that takes."""

from __future__ import annotations

import torch
from torch import Tensor

_PAGE = 4096 // 4  # fp32 numbers in the smallest page of memory
_PAGES_AT_ONCE = 2**14  # touched in one call


def bytes_taken(num_bytes: int, pinned: bool) -> int:
    """What torch takes of the host for a buffer: pinned memory comes in powers of two (its CachingHostAllocator)."""
    return 1 << (num_bytes - 1).bit_length() if pinned and num_bytes else num_bytes


def take(count: int, pinned: bool) -> tuple[Tensor, str]:
    """A buffer (count,) of fp32, and why it is not ``pinned`` where it should be; an empty string otherwise.

    What may be locked is limited (``ulimit -l``), and a node may be out of it: pageable memory serves too, more slowly.
    Every page of that is touched: the kernel gives a page when it is first written to, which takes many times as long
    as copying into it. Pinned memory has its pages at once. Raises :class:`RuntimeError` where there is no memory.
    """
    refusal = ""
    if pinned:
        try:
            return torch.empty(count, dtype=torch.float32, pin_memory=True), ""
        except RuntimeError as error:
            refusal = str(error).strip().partition("\n")[0][:200] or type(error).__name__
    buffer = torch.empty(count, dtype=torch.float32)
    pages = buffer.numpy()[::_PAGE]
    for start in range(0, len(pages), _PAGES_AT_ONCE):
        pages[start : start + _PAGES_AT_ONCE] = 0.0
    return buffer, refusal
