"""Padded attention for packs: against the formula, with and without dropout; buckets; the CUDA path."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from packs import make_batch, make_encoder, make_reference
from torch import Tensor

from xtrain.data.batches import PackedBatch
from xtrain.model import attention
from xtrain.model.attention import AttentionDropout, packed_attention, padded_plan
from xtrain.model.dropout import DropoutKeys, keep_scale

HEADS, HIDDEN = 3, 24


def plain(q: Tensor, k: Tensor, v: Tensor, batch: PackedBatch, masks: list[Tensor] | None, first: bool) -> Tensor:
    """The formula, sequence by sequence; ``masks`` are (N, Q, L) of each sequence, scaled."""
    results = []
    for n, (start, end) in enumerate(zip(batch.cu_seqlens[:-1].tolist(), batch.cu_seqlens[1:].tolist(), strict=True)):
        rows = slice(n, n + 1) if first else slice(start, end)
        a, b, c = (x.view(len(x), HEADS, -1).transpose(0, 1) for x in (q[rows], k[start:end], v[start:end]))
        weights = (a @ b.transpose(1, 2) / a.shape[2] ** 0.5).softmax(-1)
        if masks is not None:
            weights = weights * masks[n]
        results.append((weights @ c).transpose(0, 1).flatten(1))
    return torch.cat(results)


def masks_of(batch: PackedBatch, keys: DropoutKeys, site: int, p: float) -> list[Tensor]:
    """What the definition says: a bit hangs on the query token's key, the head and the key's place."""
    masks = []
    for start, end in zip(batch.cu_seqlens[:-1].tolist(), batch.cu_seqlens[1:].tolist(), strict=True):
        columns = keys.columns[site]
        half = -(-(end - start) // 2)
        heads = [
            DropoutKeys(keys.rows[start:end], (columns[n] + columns[HEADS : HEADS + half])[None]) for n in range(HEADS)
        ]
        bits = torch.stack([one.mask(0, 2 * half, p) for one in heads])  # (N, Q, 2 half)
        masks.append(bits[:, :, : end - start] * keep_scale(p))
    return masks


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("p", [0.0, 0.2])
@pytest.mark.parametrize("lengths", [[1], [5, 31, 16, 2], [200, 3, 90, 100], [33] * 5])
def test_values_and_gradients(lengths: list[int], p: float, first: bool) -> None:
    batch = make_batch(lengths)
    torch.manual_seed(2)
    keys = DropoutKeys.draw(batch, 3, 300)
    tokens, queries = batch.num_tokens, len(lengths) if first else batch.num_tokens
    q = torch.randn(queries + 1, HIDDEN, requires_grad=True)
    k, v = (torch.randn(tokens + 1, HIDDEN, requires_grad=True) for _ in range(2))
    upstream = torch.randn(queries + 1, HIDDEN)
    upstream[-1] = 0  # the row behind the pack: nothing uses it
    plan = padded_plan(batch, HEADS, torch.float32, first)
    rows = batch.cu_seqlens[:-1].long() if first else torch.arange(tokens)
    own = DropoutKeys(torch.cat([keys.rows[rows], keys.rows[:1]]), keys.columns)
    found = packed_attention(q, k, v, HEADS, plan, AttentionDropout(p, own, 1))
    masks = masks_of(batch, keys, 1, p) if p else None
    if masks is not None and first:
        masks = [mask[:, :1] for mask in masks]
    expected = plain(q, k, v, batch, masks, first)
    assert (found[:-1] - expected).abs().max() < 1e-5
    assert (found[-1] == 0).all()
    for a, b in zip(
        torch.autograd.grad((found * upstream).sum(), (q, k, v)),
        torch.autograd.grad((expected * upstream[:-1]).sum(), (q, k, v)),
        strict=True,
    ):
        assert (a - b).abs().max() < 1e-5
        assert (a[-1] == 0).all()


@settings(max_examples=60)
@given(lengths=st.lists(st.integers(1, 512), min_size=1, max_size=40), first=st.booleans())
def test_every_token_has_one_slot(lengths: list[int], first: bool) -> None:
    batch = make_batch(lengths)
    plan = padded_plan(batch, 12, torch.float32, first)
    tokens, queries = sum(lengths), len(lengths) if first else sum(lengths)
    for rows, back, count in (
        ([b.key_heads for b in plan.buckets], plan.keys_back, 12 * tokens),
        ([b.query_heads for b in plan.buckets], plan.queries_back, 12 * queries),
    ):
        slots = torch.cat(rows)
        assert torch.equal(slots[back], torch.arange(count))
        assert int((slots < count).sum()) == count  # and no other slot holds a token
    for bucket in plan.buckets:
        blocked = bucket.bias.isinf().expand(-1, 1, -1).reshape(-1)
        assert torch.equal(blocked, bucket.key_heads >= 12 * tokens)
        assert torch.equal(bucket.queries, bucket.query_heads.view(-1, 12, bucket.num_queries)[:, 5] // 12)


def test_buckets_save_padding_where_it_pays() -> None:
    lengths = np.array([500] * 4 + [20] * 60)
    cut = attention._cut(lengths, 12, None)
    assert sorted(np.concatenate(cut).tolist()) == list(range(64))
    assert all(len({int(n) for n in lengths[part]}) == 1 for part in cut)
    assert len(attention._cut(np.array([40, 44, 47]), 12, None)) == 1
    many, most = np.full(1000, 512), attention._LARGEST
    assert max(len(part) for part in attention._cut(many, 16, most)) * 16 * 512**2 <= most * 2
    assert len(attention._cut(many, 16, None)) == 1


def test_large_buckets_are_cut_and_nothing_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = make_encoder(make_reference()).train()
    batch = make_batch([30, 31, 32, 33, 90])
    results = []
    for largest in (attention._LARGEST, 1000):
        monkeypatch.setattr(attention, "_LARGEST", largest)
        torch.manual_seed(0)
        results.append(encoder(batch))
    assert torch.allclose(*results, atol=1e-5)


def test_only_a_cpu_has_its_scores_cut_to_its_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    seen, cut = [], attention._cut

    def noted(lengths: attention.Sequences, num_heads: int, largest: int | None) -> list[attention.Sequences]:
        seen.append(largest)
        return cut(lengths, num_heads, largest)

    monkeypatch.setattr(attention, "_cut", noted)
    batch = make_batch([30, 31])
    padded_plan(batch, 2, torch.float32)
    padded_plan(batch.to(torch.device("meta")), 2, torch.float32)
    assert seen == [attention._LARGEST, None]


@pytest.mark.parametrize(
    ("head_size", "capability", "serves"),
    [(64, (8, 0), True), (64, (7, 5), False), (60, (9, 0), False), (192, (9, 0), True), (256, (8, 6), False)],
)
def test_flash_attention_takes_whole_vectors(
    monkeypatch: pytest.MonkeyPatch, head_size: int, capability: tuple[int, int], serves: bool
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    assert attention.flash_serves(torch.device("cuda"), torch.bfloat16, head_size) is serves
    assert not attention.flash_serves(torch.device("cuda"), torch.float32, head_size)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU with flash attention")
def test_flash_agrees_with_padded_rows() -> None:
    reference = make_reference(hidden=64, heads=2)
    batch = make_batch([9, 130, 1, 64])
    with torch.no_grad():
        exact = make_encoder(reference).eval()(batch)
        encoder = make_encoder(reference).eval().to("cuda", torch.bfloat16)
        flash = encoder(batch.to(torch.device("cuda"))).float().cpu()
        first = encoder(batch.to(torch.device("cuda")), first_only=True).float().cpu()
    assert torch.nn.functional.cosine_similarity(exact, flash, dim=-1).min() > 0.995
    assert torch.allclose(first, flash[batch.cu_seqlens[:-1].long()], atol=0.05)
    encoder.train()
    encoder(batch.to(torch.device("cuda"))).float().square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in encoder.parameters())
