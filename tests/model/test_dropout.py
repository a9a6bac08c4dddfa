"""Masks: their rate, their independence, and that they follow the example and torch's seed alone."""

from __future__ import annotations

import pytest
import torch
from packs import make_batch, make_encoder, make_reference
from torch.nn import functional as F

from xtrain.model.dropout import DropoutAddNorm, DropoutKeys, dropout, keep_scale


def keys_for(lengths: list[int], seed: int = 0, **options: object) -> DropoutKeys:
    torch.manual_seed(seed)
    return DropoutKeys.draw(make_batch(lengths, **options), num_sites=4, num_columns=256)


@pytest.mark.parametrize("p", [0.0, 0.1, 0.5, 0.9])
def test_the_share_that_is_kept(p: float) -> None:
    mask = keys_for([300] * 10).mask(1, 512, p).double()  # 1.5 million bits
    assert set(mask.unique().tolist()) <= {0.0, 1.0}
    expected = 1 - round(p * 65536) / 65536
    deviation = (p * (1 - p) / mask.numel()) ** 0.5
    assert abs(float(mask.mean()) - expected) <= 5 * deviation
    assert keep_scale(p) == pytest.approx(1 / expected)
    for along in (0, 1):  # no row and no column is favoured
        means = mask.mean(along)
        assert float((means - expected).abs().max()) <= 6 * (p * (1 - p) / mask.shape[along]) ** 0.5


def test_bits_do_not_hang_together() -> None:
    """Correlation of the bits of neighbouring columns, rows and sites, and of far ones, is that of chance."""
    keys = keys_for([300] * 10)
    bits = keys.mask(1, 512, 0.5).float() * 2 - 1
    other_site = keys.mask(2, 512, 0.5).float() * 2 - 1
    chance = 5 / bits.numel() ** 0.5
    for lag in (1, 2, 3, 64, 256):
        assert abs(float((bits[:, lag:] * bits[:, :-lag]).mean())) < chance * 1.5
        assert abs(float((bits[lag:] * bits[:-lag]).mean())) < chance * 1.5
    assert abs(float((bits * other_site).mean())) < chance
    # four corners of a rectangle: a mask that is a row's word xor a column's would give 1 here
    corners = bits[:-1, :-2] * bits[1:, :-2] * bits[:-1, 2:] * bits[1:, 2:]
    assert abs(float(corners.mean())) < chance * 1.5


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_values_and_gradient(dtype: torch.dtype) -> None:
    keys = keys_for([50, 20])
    x = torch.randn(70, 64).to(dtype).requires_grad_()
    y = dropout(x, 0.3, keys, 2)
    mask = keys.mask(2, 64, 0.3).to(dtype)
    scaled = (mask * keep_scale(0.3)).to(dtype)
    assert torch.allclose(y, x * mask * keep_scale(0.3), rtol=1e-2 if dtype != torch.float32 else 1e-6)
    (gradient,) = torch.autograd.grad(y.sum(), x)
    assert torch.equal(gradient, scaled)
    assert torch.equal(dropout(x, 0.0, keys, 2), x)


def test_an_infinity_is_dropped_like_any_number() -> None:
    keys = keys_for([8])
    y = dropout(torch.full((8, 64), torch.inf), 0.5, keys, 0)
    assert not y.isnan().any()
    assert (y == 0).any()


def test_fused_with_residual_and_norm_as_the_plain_formula() -> None:
    torch.manual_seed(3)
    norm = DropoutAddNorm(32, 1e-5)
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    keys = keys_for([40, 3])
    x, residual, upstream = (torch.randn(43, 32) for _ in range(3))
    mask = keys.mask(1, 32, 0.25) * keep_scale(0.25)
    results = []
    for fused in (True, False):
        inputs = [x.clone().requires_grad_(), residual.clone().requires_grad_()]
        if fused:
            y = norm(*inputs, 0.25, keys, 1)
        else:
            y = F.layer_norm(inputs[1] + inputs[0] * mask, (32,), norm.weight, norm.bias, 1e-5)
        results.append([y, *torch.autograd.grad((y * upstream).sum(), [*inputs, norm.weight, norm.bias])])
    for found, expected in zip(*results, strict=True):
        assert (found - expected).abs().max() < 1e-5


def test_torch_seed_fixes_the_masks() -> None:
    first, again, other = keys_for([30]), keys_for([30]), keys_for([30], seed=1)
    assert torch.equal(first.mask(0, 64, 0.5), again.mask(0, 64, 0.5))
    assert not torch.equal(first.mask(0, 64, 0.5), other.mask(0, 64, 0.5))


def test_a_mask_follows_its_example_into_any_batch() -> None:
    together = keys_for([5, 9, 4, 6], per_example=[2, 2], indices=[70, 31]).mask(0, 64, 0.5)
    alone = keys_for([4, 6], per_example=[2], indices=[31]).mask(0, 64, 0.5)
    assert torch.equal(together[14:], alone)
    another = keys_for([4, 6], per_example=[2], indices=[30]).mask(0, 64, 0.5)
    assert not torch.equal(another, alone)


def test_training_repeats_itself_and_does_not_depend_on_the_micro_batch() -> None:
    encoder = make_encoder(make_reference(layers=3)).train()
    batch = make_batch([12, 30, 7], indices=[4, 9, 2])
    part = make_batch([30], indices=[9])
    part.input_ids.copy_(batch.input_ids[12:42])

    def run(which: object, seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return encoder(which)

    full = run(batch, 1)
    assert torch.equal(full, run(batch, 1))
    assert not torch.allclose(full, run(batch, 2), atol=1e-3)
    assert torch.allclose(full[12:42], run(part, 1), atol=1e-5)
    assert torch.allclose(run(batch, 1)[[0, 12, 42]], _first(encoder, batch), atol=1e-5)


def _first(encoder: torch.nn.Module, batch: object) -> torch.Tensor:
    torch.manual_seed(1)
    return encoder(batch, first_only=True)


def test_evaluation_drops_nothing_and_draws_nothing() -> None:
    encoder = make_encoder(make_reference()).eval()
    batch = make_batch([12, 3])
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = encoder(batch)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first, encoder(batch))


def test_the_mean_over_many_masks_is_the_value_without() -> None:
    """The encoder's dropout is unbiased where it is linear: one block's attention values and outputs."""
    keys = [keys_for([64], seed=n) for n in range(200)]
    x = torch.ones(64, 256)
    mean = torch.stack([dropout(x, 0.1, k, 0) for k in keys]).mean()
    assert float(mean) == pytest.approx(1.0, abs=5 * (0.1 / 0.9 / (200 * 64 * 256)) ** 0.5)
