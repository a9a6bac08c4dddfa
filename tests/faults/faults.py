"""Failures built into a rank, each at a named place: real signals and real errors, none of them made up."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import threading
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

from xtrain.checkpoints import CheckpointFolder, Manifest, commit, folder
from xtrain.dispatch.attempts import Attempts
from xtrain.model.tensor_files import TensorFileWriter
from xtrain.phase import evaluating
from xtrain.run_directory import RunDirectory
from xtrain.training import loop, restore
from xtrain.training.loop import Trainer
from xtrain.training.pieces import ZeroState
from xtrain.training.saver import Job, Saver


def build_in(*, rank: int, kind: str, **arguments: Any) -> None:
    """Build the fault ``kind`` into this process; called before the rank begins."""
    BUILDERS[kind](rank, **arguments)


def keep_time(path: Path) -> None:
    """Write to ``path`` what this rank goes on from, and when its first new step is done: see ``Ended.beginning``."""
    resume, log = Trainer._resume, Trainer._log
    noted: dict[str, Any] = {}

    def resumed(self: Trainer) -> int:
        step = resume(self)
        folders = {one.name: sorted(file.name for file in one.iterdir()) for one in self.saver.folder.path.glob("*/")}
        noted.update(step=step, folders=folders)
        path.write_text(json.dumps(noted), "utf-8")
        return step

    def logged(self: Trainer, *arguments: Any) -> None:
        log(self, *arguments)
        if "first_step_at" not in noted:
            noted["first_step_at"] = time.monotonic()  # one clock for all processes of a machine
            path.write_text(json.dumps(noted), "utf-8")

    Trainer._resume, Trainer._log = resumed, logged  # type: ignore[method-assign]


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


def settle_at_the_next_step() -> None:
    """Whatever is being saved is written before the next step has ended: tests count on the step, disks do not."""
    status = Saver.status
    if status.__name__ == "waited":
        return

    def waited(self: Saver) -> list[int]:
        if self._job is not None:
            self._job.written.wait(60)
        return status(self)

    Saver.status = waited  # type: ignore[method-assign]


def refuse_copy(rank: int, step: int, who: int) -> None:
    """The copy of the state after ``step`` steps finds no memory on one rank, when half of it is made."""
    settle_at_the_next_step()
    copy = Saver._copy

    def refused(self: Saver, job: Job) -> None:
        if (job.step, rank) == (step, who):
            self._pieces = self._pieces[: len(self._pieces) // 2]
            try:
                copy(self, job)
            finally:
                self._pieces = self.state.owned()
            raise MemoryError("no memory for the rest of the copy")
        copy(self, job)

    Saver._copy = refused  # type: ignore[method-assign]


def at_step(rank: int, step: int, action: Callable[[], None]) -> None:
    """Do ``action`` on the rank when it begins global step ``step`` (from 0), with all that was saved on the disk."""
    settle_at_the_next_step()
    whole = Trainer._global_step

    def acted(self: Trainer, number: int, learning_rate: float) -> Any:
        if number == step:
            action()
        return whole(self, number, learning_rate)

    Trainer._global_step = acted  # type: ignore[method-assign]


def kill_at_step(rank: int, step: int, who: str) -> None:
    """SIGKILL at the beginning of a step."""
    at_step(rank, step, lambda: kill(who, rank))


def kill_command_at_step(rank: int, step: int) -> None:
    """SIGKILL to the launcher, and to the first rank that begins the step."""

    def strike() -> None:
        os.kill(os.getppid(), signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL)

    at_step(rank, step, strike)


def claim_at_step(rank: int, step: int, run: str) -> None:
    """Another attempt at the run is claimed when rank 0 begins the step."""
    at_step(rank, step, lambda: rank or Attempts(RunDirectory(Path(run))).claim())


def kill_in_copy(rank: int, step: int, who: str) -> None:
    """SIGKILL in the middle of copying the state after ``step`` steps."""
    copy, view = Saver._copy, ZeroState.view
    seen: list[int] = []  # pieces so far, of the copy that is under way in its thread

    def copied(self: Saver, job: Job) -> None:
        seen[:] = [0] if job.step == step else []
        copy(self, job)
        seen.clear()

    def viewed(self: ZeroState, piece: Any, kind: str) -> Any:
        if seen and threading.current_thread() is not threading.main_thread():
            seen[0] += 1
            if seen[0] == 4:
                kill(who, rank)
        return view(self, piece, kind)

    Saver._copy, ZeroState.view = copied, viewed  # type: ignore[method-assign]


def kill_after_publishing(rank: int, name: str, who: str) -> None:
    """SIGKILL when the checkpoint ``name`` has just got its name, while others of the same save have not."""
    publish = CheckpointFolder.publish

    def published(self: CheckpointFolder, manifest: Manifest) -> bool:
        result = publish(self, manifest)
        if manifest.name == name:
            kill(who, rank)
        return result

    CheckpointFolder.publish = published  # type: ignore[method-assign]


def kill_in_deletion(rank: int, name: str, place: str, who: str) -> None:
    """SIGKILL while the checkpoint ``name`` is deleted: "unnamed", when all files are there, or "half" of them."""
    remove = shutil.rmtree

    def removed(path: Any, *arguments: Any, **more: Any) -> None:
        if Path(path).name.startswith(name):
            files = sorted(Path(path).iterdir())
            for file in files[: len(files) // 2] if place == "half" else []:
                file.unlink()
            kill(who, rank)
        remove(path, *arguments, **more)

    folder.shutil = types.SimpleNamespace(rmtree=removed)  # type: ignore[assignment]


def kill_in_export(rank: int, folder: str, name: str, who: str) -> None:
    """SIGKILL in the middle of the file ``name`` of ``encoder/`` or ``encoder-last/``."""
    put = TensorFileWriter._put

    def put_some(self: TensorFileWriter, data: Any) -> None:
        put(self, data)
        if self.path.name == name and self.path.parent.name.startswith(f".{folder}.") and self._bytes > len(data):
            kill(who, rank)

    TensorFileWriter._put = put_some  # type: ignore[method-assign]


def kill_at_done(rank: int, place: str, who: str) -> None:
    """SIGKILL as the phase is marked as done: "before", while the marker is "half" written, or right "after"."""
    mark, replace = RunDirectory.mark_done, os.replace

    def replaced(source: Any, target: Any) -> None:
        if Path(target).name == "DONE" and place == "half":
            kill(who, rank)
        replace(source, target)

    def marked(self: RunDirectory, summary: dict[str, Any]) -> None:
        if place == "before":
            kill(who, rank)
        mark(self, summary)
        if place == "after":
            kill(who, rank)

    RunDirectory.mark_done, os.replace = marked, replaced  # type: ignore[method-assign, assignment]


def kill_in_resume(rank: int, place: str, who: str) -> None:
    """SIGKILL in a restart: "verify", while checkpoints are hashed, or "fill", when the state is in the engine."""
    damage, fill = restore.damage, loop.fill

    def damaged(*arguments: Any, **more: Any) -> list[str]:
        if place == "verify":
            kill(who, rank)
        return damage(*arguments, **more)

    def filled(*arguments: Any) -> None:
        fill(*arguments)
        if place == "fill":
            kill(who, rank)

    restore.damage, loop.fill = damaged, filled


def kill_in_evaluation(rank: int, step: int, who: str) -> None:
    """SIGKILL in the middle of the evaluation after ``step`` steps."""
    settle_at_the_next_step()
    select, between = Trainer._select, Trainer._between_batches
    evaluating: list[int] = []

    def selected(self: Trainer, after: int) -> bool:
        evaluating[:] = [after]
        return select(self, after)

    def between_batches(self: Trainer, tokens: int) -> None:
        if evaluating == [step]:
            kill(who, rank)
        between(self, tokens)

    Trainer._select, Trainer._between_batches = selected, between_batches  # type: ignore[method-assign]


def watch_what_is_opened(rank: int, path: str) -> None:
    """No fault: every file that this process opens goes into ``path``, a line each."""
    record = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)

    def hook(event: str, arguments: Any) -> None:
        if event == "open" and isinstance(arguments[0], (str, bytes, os.PathLike)):
            os.write(record, os.fsencode(os.path.abspath(arguments[0])) + b"\n")

    sys.addaudithook(hook)


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


def stop_all_at_step(rank: int, step: int) -> None:
    """SIGSTOP to all ranks of the job when rank 0 begins a step."""
    at_step(rank, step, lambda: os.killpg(0, signal.SIGSTOP) if rank == 0 else None)


def stop_at_rename(rank: int, name: str, of: str) -> None:
    """SIGSTOP to all ranks when rank 0 is about to rename a file or folder ``of`` ("source", "target") that name."""
    if rank != 0:
        return
    waiting = [name]

    def stop_before(whole: Callable[..., None]) -> Callable[..., None]:
        def renamed(source: Any, target: Any) -> None:
            if [Path({"source": source, "target": target}[of]).name] == waiting:
                waiting.clear()
                os.killpg(0, signal.SIGSTOP)
            whole(source, target)

        return renamed

    os.rename, os.replace = stop_before(os.rename), stop_before(os.replace)


def stop_in_evaluation(rank: int) -> None:
    """SIGSTOP to all ranks when rank 0 has done the first batch of an evaluation phase."""
    tick, seen = evaluating._Counted.__call__, [0]

    def ticked(self: evaluating._Counted, tokens: int) -> None:
        if rank == 0 and not seen[0]:
            seen[0] = tokens
            os.killpg(0, signal.SIGSTOP)
        tick(self, tokens)

    evaluating._Counted.__call__ = ticked  # type: ignore[method-assign]


BUILDERS: dict[str, Callable[..., None]] = {
    "stop all at step": stop_all_at_step,
    "stop at rename": stop_at_rename,
    "stop in evaluation": stop_in_evaluation,
    "kill in save": kill_in_save,
    "kill at step": kill_at_step,
    "kill command at step": kill_command_at_step,
    "claim at step": claim_at_step,
    "refuse copy": refuse_copy,
    "watch what is opened": watch_what_is_opened,
    "kill in evaluation": kill_in_evaluation,
    "kill in copy": kill_in_copy,
    "kill after publishing": kill_after_publishing,
    "kill in deletion": kill_in_deletion,
    "kill in export": kill_in_export,
    "kill at done": kill_at_done,
    "kill in resume": kill_in_resume,
    "hang at step": hang_at_step,
    "signal at step": signal_at_step,
}
