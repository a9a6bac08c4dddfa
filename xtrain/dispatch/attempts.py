"""Attempts at a phase: each start of its ranks, numbered, and fenced so that an older one can write no more.

A start claims the next number by giving a folder the name ``job/attempt-N``, which only one can. Whatever the attempt
commits (checkpoints, encoders, scores, DONE) gets its name by a rename out of one of two folders of its own,
``job/attempt-N/work`` and ``checkpoints/.work-CLAIM``. A newer attempt first takes these away from every older one: no
rename of that one finds its source any more, whatever it still believes, on a node that has lost the network or whose
SLURM daemon has died. Then it puts copies in the place of the files that are only appended to: what the older one has
open has no name from then on, and before it opens one again it looks whether its folder is there.

Nothing here asks first and acts then: each step is one rename or one removal, which happens or does not, on NFS too.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import os
import platform
import re
import secrets
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xtrain.checkpoints import WORK
from xtrain.checkpoints.commit import free_path
from xtrain.checkpoints.manifest import SET_ASIDE
from xtrain.dispatch.processes import ALIVE, GONE, UNKNOWN, WENT_DOWN, fate, own_mark
from xtrain.errors import Fenced, Problem, UserError
from xtrain.files import Staging, make_folder, take_away, write_json, writing
from xtrain.run_directory import RunDirectory

VARIABLE = "XTRAIN_ATTEMPT"  # the number that the launcher of the ranks has claimed for them
_WORK, _DROPPED = "work", ".dropped"
_NAME = re.compile(r"attempt-(\d+)")

# How an attempt ended.
DONE = "done"
PREEMPTED = "preempted"  # saved after a signal
TIME_LIMIT = "time limit"  # saved since the job's time is nearly over
FAILED = "failed"  # for a reason that a repetition may not meet: a lost node, a crash
USER = "user error"  # the user's mistake: not tried again
COLLAPSED = "collapsed"  # training failed as an experiment: not tried again
FENCED = "fenced"  # a newer attempt had begun
GIVEN_UP = "given up"  # too many attempts without a new step
CANCELLED = "cancelled"  # by the user
KILLED = "killed"  # with no word of its own: whoever came later found it so
_SIGKILLED = 128 + 9


@dataclass(frozen=True)
class Attempt:
    """One start of a phase's ranks; the content of ``job/attempt-N/attempt.json``."""

    number: int
    started: float
    """Seconds since 1970."""
    from_step: int
    """Steps in the newest checkpoint when it began; 0 for none."""
    host: str
    job: str = ""
    """The SLURM job, or empty."""
    restart: int = 0
    """How often SLURM had requeued that job."""
    nodes: tuple[str, ...] = ()
    claim: str = ""
    """The name of its claim, which is in that of its folder in ``checkpoints/``; empty for a phase without any."""
    process: str = ""
    """Of the process that claimed it, and sees to its end: :func:`xtrain.dispatch.processes.own_mark`."""
    ranks: int = 0
    """Processes that it starts; 0 where nobody said."""
    gpus: int = 0
    """GPUs that it holds, over all nodes."""
    time_limit: float | None = None
    """Seconds that its job has asked for; None for no limit."""


@dataclass(frozen=True)
class AttemptEnd:
    """How an attempt ended; the content of ``job/attempt-N/end.json``.

    A killed one leaves none: :meth:`Attempts.ending` says what can be told of it, and the next one writes that down.
    """

    how: str
    """One of the words above."""
    code: int
    """Exit code of the ranks."""
    reason: str
    """A line for people: the exception, the signal, what comes next."""
    ended: float
    """Seconds since 1970."""
    step: int = 0
    """Steps in the newest checkpoint then."""
    node: str = ""
    """The node to blame, where one is."""


@dataclass(frozen=True)
class Attempts:
    """The attempts at the phase in ``run``."""

    run: RunDirectory

    @property
    def folder(self) -> Path:
        """``job/`` of the run directory."""
        return self.run.job

    def numbers(self) -> list[int]:
        """The numbers of all attempts so far."""
        names = os.listdir(self.folder) if self.folder.is_dir() else []
        return sorted(int(match[1]) for name in names if (match := _NAME.fullmatch(name)))

    def newest(self) -> int:
        """The number of the newest attempt; 0 before the first."""
        return max(self.numbers(), default=0)

    def is_newest_of(self, job: str) -> bool:
        """Whether the newest attempt is one of ``job``."""
        attempt = self.read(self.newest())
        return attempt is None or attempt.job == job

    def claim(
        self,
        *,
        job: str = "",
        restart: int = 0,
        nodes: tuple[str, ...] = (),
        ranks: int = 0,
        gpus: int = 0,
        time_limit: float | None = None,
    ) -> Fence:
        """Begin an attempt, and fence off all older ones; for a phase that is not done.

        What older ones have committed until then is there, and nothing is added to it. A still newer attempt may have
        begun meanwhile: then :meth:`Fence.holds` says no. Raises :class:`xtrain.errors.UserError` where the run
        directory cannot be written.
        """
        make_folder(self.folder)
        claim = secrets.token_hex(6) if self.run.phase_file.is_file() else ""
        with writing(self.folder):
            if claim:
                make_folder(self.run.checkpoints)
                self._checkpoint_work(claim).mkdir()
            began = Attempt(
                0, time.time(), newest_step(self.run), platform.node(), job, restart, nodes, claim, own_mark(),
                ranks, gpus, time_limit,
            )  # fmt: skip
            attempt = self._take_number(began)
            for older in self.numbers():
                if older < attempt.number:
                    self._fence(older)
                    self._note_ending(older)
            if newest_step(self.run) != attempt.from_step:  # committed while this was claimed
                _write(self.path(attempt.number), dataclasses.replace(attempt, from_step=newest_step(self.run)))
            fence = Fence(self, attempt.number, claim)
            with contextlib.suppress(Fenced):
                for path in (self.run.metrics, self.run.events, self.run.batches):
                    _replace_by_copy(path, fence.staging)
        return fence

    def launched(self, environment: Mapping[str, str]) -> Fence | None:
        """The attempt that the launcher of these ranks has claimed for them; None if they have to claim one.

        Raises :class:`xtrain.errors.UserError` where there is no such attempt.
        """
        text = environment.get(VARIABLE, "")
        if not text:
            return None
        if not text.isascii() or not text.isdigit() or not self.path(int(text)).is_dir():
            remedy = f"unset {VARIABLE}: it is for launchers, which claim an attempt before they start ranks"
            raise UserError(Problem(f"{VARIABLE}={text}", f"is no attempt in {self.folder}", remedy=remedy))
        return self.fence(int(text))

    def fence(self, number: int) -> Fence:
        """What attempt ``number`` holds, or held until a newer one began."""
        attempt = self.read(number)
        return Fence(self, number, attempt.claim if attempt is not None else "")

    def _take_number(self, began: Attempt) -> Attempt:
        """Make ``attempt-N/`` with all that is in it, at once: half a claim could not be fenced off.

        It is never empty, fenced off or not, so that no folder can be renamed into its place.
        """
        folder = self.folder / f".claim-{secrets.token_hex(6)}"
        (folder / _WORK).mkdir(parents=True)
        while True:
            attempt = dataclasses.replace(began, number=self.newest() + 1)
            _write(folder, attempt)
            try:
                os.rename(folder, self.path(attempt.number))
                return attempt
            except OSError as error:
                if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):  # another start was quicker
                    raise

    def _checkpoint_work(self, claim: str) -> Path:
        return self.run.checkpoints / f"{WORK}{claim}"

    def _fence(self, number: int) -> None:
        """Take away what an older attempt renames from."""
        take_away(self.path(number) / _WORK)
        known = json.loads((self.path(number) / "attempt.json").read_bytes())  # it was there before the number was
        if known["claim"]:
            work = self._checkpoint_work(known["claim"])
            take_away(work)
            for broken in work.with_name(work.name + _DROPPED).glob(f"*{SET_ASIDE}"):  # on its way from name to name
                with contextlib.suppress(FileNotFoundError):
                    os.rename(broken, free_path(self.run.checkpoints / broken.stem, SET_ASIDE))

    def sweep(self) -> None:
        """Delete what was taken away from older attempts: gigabytes perhaps, so that this is for a thread."""
        names = f"{WORK}*{_DROPPED}"
        for dropped in (*self.folder.glob(f"attempt-*/{_WORK}{_DROPPED}"), *self.run.checkpoints.glob(names)):
            shutil.rmtree(dropped, ignore_errors=True)

    def path(self, number: int) -> Path:
        """``job/attempt-N/``."""
        return self.folder / f"attempt-{number}"

    def read(self, number: int) -> Attempt | None:
        """What is known of an attempt; None if it was killed before it wrote that."""
        value = _read(self.path(number) / "attempt.json")
        return None if value is None else Attempt(**{**value, "nodes": tuple(value["nodes"])})

    def read_end(self, number: int) -> AttemptEnd | None:
        """How an attempt ended, as was written down; None while it runs, or if it was killed."""
        value = _read(self.path(number) / "end.json")
        return None if value is None else AttemptEnd(**value)

    def ending(self, number: int) -> AttemptEnd | None:
        """How an attempt ended, as was written down or can be told; None while it runs, and where it may.

        All but SIGKILL is listened for and written down, and no rank outlives who started it.
        """
        end = self.read_end(number)
        if end is not None:
            return end
        began = self.read(number)
        found = fate(began.process, began.host) if began is not None else UNKNOWN
        later = number < self.newest()
        if found == ALIVE or (found == UNKNOWN and not later):
            return None
        host = began.host if began is not None else "its node"
        reason = {
            GONE: "killed (signal 9): nothing is left of it, and nobody wrote how it ended",
            WENT_DOWN: f"{host} went down, or was started anew",
        }.get(found, f"killed (signal 9), or {host} was lost: it wrote no end before attempt {number + 1} began")
        return AttemptEnd(KILLED, _SIGKILLED, reason, time.time(), newest_step(self.run))

    def _note_ending(self, number: int) -> None:
        """Write down what can be told of an older attempt that did not say how it ended."""
        end = self.ending(number)
        if end is not None and self.read_end(number) is None:
            write_json(self.path(number) / "end.json", dataclasses.asdict(end))

    def end(self, number: int, how: str, code: int, reason: str, node: str = "") -> AttemptEnd:
        """Write down how an attempt ended."""
        end = AttemptEnd(how, code, reason, time.time(), newest_step(self.run), node)
        write_json(self.path(number) / "end.json", dataclasses.asdict(end))
        return end


@dataclass(frozen=True)
class Fence:
    """What one attempt holds until a newer one begins."""

    attempts: Attempts
    number: int
    claim: str = ""

    @property
    def work(self) -> Path:
        """The folder that all it commits is renamed from, but for checkpoints."""
        return self.attempts.path(self.number) / _WORK

    @property
    def staging(self) -> Staging:
        """The same, for those who write."""
        return Staging(self.work)

    @property
    def directory(self) -> RunDirectory:
        """The run directory, as this attempt may write into it."""
        run = self.attempts.run
        work = Staging(run.checkpoints / f"{WORK}{self.claim}") if self.claim else None
        return dataclasses.replace(run, staging=self.staging, checkpoint_staging=work)

    def holds(self) -> bool:
        """Whether no newer attempt has begun, as far as can be seen from here; costs a look at the disk.

        Nothing is safe because of it: it tells an attempt in good time that its work is of no use any more.
        """
        return self.attempts.newest() <= self.number

    @property
    def lost(self) -> bool:
        """Whether a folder that this attempt renames from is not there: a newer one took it, or somebody deleted it."""
        run = self.directory
        return any(staging is not None and staging.taken for staging in (run.staging, run.checkpoint_staging))

    def check(self) -> None:
        """Raise :class:`xtrain.errors.Fenced` if a newer attempt has begun."""
        if not self.holds():
            raise Fenced(self.why())

    def why(self) -> str:
        """One line: which attempt has begun, and where."""
        newest = self.attempts.newest()
        where = self.attempts.read(newest)
        began = f"attempt {newest}" if newest > self.number else "a newer attempt"  # seen from another node
        began += f" at this phase has begun{f' on {where.host}' if where and newest > self.number else ''}"
        return f"{began}: attempt {self.number} ends here"


def newest_step(run: RunDirectory) -> int:
    """The step of the newest checkpoint by its name; 0 for none."""
    names = os.listdir(run.checkpoints) if run.checkpoints.is_dir() else []
    return max((int(match[1]) for name in names if (match := re.fullmatch(r"step-(\d+)", name))), default=0)


def _replace_by_copy(path: Path, staging: Staging) -> None:
    """Put a copy in the place of a file that is only appended to: who has it open writes into nothing from then on."""
    copy = staging.path / path.name
    with staging.used(), contextlib.suppress(FileNotFoundError):
        shutil.copyfile(path, copy)
        with open(copy, "rb") as handle:
            os.fsync(handle.fileno())
        os.replace(copy, path)


def _write(folder: Path, attempt: Attempt) -> None:
    write_json(folder / "attempt.json", dataclasses.asdict(attempt))


def _read(path: Path) -> dict[str, Any] | None:
    try:
        value: dict[str, Any] = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return value
