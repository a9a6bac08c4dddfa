"""Attention inside each sequence of a pack: flash attention on CUDA, padded rows for attention alone on CPU.

Dimension letters: B sequences, T tokens of the pack, N heads, D head size, H = N * D, S sequences of a
bucket, Q queries and L keys of a sequence in a bucket.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from xtrain.data.batches import PackedBatch
from xtrain.model.dropout import DropoutKeys, keep_mask, keep_scale, masked

_MULTIPLE = 16  # bucket lengths are rounded up to whole vectors: odd ones make softmax and bmm slower
_BUCKET_COST = 100_000  # what one more bucket costs in calls, in score elements (about 0.25 ms a layer)
_LARGEST = 2**21  # score elements that a CPU handles at once: what is written is read again while it is in cache
_MOST_IN_A_HEAD = 192  # flash attention takes 256, not on every card in the backward pass with dropout


@dataclass(frozen=True)
class Bucket:
    """Sequences of similar length, as S rows of L keys and Q queries (Q is L, or 1 for first tokens only)."""

    queries: Tensor  # (S, Q) int64: rows of the query tensor; a padding slot points behind the pack
    query_heads: Tensor  # (S * N * Q,) int64: the same, heads apart: rows of that tensor as (rows * N, D)
    key_heads: Tensor  # (S * N * L,) int64: likewise of the key and value tensors
    bias: Tensor  # (S * N, 1, L): 0 for a token, -inf for a padding slot

    @property
    def num_queries(self) -> int:
        """Q."""
        return self.queries.shape[1]

    @property
    def num_keys(self) -> int:
        """L."""
        return self.bias.shape[2]

    def to(self, device: torch.device) -> Bucket:
        """The same bucket on ``device``."""
        parts = (self.queries, self.query_heads, self.key_heads, self.bias)
        return Bucket(*(part.to(device, non_blocking=True) for part in parts))


@dataclass(frozen=True)
class PaddedPlan:
    """How the rows of a pack become padded rows and come back; made once a batch, used by every layer."""

    buckets: tuple[Bucket, ...]
    queries_back: Tensor  # (T * N or B * N,) int64: where each query's head is among all buckets' padded rows
    keys_back: Tensor  # (T * N,) int64: where each key's head is


@dataclass(frozen=True)
class FlashPlan:
    """What variable-length flash attention needs."""

    cu_queries: Tensor  # (B + 1,) int32
    cu_keys: Tensor  # (B + 1,) int32
    max_queries: int
    max_keys: int


@dataclass(frozen=True)
class AttentionDropout:
    """Dropout of the attention probabilities at one layer."""

    p: float = 0.0
    keys: DropoutKeys | None = None  # of the query rows
    site: int = 0


def flash_serves(device: torch.device, dtype: torch.dtype, head_size: int) -> bool:
    """Whether flash attention takes heads of ``dtype`` on ``device``: Ampere or newer, 16 bits, whole vectors."""
    if device.type != "cuda" or dtype not in (torch.float16, torch.bfloat16):
        return False
    if head_size % 8 or head_size > _MOST_IN_A_HEAD:
        return False
    return torch.cuda.get_device_capability(device) >= (8, 0)


def flash_plan(batch: PackedBatch, first_only: bool = False) -> FlashPlan:
    """The plan for CUDA; with ``first_only`` the queries are the first token of each sequence."""
    if not first_only:
        return FlashPlan(batch.cu_seqlens, batch.cu_seqlens, batch.max_seqlen, batch.max_seqlen)
    ones = torch.arange(batch.num_sequences + 1, dtype=torch.int32, device=batch.cu_seqlens.device)
    return FlashPlan(ones, batch.cu_seqlens, 1, batch.max_seqlen)


def padded_plan(batch: PackedBatch, num_heads: int, dtype: torch.dtype, first_only: bool = False) -> PaddedPlan:
    """Buckets of similar length for ``batch``; with ``first_only`` queries are each sequence's first token.

    Query, key and value tensors of T rows must have at least one row behind them: padding slots read it.
    The gradient that comes to the result's row there must be zero; no gradient goes back to it.
    """
    device = batch.input_ids.device
    cu = batch.host.cu_seqlens.numpy().astype(np.int64)
    starts, lengths = cu[:-1], np.diff(cu)
    parts = _cut(lengths, num_heads, _LARGEST if device.type == "cpu" else None)
    tokens = int(cu[-1])
    key_slots = query_slots = _slots(parts, starts, lengths, tokens)
    if first_only:
        numbers, ones = np.arange(len(lengths)), np.ones_like(lengths)
        query_slots = _slots(parts, numbers, ones, len(lengths), multiple=1)
    buckets = []
    for keys, queries in zip(key_slots, query_slots, strict=True):
        bias = torch.zeros(keys.shape, dtype=dtype).masked_fill_(torch.from_numpy(keys == tokens), -torch.inf)
        buckets.append(
            Bucket(
                queries=torch.from_numpy(queries),
                query_heads=_heads_apart(queries, num_heads),
                key_heads=_heads_apart(keys, num_heads),
                bias=bias.repeat_interleave(num_heads, 0)[:, None, :],
            )
        )
    num_queries = len(lengths) if first_only else tokens
    back = (
        _back([bucket.query_heads for bucket in buckets], num_queries * num_heads),
        _back([bucket.key_heads for bucket in buckets], tokens * num_heads),
    )
    return PaddedPlan(tuple(one.to(device) for one in buckets), *(one.to(device, non_blocking=True) for one in back))


Sequences = np.ndarray[Any, np.dtype[np.int64]]


def _cut(lengths: Sequences, num_heads: int, largest: int | None) -> list[Sequences]:
    """The sequences (their numbers) in buckets: least padding plus cost of calls, by dynamic programming.

    A bucket has at most ``largest`` score elements where it can.
    """
    order = np.argsort(lengths, kind="stable")
    rounded = -(-lengths[order] // _MULTIPLE) * _MULTIPLE
    sizes, counts = np.unique(rounded, return_counts=True)  # (U,) at most 32 for 512 tokens
    ends = np.concatenate([[0], np.cumsum(counts)])
    best, cut_at = [0.0], [0]
    for end in range(1, len(sizes) + 1):
        area = num_heads * int(sizes[end - 1]) ** 2
        costs = [best[start] + _BUCKET_COST + area * int(ends[end] - ends[start]) for start in range(end)]
        cut_at.append(int(np.argmin(costs)))
        best.append(costs[cut_at[-1]])
    parts: list[Sequences] = []
    end = len(sizes)
    while end > 0:
        bucket = order[ends[cut_at[end]] : ends[end]]
        most = max(1, (largest or sys.maxsize) // (num_heads * int(sizes[end - 1]) ** 2))
        parts.extend(np.array_split(bucket, -(-len(bucket) // most)))
        end = cut_at[end]
    return parts


def _slots(
    parts: list[Sequences], starts: Sequences, lengths: Sequences, outside: int, multiple: int = _MULTIPLE
) -> list[Sequences]:
    """Per bucket the row that each slot holds, (S, L); ``outside`` for a padding slot."""
    slots = []
    for part in parts:
        place = np.arange(-(-int(lengths[part].max()) // multiple) * multiple)
        slots.append(np.where(place < lengths[part][:, None], starts[part][:, None] + place, outside))
    return slots


def _heads_apart(slots: Sequences, num_heads: int) -> Tensor:
    """Rows (S, L) of a tensor (rows, H) as rows (S * N * L,) of the same tensor as (rows * N, D)."""
    rows = torch.from_numpy(slots)[:, None, :] * num_heads + torch.arange(num_heads)[:, None]
    return rows.reshape(-1)


def _back(slots: list[Tensor], num_rows: int) -> Tensor:
    """For each of ``num_rows`` rows the slot that holds it, slots counted through all buckets."""
    rows = torch.cat(slots)
    real = (rows < num_rows).nonzero().squeeze(1)
    back = torch.empty(num_rows, dtype=torch.long, device=rows.device)
    back[rows[real]] = real
    return back


def packed_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    num_heads: int,
    plan: PaddedPlan | FlashPlan,
    dropout: AttentionDropout,
) -> Tensor:
    """softmax(query key^T / sqrt(D)) value inside each sequence, for every head.

    ``query`` (T or B, H) and ``key``, ``value`` (T, H), with rows behind the pack under a
    :class:`PaddedPlan`; the result is shaped like ``query``.
    """
    if isinstance(plan, FlashPlan):
        return _flash(query, key, value, num_heads, plan, dropout.p)
    result = _PaddedAttention.apply(  # type: ignore[no-untyped-call]
        query, key, value, num_heads, plan, dropout, torch.is_grad_enabled()
    )
    return cast(Tensor, result)


def _flash(query: Tensor, key: Tensor, value: Tensor, num_heads: int, plan: FlashPlan, p: float) -> Tensor:
    """CUDA. Torch's public function has no dropout, so with dropout the ATen operator under it is called."""
    q, k, v = (x.view(x.shape[0], num_heads, -1) for x in (query, key, value))  # (T, N, D)
    lengths = (plan.cu_queries, plan.cu_keys, plan.max_queries, plan.max_keys)
    if p == 0:
        from torch.nn.attention.varlen import varlen_attn

        out = varlen_attn(q, k, v, *lengths)
    else:
        out = torch.ops.aten._flash_attention_forward(q, k, v, *lengths, p, False, False)[0]
    return cast(Tensor, out).reshape(query.shape)


class _PaddedAttention(torch.autograd.Function):
    """Attention by batched matrix products on padded rows, bucket after bucket, with its own backward pass.

    With P = softmax(Q K^T / sqrt(D)) and the dropout mask M, scaled to keep the mean:
    O = (M P) V; dV = (M P)^T dO; dP = M (dO V^T); dS = P (dP - rowsum(P dP)); dQ = dS K; dK = dS^T Q.
    On CPU this is several times faster than ``scaled_dot_product_attention`` at the lengths of sentences
    (benchmarks/attention_cpu.py), and dropout does not leave the fast path.
    """

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        num_heads: int,
        plan: PaddedPlan,
        dropout: AttentionDropout,
        keep_for_backward: bool,
    ) -> Tensor:
        head_size = query.shape[1] // num_heads
        scaled = query * head_size**-0.5
        out = _Rows(plan.queries_back, [b.query_heads for b in plan.buckets], query, head_size)
        saved: list[Tensor] = []
        for n, bucket in enumerate(plan.buckets):
            q = _gather(scaled, bucket.query_heads, bucket.num_queries, head_size)  # (S * N, Q, D)
            k = _gather(key, bucket.key_heads, bucket.num_keys, head_size)  # (S * N, L, D)
            v = _gather(value, bucket.key_heads, bucket.num_keys, head_size)
            scores = torch.baddbmm(bucket.bias, q, k.transpose(1, 2))  # (S * N, Q, L)
            # in fp32: the vectorised softmax of 16-bit numbers is slower than converting twice
            probabilities = torch.softmax(scores, -1, dtype=torch.float32).to(query.dtype)
            if dropout.p:
                mask = _mask(bucket, num_heads, dropout)
                torch.bmm(masked(probabilities, mask), v, out=out.part(n, q)).mul_(keep_scale(dropout.p))
            else:
                mask = None
                torch.bmm(probabilities, v, out=out.part(n, q))
            if keep_for_backward:
                saved += [q, k, v, probabilities] + ([mask] if mask is not None else [])
        ctx.save_for_backward(*saved)
        ctx.plan, ctx.p, ctx.head_size, ctx.num_key_rows = plan, dropout.p, head_size, key.shape[0]
        return out.unpadded(query.shape[0])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        plan, size, saved, each = ctx.plan, ctx.head_size, ctx.saved_tensors, 5 if ctx.p else 4
        gradient = gradient.contiguous()
        scaled = gradient * keep_scale(ctx.p) if ctx.p else gradient
        key_slots = [b.key_heads for b in plan.buckets]
        d_query = _Rows(plan.queries_back, [b.query_heads for b in plan.buckets], gradient, size)
        d_key, d_value = (_Rows(plan.keys_back, key_slots, gradient, size) for _ in range(2))
        for n, bucket in enumerate(plan.buckets):
            q, k, v, probabilities, *mask = saved[n * each : (n + 1) * each]
            d_out = _gather(scaled, bucket.query_heads, bucket.num_queries, size)  # (S * N, Q, D)
            kept = masked(probabilities, mask[0]) if mask else probabilities  # (S * N, Q, L)
            torch.bmm(kept.transpose(1, 2), d_out, out=d_value.part(n, v))
            d_kept = torch.bmm(d_out, v.transpose(1, 2))
            d_kept = masked(d_kept, mask[0]) if mask else d_kept
            d_scores = torch.ops.aten._softmax_backward_data(d_kept, probabilities, -1, d_kept.dtype)
            torch.bmm(d_scores, k, out=d_query.part(n, q))
            torch.bmm(d_scores.transpose(1, 2), q, out=d_key.part(n, k))
        return (
            d_query.unpadded(gradient.shape[0]).mul_(size**-0.5),
            d_key.unpadded(ctx.num_key_rows),
            d_value.unpadded(ctx.num_key_rows),
            *(None,) * 4,
        )


def _gather(rows: Tensor, slots: Tensor, length: int, head_size: int) -> Tensor:
    """The heads in the bucket's slots of rows (T, H): (S * N, length, D)."""
    return rows.view(-1, head_size).index_select(0, slots).view(-1, length, head_size)


class _Rows:
    """Room for the padded rows of all buckets, which are written into it, and then read back as a pack."""

    def __init__(self, back: Tensor, slots: list[Tensor], like: Tensor, head_size: int) -> None:
        self.back = back
        self.padded = like.new_empty(sum(map(len, slots)), head_size)
        self.parts: tuple[Tensor, ...] = torch.split(self.padded, [len(part) for part in slots])
        self.width = like.shape[1]

    def part(self, number: int, like: Tensor) -> Tensor:
        """The room of a bucket, shaped as ``like`` (S * N, length, D)."""
        return self.parts[number].view(like.shape)

    def unpadded(self, num_rows: int) -> Tensor:
        """The pack's rows, with zeros behind them: (num_rows, H)."""
        out = self.padded.new_empty(num_rows * self.width // self.padded.shape[1], self.padded.shape[1])
        torch.index_select(self.padded, 0, self.back, out=out[: len(self.back)])
        out[len(self.back) :] = 0
        return out.view(num_rows, self.width)


def _mask(bucket: Bucket, num_heads: int, dropout: AttentionDropout) -> Tensor:
    """Mask (S * N, Q, L) of a bucket: a bit depends on query token, head and place of the key alone."""
    assert dropout.keys is not None, "padded attention takes its masks from keys"
    rows = dropout.keys.rows[bucket.queries][:, None]  # (S, 1, Q, 1)
    columns = dropout.keys.columns[dropout.site]
    heads, pairs = columns[:num_heads, None, None], columns[num_heads : num_heads + bucket.num_keys // 2]
    words = rows + (heads + pairs)  # (S, N, Q, L / 2)
    return keep_mask(words, dropout.p).view(len(bucket.bias), bucket.num_queries, bucket.num_keys)


def mask_columns(num_heads: int, longest: int) -> int:
    """How many columns :class:`DropoutKeys` needs for attention among up to ``longest`` tokens."""
    return num_heads + -(-longest // _MULTIPLE) * _MULTIPLE // 2
