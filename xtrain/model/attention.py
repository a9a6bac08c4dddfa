"""Attention inside each sequence of a pack: flash attention on CUDA, padded rows for attention alone on CPU.

Dimension letters: B sequences, T tokens of the pack, N heads, D head size, H = N * D, S sequences of a
bucket, Q queries and L keys of a sequence in a bucket.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from xtrain.data.batches import PackedBatch
from xtrain.model.dropout import DropoutKeys, keep_mask, keep_scale, masked

_MULTIPLE = 16  # bucket lengths are rounded up to whole vectors: odd ones make softmax and bmm slower
_BUCKET_COST = 100_000  # what one more bucket costs in calls, in score elements (about 0.25 ms a layer)
_LARGEST = 2**21  # score elements handled at once: what is written is read again while it is in cache


@dataclass(frozen=True)
class Bucket:
    """Sequences of similar length, as S rows of L keys and Q queries (Q is L, or 1 for first tokens only)."""

    queries: Tensor  # (S * Q,) int64: rows of the query tensor; a padding slot points behind the pack
    keys: Tensor  # (S * L,) int64: rows of the key and value tensors; likewise
    bias: Tensor  # (S * N, 1, L): 0 for a token, -inf for a padding slot
    num_queries: int  # Q
    num_keys: int  # L


@dataclass(frozen=True)
class PaddedPlan:
    """How the rows of a pack become padded rows and come back; made once a batch, used by every layer."""

    buckets: tuple[Bucket, ...]
    queries_back: Tensor  # (T or B,) int64: where each query's row is among all buckets' padded rows
    keys_back: Tensor  # (T,) int64


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


def flash_serves(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether torch's flash attention takes ``dtype`` on ``device``: Ampere or newer, 16 bits."""
    if device.type != "cuda" or dtype not in (torch.float16, torch.bfloat16):
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
    cu = batch.cu_seqlens.cpu().numpy().astype(np.int64)
    starts, lengths = cu[:-1], np.diff(cu)
    parts = _cut(lengths, num_heads)
    tokens = int(cu[-1])
    key_slots, key_back = query_slots, query_back = _slots(parts, starts, lengths, tokens)
    if first_only:
        numbers, ones = np.arange(len(lengths)), np.ones_like(lengths)
        query_slots, query_back = _slots(parts, numbers, ones, len(lengths), multiple=1)
    buckets = []
    for keys, queries in zip(key_slots, query_slots, strict=True):
        bias = torch.zeros(keys.shape, dtype=dtype).masked_fill_(torch.from_numpy(keys == tokens), -torch.inf)
        buckets.append(
            Bucket(
                queries=torch.from_numpy(queries.reshape(-1)).to(device),
                keys=torch.from_numpy(keys.reshape(-1)).to(device),
                bias=bias.repeat_interleave(num_heads, 0)[:, None, :].to(device),
                num_queries=queries.shape[1],
                num_keys=keys.shape[1],
            )
        )
    return PaddedPlan(tuple(buckets), torch.from_numpy(query_back).to(device), torch.from_numpy(key_back).to(device))


Sequences = np.ndarray[Any, np.dtype[np.int64]]


def _cut(lengths: Sequences, num_heads: int) -> list[Sequences]:
    """The sequences (their numbers) in buckets: least padding plus cost of calls, by dynamic programming."""
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
        most = max(1, _LARGEST // (num_heads * int(sizes[end - 1]) ** 2))
        parts.extend(np.array_split(bucket, -(-len(bucket) // most)))
        end = cut_at[end]
    return parts


def _slots(
    parts: list[Sequences], starts: Sequences, lengths: Sequences, outside: int, multiple: int = _MULTIPLE
) -> tuple[list[Sequences], Sequences]:
    """Per bucket the row of each slot, (S, L), padding slots = ``outside``; and each row's slot among all."""
    slots, back, offset = [], np.empty(outside, dtype=np.int64), 0
    for part in parts:
        longest = int(lengths[part].max())
        place = np.arange(-(-longest // multiple) * multiple)
        real = place < lengths[part][:, None]  # (S, L)
        rows = np.where(real, starts[part][:, None] + place, outside)
        back[rows[real]] = offset + np.flatnonzero(real)
        offset += rows.size
        slots.append(rows)
    return slots, back


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
        scaled = query * (query.shape[1] // num_heads) ** -0.5
        out = _Rows(sum(len(b.queries) for b in plan.buckets), query)
        saved: list[Tensor] = []
        for bucket in plan.buckets:
            q = _gather(scaled, bucket.queries, bucket.num_queries, num_heads)  # (S * N, Q, D)
            k = _gather(key, bucket.keys, bucket.num_keys, num_heads)  # (S * N, L, D)
            v = _gather(value, bucket.keys, bucket.num_keys, num_heads)
            scores = torch.baddbmm(bucket.bias, q, k.transpose(1, 2))  # (S * N, Q, L)
            # in fp32: the vectorised softmax of 16-bit numbers is slower than converting twice
            probabilities = torch.softmax(scores, -1, dtype=torch.float32).to(query.dtype)
            if dropout.p:
                mask = _mask(bucket, num_heads, dropout)
                out.put(torch.bmm(masked(probabilities, mask), v).mul_(keep_scale(dropout.p)), num_heads)
            else:
                mask = None
                out.put(torch.bmm(probabilities, v), num_heads)
            if keep_for_backward:
                saved += [q, k, v, probabilities] + ([mask] if mask is not None else [])
        ctx.save_for_backward(*saved)
        ctx.num_heads, ctx.plan, ctx.p, ctx.num_key_rows = num_heads, plan, dropout.p, key.shape[0]
        return out.unpadded(plan.queries_back, query.shape[0])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        plan, heads, saved, each = ctx.plan, ctx.num_heads, ctx.saved_tensors, 5 if ctx.p else 4
        scaled = gradient * keep_scale(ctx.p) if ctx.p else gradient
        d_query = _Rows(sum(len(b.queries) for b in plan.buckets), gradient)
        d_key, d_value = (_Rows(sum(len(b.keys) for b in plan.buckets), gradient) for _ in range(2))
        for n, bucket in enumerate(plan.buckets):
            q, k, v, probabilities, *mask = saved[n * each : (n + 1) * each]
            d_out = _gather(scaled, bucket.queries, bucket.num_queries, heads)  # (S * N, Q, D)
            kept = masked(probabilities, mask[0]) if mask else probabilities  # (S * N, Q, L)
            d_value.put(torch.bmm(kept.transpose(1, 2), d_out), heads)
            d_kept = torch.bmm(d_out, v.transpose(1, 2))
            d_kept = masked(d_kept, mask[0]) if mask else d_kept
            d_scores = torch.ops.aten._softmax_backward_data(d_kept, probabilities, -1, d_kept.dtype)
            d_query.put(torch.bmm(d_scores, k), heads)
            d_key.put(torch.bmm(d_scores.transpose(1, 2), q), heads)
        return (
            d_query.unpadded(plan.queries_back, gradient.shape[0]).mul_((gradient.shape[1] // heads) ** -0.5),
            d_key.unpadded(plan.keys_back, ctx.num_key_rows),
            d_value.unpadded(plan.keys_back, ctx.num_key_rows),
            *(None,) * 4,
        )


def _gather(rows: Tensor, slots: Tensor, length: int, num_heads: int) -> Tensor:
    """Rows (T, H) of the bucket's slots, heads apart: (S * N, length, D), contiguous."""
    padded = rows.index_select(0, slots).view(-1, length, num_heads, rows.shape[1] // num_heads)
    return padded.transpose(1, 2).reshape(-1, length, padded.shape[3])


class _Rows:
    """The padded rows of all buckets, heads side by side again, filled bucket after bucket."""

    def __init__(self, num_rows: int, like: Tensor) -> None:
        self.rows, self.filled = like.new_empty(num_rows, like.shape[1]), 0

    def put(self, result: Tensor, num_heads: int) -> None:
        """Add a bucket's (S * N, Q, D)."""
        apart = result.view(-1, num_heads, *result.shape[1:]).transpose(1, 2)  # (S, Q, N, D)
        count = apart.shape[0] * apart.shape[1]
        self.rows[self.filled : self.filled + count].view(apart.shape).copy_(apart)
        self.filled += count

    def unpadded(self, back: Tensor, num_rows: int) -> Tensor:
        """The pack's rows, with zeros behind them: (num_rows, H)."""
        out = self.rows.new_empty(num_rows, self.rows.shape[1])
        torch.index_select(self.rows, 0, back, out=out[: len(back)])
        out[len(back) :] = 0
        return out


def _mask(bucket: Bucket, num_heads: int, dropout: AttentionDropout) -> Tensor:
    """Mask (S * N, Q, L) of a bucket: a bit depends on query token, head and place of the key alone."""
    assert dropout.keys is not None, "padded attention takes its masks from keys"
    rows = dropout.keys.rows[bucket.queries].view(-1, 1, bucket.num_queries, 1)  # (S, 1, Q, 1)
    columns = dropout.keys.columns[dropout.site]
    heads, pairs = columns[:num_heads, None, None], columns[num_heads : num_heads + bucket.num_keys // 2]
    words = rows + (heads + pairs)  # (S, N, Q, L / 2)
    return keep_mask(words, dropout.p).view(len(bucket.bias), bucket.num_queries, bucket.num_keys)


def mask_columns(num_heads: int, longest: int) -> int:
    """How many columns :class:`DropoutKeys` needs for attention among up to ``longest`` tokens."""
    return num_heads + -(-longest // _MULTIPLE) * _MULTIPLE // 2
