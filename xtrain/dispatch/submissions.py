"""The jobs that were submitted for a run directory, and the end of a phase that left no result."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import time
from dataclasses import dataclass
from pathlib import Path

from xtrain.files import make_folder, read_json, write_json, write_text
from xtrain.run_directory import RunDirectory

_JOB_ID = re.compile(r"\d+|local-\d+(-\d+)?", re.ASCII)


@dataclass(frozen=True)
class Submission:
    """A job in the queue, or one that was there; a line of ``job/submissions.jsonl``."""

    job: str
    """SLURM's job id, or ``local-PID-START``."""
    name: str
    submitted: float
    """Seconds since 1970."""
    cluster: str
    """The profile's name."""
    lane: int = 0
    """Which of the study's lanes it runs in: one job at a time a lane."""
    succeeded: tuple[str, ...] = ()
    """Jobs whose success it waits for."""
    ended: tuple[str, ...] = ()
    """Jobs whose end it waits for, however that is."""
    chained: bool = False
    """Submitted by the job before it, to go on where that one had to leave."""
    first_attempt: int = 1
    """The number of its first attempt, if none came between: earlier ones do not count against it."""


@dataclass(frozen=True)
class Ended:
    """The phase ended without a result and is not tried again by itself; ``job/ended.json``."""

    how: str
    """As :mod:`xtrain.dispatch.attempts` has it: ``failed``, ``user error``, ``given up``, ``cancelled``..."""
    code: int
    reason: str
    """For people, several lines perhaps."""
    time: float
    """Seconds since 1970."""
    attempt: int = 0
    node: str = ""
    job: str = ""


@dataclass(frozen=True)
class JobFolder:
    """``job/`` of a run directory, but for the attempts in it."""

    run: RunDirectory

    @property
    def path(self) -> Path:
        """``job/``."""
        return self.run.job

    @property
    def submitit(self) -> Path:
        """``job/submitit/``: copies of the batch scripts, and what they print."""
        return self.path / "submitit"

    @property
    def sending(self) -> Path:
        """There from before ``sbatch`` is called until its answer is written down: a job may be without a note."""
        return self.path / "sending"

    def submissions(self) -> list[Submission]:
        """All submissions, the oldest first. Half a line, of a disk that was full, is passed over, and so is what is no
        job's id: ids are arguments of SLURM's commands, and stand in the batch scripts of jobs that wait for them."""
        path = self.path / "submissions.jsonl"
        values = []
        for line in path.read_text("utf-8").splitlines() if path.is_file() else ():
            with contextlib.suppress(ValueError):
                values.append(json.loads(line))
        read = [
            Submission(**{**value, "succeeded": tuple(value["succeeded"]), "ended": tuple(value["ended"])})
            for value in values
        ]
        return [one for one in read if all(map(_JOB_ID.fullmatch, (one.job, *one.succeeded, *one.ended)))]

    def add(self, submission: Submission) -> None:
        """Write down a submission: by one append, so that none is lost."""
        make_folder(self.path)
        with open(self.path / "submissions.jsonl", "a+b") as handle:
            size = handle.seek(0, os.SEEK_END)
            handle.seek(max(0, size - 1))
            torn = size > 0 and handle.read(1) != b"\n"
            handle.write(b"\n" * torn + json.dumps(dataclasses.asdict(submission)).encode() + b"\n")
        for path in (self.sending, self._later):
            path.unlink(missing_ok=True)

    @property
    def _later(self) -> Path:
        return self.path / "later"

    def postpone(self) -> None:
        """Note that a phase which was submitted before is to be so again, when there is room in the queue."""
        if self.submissions():
            self.reopen()
            write_text(self._later, "")

    def postponed(self) -> bool:
        """Whether it is left for later, whatever became of its earlier jobs."""
        return self._later.is_file()

    def forget(self, job: str) -> None:
        """Of a job that was cancelled before it began, to be submitted later: as if it had never been."""
        left = [one for one in self.submissions() if one.job != job]
        write_text(self.path / "submissions.jsonl", "".join(f"{json.dumps(dataclasses.asdict(one))}\n" for one in left))

    def ended(self) -> Ended | None:
        """How the phase ended without a result, if it did."""
        path = self.path / "ended.json"
        return Ended(**read_json(path)) if path.is_file() else None

    def end(self, how: str, code: int, reason: str, *, attempt: int = 0, node: str = "", job: str = "") -> None:
        """Write down that the phase has ended without a result."""
        make_folder(self.path)
        write_json(
            self.path / "ended.json", dataclasses.asdict(Ended(how, code, reason, time.time(), attempt, node, job))
        )

    def reopen(self) -> None:
        """Forget an end: the phase is submitted again."""
        for name in ("ended.json", "cancelled"):
            (self.path / name).unlink(missing_ok=True)

    def ask_to_stop(self) -> None:
        """Note that the user cancels the phase: whatever job of it still runs does not put itself back in the queue."""
        make_folder(self.path)
        write_text(self.path / "cancelled", "")

    def asked_to_stop(self) -> bool:
        """Whether the user has cancelled the phase."""
        return (self.path / "cancelled").is_file()
