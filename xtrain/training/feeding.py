"""Each global step's batches, put together ahead of training by worker processes; lost workers lose nothing."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from types import TracebackType
from typing import Self

import numpy as np
import torch

from xtrain.data import PackedBatch, microbatches
from xtrain.data.microbatches import Share
from xtrain.errors import Problem, UserError
from xtrain.study import Engine
from xtrain.training.ahead import AheadProcess, WorkerDied
from xtrain.training.plan import Plan

KEY = "engine.data_workers"
STEPS_AHEAD = 2  # that each worker has or works on: one may take longer than a step of training does
MOST_DEATHS, WITHIN_STEPS = 3, 100


@dataclass(frozen=True)
class StepWork:
    """One rank's share of a global step, on the CPU."""

    step: int
    task: str
    num_units: int
    """What the loss of the whole global batch is divided by."""
    num_examples: int
    """Of the whole global batch, as the next two."""
    num_tokens: int
    sum_squared_lengths: int
    """Of the examples' lengths in tokens: for the FLOP count."""
    shares: tuple[Share, ...]
    """Positions in the global batch and weights of each micro-batch of this rank."""
    batches: tuple[PackedBatch, ...]
    """The micro-batches, one a share."""
    ids: tuple[str, ...]
    """The example ids of the whole global batch where asked for, else none."""


def work_of(
    plan: Plan, step: int, *, rank: int, world_size: int, tokens_per_micro_batch: int, with_ids: bool = False
) -> StepWork:
    """The share of rank ``rank`` in global step ``step``: a function of its arguments, in whatever process."""
    whole = plan.batch(step)
    lengths = whole.lengths
    shares = tuple(bins[rank] for bins in microbatches(lengths, world_size, tokens_per_micro_batch))
    return StepWork(
        step=step,
        task=whole.task,
        num_units=whole.num_units(),
        num_examples=len(whole.indices),
        num_tokens=int(lengths.sum()),
        sum_squared_lengths=int(np.square(lengths, dtype=np.int64).sum()),
        shares=shares,
        batches=tuple(whole.part(positions, weights) for positions, weights in shares),
        ids=tuple(whole.shard.ids(whole.indices)) if with_ids else (),
    )


def num_workers(settings: Engine) -> int:
    """``engine.data_workers``, or by default 1 where there is a GPU: without one they would take its cores."""
    if settings.data_workers is not None:
        return settings.data_workers
    return 1 if torch.cuda.is_available() else 0


class Feeder:
    """This rank's :class:`StepWork` of one step after the other.

    With ``num_workers`` processes, each makes every ``num_workers``-th step ahead of time; with 0 a step is made
    when it is asked for. The results are the same, bit for bit. With a GPU, batches are in pinned memory.

    A worker that died is noticed when its next step is asked for: another takes its place and makes this very step,
    and ``on_event("data_worker_died", step=..., rank=..., pid=..., end=..., restarts=...)`` is called. After
    :data:`MOST_DEATHS` deaths within :data:`WITHIN_STEPS` steps :meth:`at` raises a :class:`UserError`.
    """

    def __init__(
        self,
        plan: Plan,
        *,
        rank: int,
        world_size: int,
        tokens_per_micro_batch: int,
        num_workers: int,
        signals: Sequence[str],
        with_ids: bool,
        on_event: Callable[..., None],
    ) -> None:
        """``signals`` are the names of those that workers ignore, with SIGTERM, SIGUSR1, SIGUSR2 and Ctrl-C."""
        self._function = partial(
            work_of, plan, rank=rank, world_size=world_size, tokens_per_micro_batch=tokens_per_micro_batch,
            with_ids=with_ids,
        )  # fmt: skip
        self._num_steps, self._rank, self._num_workers = plan.num_steps, rank, num_workers
        self._signals, self._on_event = tuple(signals), on_event
        self._pinned = torch.cuda.is_available()
        self._workers: list[AheadProcess] = []
        self._asked: list[deque[int]] = []  # of each worker: the steps that it has not answered yet
        self._next = self._next_asked = 0
        self._deaths: list[int] = []  # the steps at which one was noticed
        self.seconds_waited = 0.0
        """In :meth:`at`, since the object was made."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def pids(self) -> tuple[int, ...]:
        """The workers' process ids."""
        return tuple(worker.pid for worker in self._workers)

    def start(self, step: int) -> None:
        """Begin with ``step``; workers begin to put it together. May be called again, to begin elsewhere."""
        self.close()
        self._next = self._next_asked = step
        if step < self._num_steps:
            self._workers = [self._new_worker() for _ in range(self._num_workers)]
            self._asked = [deque() for _ in self._workers]
        self._ask()

    def at(self, step: int) -> StepWork:
        """The work of ``step``: that of :meth:`start`, then one after the other.

        Raises what putting it together raised, with the worker's traceback as a note, or a :class:`UserError`
        where workers die again and again.
        """
        assert step == self._next, f"step {step} is asked for after {self._next - 1}"
        assert step < self._num_steps
        begin = time.perf_counter()
        work = self._received(step) if self._workers else self._function(step)
        assert work.step == step
        self._next += 1
        self._ask()
        if self._pinned:
            work = replace(work, batches=tuple(batch.pin_memory() for batch in work.batches))
        self.seconds_waited += time.perf_counter() - begin
        return work

    def close(self) -> None:
        """End the workers; :meth:`start` begins anew."""
        for worker in self._workers:
            worker.close()
        self._workers, self._asked = [], []

    def _new_worker(self) -> AheadProcess:
        return AheadProcess(self._function, self._signals)

    def _ask(self) -> None:
        """Have each worker know :data:`STEPS_AHEAD` steps that it is to make; they take turns."""
        if not self._workers:
            return
        end = min(self._next + STEPS_AHEAD * len(self._workers), self._num_steps)
        while self._next_asked < end:
            number = self._next_asked % len(self._workers)
            self._asked[number].append(self._next_asked)
            self._workers[number].ask(self._next_asked)
            self._next_asked += 1

    def _received(self, step: int) -> StepWork:
        number = step % len(self._workers)
        while True:
            assert self._asked[number][0] == step
            try:
                work: StepWork = self._workers[number].answer()
            except WorkerDied as death:
                self._replace(number, step, death)
                continue
            self._asked[number].popleft()
            return work

    def _replace(self, number: int, step: int, death: WorkerDied) -> None:
        """Another worker for one that died, from ``step`` on."""
        self._deaths.append(step)
        self._on_event(
            "data_worker_died", step=step, rank=self._rank, pid=death.pid, end=death.end, restarts=len(self._deaths)
        )
        if sum(before > step - WITHIN_STEPS for before in self._deaths) >= MOST_DEATHS:
            raise UserError(_dies_again_and_again(step, death))
        # events of other ranks than the first are not kept
        print(f"rank {self._rank}: {death}, at step {step}: another takes its place", file=sys.stderr, flush=True)
        self._workers[number] = self._new_worker()
        for asked in self._asked[number]:
            self._workers[number].ask(asked)


def _dies_again_and_again(step: int, death: WorkerDied) -> Problem:
    causes = {
        "SIGKILL": "look at the job's memory, for which the system kills processes, and ask for more of it",
        "SIGBUS": "look whether a shard's file has been cut short (xtrain prepare makes it again), and at the memory",
    }
    cause = causes.get(death.end, "look at what the worker wrote on the error output, and at the job's memory")
    return Problem(
        KEY,
        f"a data worker died {MOST_DEATHS} times within {WITHIN_STEPS} steps, now at step {step} ({death.end})",
        remedy=f"{cause}; or set {KEY} = 0, then batches are put together by the training process itself",
    )
