"""Saving beside training: the state is copied beside the next step, written and hashed by a thread, and committed."""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from xtrain.checkpoints import TRAINER, CheckpointFolder, FileEntry, Manifest, commit_name
from xtrain.errors import Fenced, Problem, UserError
from xtrain.files import is_disk_full, sha256, write_json
from xtrain.model.sharded_weights import FILE_NAME
from xtrain.model.tensor_files import TensorFileWriter
from xtrain.training.agreement import Agreement
from xtrain.training.budget import describe_write_failure, disk_shortage
from xtrain.training.host_memory import take
from xtrain.training.observer import Events
from xtrain.training.pieces import STATE_KINDS, WEIGHTS, ZeroState


class NoRoom(OSError):
    """The disk has not enough room for a save; nothing was written."""


@dataclass
class Job:
    """One save: the state after ``step`` steps into one or two folders."""

    step: int
    state: Mapping[str, Any]
    """What ``trainer.json`` holds."""
    folders: Mapping[str, Sequence[str]]
    """Folder -> the kinds of state that go into it; the same kind in two folders is one file with two names."""
    copies: bool
    """Whether it is written from a copy, by a thread; otherwise from the live state, while training waits."""
    began: float = field(default_factory=time.monotonic)
    stall_seconds: float = 0.0
    """How long training has waited for it."""
    entries: dict[str, dict[str, FileEntry]] = field(default_factory=dict)
    """Folder -> the files that this rank has written."""
    error: str = ""
    no_room: bool = False
    tried_again: bool = False
    has_copy: bool = False
    """Whether all of this rank's state is in the copy: only then it can be written again later."""
    copied: threading.Event = field(default_factory=threading.Event)
    written: threading.Event = field(default_factory=threading.Event)

    @property
    def keeps_best(self) -> bool:
        """Whether it holds weights that no later save will hold."""
        return commit_name("best", self.step) in self.folders

    @property
    def kinds(self) -> list[str]:
        """All kinds of state in it."""
        return [kind for kind in STATE_KINDS if any(kind in kinds for kinds in self.folders.values())]

    @property
    def best_step(self) -> int:
        """The step whose weights were the best when it was made; -1 if there was none yet."""
        return int(self.state["selection"]["best_step"])


@dataclass
class Saver:
    """The checkpoints that training leaves. All ranks call every method together, but :meth:`copied`.

    Nothing that is saved changes before the next optimizer step, so the copy is made beside the forward and backward
    passes, and :meth:`copied` waits for it before the update. One save at most is under way. A thread of each rank
    writes its own files; ranks agree at a step boundary that all are written (:meth:`status`, :meth:`settle`), and
    only then rank 0 gives the folder its name.
    """

    state: ZeroState
    folder: CheckpointFolder
    agreement: Agreement
    observer: Events
    phase: str
    """The phase's content hash: a checkpoint of another one is none of ours."""
    stage: int
    keep: int
    """Full checkpoints to keep."""
    retry_after: int
    """Steps from a save that failed to the next try."""
    copies: bool
    """Whether there is memory for a copy of the state."""
    stall_seconds: float = 0.0
    """How long training has waited for all saves of this process."""
    num_saves: int = 0
    failure: str = ""
    """Why the last save that failed did."""
    saved_step: int = -1
    """The step of the newest checkpoint that this process has committed or gone on from."""

    def __post_init__(self) -> None:
        self._pieces = self.state.owned()
        self._shapes = self.state.shapes()
        self._buffers: dict[str, Tensor] = {}
        self._not_pinned = ""  # why copies go through pageable memory, although there is a GPU
        self._stream = torch.cuda.Stream() if torch.cuda.is_available() else None  # type: ignore[no-untyped-call]
        self._job: Job | None = None
        self._failed: Job | None = None  # its copy is kept, and written at the next try
        self._due = False  # a save without a copy failed: the state of a later step is to be saved soon
        self._retry_at = 0
        self._taking = threading.Thread(target=self._take_memory_early, name="memory for saves", daemon=True)
        if self.copies:
            self._taking.start()

    def save(self, step: int, state: Mapping[str, Any], *, full: bool, best: bool) -> None:
        """Begin to save the state after ``step`` steps: all of it (``full``), or the weights as the ``best``, or both.

        Returns while it is copied and written; where there is no memory for a copy, when it is committed.
        """
        self.finish()  # at most one save is under way
        began = time.monotonic()
        if self._failed is not None and self._failed.keeps_best and not best:
            self._due = True  # soon, with the state of then
            self._start(self._failed)  # the only copy of those weights: it comes first
            return
        folders = {commit_name("best", step): [WEIGHTS]} if best else {}
        folders |= {commit_name("step", step): list(STATE_KINDS)} if full else {}
        self._due = False
        job = Job(step, state, folders, self.copies, began)
        self._start(job)
        job.stall_seconds += time.monotonic() - began

    def save_now(self, step: int, state: Mapping[str, Any], *, best: bool = False, last: bool = False) -> bool:
        """Save and wait until it is committed; whether it was. Of the ``last`` step the weights are enough."""
        self.finish()
        for _ in range(2):  # the first try, if there is no room, makes some
            if self._failed is not None and self._failed.keeps_best:
                self._start(self._failed)
                self.finish()
        if last and self._failed is not None and self._failed.keeps_best:
            return False  # without the weights that were selected the phase is not finished
        if self.saved_step == step and not best:
            return True
        folders = {commit_name("best", step): [WEIGHTS]} if best else {}
        folders[commit_name("step", step)] = [WEIGHTS] if last else list(STATE_KINDS)
        self._start(Job(step, state, folders, copies=False))
        return self.saved_step == step

    def copied(self) -> None:
        """Wait until nothing of the state is needed in its place any more: before each optimizer step."""
        if self._job is not None and not self._job.copied.is_set():
            began = time.monotonic()
            self._job.copied.wait()
            self._job.stall_seconds += time.monotonic() - began

    def status(self) -> list[int]:
        """What ranks compare by their worst: whether a save is under way, and whether one has failed."""
        job = self._job
        return [int(job is not None and not job.written.is_set()), int(job is not None and bool(job.error))]

    def settle(self, step: int, status: Sequence[int]) -> None:
        """Commit the save under way, or give it up, once all ranks have written; try a failed one again."""
        busy, failed = status
        if self._job is not None and not busy:
            job, self._job = self._job, None
            if failed:
                self._give_up(job, step)
            else:
                self._commit(job, step)
        elif self._job is None and self._failed is not None and step >= self._retry_at:
            self._start(self._failed)

    def retry_due(self, step: int) -> bool:
        """Whether a save that failed without a copy is to be made again now, with the state after ``step``."""
        return self._due and step >= self._retry_at

    def finish(self) -> None:
        """Wait for the save under way, and settle it."""
        if self._job is None:
            return
        began = time.monotonic()
        self._job.written.wait()
        self._job.stall_seconds += time.monotonic() - began
        self.settle(self._job.step, self.agreement.worst(self.status()))

    def _start(self, job: Job) -> None:
        self._failed, self._job = None, job
        job.error, job.no_room, job.entries = "", False, {}
        job.written.clear()
        if not job.copies:
            job.copied.set()
            self._work(job)
            self.finish()
            return
        if self._stream is not None and not job.copied.is_set():
            self._stream.wait_stream(torch.cuda.current_stream())  # the update that made this state comes first
        threading.Thread(target=self._work, args=(job,), name=f"save of step {job.step}", daemon=True).start()

    def _take_memory_early(self) -> None:
        """Beside the first steps, as a thread: left to the first save, the update after that would wait."""
        self._use_device()
        with contextlib.suppress(RuntimeError, MemoryError):  # the save will try again, and say what is wrong
            self._take_memory()

    def _use_device(self) -> None:
        """In a new thread, which begins on the first GPU, whichever this rank's is."""
        if self._stream is not None:
            torch.cuda.set_device(self._stream.device)

    def _take_memory(self) -> None:
        """Host memory for the copies, kept from save to save."""
        size = sum(piece.count for piece in self._pieces)
        for kind in STATE_KINDS:
            self._buffers[kind], self._not_pinned = take(size, pinned=self._stream is not None)

    def _work(self, job: Job) -> None:
        """Copy and write, as a thread where there are copies. What goes wrong is kept, for the ranks to compare."""
        try:
            self._use_device()
            if job.copies and not job.has_copy:
                self._copy(job)
                job.has_copy = True
                job.copied.set()
            self._write(job)
        except Exception as error:
            job.no_room = isinstance(error, NoRoom) or is_disk_full(error, self.folder.path)
            job.error = describe_write_failure(error, self.folder.path)
        finally:
            job.copied.set()
            job.written.set()

    def _copy(self, job: Job) -> None:
        self._taking.join()
        if len(self._buffers) < len(STATE_KINDS):  # there was not enough memory then
            self._take_memory()
        place = 0
        for piece in self._pieces:
            for kind in job.kinds:
                target = self._buffers[kind][place : place + piece.count]
                live = self.state.view(piece, kind)
                if live is None:
                    target.zero_()
                elif live.is_cuda:
                    with torch.cuda.stream(self._stream):
                        target.copy_(live, non_blocking=True)
                else:
                    # not Tensor.copy_: its threads would take the processors from the step that runs beside it
                    np.copyto(target.numpy(), live.numpy())
            place += piece.count
        if self._stream is not None:
            self._stream.synchronize()

    def _write(self, job: Job) -> None:
        """This rank's files of a save, each synced and hashed; rank 0 writes the state of the loop as well."""
        temporary = {name: self.folder.temporary(name) for name in job.folders}
        rank, world_size = self.agreement.rank, self.agreement.world_size
        if rank == 0:
            own = 4 * len(job.kinds) * sum(piece.count for piece in self._pieces)
            shortage = disk_shortage(self.folder.path, world_size * own, list(temporary.values()))
            if shortage is not None:
                raise NoRoom(f"the disk is full: {shortage}")
        written: dict[str, tuple[Path, FileEntry]] = {}  # by kind
        for name, kinds in job.folders.items():
            self.folder.make_temporary(name)
            files = job.entries.setdefault(name, {})
            for kind in kinds:
                path = temporary[name] / FILE_NAME.format(prefix=kind, rank=rank, world_size=world_size)
                if kind in written:
                    existing, entry = written[kind]
                    _link(existing, path)
                else:
                    entry = self._write_file(path, kind, job)
                    written[kind] = path, entry
                files[path.name] = entry
            if rank == 0:
                path = temporary[name] / TRAINER
                write_json(path, dict(job.state))
                files[TRAINER] = FileEntry(path.stat().st_size, sha256(path))

    def _write_file(self, path: Path, kind: str, job: Job) -> FileEntry:
        """This rank's pieces of one kind, from the copy if there is one."""
        path.unlink(missing_ok=True)  # an earlier try may have given it a second name
        place = 0
        with TensorFileWriter(path, {piece.key: (piece.count,) for piece in self._pieces}) as writer:
            for piece in self._pieces:
                live = None if job.copies else self.state.view(piece, kind)
                if job.copies:
                    live = self._buffers[kind][place : place + piece.count]
                writer.write(piece.key, torch.zeros(piece.count) if live is None else live)
                place += piece.count
            return writer.close()

    def _commit(self, job: Job, step: int) -> None:
        """All ranks have written: rank 0 gives the folders their names, and lets old ones go."""
        gathered = self.agreement.gather(job.entries)
        if self.agreement.rank == 0:
            try:
                for name, kinds in job.folders.items():
                    files = {file: entry for entries in gathered for file, entry in entries[name].items()}
                    self.folder.publish(self._manifest(job, name, kinds, files))
            except Exception as error:
                job.error = describe_write_failure(error, self.folder.path)
                job.no_room = is_disk_full(error, self.folder.path)
        if self.agreement.worst([int(bool(job.error))])[0]:
            self._give_up(job, step)
            return
        seconds = time.monotonic() - job.began
        job.stall_seconds = job.stall_seconds if job.copies else seconds
        self.stall_seconds += job.stall_seconds
        self.num_saves += 1
        if commit_name("step", job.step) in job.folders:
            self.saved_step = job.step
        if self.agreement.rank == 0:
            self._retain(self.keep, job.best_step)
            size = sum(entry.bytes for entries in gathered for files in entries.values() for entry in files.values())
            self.observer.event(
                "save", step=job.step, folders=list(job.folders), bytes=size, seconds=round(seconds, 3),
                stall_seconds=round(job.stall_seconds, 3), beside_training=job.copies,
                **({"not_pinned": self._not_pinned} if self._not_pinned else {}),
            )  # fmt: skip

    def _manifest(self, job: Job, name: str, kinds: Sequence[str], files: Mapping[str, FileEntry]) -> Manifest:
        return Manifest(
            name=name,
            step=job.step,
            phase=self.phase,
            world_size=self.agreement.world_size,
            stage=self.stage,
            kind="full" if len(kinds) == len(STATE_KINDS) else "weights",
            parameters=self._shapes,
            files=dict(files),
        )

    def _give_up(self, job: Job, step: int) -> None:
        """A rank could not write: say so, clear away what is there, and try again soon.

        Raises :class:`Fenced`, on all ranks, if that is because a newer attempt has begun.
        """
        if self.agreement.worst([int(self.folder.taken)])[0]:
            raise Fenced(f"the checkpoint of step {job.step} was not committed: a newer attempt has begun")
        gathered = self.agreement.gather((job.error, job.no_room, job.has_copy))
        reason = self.failure = next(error for error, *_ in gathered if error)
        no_room, copied = any(one for _, one, _ in gathered), all(one for *_, one in gathered)
        self._retry_at = step + self.retry_after
        again = not job.copies and not job.tried_again and no_room
        self._retry_at = job.step if again else self._retry_at
        if self.agreement.rank == 0:
            for name in job.folders:
                shutil.rmtree(self.folder.temporary(name), ignore_errors=True)
            if no_room:
                self._retain(1, job.best_step)  # make room with all but the newest that verifies
            self.observer.event("save_failed", step=job.step, folders=list(job.folders), reason=reason,
                                next_try=self._retry_at)  # fmt: skip
        self.agreement.barrier()  # no rank writes again into what rank 0 is about to clear away
        if again:  # at once: training waits for it, and its state is still there
            job.tried_again = True
            self._start(job)
        elif copied:
            self._failed = job
        elif job.keeps_best:
            raise UserError(
                Problem(
                    str(self.folder.path),
                    f"the weights after step {job.step}, the best so far, could not be saved: {reason}",
                    remedy="free some space and run the same command again: it goes on from the last checkpoint",
                )
            )
        else:
            self._due = True

    def _retain(self, keep: int, best_step: int) -> None:
        """Let old checkpoints go. What cannot be deleted stays: that is no reason to stop training."""
        try:
            self.folder.retain(keep, best_step=best_step)
        except UserError as error:
            self.observer.event("not_deleted", reason=str(error))


def _link(existing: Path, path: Path) -> None:
    """``path`` as a second name of ``existing``; a copy where the file system has no links."""
    path.unlink(missing_ok=True)
    try:
        os.link(existing, path)
    except OSError:
        shutil.copyfile(existing, path)
        with open(path, "rb") as handle:
            os.fsync(handle.fileno())
