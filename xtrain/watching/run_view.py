"""What a run directory alone says of its phase: read once, before the queue is asked."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xtrain.dispatch.attempts import Attempt, AttemptEnd, Attempts
from xtrain.dispatch.job_graph import JobNode
from xtrain.dispatch.processes import is_process
from xtrain.dispatch.submissions import Ended, JobFolder, Submission
from xtrain.run_directory import RunDirectory

_MANY = 48  # run directories; more are read by several threads, which helps on network file systems
_THREADS = 16
_LOCAL = re.compile(r"local-(\d+)(?:-(\d+))?")


@dataclass(frozen=True)
class RunView:
    """A job of the graph, and what lies in its run directory."""

    node: JobNode
    run: RunDirectory
    done: dict[str, Any] | None
    """The summary in ``DONE``."""
    failed: dict[str, Any] | None
    """``reason`` and ``step`` in ``FAILED``."""
    ended: Ended | None
    stopped: bool
    """Whether the user has cancelled the phase."""
    submissions: tuple[Submission, ...]
    attempt: int
    """Number of the newest one; 0 before the first."""
    begun: bool
    """Whether anything was recorded."""

    @property
    def over(self) -> bool:
        """Whether it has a result or an end, so that the queue need not be asked."""
        return self.done is not None or self.failed is not None or self.ended is not None

    @property
    def jobs(self) -> list[str]:
        """The ids of all jobs that were submitted for it, the oldest first."""
        return [submission.job for submission in self.submissions]

    def newest_attempt(self) -> Attempt | None:
        """What the newest attempt wrote when it began."""
        return Attempts(self.run).read(self.attempt) if self.attempt else None

    def newest_end(self) -> AttemptEnd | None:
        """How the newest attempt ended; None while it runs, and where it may."""
        return Attempts(self.run).ending(self.attempt) if self.attempt else None


def view(node: JobNode, out: Path) -> RunView:
    """Look into the run directory of ``node``."""
    run = node.run(out)
    folder = JobFolder(run)
    done = _read(run.done_marker)
    submitted = folder.path.is_dir()
    return RunView(
        node=node,
        run=run,
        done=done,
        failed=_read(run.failed_marker) if done is None else None,
        ended=_ended(folder) if submitted and done is None else None,
        stopped=submitted and folder.asked_to_stop(),
        submissions=tuple(folder.submissions()) if submitted else (),
        attempt=Attempts(run).newest() if submitted else 0,
        begun=done is not None or run.events.is_file(),
    )


def views(nodes: Sequence[JobNode], out: Path) -> list[RunView]:
    """Look into the run directories of all ``nodes``, in their order."""
    if len(nodes) < _MANY:
        return [view(node, out) for node in nodes]
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(_THREADS) as pool:
        return list(pool.map(lambda node: view(node, out), nodes))


def jobs_to_ask(seen: Iterable[RunView]) -> list[str]:
    """The ids of all jobs whose state matters."""
    return [job for view in seen if not view.over for job in view.jobs]


def local_process(job: str) -> int | None:
    """The process of a job ``local-PID`` or ``local-PID-START`` that still is that process; None for none.

    ``START`` is when it started, in clock ticks since the machine did: process ids are used again.
    """
    match = _LOCAL.fullmatch(job)
    if match is None:
        return None
    return int(match[1]) if is_process(int(match[1]), match[2]) else None


def held_here(locks: Iterable[Path]) -> set[Path]:
    """Which of these lock files a process on this machine holds; asks without touching the locks.

    ``xtrain run`` holds ``.lock`` of the run directory that it works on; a queue on this machine, its study's.
    """
    try:
        text = Path("/proc/locks").read_text("utf-8")
    except OSError:
        return set()
    # By inode alone: some file systems have a device there that stat does not give.
    inodes = {int(match) for match in re.findall(r"FLOCK .*:(\d+) 0 EOF", text)}
    return {lock for lock in locks if _inode(lock) in inodes}


def _inode(path: Path) -> int:
    try:
        return os.stat(path).st_ino
    except OSError:
        return -1


def _ended(folder: JobFolder) -> Ended | None:
    value = _read(folder.path / "ended.json")
    return None if value is None else Ended(**value)


def _read(path: Path) -> dict[str, Any] | None:
    """A small JSON file that its writer replaces whole; an empty object where it cannot be read but is there."""
    try:
        value = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        return {} if path.is_file() else None
    return value if isinstance(value, dict) else {}
