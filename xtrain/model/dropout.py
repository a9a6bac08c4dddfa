"""Dropout whose masks are a function of (seed, example, place): fast on CPU, the same on any number of ranks.

PyTorch's dropout on CPU draws one number after the other from one generator, 4 to 5 ns an element, which
is more than the matrix product beside it costs. Here a mask bit is a hash of a row's key and a column's key,
computed with vector instructions. A row's key comes from the example's index and the token's place in
the example, so that the mask does not depend on what else is in the micro-batch or on which rank it is.

Dimension letters: R rows (tokens or sequences), T tokens of the pack, E examples, C columns, H hidden.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from xtrain.data.batches import PackedBatch

_GOLDEN = -1640531527  # 2**32 divided by the golden ratio, as a signed number: spreads 0, 1, 2, ...
_LEVELS = 65536  # a mask bit compares 16 random bits: p is rounded to a multiple of 1/65536


@dataclass(frozen=True)
class DropoutKeys:
    """What the masks of one forward pass are made from."""

    rows: Tensor  # (R, 1) int32: one key a token
    columns: Tensor  # (sites, C) int32: at each place in the network, one key for two columns

    @classmethod
    def draw(cls, batch: PackedBatch, num_sites: int, num_columns: int) -> DropoutKeys:
        """Keys for the T tokens of ``batch``, with a seed drawn from torch's default CPU generator.

        ``torch.manual_seed`` before a forward pass therefore fixes its masks. Where the same seed is set
        on every rank, an example has the same masks on whatever rank and in whatever micro-batch it is.
        """
        row_seed, column_seed = torch.randint(-(2**31), 2**31, (2,), dtype=torch.int32).tolist()
        device = batch.cu_seqlens.device
        starts = batch.cu_seqlens.long()[batch.example_offsets]  # (E + 1,) first token of each example
        sizes = starts.diff()
        tokens = batch.num_tokens  # told, as a GPU would have to be waited for
        example = batch.indices.to(device, non_blocking=True).repeat_interleave(sizes, output_size=tokens)
        place = torch.arange(tokens, device=device) - starts[:-1].repeat_interleave(sizes, output_size=tokens)
        rows = mix(example.to(torch.int32).mul_(_GOLDEN).add_(row_seed))
        rows = mix(rows.add_(place.to(torch.int32).mul_(_GOLDEN)))
        sites = mix(torch.arange(num_sites, dtype=torch.int32, device=device).add_(column_seed))
        numbers = torch.arange(num_columns, dtype=torch.int32, device=device).mul_(_GOLDEN)
        return cls(rows[:, None], mix(sites[:, None] + numbers))

    def at(self, rows: Tensor) -> DropoutKeys:
        """The keys of some rows only; ``rows`` (R,) int64."""
        return DropoutKeys(self.rows[rows], self.columns)

    def extended(self, num_rows: int) -> DropoutKeys:
        """The keys with rows appended up to ``num_rows`` (for rows whose result is thrown away)."""
        return DropoutKeys(F.pad(self.rows, (0, 0, 0, num_rows - len(self.rows))), self.columns)

    def mask(self, site: int, num_columns: int, p: float) -> Tensor:
        """(R, ``num_columns``) int16: 1 where the element is kept, 0 where it is dropped."""
        assert num_columns % 2 == 0, "one key serves two columns"
        return keep_mask(self.rows + self.columns[site, : num_columns // 2], p)


def mix(x: Tensor) -> Tensor:
    """Hash an int32 tensor in place: two rounds of xor-shift and multiply.

    Constants of Chris Wellons' "lowbias32" (nullprogram.com, "Prospecting for Hash Functions", 2018).
    Shifts are arithmetic in torch: the two inner ones lose one bit of 32 by it; the result of the last has
    to be uniform, so it is masked.
    """
    constants = _CONSTANTS.get(x.device) or _CONSTANTS.setdefault(x.device, _constants(x.device))
    first_factor, second_factor, low_half, shift_15, shift_16 = constants
    shifted = torch.bitwise_right_shift(x, shift_16)
    x.bitwise_xor_(shifted).mul_(first_factor)
    torch.bitwise_right_shift(x, shift_15, out=shifted)
    x.bitwise_xor_(shifted).mul_(second_factor)
    torch.bitwise_right_shift(x, shift_16, out=shifted)
    return x.bitwise_xor_(shifted.bitwise_and_(low_half))


def _constants(device: torch.device) -> tuple[Tensor, ...]:
    """As tensors: a Python number would be made into an int64 tensor and converted, call by call."""
    numbers = (0x7FEB352D, 0x846CA68B - 2**32, 0xFFFF, 15, 16)
    return tuple(torch.tensor(number, dtype=torch.int32, device=device) for number in numbers)


_CONSTANTS: dict[torch.device, tuple[Tensor, ...]] = {}


def keep_mask(words: Tensor, p: float) -> Tensor:
    """Mask from ``words`` (..., C) int32, which is overwritten: (..., 2 C) int16, 1 kept and 0 dropped."""
    bits = mix(words).view(torch.int16)
    # a comparison into the type of its operands is vectorised, one into bool is not (10 times slower)
    return torch.ge(bits, _dropped_levels(p) - _LEVELS // 2, out=bits)


def masked(x: Tensor, mask: Tensor) -> Tensor:
    """``x`` where ``mask`` is 1, +0.0 where it is 0; ``x`` of any floating type of 16 or 32 bits."""
    if x.element_size() == 2:
        return (x.view(torch.int16) * mask).view(x.dtype)
    return (x.view(torch.int32) * mask).view(x.dtype)


def keep_scale(p: float) -> float:
    """What a kept element is multiplied with to keep the mean: 1 / (1 - p), p rounded as in the mask."""
    return _LEVELS / (_LEVELS - _dropped_levels(p))


def dropout(x: Tensor, p: float, keys: DropoutKeys | None, site: int) -> Tensor:
    """``x`` (R, C) with each element zeroed with probability ``p`` and the rest scaled.

    ``keys`` gives the masks; without keys torch's own dropout does it (the choice on CUDA). ``site`` numbers
    the places in the network.
    """
    if p == 0:
        return x
    if keys is None:
        return F.dropout(x, p)
    return cast(Tensor, _Dropout.apply(x, keys.mask(site, x.shape[1], p), keep_scale(p)))  # type: ignore[no-untyped-call]


class _Dropout(torch.autograd.Function):
    """y = scale * masked(x)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, mask: Tensor, scale: float) -> Tensor:
        ctx.save_for_backward(mask)
        ctx.scale = scale
        return masked(x, mask).mul_(scale)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        (mask,) = ctx.saved_tensors
        return masked(gradient.contiguous(), mask).mul_(ctx.scale), None, None


class DropoutAddNorm(torch.nn.LayerNorm):
    """LayerNorm(residual + dropout(x)), the end of both halves of an XLM-R block."""

    def forward(  # type: ignore[override]
        self, x: Tensor, residual: Tensor, p: float = 0.0, keys: DropoutKeys | None = None, site: int = 0
    ) -> Tensor:
        """``x`` and ``residual`` (R, H) -> (R, H); ``p``, ``keys`` and ``site`` as in :func:`dropout`."""
        if keys is None or p == 0:
            return super().forward(F.dropout(x, p) + residual if p else x + residual)
        mask = keys.mask(site, x.shape[1], p)
        result = _DropoutAddNorm.apply(  # type: ignore[no-untyped-call]
            x, residual, self.weight, self.bias, self.eps, mask, keep_scale(p)
        )
        return cast(Tensor, result)


class _DropoutAddNorm(torch.autograd.Function):
    """One node of the graph for three: the mask is kept as bits, and no intermediate but the sum is."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        residual: Tensor,
        weight: Tensor,
        bias: Tensor,
        eps: float,
        mask: Tensor,
        scale: float,
    ) -> Tensor:
        total = torch.add(residual, masked(x, mask), alpha=scale)  # (R, H)
        y, mean, rstd = torch.native_layer_norm(total, [total.shape[-1]], weight, bias, eps)
        ctx.save_for_backward(total, mean, rstd, weight, bias, mask)
        ctx.scale = scale
        return y

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        total, mean, rstd, weight, bias, mask = ctx.saved_tensors
        d_total, d_weight, d_bias = torch.ops.aten.native_layer_norm_backward(
            gradient.contiguous(), total, [total.shape[-1]], mean, rstd, weight, bias, [True, True, True]
        )
        return masked(d_total, mask).mul_(ctx.scale), d_total, d_weight, d_bias, None, None, None


def _dropped_levels(p: float) -> int:
    assert 0 <= p < 1, p
    return min(round(p * _LEVELS), _LEVELS - 1)
