"""Start the ranks of one phase on this machine, watch them, and end them together."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from xtrain.dispatch.rendezvous import free_port
from xtrain.errors import EXIT_OURS

GRACE_SECONDS = 10.0  # what the other ranks get to end by themselves once one has failed


@dataclass(frozen=True)
class RankFailure:
    """The rank that failed first."""

    rank: int
    code: int
    log: Path | None  # where it printed; None for rank 0, which prints on our own terminal

    def last_lines(self, count: int = 20) -> str:
        """The end of what the rank printed."""
        if self.log is None or not self.log.is_file():
            return ""
        return "\n".join(self.log.read_text("utf-8", errors="replace").splitlines()[-count:])


def run_ranks(command: Sequence[str], num_ranks: int, logs: Path) -> RankFailure | None:
    """Run ``command`` once a rank; returns the first failure, or None when all ended well.

    Rank 0 prints on our terminal, the others into ``logs/rank-N.log``. When a rank fails, the others are
    ended within seconds: their next collective would wait for ever.
    """
    port = free_port()
    threads = max(1, available_cores() // num_ranks)
    processes: list[subprocess.Popen[bytes]] = []
    files = {rank: logs / f"rank-{rank}.log" for rank in range(1, num_ranks)}
    try:
        for rank in range(num_ranks):
            environment = {
                **os.environ,
                "RANK": str(rank),
                "WORLD_SIZE": str(num_ranks),
                "LOCAL_RANK": str(rank),
                "LOCAL_WORLD_SIZE": str(num_ranks),
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port),
            }
            environment.setdefault("OMP_NUM_THREADS", str(threads))
            if rank in files:
                with open(files[rank], "ab") as log:
                    processes.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log))
            else:
                processes.append(subprocess.Popen(command, env=environment))
        return _watch(processes, files)
    finally:
        _end(processes)


def _watch(processes: Sequence[subprocess.Popen[bytes]], files: dict[int, Path]) -> RankFailure | None:
    """Wait until all ranks ended well or one failed."""
    while True:
        codes = [process.poll() for process in processes]
        for rank, code in enumerate(codes):
            if code:
                # Ranks fail together; a user's mistake (2) says more than a peer's lost connection.
                time.sleep(0.5)
                later = [process.poll() for process in processes]
                first = next((r for r, c in enumerate(later) if c == 2), rank)
                return RankFailure(first, later[first] or EXIT_OURS, files.get(first))
        if all(code == 0 for code in codes):
            return None
        time.sleep(0.05)


def _end(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """Terminate what still runs, kill what does not listen."""
    alive = [process for process in processes if process.poll() is None]
    for process in alive:
        process.send_signal(signal.SIGTERM)
    deadline = time.monotonic() + GRACE_SECONDS
    for process in alive:
        try:
            process.wait(max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def available_cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def python(*arguments: str) -> list[str]:
    """A command that runs this Python, unbuffered."""
    return [sys.executable, "-u", *arguments]
