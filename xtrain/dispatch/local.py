"""Start the ranks of one phase on this machine, watch them, pass signals on to them, and end them together."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from xtrain.dispatch.outcome import Outcome, RankEnd, RankFailure, RankLog, RanksPreempted, outcome_of
from xtrain.dispatch.rendezvous import LocalRanks
from xtrain.dispatch.signals import Signals, signal_numbers
from xtrain.errors import EXIT_FAILED, EXIT_FENCED, EXIT_PREEMPTED

__all__ = ["Outcome", "RankFailure", "RanksPreempted", "available_cores", "python", "run_ranks"]

DYING_SECONDS = 5.0  # what the others get once a rank has failed, for their own words; a collective would wait for ever
LEAVING_SECONDS = 60.0  # once one has left as agreed: the last files, the last lines to W&B
SAVING_SECONDS = 600.0  # after a signal: to finish a step, and a save of many gigabytes to a slow disk
POLL_SECONDS = 0.05
SIGNALS = ("SIGTERM", "SIGUSR1", "SIGUSR2")


def run_ranks(command: Sequence[str], num_ranks: int, logs: Path, signals: Sequence[str] = SIGNALS) -> Outcome:
    """Run ``command`` once a rank; None when all ended well, else the first failure or the preemption.

    Rank 0 prints on our terminal (standard error also into ``logs/rank-0.log``), the others into
    ``logs/rank-N.log``. When a rank fails, the others are ended within seconds: their next collective would wait
    for ever. One of ``signals``, SIGHUP or Ctrl-C is passed on once to all ranks, which save and leave; a second
    Ctrl-C ends them at once and raises :class:`KeyboardInterrupt`. When this process is killed, they are too.
    """
    with ExitStack() as stack:
        asked = _listening(stack, signals)
        ranks = stack.enter_context(_Ranks(signals))
        ranks.start(command, num_ranks, logs)
        ranks.watch(asked)
    # A signal that came when the last rank had ended was not passed on, and stops the command all the same.
    return outcome_of(list(ranks.ends.values()), ranks.logs, ranks.passed_on or asked.number, asked.name)


def _listening(stack: ExitStack, signals: Sequence[str]) -> Signals:
    names = [*signals, *(["SIGHUP"] if signal.getsignal(signal.SIGHUP) == signal.SIG_DFL else [])]  # not with nohup
    then = (
        f"asking the ranks to save and leave, for which they have {SAVING_SECONDS / 60:.0f} minutes "
        "(Ctrl-C again: they end at once, and the last checkpoint is kept)"
    )
    asked = Signals(names, None, then)
    return stack.enter_context(asked) if threading.current_thread() is threading.main_thread() else asked


@dataclass
class _Ranks:
    """The ranks' processes; none is left when this is exited."""

    signals: Sequence[str]
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)
    logs: dict[int, RankLog] = field(default_factory=dict)
    ends: dict[int, RankEnd] = field(default_factory=dict)
    killed: set[int] = field(default_factory=set)
    copier: threading.Thread | None = None
    passed_on: int = 0  # the signal that all ranks were sent

    def __enter__(self) -> _Ranks:
        return self

    def __exit__(self, *error: object) -> None:
        self.kill()
        for process in self.processes:
            process.wait()
        if self.copier is not None:
            self.copier.join(1.0)  # a child that outlives rank 0 may hold the pipe open: not waited for

    def start(self, command: Sequence[str], num_ranks: int, logs: Path) -> None:
        """Start every rank in a session of its own, so that the terminal's Ctrl-C reaches it through us alone."""
        bound = [sys.executable, "-I", "-S", str(Path(__file__).with_name("with_parent.py")), str(os.getpid())]
        with LocalRanks(num_ranks) as place:
            for rank in range(num_ranks):
                environment = place.environment(rank)
                environment.setdefault("OMP_NUM_THREADS", str(max(1, available_cores() // num_ranks)))
                path = logs / f"rank-{rank}.log"
                self._start_rank(rank, [*bound, *command], environment, path, place.inherited(rank))

    def _start_rank(
        self, rank: int, command: Sequence[str], environment: Mapping[str, str], path: Path, inherited: Sequence[int]
    ) -> None:
        with open(path, "ab") as log:
            self.logs[rank] = RankLog(path, log.tell())
            out, errors = (None, subprocess.PIPE) if rank == 0 else (log, log)
            self.processes.append(
                subprocess.Popen(
                    command, env=environment, stdout=out, stderr=errors, start_new_session=True, pass_fds=inherited
                )
            )
        if rank == 0:
            self.copier = threading.Thread(target=_copy, args=(self.processes[0], path), name="rank-0", daemon=True)
            self.copier.start()

    def watch(self, asked: Signals) -> None:
        """Wait until all ranks have ended, by themselves or by us."""
        while len(self.ends) < len(self.processes):
            self._poll()
            if asked.number and not self.passed_on:
                self._pass_on()
            if time.monotonic() > self._deadline(asked):
                self.kill()
            time.sleep(POLL_SECONDS)

    def _poll(self) -> None:
        now = time.monotonic()
        for rank, process in enumerate(self.processes):
            if rank not in self.ends and process.poll() is not None:
                by_us = rank in self.killed and process.returncode == -signal.SIGKILL
                self.ends[rank] = RankEnd(rank, process.returncode, now, by_us)

    def _deadline(self, asked: Signals) -> float:
        """When to kill those that still run: the earliest that the ends so far and a signal call for."""
        limits = [asked.since + SAVING_SECONDS] if asked.number else []
        for end in self.ends.values():
            if end.code in (EXIT_PREEMPTED, EXIT_FAILED, EXIT_FENCED):  # all have agreed on it
                limits.append(end.when + LEAVING_SECONDS)
            elif end.code:
                limits.append(end.when + DYING_SECONDS)
        return min(limits, default=float("inf"))

    def _pass_on(self) -> None:
        numbers = [*signal_numbers(self.signals), int(signal.SIGINT)]
        self.passed_on = int(signal.SIGTERM) if signal.SIGTERM in numbers else numbers[0]
        for rank, process in enumerate(self.processes):
            if rank not in self.ends:
                process.send_signal(self.passed_on)

    def kill(self) -> None:
        """Kill what still runs, with the processes that it started."""
        for rank, process in enumerate(self.processes):
            if process.poll() is None and rank not in self.killed:
                self.killed.add(rank)
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)


def _copy(process: subprocess.Popen[bytes], path: Path) -> None:
    """Rank 0's standard error to our own as it comes, and into its log: what ended it can then be told apart."""
    assert process.stderr is not None
    with process.stderr as errors, open(path, "ab") as log:
        while data := os.read(errors.fileno(), 2**16):
            with contextlib.suppress(OSError):  # the terminal is gone
                os.write(2, data)
            with contextlib.suppress(OSError):  # the disk is full
                log.write(data)
                log.flush()


def available_cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def python(*arguments: str) -> list[str]:
    """A command that runs this Python, unbuffered."""
    return [sys.executable, "-u", *arguments]
