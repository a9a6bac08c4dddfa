"""Is training still worth going on with? Steps whose gradient is not finite, and collapse: one page for the loop."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from xtrain.data import PackedBatch
from xtrain.errors import Problem, UserError, counted
from xtrain.model import PhaseModel
from xtrain.study import Engine as EngineSettings
from xtrain.study import Recipe
from xtrain.training.attempts import CONTINUE, Attempts, Collapsed, TrainingFailed
from xtrain.training.collapse import Collapse, CollapseDetector
from xtrain.training.plan import Plan
from xtrain.training.probe import probe

__all__ = [
    "Attempts",
    "Collapsed",
    "Health",
    "SkippedSteps",
    "TrainingFailed",
    "loss_scale_floor",
    "loss_scale_problem",
]

DEFAULT_FLOOR = 1.0  # fp16.min_loss_scale where the configuration names none (DeepSpeed's runtime/precision_config.py)


@dataclass
class SkippedSteps:
    """Counts the steps that changed no weight since their gradient was not finite.

    The learning rate of a step is ``schedule(step - total)``: a skipped step is no step of the schedule.
    """

    most_in_a_row: int
    """``engine.max_skipped_steps``."""
    precision: str
    learning_rate: float
    """The peak, for the message."""
    floor: float | None = None
    """The lowest fp16 loss scale, of :func:`loss_scale_floor`; None in other precisions."""
    total: int = 0
    in_a_row: int = 0
    """Since the last step that was not skipped."""
    loss_scale: float | None = None
    """After the last step."""

    def after_step(self, step: int, task: str, skipped: bool, loss_scale: float | None = None) -> None:
        """Take what became of global step ``step`` (counted from 1), a batch of ``task``.

        ``loss_scale`` is that after the step, in fp16. All ranks must tell the same, so that all of them end alike.
        Raises a :class:`UserError` after ``most_in_a_row`` skipped steps in a row, or when one is skipped at the
        lowest scale: so would be all that follow.
        """
        at_floor = self.floor is not None and self.loss_scale is not None and self.loss_scale <= self.floor
        self.loss_scale = loss_scale
        self.total += skipped
        self.in_a_row = self.in_a_row + 1 if skipped else 0
        if skipped and at_floor:
            raise UserError(loss_scale_problem(self.floor, self.learning_rate, step))
        if self.in_a_row >= self.most_in_a_row:
            raise UserError(self._problem(step, task))

    def _problem(self, step: int, task: str) -> Problem:
        bf16 = 'set engine.precision = "bf16", or ' if self.precision == "fp16" else ""
        return Problem(
            f"step {step}, a batch of {task}",
            f"the gradient was not finite in {counted(self.in_a_row, 'step')} in a row (engine.max_skipped_steps = "
            f"{self.most_in_a_row}; {counted(self.total, 'step')} skipped in all)",
            remedy=f"{bf16}lower recipe.*.learning_rate (now {self.learning_rate:g}); if it is not that, set "
            "engine.log_example_ids = true and look at the examples of these steps in batches.jsonl",
        )

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps, as JSON has it."""
        return {"total": self.total, "in_a_row": self.in_a_row, "loss_scale": self.loss_scale}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take back what :meth:`state` gave."""
        self.total, self.in_a_row = int(state["total"]), int(state["in_a_row"])
        self.loss_scale = None if state["loss_scale"] is None else float(state["loss_scale"])


def loss_scale_floor(ds_config: Mapping[str, Any]) -> float | None:
    """The lowest loss scale that a resolved DeepSpeed configuration allows.

    None where the scale does not change: in other precisions, and with a static scale (``fp16.loss_scale``).
    """
    fp16 = ds_config.get("fp16", {})
    if not fp16.get("enabled") or fp16.get("loss_scale", 0):
        return None
    return float(fp16.get("min_loss_scale", DEFAULT_FLOOR))


def loss_scale_problem(scale: float | None, learning_rate: float | None = None, step: int | None = None) -> Problem:
    """What to tell when a gradient overflows at the lowest loss scale.

    DeepSpeed raises a bare Exception then, "Current loss scale already at minimum" (runtime/fp16/loss_scaler.py).
    """
    at = "" if scale is None else f", {scale:g}"
    now = "" if learning_rate is None else f" (now {learning_rate:g})"
    return Problem(
        "engine.precision" if step is None else f"step {step}",
        f"the gradient overflows fp16 even at the lowest loss scale{at} (fp16.min_loss_scale of engine.ds_config): "
        "every further step would be skipped",
        remedy=f'set engine.precision = "bf16", or lower recipe.*.learning_rate{now}',
    )


@dataclass
class Health:
    """What the loop asks after every step."""

    skipped: SkippedSteps
    detector: CollapseDetector
    model: PhaseModel
    plan: Plan
    on_collapse: str
    tokens_per_batch: int

    @classmethod
    def of(
        cls,
        recipe: Recipe,
        settings: EngineSettings,
        plan: Plan,
        ds_config: Mapping[str, Any],
        device: torch.device,
        model: PhaseModel,
    ) -> Health:
        """For one training of a phase; ``ds_config`` is the resolved one."""
        floor = loss_scale_floor(ds_config)
        skipped = SkippedSteps(settings.max_skipped_steps, settings.precision, recipe.learning_rate, floor)
        detector = CollapseDetector.of(model, plan, recipe, device)
        return cls(skipped, detector, model, plan, recipe.on_collapse, settings.tokens_per_micro_batch)

    def add(self, task: str, loss_sum: Tensor, batch: PackedBatch) -> None:
        """Take a micro-batch of this rank and its summed loss, (); nothing waits for the device."""
        self.detector.add(task, loss_sum, batch)

    def after_step(self, step: int, task: str, skipped: bool, loss_scale: float | None) -> None:
        """Take what became of global step ``step`` (from 1); raises as :meth:`SkippedSteps.after_step` does."""
        self.skipped.after_step(step, task, skipped, loss_scale)

    def check(self, step: int) -> Collapse | None:
        """Look for a collapse after ``step`` steps; collective, at most a tiny sum but where nothing is learnt.

        Raises :class:`Collapsed` on all ranks when one is found; returns it, once, where the recipe goes on all the
        same (``on_collapse = "continue"``).
        """
        look = functools.partial(probe, self.model, self.plan, step=step, tokens_per_batch=self.tokens_per_batch)
        collapse = self.detector.check(step, look)
        if collapse is not None and self.on_collapse != CONTINUE:
            raise Collapsed(collapse)
        return collapse

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps, as JSON has it, the same on every rank; collective."""
        return {"skipped": self.skipped.state(), "collapse": self.detector.state()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take back what :meth:`state` gave, with any number of ranks."""
        self.skipped.restore(state["skipped"])
        self.detector.restore(state["collapse"])
