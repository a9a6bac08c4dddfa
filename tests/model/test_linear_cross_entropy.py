"""Cross entropy in chunks: the loss, the argmax and the gradients of the plain one, in a fraction of its memory."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from xtrain.model import linear_cross_entropy as module
from xtrain.model.linear_cross_entropy import linear_cross_entropy

M, H, V = 37, 24, 1003  # V is no multiple of a chunk


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of 100 columns: the vocabulary is cut into eleven, the last of three."""
    monkeypatch.setattr(module, "_ELEMENTS", {"cpu": 100 * M})
    monkeypatch.setattr(module, "_FEWEST_COLUMNS", 50)


def inputs(dtype: torch.dtype = torch.float32, rows: int = M, scale: float = 1.0) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    hidden = scale * torch.randn(rows, H, generator=generator)
    table, bias = torch.randn(V, H, generator=generator), torch.randn(V, generator=generator)
    labels = torch.randint(V, (rows,), generator=generator)
    if rows > 3:
        labels[:4] = torch.tensor([0, V - 1, 99, 100])  # first, last, and around the edge of a chunk
    return *(value.to(dtype).requires_grad_() for value in (hidden, table, bias)), labels


def plain(rows: Tensor, table: Tensor, bias: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    logits = rows @ table.t() + bias
    return F.cross_entropy(logits, labels, reduction="none"), logits.argmax(1)


def gradients(loss: Tensor, upstream: Tensor, *wanted: Tensor) -> tuple[Tensor, ...]:
    return torch.autograd.grad(loss, wanted, upstream)


@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_loss_argmax_and_gradients_are_those_of_all_logits(scale: float) -> None:
    *leaves, labels = inputs(scale=scale)
    upstream = torch.rand(M, generator=torch.Generator().manual_seed(1))  # another weight for each row
    loss, best = linear_cross_entropy(*leaves, labels)
    expected, expected_best = plain(*leaves, labels)
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-5 * scale)
    assert best.tolist() == expected_best.tolist()
    found = gradients(loss, upstream, *leaves)
    for mine, theirs in zip(found, gradients(expected, upstream, *leaves), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5 * scale, atol=1e-5 * scale)


def test_gradients_by_finite_differences() -> None:
    """An independent witness; fp32 inside, hence the tolerance."""
    *leaves, labels = inputs(rows=3)
    direction = [torch.randn(leaf.shape, generator=torch.Generator().manual_seed(7)) for leaf in leaves]
    step = 1e-2

    def value(factor: float) -> float:
        moved = [leaf.detach() + factor * d for leaf, d in zip(leaves, direction, strict=True)]
        return float(linear_cross_entropy(*moved, labels)[0].sum())

    loss = linear_cross_entropy(*leaves, labels)[0].sum()
    slope = sum(float((g * d).sum()) for g, d in zip(torch.autograd.grad(loss, leaves), direction, strict=True))
    assert (value(step) - value(-step)) / (2 * step) == pytest.approx(slope, rel=1e-2)


def test_bf16_keeps_its_sums_in_fp32() -> None:
    *leaves, labels = inputs(torch.bfloat16)
    loss, best = linear_cross_entropy(*leaves, labels)
    exact = [leaf.detach().float().requires_grad_() for leaf in leaves]  # the same rounded numbers
    expected, _ = plain(*exact, labels)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, expected, rtol=0.01, atol=0.05)  # the logits are rounded, the sums are not
    upstream = torch.ones(M)
    for mine, theirs, leaf in zip(
        gradients(loss, upstream, *leaves), gradients(expected, upstream, *exact), leaves, strict=True
    ):
        assert mine.dtype == leaf.dtype == torch.bfloat16
        assert float((mine.float() - theirs).norm() / theirs.norm()) < 0.02
    assert best.shape == (M,)


def test_only_what_needs_a_gradient_gets_one() -> None:
    rows, table, bias, labels = inputs()
    table.requires_grad_(False)
    loss, _ = linear_cross_entropy(rows, table, bias, labels)
    loss.sum().backward()
    assert table.grad is None
    assert rows.grad is not None
    assert bias.grad is not None


def test_the_first_of_equal_logits_wins_and_nothing_to_predict_is_no_error() -> None:
    rows, table, bias, labels = inputs()
    with torch.no_grad():
        same = linear_cross_entropy(torch.zeros(M, H), table, torch.zeros(V), labels)
    assert same[1].tolist() == [0] * M
    torch.testing.assert_close(same[0], torch.full((M,), float(torch.tensor(V).log())))
    loss, best = linear_cross_entropy(rows[:0], table, bias, labels[:0])
    assert loss.shape == best.shape == (0,)
    loss.sum().backward()
    assert float(table.grad.abs().sum()) == 0  # type: ignore[union-attr]


def test_what_is_not_a_number_is_seen() -> None:
    rows, table, bias, labels = inputs()
    with torch.no_grad():
        rows[2, 0] = torch.nan
        loss, _ = linear_cross_entropy(rows, table, bias, labels)
    assert torch.isnan(loss).nonzero().flatten().tolist() == [2]


class Largest(TorchDispatchMode):
    """The most elements of any tensor that an operation made inside."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = func(*args, **(kwargs or {}))
        for value in result if isinstance(result, tuple | list) else (result,):
            if isinstance(value, Tensor):
                self.elements = max(self.elements, value.numel())
        return result


def test_no_tensor_is_as_large_as_the_logits() -> None:
    *leaves, labels = inputs(rows=400)
    with Largest() as ours:
        linear_cross_entropy(*leaves, labels)[0].sum().backward()
    with Largest() as theirs:
        plain(*leaves, labels)[0].sum().backward()
    assert theirs.elements == 400 * V
    assert ours.elements == max(V * H, 400 * 50)  # the table's own gradient, or a chunk
