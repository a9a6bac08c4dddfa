"""Cross entropy over a large vocabulary without its logits: they are made, used and forgotten, chunk by chunk.

Dimension letters: M rows, H hidden, V vocabulary, C columns (a chunk of V).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

_ELEMENTS = {"cpu": 2**22, "cuda": 2**24}  # of a chunk of logits, M x C: 16 and 64 MiB in fp32
_FEWEST_COLUMNS = 256


def linear_cross_entropy(rows: Tensor, table: Tensor, bias: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """``cross_entropy(rows @ table.T + bias, labels)`` a row, (M,) fp32, and the likeliest column, (M,) int64.

    ``rows`` (M, H), ``table`` (V, H) and ``bias`` (V,) are of one floating type, ``labels`` (M,) int64. All sums
    of the softmax are in fp32. No more than a chunk of the M x V logits is ever in memory; the gradient of
    ``table`` is written once, chunk by chunk. Backward makes the logits again, which is one matrix product more
    than with all logits kept.
    """
    assert rows.shape[1:] == table.shape[1:], (rows.shape, table.shape)
    assert (labels.shape, bias.shape) == (rows.shape[:1], table.shape[:1]), (labels.shape, bias.shape)
    return cast(
        "tuple[Tensor, Tensor]",
        _LinearCrossEntropy.apply(rows, table, bias, labels),  # type: ignore[no-untyped-call]
    )


class _LinearCrossEntropy(torch.autograd.Function):
    """loss = log(sum(exp(logits))) - logits[label]; its gradient by the logits is softmax(logits) - onehot(label)."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, table: Tensor, bias: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        greatest = rows.new_full(labels.shape, -torch.inf, dtype=torch.float32)  # (M,) of the columns so far
        total = torch.zeros_like(greatest)  # (M,) sum of exp(logit - greatest)
        target = torch.zeros_like(greatest)  # (M,) the label's logit
        best = torch.zeros_like(labels)  # (M,) where the greatest is
        for begin, end in _chunks(rows, table):
            logits = _logits(rows, table, bias, begin, end)  # (M, C) fp32
            top, place = logits.max(1)
            best = torch.where(top > greatest, place + begin, best)
            inside, column = _within(labels, begin, end)
            target += logits.gather(1, column).squeeze(1) * inside
            higher = torch.maximum(greatest, top)
            total = total * (greatest - higher).exp_() + logits.sub_(higher[:, None]).exp_().sum(1)
            greatest = higher
        normaliser = greatest + total.log()  # (M,)
        # the parameters themselves, no views: under ZeRO-3 they are freed now, and there again in backward
        ctx.save_for_backward(rows, table, bias, labels, normaliser)
        ctx.mark_non_differentiable(best)
        return normaliser - target, best

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor, _: Tensor) -> Any:
        rows, table, bias, labels, normaliser = ctx.saved_tensors
        of_rows, of_table, of_bias, _ = ctx.needs_input_grad
        d_rows = torch.zeros(rows.shape, dtype=torch.float32, device=rows.device)  # summed over all chunks
        d_table = torch.empty_like(table) if of_table else None
        d_bias = torch.empty_like(bias) if of_bias else None
        for begin, end in _chunks(rows, table):
            d_logits = _logits(rows, table, bias, begin, end).sub_(normaliser[:, None]).exp_()  # (M, C)
            inside, column = _within(labels, begin, end)
            d_logits.scatter_add_(1, column, -inside[:, None].to(d_logits.dtype))
            d_logits *= upstream[:, None]
            if d_bias is not None:
                d_bias[begin:end] = d_logits.sum(0)
            d_logits = d_logits.to(table.dtype)
            if of_rows:
                _add_product(d_rows, d_logits, table[begin:end])
            if d_table is not None:
                torch.mm(d_logits.t(), rows, out=d_table[begin:end])
        return d_rows.to(rows.dtype) if of_rows else None, d_table, d_bias, None


def _chunks(rows: Tensor, table: Tensor) -> Iterator[tuple[int, int]]:
    """Where each chunk of the vocabulary begins and ends."""
    most = _ELEMENTS.get(rows.device.type, 2**22)
    columns = max(_FEWEST_COLUMNS, most // max(1, len(rows)))
    for begin in range(0, len(table), columns):
        yield begin, min(begin + columns, len(table))


def _logits(rows: Tensor, table: Tensor, bias: Tensor, begin: int, end: int) -> Tensor:
    """Columns ``begin`` to ``end`` of the logits, (M, C) fp32; its own memory, free to be overwritten."""
    if rows.dtype == torch.float32:
        return torch.addmm(bias[begin:end], rows, table[begin:end].t())
    return torch.mm(rows, table[begin:end].t()).float().add_(bias[begin:end])


def _within(labels: Tensor, begin: int, end: int) -> tuple[Tensor, Tensor]:
    """Which labels are in the chunk, (M,) bool, and the column of each in it, (M, 1), some column for the others."""
    inside = (labels >= begin) & (labels < end)
    return inside, (labels - begin).clamp(0, end - begin - 1)[:, None]


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """``total += left @ right``, with ``total`` in fp32."""
    if left.dtype == torch.float32:
        total.addmm_(left, right)
    else:
        total += left @ right
