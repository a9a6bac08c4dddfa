"""Memory for copies: what torch takes of the host, and what serves where none can be pinned."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from xtrain.training.host_memory import bytes_taken, take

XLMR_LARGE = 559_890_432  # parameters


def test_pinned_memory_comes_in_powers_of_two() -> None:
    assert [bytes_taken(size, pinned=True) for size in (0, 1, 4096, 4097, 2**31 + 1)] == [0, 1, 4096, 8192, 2**32]
    assert bytes_taken(4097, pinned=False) == 4097
    assert 3 * bytes_taken(4 * XLMR_LARGE, pinned=True) == 12 * 2**30


def test_where_nothing_can_be_pinned_pageable_memory_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = torch.empty

    def empty(*size: int, pin_memory: bool = False, **more: Any) -> torch.Tensor:
        if pin_memory:
            raise RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be reported later")
        return whole(*size, **more)

    monkeypatch.setattr(torch, "empty", empty)
    buffer, refusal = take(5000, pinned=True)
    assert buffer.shape == (5000,)
    assert refusal == "CUDA error: out of memory"
    assert take(7, pinned=False)[1] == ""
