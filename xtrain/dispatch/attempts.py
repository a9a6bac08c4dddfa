"""Attempts at a phase: each start of its ranks, numbered, and fenced so that an older one can write no more.

A start claims the next number by giving a folder the name ``job/attempt-N``, which only one can. Whatever it commits (checkpoints,
encoders, scores, DONE) it writes below ``attempt-N/work/`` and renames from there. A newer attempt first renames the
``work`` of every older one: from then on, no rename of an older one finds its source, whatever it still believes,
on a node that has lost the network or whose SLURM daemon has died. Each of these steps is atomic, on NFS too.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import os
import platform
import re
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xtrain.files import make_folder, write_json, writing
from xtrain.run_directory import RunDirectory

VARIABLE = "XTRAIN_ATTEMPT"  # the number that the launcher of the ranks has claimed for them
_WORK, _FENCED = "work", "fenced"
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


class Fenced(Exception):
    """A newer attempt at this phase has begun: this one may write nothing more, and leaves."""


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


@dataclass(frozen=True)
class AttemptEnd:
    """How an attempt ended; the content of ``job/attempt-N/end.json``. A killed one leaves none."""

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
        return self.run.path / "job"

    def numbers(self) -> list[int]:
        """The numbers of all attempts so far."""
        names = os.listdir(self.folder) if self.folder.is_dir() else []
        return sorted(int(match[1]) for name in names if (match := _NAME.fullmatch(name)))

    def newest(self) -> int:
        """The number of the newest attempt; 0 before the first."""
        return max(self.numbers(), default=0)

    def claim(self, *, job: str = "", restart: int = 0, nodes: tuple[str, ...] = ()) -> Fence:
        """Begin an attempt, and fence off all older ones."""
        make_folder(self.folder)
        with writing(self.folder):
            number = self._take_number()
            for older in range(1, number):
                self._fence(older)
        attempt = Attempt(number, time.time(), newest_step(self.run), platform.node(), job, restart, nodes)
        write_json(self.path(number) / "attempt.json", dataclasses.asdict(attempt))
        return Fence(self, number)

    def _take_number(self) -> int:
        """Make ``attempt-N/`` with its ``work`` in it, at once: half a claim could not be fenced off."""
        claim = self.folder / f".claim-{platform.node()}-{os.getpid()}"
        shutil.rmtree(claim, ignore_errors=True)
        (claim / _WORK).mkdir(parents=True)
        while True:
            number = self.newest() + 1
            try:
                os.rename(claim, self.path(number))
                return number
            except OSError as error:
                if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):  # another start was quicker
                    raise

    def _fence(self, number: int) -> None:
        work, fenced = self.path(number) / _WORK, self.path(number) / _FENCED
        with contextlib.suppress(FileNotFoundError):
            os.rename(work, fenced)
        shutil.rmtree(fenced, ignore_errors=True)

    def path(self, number: int) -> Path:
        """``job/attempt-N/``."""
        return self.folder / f"attempt-{number}"

    def read(self, number: int) -> Attempt | None:
        """What is known of an attempt; None if it was killed before it wrote that."""
        value = _read(self.path(number) / "attempt.json")
        return None if value is None else Attempt(**{**value, "nodes": tuple(value["nodes"])})

    def read_end(self, number: int) -> AttemptEnd | None:
        """How an attempt ended; None while it runs, or if it was killed."""
        value = _read(self.path(number) / "end.json")
        return None if value is None else AttemptEnd(**value)

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

    @property
    def work(self) -> Path:
        """The folder that everything it commits is renamed from."""
        return self.attempts.path(self.number) / _WORK

    def holds(self) -> bool:
        """Whether no newer attempt has begun."""
        return not self.attempts.path(self.number + 1).exists()

    def check(self) -> None:
        """Raise :class:`Fenced` if a newer attempt has begun."""
        if not self.holds():
            newest = self.attempts.newest()
            where = self.attempts.read(newest)
            began = f" on {where.host}" if where else ""
            raise Fenced(f"attempt {newest} at this phase has begun{began}: attempt {self.number} ends here")


def newest_step(run: RunDirectory) -> int:
    """The step of the newest checkpoint by its name; 0 for none."""
    names = os.listdir(run.checkpoints) if run.checkpoints.is_dir() else []
    return max((int(match[1]) for name in names if (match := re.fullmatch(r"step-(\d+)", name))), default=0)


def _read(path: Path) -> dict[str, Any] | None:
    try:
        value: dict[str, Any] = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return value
