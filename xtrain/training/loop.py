"""The training loop: global batches to micro-batches to optimizer steps, with evaluation and saving between."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, NoReturn, cast

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from xtrain.data import PackedBatch
from xtrain.errors import Problem, UserError
from xtrain.model import PhaseModel
from xtrain.study import Engine as EngineSettings
from xtrain.study import Recipe
from xtrain.training.contrast import GlobalContrast, contrast
from xtrain.training.engine import StepResult, TrainEngine
from xtrain.training.feeding import Feeder, StepWork
from xtrain.training.guard import Guard
from xtrain.training.health import Health
from xtrain.training.observer import Observer
from xtrain.training.out_of_memory import MicroBatch, naming_batch, naming_work
from xtrain.training.plan import Plan
from xtrain.training.restore import fill, newest, trainer_state
from xtrain.training.saver import Saver
from xtrain.training.schedule import LinearSchedule
from xtrain.training.selection import Selection
from xtrain.training.sums import of_all_ranks, take_back
from xtrain.training.throughput import Throughput, training_flops

ROUNDING = ("torch", "deepspeed", "device", "threads", "world_size", "stage", "optimizer")
"""Keys of the environment that decide the last places of a phase's numbers, and nothing else of them."""


@dataclass
class Outcome:
    """How training ended."""

    step: int
    best_step: int
    best_score: float | None
    stopped_early: bool


class Interrupted(Exception):
    """Raised on all ranks in the middle of an evaluation, which is made again after the resume."""


@dataclass
class Trainer:
    """One phase's training on this rank."""

    engine: TrainEngine
    plan: Plan
    recipe: Recipe
    settings: EngineSettings
    seed: int
    observer: Observer
    saver: Saver
    feeder: Feeder
    guard: Guard
    health: Health
    evaluate: Callable[[nn.Module, Callable[[int], None]], dict[str, float]] | None
    """All ranks together: dev metrics, with the one to select by under ``score``. Calls back after each micro-step."""
    encoder_shape: tuple[int, int, int] = (0, 0, 0)
    """Parameters in matrices, number of layers, hidden size: for the FLOP count."""
    environment: Mapping[str, Any] = field(default_factory=dict)
    """Versions, device, ranks, ZeRO stage and the optimizer's implementation."""
    throughput: Throughput = field(default_factory=Throughput)
    training_seconds: float = 0.0
    """Steps alone, without evaluation and waiting for saves; those before a resume included."""
    num_tokens: int = 0

    def __post_init__(self) -> None:
        self.schedule = LinearSchedule.of(self.recipe.learning_rate, self.plan.num_steps, self.recipe.warmup_ratio)
        self.selection = Selection(self.recipe.patience)
        self.window = Window(self.engine.device, self.plan.mixture.tasks)
        self.evaluated = 0  # the last step after which dev was evaluated

    @property
    def num_skipped(self) -> int:
        """Steps whose gradient was not finite."""
        return self.health.skipped.total

    @property
    def mean_tokens_per_second(self) -> float:
        """Real tokens over all ranks a second of training."""
        return self.num_tokens / self.training_seconds if self.training_seconds else 0.0

    def run(self) -> Outcome:
        """Train from the newest checkpoint, or from the start, to the last step or until patience ends.

        At the end the last weights are committed, and the best. Raises
        :class:`~xtrain.training.preemption.Preempted` once the state is saved after a signal, and
        :class:`~xtrain.errors.Fenced` where a newer attempt has begun.
        """
        step = self._resume()
        self.throughput = Throughput()
        self.engine.model.train()
        self._boundary(step, best=self._evaluation_due(step) and self._select(step), begun=False)
        self.feeder.start(step)
        try:
            while step < self.plan.num_steps and not self.selection.exhausted:
                learning_rate = self.schedule(step - self.num_skipped)
                result = self._global_step(step, learning_rate)
                step += 1
                self._log(step, learning_rate, result)
                collapse = self.health.check(step)
                if collapse is not None:  # the recipe goes on all the same
                    self.observer.event("collapse", step=step, **collapse.fields())
                best = self._evaluation_due(step) and self._select(step)
                self._boundary(step, best=best)
        finally:
            self.feeder.close()
        return self._end(step)

    def _evaluation_due(self, step: int) -> bool:
        due = step % self.recipe.eval_every == 0 or step == self.plan.num_steps
        return self.evaluate is not None and step > self.evaluated and due

    def _resume(self) -> int:
        saver = self.saver
        found = newest(saver.folder, saver.phase, self.seed, self.guard.agreement, self.observer)
        if found is None:
            # after a restart: nothing was left to go on from
            self.observer.event("begin", step=0, planned_steps=self.plan.num_steps)
            return 0
        commit = found.commit
        state = trainer_state(commit.path)
        self.selection.restore(state["selection"])
        self.health.restore(state["health"])
        self.window.restore(state["window"])
        self.evaluated = int(state["evaluated"])
        self.num_tokens, self.training_seconds = int(state["num_tokens"]), float(state["training_seconds"])
        step = saver.saved_step = int(state["step"])
        if not found.has_best:
            self.selection.forget_best()
            self.evaluated = min(self.evaluated, step - 1)  # so that this step may be the best
        fill(self.engine.state, commit, step - self.num_skipped)
        self.engine.restore(state["engine"])
        self.observer.event("resume", step=step, checkpoint=commit.name, written_by=commit.manifest.world_size,
                            ranks=self.guard.agreement.world_size, planned_steps=self.plan.num_steps)  # fmt: skip
        before, now = state["rounding"], self._rounding
        if changed := [f"{key} {before[key]} -> {now[key]}" for key in ROUNDING if before[key] != now[key]]:
            self.observer.event("rounds_otherwise", step=step, changed=", ".join(changed))
        return step

    @property
    def _rounding(self) -> dict[str, Any]:
        return {key: self.environment.get(key) for key in ROUNDING}

    def _state(self, step: int) -> dict[str, Any]:
        """What a checkpoint keeps beside the tensors; collective."""
        return {
            "step": step,
            "planned_steps": self.plan.num_steps,
            "num_updates": step - self.num_skipped,
            "seed": self.seed,
            "selection": self.selection.state(),
            "evaluated": self.evaluated,
            "health": self.health.state(),
            "window": self.window.state(),
            "engine": self.engine.counters(),
            "num_tokens": self.num_tokens + self.throughput.num_tokens,
            "training_seconds": self.training_seconds + self.throughput.seconds,
            "rounding": self._rounding,
        }

    def _global_step(self, step: int, learning_rate: float) -> StepResult:
        """One optimizer step over the global batch of ``step``."""
        work, device = self.feeder.at(step), self.engine.device
        rank = self.guard.agreement.rank
        if work.ids:
            self.observer.batch_ids(step, work.task, work.ids)
        compared = self._contrast(work)
        for number, (batch, (positions, weights)) in enumerate(zip(work.batches, work.shares, strict=True)):
            here = MicroBatch(step, number, len(work.batches), rank, self.plan, positions)
            self.guard.tick(here.where)
            with naming_batch(here, self.settings, device):
                batch = batch.to(device)
                batch = batch if compared is None else compared.given_to(batch, positions)
                seed_dropout(self.seed, step, number, rank, device)
                last = number == len(work.batches) - 1
                loss_sum = self.engine.accumulate(batch, work.num_units, last=last)
            loss_sum = loss_sum if compared is None else compared.loss_of(positions, weights)
            self.window.add_loss(work.task, loss_sum / work.num_units)
            self.health.add(work.task, loss_sum, batch)
        self.window.end_step(work.task)
        matrices, layers, hidden = self.encoder_shape
        flops = training_flops(work.num_tokens, work.sum_squared_lengths, matrices, layers, hidden)
        self.throughput.add(work.num_tokens, flops)
        self.saver.copied()  # what is being saved must not change under the copy
        with self._naming(step + 1, "the optimizer's update"):
            result = self.engine.step(learning_rate)
        if result.skipped:  # told first: it may be one too many
            self.observer.event("step_skipped", step=step + 1, task=work.task, in_all=self.num_skipped + 1)
        self.health.after_step(step + 1, work.task, result.skipped, self.engine.loss_scale)
        return result

    def _contrast(self, work: StepWork) -> GlobalContrast | None:
        """Where the loss compares all examples of the global batch: its first pass."""
        if not cast(PhaseModel, self.engine.model).head(work.task).in_batch:
            return None

        def batch_of(number: int) -> PackedBatch:
            seed_dropout(self.seed, work.step, number, self.guard.agreement.rank, self.engine.device)
            return work.batches[number].to(self.engine.device)

        with self._naming(work.step + 1, "the first pass of a loss over the whole batch"):
            return contrast(self.engine, work.task, work.num_examples, work.shares, batch_of)

    def _naming(self, step: int, work: str) -> AbstractContextManager[None]:
        """Where memory runs out inside, the error says at which ``work``."""
        rank = self.guard.agreement.rank
        return naming_work(f"step {step} on rank {rank}", work, self.settings, self.engine.device)

    def _boundary(self, step: int, *, best: bool, begun: bool = True) -> None:
        """Between two steps: what all ranks decide together, and the save that is due.

        ``begun`` is False before this process's first step, when there is nothing new to save.
        """
        over = step == self.plan.num_steps or self.selection.exhausted
        signal, *status = self.guard.worst(self.saver.status())
        self.saver.settle(step, status)
        if signal:
            self._leave(step, best=best, begun=begun, over=over)
        due = step % self.settings.checkpoint_every == 0 or self.saver.retry_due(step)
        full = begun and due and not over  # at the end the weights are enough
        if full or best:
            self.throughput.pause()
            self.saver.save(step, self._state(step), full=full, best=best)
            self.throughput.go_on()

    def _leave(self, step: int, *, best: bool, begun: bool, over: bool) -> NoReturn:
        """Save together and end this process, so that the same command goes on from here."""
        self.guard.tick(f"saving step {step} after a signal")
        self.saver.finish()
        if begun or best:
            self.saver.save_now(step, self._state(step), best=best, last=over)
        preempted = self.guard.preempted(max(0, self.saver.saved_step))
        self.observer.event("preempted", step=step, saved_step=preempted.step, signal=preempted.signal_name,
                            seconds=round(preempted.seconds, 3))  # fmt: skip
        raise preempted

    def _end(self, step: int) -> Outcome:
        """Commit the last weights, from which the encoders are exported."""
        stopped = step < self.plan.num_steps
        if stopped:
            selection = self.selection
            self.observer.event("early_stop", step=step, best_step=selection.best_step, patience=self.recipe.patience)
        if not self.saver.save_now(step, self._state(step), last=True):
            raise UserError(
                Problem(
                    str(self.saver.folder.path),
                    f"the trained weights could not be saved: {self.saver.failure}",
                    remedy="free some space or choose another folder with --out, then run the same command again: it "
                    "goes on from the last checkpoint",
                )
            )
        score = self.selection.best_score if math.isfinite(self.selection.best_score) else None
        return Outcome(step, self.selection.best_step if score is not None else step, score, stopped)

    def _log(self, step: int, learning_rate: float, result: StepResult) -> None:
        if step % self.settings.log_every and step != self.plan.num_steps:
            self.observer.advanced(step, {})
            return
        loss, by_task = self.window.mean_losses()
        self.num_tokens += self.throughput.num_tokens
        rates = self.throughput.read(self.guard.agreement.world_size)
        self.training_seconds += rates["seconds"]
        values = {
            "loss": loss,
            "learning_rate": learning_rate,
            "grad_norm": result.grad_norm,
            "epoch": step / self.plan.num_steps * self.recipe.epochs,
            **by_task,
            **rates,
        }
        if self.num_skipped:
            values["skipped_steps"] = float(self.num_skipped)
        if self.engine.loss_scale is not None:
            values["loss_scale"] = self.engine.loss_scale
        if self.saver.num_saves:
            values["save_stall_seconds"] = self.saver.stall_seconds
        self.observer.metrics(step, values)
        self.observer.advanced(step, values)

    def _select(self, step: int) -> bool:
        """Evaluate on dev; whether this is the best step so far. A signal ends it: it is made again then."""
        assert self.evaluate is not None
        self.throughput.pause()
        self.engine.model.eval()
        try:
            with self._naming(step, "the evaluation on dev"):
                values = self.evaluate(self.engine.model, self._between_batches)
        except Interrupted:
            return False
        finally:
            self.engine.model.train()
            self.throughput.go_on()
        self.evaluated = step
        best = self.selection.update(step, values["score"])
        if best:
            self.observer.event("best", step=step, score=values["score"])
        self.observer.metrics(step, {f"dev/{name}": value for name, value in values.items()})
        return best

    def _between_batches(self, tokens: int) -> None:
        """After each micro-step of an evaluation, on all ranks alike."""
        self.guard.tick("evaluation on dev")
        if self.guard.signalled():
            raise Interrupted


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
        sums, steps = self._totals(), self._steps
        mean = sum(sums) / max(1, sum(steps))
        each = {f"{task}/loss": sums[n] / steps[n] for task, n in self._tasks.items() if steps[n]}
        self._sums.zero_()
        self._steps = [0] * len(steps)
        return mean, each if len(steps) > 1 else {}

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps: the sums of all ranks; collective."""
        return {"sums": of_all_ranks(self._sums), "steps": list(self._steps)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take back what :meth:`state` gave."""
        take_back(self._sums, state["sums"])
        self._steps = [int(count) for count in state["steps"]]

    def _totals(self) -> list[float]:
        sums = self._sums.clone()
        dist.all_reduce(sums)
        totals: list[float] = sums.tolist()
        return totals
