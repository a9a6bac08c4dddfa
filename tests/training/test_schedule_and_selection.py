"""The learning rate as a function of the step, the decay of untouched rows, early stopping, FLOPs."""

from __future__ import annotations

import pytest
import torch
from transformers import get_linear_schedule_with_warmup

from xtrain.training.schedule import LinearSchedule
from xtrain.training.selection import Selection
from xtrain.training.throughput import training_flops


@pytest.mark.parametrize(("steps", "ratio"), [(100, 0.1), (7, 0.5), (10, 0.0), (13, 1.0)])
def test_schedule_is_that_of_transformers(steps: int, ratio: float) -> None:
    schedule = LinearSchedule.of(3e-5, steps, ratio)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=3e-5)
    peer = get_linear_schedule_with_warmup(optimizer, schedule.num_warmup_steps, steps)
    for step in range(steps):
        assert schedule(step) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-12)
        optimizer.step()
        peer.step()


def test_decay_factor_is_what_adamw_does_to_a_weight_without_gradient() -> None:
    schedule = LinearSchedule.of(0.1, 20, 0.2)
    weight = torch.nn.Parameter(torch.ones(1, dtype=torch.float64))
    optimizer = torch.optim.AdamW([weight], weight_decay=0.3)
    for step in range(20):
        optimizer.param_groups[0]["lr"] = schedule(step)
        weight.grad = torch.zeros_like(weight)
        optimizer.step()
        assert schedule.decay_factor(0.3, step + 1) == pytest.approx(weight.item(), rel=1e-12)


def test_selection_keeps_the_first_best_and_counts_patience() -> None:
    selection = Selection(patience=2)
    assert selection.update(10, 50.0)
    assert not selection.update(20, 50.0)
    assert not selection.exhausted
    assert selection.update(30, 60.0)
    assert not selection.update(40, 1.0)
    other = Selection(patience=2)
    other.restore(selection.state())
    assert not other.update(50, 1.0)
    assert other.exhausted
    assert (other.best_step, other.best_score) == (30, 60.0)


@pytest.mark.parametrize(("length", "gflop"), [(128, 1.85), (256, 1.89), (512, 1.96)])
def test_flops_of_xlm_r_large(length: int, gflop: float) -> None:
    """302.0 M matrix parameters in 24 blocks of hidden size 1024; figures a token, by sequence length."""
    matrices = 24 * (4 * 1024**2 + 2 * 1024 * 4096)
    per_token = training_flops(length, length**2, matrices, 24, 1024) / length
    assert per_token / 1e9 == pytest.approx(gflop, abs=0.01)
