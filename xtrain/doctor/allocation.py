"""Nodes lent for a few minutes: salloc with the profile's own options, steps on it by srun, and the end of it."""

from __future__ import annotations

import contextlib
import re
import secrets
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from xtrain.dispatch.batch_script import submitit_parameters
from xtrain.dispatch.cluster import Profile
from xtrain.dispatch.slurm import addressed
from xtrain.doctor.commands import ask, plain_environment
from xtrain.doctor.framing import Reader

JOB_MINUTES = 10  # far more than the checks take; whoever is killed leaves nodes taken for so long at most
_NO_OPTIONS = ("stderr_to_stdout", "use_srun", "setup", "additional_parameters", "time", "dependency", "comment")
_MAIL = ("mail-type", "mail-user")
_OF_SCRIPTS = (  # sbatch's alone, or of no use to a job without a script
    "requeue", "no-requeue", "signal", "kill-on-invalid-dep", "export", "export-file", "propagate", "get-user-env",
    "batch", "ignore-pbs",
)  # fmt: skip
_JOB = re.compile(r"salloc: (?:Granted|Pending) job allocation (\d+)")
_POLL_SECONDS = 0.1


class NotGranted(Exception):
    """There are no nodes: refused, or not in time.

    ``reason`` is SLURM's word for what the job waited for (``Priority``, ``Resources``); empty where it was refused.
    """

    def __init__(self, what: str, reason: str = "") -> None:
        self.what, self.reason = what, reason
        super().__init__(what)


@dataclass(frozen=True)
class Allocation:
    """A job without a script."""

    job: str
    nodes: tuple[str, ...]


@dataclass
class Step:
    """What the tasks of a step emitted."""

    values: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    """Task -> its values, in order."""
    other: list[str] = field(default_factory=list)
    """What else was printed."""
    errors: list[str] = field(default_factory=list)
    """Lines on standard error: SLURM's, and the tasks'."""
    timed_out: bool = False
    nodes: tuple[str, ...] = ()
    """Where it ran."""

    def last(self, task: str, key: str) -> Any:
        """The last value of ``task`` that has ``key``, that is; None for none."""
        found = [value[key] for value in self.values.get(task, []) if key in value]
        return found[-1] if found else None


def salloc_command(profile: Profile, kind: str, name: str, minutes: int = JOB_MINUTES) -> list[str]:
    """The salloc line with what a job of ``kind`` asks for, but a short time limit."""
    limit = min(minutes, profile.resources(kind).time_limit_minutes or minutes)
    return ["salloc", "--no-shell", f"--time={limit}", *options(profile, kind, name, script=False)]


def options(profile: Profile, kind: str, name: str, *, script: bool) -> list[str]:
    """What a job of ``kind`` asks for but for its time, as sbatch has it, or salloc, whose jobs have no script."""
    parameters = submitit_parameters(profile, kind, job_name=name)
    wanted = {key: value for key, value in parameters.items() if key not in _NO_OPTIONS}
    dropped = _MAIL if script else (*_MAIL, *_OF_SCRIPTS)
    more = parameters["additional_parameters"]
    wanted.update({key: value for key, value in more.items() if key not in dropped})
    return [_option(key, value) for key, value in wanted.items() if value is not None and value is not False]


def _option(key: str, value: object) -> str:
    name = f"--{key.replace('_', '-')}"
    return name if value is True else f"{name}={value}"


@contextlib.contextmanager
def allocated(profile: Profile, kind: str, patience_seconds: float, minutes: int = JOB_MINUTES) -> Iterator[Allocation]:
    """The nodes of a job of ``kind``, for ``minutes``; given back at the end of the block, whatever happens in it.

    Raises :class:`NotGranted` where SLURM refuses it, or has not started it within ``patience_seconds``.
    """
    name = f"xtrain-doctor-{secrets.token_hex(4)}"
    process = subprocess.Popen(
        salloc_command(profile, kind, name, minutes), env=plain_environment(), stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, errors="replace",
    )  # fmt: skip
    lines: list[str] = []
    reader = threading.Thread(target=_collect, args=(process.stderr, lines.append), daemon=True)
    reader.start()
    try:
        deadline = time.monotonic() + patience_seconds
        while process.poll() is None:
            if time.monotonic() > deadline:
                raise NotGranted(f"no nodes within {patience_seconds:.0f} s", _why_waiting(name))
            time.sleep(_POLL_SECONDS)
        reader.join(5.0)
        job = next((match[1] for line in lines if (match := _JOB.match(line))), "")
        if process.returncode or not job:
            said = [line.removeprefix("salloc: ").removeprefix("error: ") for line in lines]
            raise NotGranted("; ".join(line for line in said if line.strip()) or "salloc said nothing")
        yield Allocation(job, _nodes_of(job))
    finally:
        if process.poll() is None:
            process.terminate()  # it takes its waiting job with it
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(5.0)
        ask(["scancel", f"--name={name}"])


def _why_waiting(name: str) -> str:
    said = ask(["squeue", "--noheader", f"--name={name}", "--format=%r"])
    return " ".join(said.out.split()) or "unknown"


def _nodes_of(job: str) -> tuple[str, ...]:
    nodelist = ask(["squeue", "--noheader", f"--jobs={job}", "--format=%N"]).out.strip()
    return expand(nodelist)


def expand(nodelist: str) -> tuple[str, ...]:
    """``n[1-3]`` as the names of the nodes."""
    return tuple(ask(["scontrol", "show", "hostnames", nodelist]).out.split()) if nodelist else ()


def run_step(
    command: Sequence[str],
    environment: Mapping[str, str],
    timeout: float,
    done: Callable[[Step], bool] = lambda step: False,
) -> Step:
    """Run a step until it ends, or ``done`` says that all has come, or ``timeout`` seconds are over."""
    step, frames, lock = Step(), Reader(), threading.Lock()
    process = subprocess.Popen(
        addressed(command), env={**plain_environment(), **environment}, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace", start_new_session=True,
    )  # fmt: skip

    def out(line: str) -> None:
        with lock:
            for task, value in frames.feed(line):
                step.values.setdefault(task, []).append(value)

    readers = [
        threading.Thread(target=_collect, args=(process.stdout, out), daemon=True),
        threading.Thread(target=_collect, args=(process.stderr, step.errors.append), daemon=True),
    ]
    for reader in readers:
        reader.start()
    deadline = time.monotonic() + timeout
    while process.poll() is None:
        with lock:
            if done(step):
                break
        if time.monotonic() > deadline:
            step.timed_out = True
            break
        time.sleep(_POLL_SECONDS)
    if process.poll() is None:
        process.kill()  # the tasks are ended with the allocation
    process.wait()
    for reader in readers:
        reader.join(2.0)
    with lock:
        step.other = list(frames.other)
        return step


def _collect(stream: Any, take: Callable[[str], object]) -> None:
    for line in stream:
        if line.strip():
            take(line.rstrip("\n"))
