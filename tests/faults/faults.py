"""Failures built into a rank, each at a named place: real signals and real errors, none of them made up."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from typing import Any

from xtrain.checkpoints import commit
from xtrain.model.tensor_files import TensorFileWriter
from xtrain.training.loop import Trainer
from xtrain.training.saver import Job, Saver


def build_in(*, rank: int, kind: str, **arguments: Any) -> None:
    """Build the fault ``kind`` into this process; called before the rank begins."""
    BUILDERS[kind](rank, **arguments)


def kill(who: str, rank: int) -> None:
    """SIGKILL for this rank (``who`` is its number) or for all ranks of the job ("all")."""
    if who == "all":
        os.killpg(0, signal.SIGKILL)
    if who == str(rank):
        os.kill(os.getpid(), signal.SIGKILL)


def kill_in_save(rank: int, step: int, place: str, who: str) -> None:
    """SIGKILL while the state after ``step`` steps is saved: ``place`` is "before", "FILE" (in its middle),
    "after FILE", "before the barrier", "before the rename" or "after"; FILE is weights, exp_avg or exp_avg_sq."""
    saving: list[int] = []

    def at(name: str) -> None:
        if name == place and saving == [step]:
            kill(who, rank)

    start, write, put, close = Saver._start, Saver._write, TensorFileWriter._put, TensorFileWriter.close
    commit_save, sync = Saver._commit, commit.sync_folder

    def started(self: Saver, job: Job) -> None:
        saving[:] = [job.step] if any(name.startswith("step-") for name in job.folders) else []
        at("before")
        start(self, job)

    def written(self: Saver, job: Job) -> None:
        write(self, job)
        at("before the barrier")

    def put_some(self: TensorFileWriter, data: Any) -> None:
        put(self, data)
        if self._bytes > len(data):  # not the header: in the middle of the tensors
            at(self.path.name.partition("-")[0])

    def closed(self: TensorFileWriter) -> Any:
        entry = close(self)
        at(f"after {self.path.name.partition('-')[0]}")
        return entry

    def synced(path: Any) -> None:
        sync(path)
        if str(path).endswith(".tmp"):
            at("before the rename")

    def committed(self: Saver, job: Job, step: int) -> None:
        commit_save(self, job, step)
        at("after")

    Saver._start, Saver._write, Saver._commit = started, written, committed  # type: ignore[method-assign]
    TensorFileWriter._put, TensorFileWriter.close = put_some, closed  # type: ignore[method-assign]
    commit.sync_folder = synced


def at_step(rank: int, step: int, action: Callable[[], None]) -> None:
    """Do ``action`` on the rank when it begins global step ``step`` (from 0)."""
    whole = Trainer._global_step

    def acted(self: Trainer, number: int, learning_rate: float) -> Any:
        if number == step:
            action()
        return whole(self, number, learning_rate)

    Trainer._global_step = acted  # type: ignore[method-assign]


def kill_at_step(rank: int, step: int, who: str) -> None:
    """SIGKILL at the beginning of a step."""
    at_step(rank, step, lambda: kill(who, rank))


def hang_at_step(rank: int, step: int, who: int) -> None:
    """One rank sleeps for ever at the beginning of a step."""

    def sleep_for_ever() -> None:
        if rank == who:
            while True:
                time.sleep(60)

    at_step(rank, step, sleep_for_ever)


def signal_at_step(rank: int, step: int, who: int, name: str) -> None:
    """One rank sends itself a signal at the beginning of a step."""
    at_step(rank, step, lambda: os.kill(os.getpid(), signal.Signals[name]) if rank == who else None)


BUILDERS: dict[str, Callable[..., None]] = {
    "kill in save": kill_in_save,
    "kill at step": kill_at_step,
    "hang at step": hang_at_step,
    "signal at step": signal_at_step,
}
