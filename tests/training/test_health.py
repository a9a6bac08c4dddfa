"""Skipped steps: counted, too many in a row end the phase; the lowest fp16 loss scale; what a checkpoint keeps."""

from __future__ import annotations

import json

import pytest
import torch
from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler

from xtrain.errors import UserError
from xtrain.training.health import SkippedSteps, loss_scale_floor, loss_scale_problem


def told(skipped: SkippedSteps, pattern: str, first: int = 1) -> None:
    """Tell steps from ``first``: "x" was skipped, "." was not."""
    for step, kind in enumerate(pattern, first):
        skipped.after_step(step, "mnli", kind == "x")


def test_skipped_steps_are_counted_and_a_good_one_ends_the_row() -> None:
    skipped = SkippedSteps(3, "bf16", 1e-3)
    told(skipped, ".xx.xx..x")
    assert skipped.total == 5
    assert skipped.in_a_row == 1


def test_too_many_in_a_row_end_the_phase_with_the_remedy() -> None:
    skipped = SkippedSteps(3, "bf16", 1e-3)
    with pytest.raises(UserError) as error:
        told(skipped, "x.xxx")
    text = str(error.value)
    assert "step 5, a batch of mnli" in text
    assert "engine.max_skipped_steps = 3" in text
    assert "4 steps skipped in all" in text
    assert "recipe.*.learning_rate (now 0.001)" in text
    assert "engine.log_example_ids" in text
    assert "bf16" not in text  # it is that already


def test_in_fp16_bf16_is_the_first_remedy() -> None:
    with pytest.raises(UserError, match=r'set engine\.precision = "bf16"'):
        told(SkippedSteps(2, "fp16", 1e-3), "xx")


def test_a_resumed_run_decides_as_the_uninterrupted_one() -> None:
    pattern, most = "..x.xx.xxx", 3
    for cut in range(len(pattern)):
        before, after = SkippedSteps(most, "fp16", 1e-3), SkippedSteps(most, "fp16", 1e-3)
        told(before, pattern[:cut])
        after.restore(json.loads(json.dumps(before.state())))
        with pytest.raises(UserError, match="step 10,"):
            told(after, pattern[cut:], cut + 1)


def test_a_step_skipped_at_the_lowest_scale_ends_the_phase_and_reaching_it_does_not() -> None:
    skipped = SkippedSteps(100, "fp16", 1e-3, floor=1.0)
    skipped.after_step(1, "mnli", True, loss_scale=2.0)
    skipped.after_step(2, "mnli", True, loss_scale=1.0)
    skipped.after_step(3, "mnli", False, loss_scale=1.0)
    resumed = SkippedSteps(100, "fp16", 1e-3, floor=1.0)
    resumed.restore(json.loads(json.dumps(skipped.state())))
    for one in (skipped, resumed):
        with pytest.raises(UserError, match="step 4: the gradient overflows fp16 even at the lowest"):
            one.after_step(4, "mnli", True, loss_scale=1.0)


@pytest.mark.parametrize(
    ("config", "floor"),
    [
        ({}, None),
        ({"bf16": {"enabled": True}}, None),
        ({"fp16": {"enabled": False}}, None),
        ({"fp16": {"enabled": True}}, 1.0),
        ({"fp16": {"enabled": True, "min_loss_scale": 16}}, 16.0),
        ({"fp16": {"enabled": True, "loss_scale": 128}}, None),
    ],
)
def test_the_lowest_scale_is_what_deepspeed_reads(config: dict[str, dict[str, object]], floor: float | None) -> None:
    assert loss_scale_floor(config) == floor


def test_deepspeed_still_ends_at_its_lowest_scale_as_we_expect() -> None:
    """Its words are matched where a step is made, and its default is ours."""
    from deepspeed.runtime.precision_config import DeepSpeedFP16Config

    assert loss_scale_floor({"fp16": {"enabled": True}}) == DeepSpeedFP16Config().min_loss_scale
    scaler = DynamicLossScaler(1.0, 1000, 1.0, 1, False, raise_error_at_min_scale=True, dtype=torch.float32)
    with pytest.raises(Exception, match="loss scale already at minimum"):
        scaler.update_scale(True)


def test_the_problem_of_the_lowest_scale_names_the_remedy() -> None:
    text = str(loss_scale_problem(1.0))
    assert "engine.precision" in text
    assert 'set engine.precision = "bf16", or lower recipe.*.learning_rate' in text
