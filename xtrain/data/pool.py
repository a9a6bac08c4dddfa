"""Work on many data sets at once, in processes; one that dies is named, and what came of the others stands."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, Generic, TypeVar

from xtrain.dispatch.local import available_cores
from xtrain.dispatch.signals import ALLOWED, blocked, ignore_in_worker, signal_name

# Forked, not started anew: on a node of 128 cores importing alone would take a minute of a shared disk, and formats
# that were registered in this process are known in the others. Nothing of CUDA or of a process group is there yet.

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
T = TypeVar("T")
R = TypeVar("R")


class Died(Exception):
    """A process was gone before it had finished its item."""

    def __init__(self, index: int, how: str) -> None:
        self.index, self.how = index, how
        super().__init__(f"the process that worked on item {index} ended before it had finished ({how})")


def over(
    items: Sequence[T],
    work: Callable[[T], R],
    *,
    workers: int | None = None,
    sizes: Sequence[int] | None = None,
    room: int = 0,
) -> Iterator[tuple[int, R]]:
    """``(n, work(items[n]))`` for every item, as they are finished; the largest of ``sizes`` are begun first.

    By default there are as many ``workers`` as cores; with one, or one item, the work is done here. Of ``sizes`` no
    more than ``room`` are worked on at a time (0: no limit), but always one. Raises :class:`Died` for a process that
    died, and what ``work`` raised as a RuntimeError with its traceback; the other processes are then ended.
    """
    count = min(workers or available_cores(), len(items))
    sizes = sizes or [0] * len(items)
    order = sorted(range(len(items)), key=lambda n: -sizes[n])
    if count <= 1:
        yield from ((number, work(items[number])) for number in order)
        return
    with _Workers(items, work, count) as processes:
        yield from processes.run(order, sizes, room)


class _Workers(Generic[T, R]):
    def __init__(self, items: Sequence[T], work: Callable[[T], R], count: int) -> None:
        self._items, self._work, self._count = items, work, count
        self._lines: dict[Connection, BaseProcess] = {}
        self._busy: dict[Connection, int] = {}

    def __enter__(self) -> _Workers[T, R]:
        context = multiprocessing.get_context("fork")
        threads = max(1, available_cores() // self._count)
        sys.stdout.flush()
        sys.stderr.flush()
        for _ in range(self._count):
            ours, theirs = context.Pipe()
            arguments = (theirs, os.getpid(), self._items, self._work, threads)
            process = context.Process(target=_serve, args=arguments, daemon=True)
            with blocked(ALLOWED):
                process.start()
            theirs.close()
            self._lines[ours] = process
        return self

    def __exit__(self, *exception: object) -> None:
        for line, process in self._lines.items():
            line.close()
            process.kill()
        for process in self._lines.values():
            process.join()

    def run(self, order: Sequence[int], sizes: Sequence[int], room: int) -> Iterator[tuple[int, R]]:
        waiting, idle = list(order), list(self._lines)
        while waiting or self._busy:
            used = sum(sizes[number] for number in self._busy.values())
            for number in list(waiting):
                if not idle:
                    break
                if self._busy and room and used + sizes[number] > room:
                    continue
                waiting.remove(number)
                used += sizes[number]
                line = idle.pop()
                self._busy[line] = number
                with suppress(OSError):  # it is dead: its end says so
                    line.send(number)
            for ready in wait(list(self._busy)):
                assert isinstance(ready, Connection)
                yield self._answer(ready)
                idle.append(ready)

    def _answer(self, line: Connection) -> tuple[int, R]:
        number, process = self._busy.pop(line), self._lines[line]
        try:
            value, failure = line.recv()
        except (EOFError, OSError):
            process.join()
            code = process.exitcode or 0
            raise Died(number, signal_name(-code) if code < 0 else f"exit code {code}") from None
        if failure:
            raise RuntimeError(f"in a worker process:\n{failure}")
        return number, value


def _serve(line: Connection, parent: int, items: Sequence[Any], work: Callable[[Any], Any], threads: int) -> None:
    """The life of a worker: it ends when its parent does, in whatever way that is."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    ignore_in_worker(ALLOWED)  # the parent decides what a signal means
    if os.getppid() != parent:
        return
    os.environ["RAYON_NUM_THREADS"] = str(threads)  # of the tokenizers library
    while True:
        try:
            number = line.recv()
        except (EOFError, OSError):
            return
        try:
            reply = (work(items[number]), "")
        except Exception:
            reply = (None, traceback.format_exc())
        try:
            line.send(reply)
        except OSError:
            return
