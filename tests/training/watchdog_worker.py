"""On each rank of test_watchdog.py: join a Gloo group, meet a mishap (or none), and leave as the entry of a rank does.

Arguments: the case, the folder for logs, the seconds of the stall limit and of the silence limit. ``start`` is forked
from a process that has imported torch, ``python watchdog_worker.py`` runs from the beginning.
"""

from __future__ import annotations

import collections
import ctypes
import itertools
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import torch
import torch.distributed as dist

from xtrain.dispatch.joining import join
from xtrain.dispatch.rank_process import run_rank
from xtrain.dispatch.rendezvous import STORE, from_environment
from xtrain.errors import EXIT_OURS, EXIT_USER, Problem, UserError
from xtrain.training.watchdog import Watchdog


def raise_an_error() -> None:
    raise ValueError("the number of this rank is unlucky")


def make_a_mistake() -> None:
    raise UserError(Problem("toy.jsonl:3", "has no label", remedy="give it one"))


def raise_interrupt() -> None:
    raise KeyboardInterrupt


def be_killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def be_killed_with_a_child() -> None:
    """The child outlives this process for a while, with copies of all that was not closed in it."""
    if os.fork() == 0:
        time.sleep(20)
        os._exit(0)
    os.kill(os.getpid(), signal.SIGKILL)


def be_stopped() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def crash() -> None:
    ctypes.string_at(0)


def sleep_for_ever() -> None:
    time.sleep(3600)


def hold_the_interpreter() -> None:
    collections.deque(itertools.count(), maxlen=0)  # a loop in C; a sleep there would end with the first signal


def exit_without_a_word() -> None:
    os._exit(7)


MISHAPS: Mapping[str, Callable[[], None]] = {
    "error": raise_an_error,
    "mistake": make_a_mistake,
    "killed": be_killed,
    "killed_parent": be_killed_with_a_child,
    "stopped": be_stopped,
    "crash": crash,
    "asleep": sleep_for_ever,
    "holds": hold_the_interpreter,
    "exits": exit_without_a_word,
    "interrupted": raise_interrupt,
}


def work(case: str, rank: int, watchdog: Watchdog, logs: Path) -> None:
    """Steps with a collective each; ``CASE-RANK`` names the mishap and who meets it in the third."""
    mishap, _, who = case.partition("-")
    for step in range(3):
        watchdog.tick(f"step {step}")
        dist.all_reduce(torch.zeros(1))
    if mishap in MISHAPS:
        if rank == int(who):
            MISHAPS[mishap]()
        watchdog.tick("the collective that never ends")
        dist.all_reduce(torch.zeros(1))
        return
    if mishap == "mistakes":
        make_a_mistake()
    if mishap == "allowed":
        if rank == int(who):
            with watchdog.allow("a long call", 60.0):
                ctypes.PyDLL(None).sleep(5)
        dist.barrier()
    elif mishap == "paused":
        (logs / f"ready-{rank}").touch()
        for _ in range(30):  # of running, whatever the clock says
            watchdog.tick("waiting")
            time.sleep(0.1)
        dist.barrier()
    elif mishap == "later" and rank == int(who):
        time.sleep(3)


def start(environment: Mapping[str, str], inherited: socket.socket | None, *arguments: str) -> NoReturn:
    """As a program with these arguments, its stderr in a file of the logs' folder; rank 0 is sent the socket."""
    os.environ.update(environment)
    if inherited is not None:
        os.environ[STORE] = str(inherited.detach())
    with open(Path(arguments[1], f"stderr-{environment['RANK']}.txt"), "wb") as file:
        os.dup2(file.fileno(), 2)
    run_rank(partial(main, *arguments))


def main(case: str, folder: str, stall_seconds: str, silent_seconds: str) -> None:
    ranks, logs = from_environment(), Path(folder)
    rank, world_size = ranks.rank, ranks.world_size
    join(ranks)
    store = dist.distributed_c10d._get_default_store() if world_size > 1 else None

    def note(kind: str, code: int, fields: Mapping[str, Any]) -> None:
        (logs / f"ending-{rank}.txt").write_text(f"{kind} of rank {fields['rank']}")

    watchdog = Watchdog(logs, rank, world_size, float(stall_seconds), store, note, float(silent_seconds))
    watchdog.start()
    try:
        work(case, rank, watchdog, logs)
    except UserError as error:
        watchdog.failed(error, EXIT_USER)
        raise
    except (Exception, KeyboardInterrupt) as error:
        watchdog.failed(error, EXIT_OURS)
        raise
    watchdog.stop()
    watchdog.stop()


if __name__ == "__main__":
    run_rank(partial(main, *sys.argv[1:]))
