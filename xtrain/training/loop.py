"""The training loop: global batches to micro-batches to optimizer steps, with evaluation and saving between."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from xtrain.data import PackedBatch, microbatches
from xtrain.errors import Problem, UserError
from xtrain.model import PhaseModel
from xtrain.study import Engine as EngineSettings
from xtrain.study import Recipe
from xtrain.training.checkpoint import Checkpoints
from xtrain.training.contrast import GlobalContrast, Share, contrast
from xtrain.training.engine import StepResult, TrainEngine
from xtrain.training.plan import GlobalBatch, Plan
from xtrain.training.schedule import LinearSchedule
from xtrain.training.selection import Selection
from xtrain.training.throughput import Throughput, training_flops


class Observer(Protocol):
    """Who is told what happens; only rank 0's does anything."""

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Values after ``step`` optimizer steps."""

    def event(self, kind: str, **fields: Any) -> None:
        """Something that happened once."""

    def advanced(self, step: int, values: Mapping[str, float]) -> None:
        """``step`` steps are done (for a progress bar)."""

    def batch_ids(self, step: int, task: str, ids: Sequence[str]) -> None:
        """The examples of a global batch, where asked for."""


@dataclass
class Outcome:
    """How training ended."""

    step: int
    best_step: int
    best_score: float | None
    stopped_early: bool


@dataclass
class Trainer:
    """One phase's training on this rank."""

    engine: TrainEngine
    plan: Plan
    recipe: Recipe
    settings: EngineSettings
    seed: int
    observer: Observer
    checkpoints: Checkpoints
    evaluate: Callable[[nn.Module], dict[str, float]] | None
    """All ranks together: dev metrics, with the one to select by under ``score``."""
    keep_best: Callable[[int], None]
    """All ranks together: keep the weights after so many steps as the best so far."""
    encoder_shape: tuple[int, int, int] = (0, 0, 0)
    """Parameters in matrices, number of layers, hidden size: for the FLOP count."""
    throughput: Throughput = field(default_factory=Throughput)
    num_skipped: int = 0
    training_seconds: float = 0.0
    """Of this process: steps alone, without evaluation and saving."""
    num_tokens: int = 0

    @property
    def mean_tokens_per_second(self) -> float:
        """Real tokens over all ranks a second of training."""
        return self.num_tokens / self.training_seconds if self.training_seconds else 0.0

    def run(self) -> Outcome:
        """Train from the newest checkpoint, or from the start, to the last step or until patience ends."""
        schedule = LinearSchedule.of(self.recipe.learning_rate, self.plan.num_steps, self.recipe.warmup_ratio)
        selection = Selection(self.recipe.patience)
        step = self._resume(selection)
        window = Window(self.engine.device, self.plan.mixture.tasks)
        self.throughput = Throughput()
        self.engine.model.train()
        while step < self.plan.num_steps and not selection.exhausted:
            learning_rate = schedule(step)
            result = self._global_step(step, learning_rate, window)
            step += 1
            self.num_skipped += result.skipped
            if step % self.settings.log_every == 0 or step == self.plan.num_steps:
                self._log(step, learning_rate, result, window)
            else:
                self.observer.advanced(step, {})
            last = step == self.plan.num_steps
            if self.evaluate and (step % self.recipe.eval_every == 0 or last):
                self._select(step, selection)
            if step % self.settings.checkpoint_every == 0 and not last:
                self._save(step, selection)
        stopped = step < self.plan.num_steps
        if stopped:
            self.observer.event("early_stop", step=step, best_step=selection.best_step, patience=self.recipe.patience)
        score = selection.best_score if math.isfinite(selection.best_score) else None
        return Outcome(step, selection.best_step if score is not None else step, score, stopped)

    def _resume(self, selection: Selection) -> int:
        state = self.checkpoints.load_newest(self.engine)
        if state is None:
            return 0
        selection.restore(state["selection"])
        self.num_skipped = int(state["num_skipped"])
        self.observer.event("resume", step=int(state["step"]))
        return int(state["step"])

    def _global_step(self, step: int, learning_rate: float, window: Window) -> StepResult:
        """One optimizer step over the global batch of ``step``."""
        whole = self.plan.batch(step)
        rank, world_size, device = dist.get_rank(), dist.get_world_size(), self.engine.device
        if self.settings.log_example_ids:
            self.observer.batch_ids(step, whole.task, whole.shard.ids(whole.indices))
        num_units, lengths = whole.num_units(), whole.lengths
        dealt = [bins[rank] for bins in microbatches(lengths, world_size, self.settings.tokens_per_micro_batch)]
        compared = self._contrast(step, whole, dealt)
        for number, (positions, weights) in enumerate(dealt):
            batch = whole.part(positions, weights).to(device)
            batch = batch if compared is None else compared.given_to(batch, positions)
            seed_dropout(self.seed, step, number, rank, device)
            loss_sum = self.engine.accumulate(batch, num_units, last=number == len(dealt) - 1)
            loss_sum = loss_sum if compared is None else compared.loss_of(positions, weights)
            window.add_loss(whole.task, loss_sum / num_units)
        window.end_step(whole.task)
        matrices, layers, hidden = self.encoder_shape
        squares = int(np.square(lengths, dtype=np.int64).sum())
        tokens = int(lengths.sum())
        self.throughput.add(tokens, training_flops(tokens, squares, matrices, layers, hidden))
        return self.engine.step(learning_rate)

    def _contrast(self, step: int, whole: GlobalBatch, dealt: Sequence[Share]) -> GlobalContrast | None:
        """Where the loss compares all examples of the global batch: its first pass."""
        if not cast(PhaseModel, self.engine.model).head(whole.task).in_batch:
            return None

        def batch_of(number: int) -> PackedBatch:
            seed_dropout(self.seed, step, number, dist.get_rank(), self.engine.device)
            return whole.part(*dealt[number]).to(self.engine.device)

        return contrast(self.engine, whole.task, len(whole.indices), dealt, batch_of)

    def _log(self, step: int, learning_rate: float, result: StepResult, window: Window) -> None:
        loss, by_task = window.mean_losses()
        self.num_tokens += self.throughput.num_tokens
        rates = self.throughput.read(dist.get_world_size())
        self.training_seconds += rates["seconds"]
        values = {
            "loss": loss,
            "learning_rate": learning_rate,
            "grad_norm": result.grad_norm,
            "epoch": step / self.plan.num_steps * self.recipe.epochs,
            **by_task,
            **rates,
        }
        if self.engine.loss_scale is not None:
            values |= {"loss_scale": self.engine.loss_scale, "skipped_steps": float(self.num_skipped)}
        self.observer.metrics(step, values)
        self.observer.advanced(step, values)
        if not math.isfinite(loss):
            self.observer.event("non_finite_loss", step=step, loss=str(loss))
            raise UserError(
                Problem(
                    f"step {step}",
                    f"the loss is {loss}",
                    remedy=f"lower recipe.*.learning_rate (now {self.recipe.learning_rate:g}), or set "
                    'engine.precision = "bf16" if it is fp16',
                )
            )

    def _select(self, step: int, selection: Selection) -> None:
        assert self.evaluate is not None
        self.throughput.pause()
        self.engine.model.eval()
        values = self.evaluate(self.engine.model)
        self.engine.model.train()
        if selection.update(step, values["score"]):
            self.keep_best(step)
            self.observer.event("best", step=step, score=values["score"])
        self.observer.metrics(step, {f"dev/{name}": value for name, value in values.items()})
        self.throughput.go_on()

    def _save(self, step: int, selection: Selection) -> None:
        self.throughput.pause()
        state = {"step": step, "selection": selection.state(), "num_skipped": self.num_skipped}
        self.checkpoints.save(self.engine, step, state)
        self.observer.event("save", step=step)
        self.throughput.go_on()


def seed_dropout(seed: int, step: int, micro_step: int, rank: int, device: torch.device) -> None:
    """Seed this forward pass, so that a resumed run repeats itself exactly.

    On CPU our masks are keyed by example on top of it, so (seed, step) is enough and masks do not depend on
    the number of ranks. CUDA's kernels draw by position: there each micro-batch of each rank has its own seed.
    """
    place = [] if device.type == "cpu" else [micro_step, rank]
    torch.manual_seed(int(np.random.SeedSequence([seed, step, *place]).generate_state(1)[0]))


class Window:
    """The loss since the last line of metrics, summed on the device so that no step waits for it."""

    def __init__(self, device: torch.device, tasks: Sequence[str]) -> None:
        self._tasks = {task: number for number, task in enumerate(tasks)}
        self._sums = torch.zeros(len(tasks), dtype=torch.float64, device=device)
        self._steps = [0] * len(tasks)

    def add_loss(self, task: str, loss: Tensor) -> None:
        """Add this rank's share of a global batch's mean loss."""
        self._sums[self._tasks[task]] += loss.double()

    def end_step(self, task: str) -> None:
        """A global step of ``task`` is done."""
        self._steps[self._tasks[task]] += 1

    def mean_losses(self) -> tuple[float, dict[str, float]]:
        """The mean loss of the steps since the last call, over all ranks, and of several tasks each one's own.

        Collective. A task that had no step is not among them.
        """
        dist.all_reduce(self._sums)
        sums, steps = self._sums.tolist(), self._steps
        mean = sum(sums) / max(1, sum(steps))
        each = {f"{task}/loss": sums[n] / steps[n] for task, n in self._tasks.items() if steps[n]}
        self._sums.zero_()
        self._steps = [0] * len(steps)
        return mean, each if len(steps) > 1 else {}
