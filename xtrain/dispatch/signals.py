"""Signals that ask a run to save and leave: noted when they come, acted upon where it is safe."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from types import FrameType, TracebackType
from typing import Any, Self

from xtrain.errors import Problem, UserError, listed, nearest

KEY = "engine.preemption_signals"
ALLOWED = ("SIGTERM", "SIGUSR1", "SIGUSR2", "SIGHUP", "SIGXCPU", "SIGINT")
SAME_PRESS_SECONDS = 0.3  # a terminal and a launcher may both pass on one Ctrl-C: that is not a second one


class Signals:
    """While entered, a preemption signal to this process is noted instead of ending it.

    ``names`` are those of :class:`xtrain.study.Engine`'s ``preemption_signals``; Ctrl-C (SIGINT) always is one of
    them, and a second Ctrl-C raises :class:`KeyboardInterrupt`. Raises a :class:`UserError` for a name that is not
    allowed. The handler does nothing but remember and print one line, with ``rank`` (None: the launcher) and what
    comes ``then``: saving needs all ranks, and the others are not in a handler. Python runs it in the main thread
    between two bytecodes, so a signal is noted when the call into PyTorch that it interrupts returns.
    """

    def __init__(self, names: Sequence[str], rank: int | None = 0, then: str = "saving at the next step") -> None:
        self._numbers = set(signal_numbers(names))
        self._who = "" if rank is None else f"rank {rank}: "
        self._then = then
        self._old: dict[int, Any] = {}
        self._process = 0
        self._last_interrupt: float | None = None
        self.number = 0
        """Of the first signal; 0 while there was none."""
        self.since = 0.0
        """When it was noted, by ``time.monotonic()``."""
        self.num_ignored = 0
        """Signals after the first."""

    @property
    def name(self) -> str:
        """The first signal's name, or an empty string."""
        return signal_name(self.number)

    @property
    def seconds(self) -> float:
        """Since the first signal; 0 while there was none."""
        return time.monotonic() - self.since if self.number else 0.0

    def __enter__(self) -> Self:
        assert threading.current_thread() is threading.main_thread(), "only the main thread can handle signals"
        self._process = os.getpid()
        # A job that a script started in the background ignores Ctrl-C, and is to go on doing so.
        if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
            self._numbers.add(int(signal.SIGINT))
        for number in sorted(self._numbers):
            self._old[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _restore(self._old)
        self._old.clear()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:  # a child that was forked and has not set its own handlers yet
            return
        now = time.monotonic()
        if not self.number:
            self.number, self.since = number, now
            self._say(f"{signal_name(number)} received: {self._then}")
        else:
            self.num_ignored += 1
        if number == signal.SIGINT:
            before, self._last_interrupt = self._last_interrupt, now
            if before is not None and now - before > SAME_PRESS_SECONDS:
                raise KeyboardInterrupt

    def _say(self, text: str) -> None:
        # Not print: the handler may have interrupted one, and a buffered stream cannot be entered twice.
        with contextlib.suppress(OSError):
            os.write(2, f"{self._who}{text}\n".encode())


class Stopped(BaseException):
    """A signal stopped the whole command; what there was is saved, and the same command goes on from there.

    Not an :class:`Exception`: it may come up anywhere, also where a library tries again upon any exception.
    """


@contextlib.contextmanager
def stopping_on(names: Sequence[str]) -> Iterator[None]:
    """In a launcher, while no rank runs: a preemption signal raises :class:`Stopped` at once.

    Whatever a launcher writes itself it writes whole or not at all, so there is nothing to save. Ctrl-C stays Python's
    own. Outside the main thread, which alone can handle signals, this does nothing.
    """

    def stop(number: int, frame: FrameType | None) -> None:
        raise Stopped(f"{signal_name(number)}: stopped between phases; the same command goes on from there")

    main = threading.current_thread() is threading.main_thread()
    numbers = [number for number in signal_numbers(names) if main and number != signal.SIGINT]
    before = {number: signal.signal(number, stop) for number in numbers}
    try:
        yield
    finally:
        _restore(before)


def _restore(handlers: Mapping[int, Any]) -> None:
    for number, handler in handlers.items():
        # None: a handler that was not set from Python, which cannot be set again from here.
        signal.signal(number, signal.SIG_DFL if handler is None else handler)


def signal_numbers(names: Sequence[str]) -> list[int]:
    """The numbers of signals, in the order of their names; a :class:`UserError` lists the names not allowed."""
    wrong = [name for name in names if name not in ALLOWED]
    if wrong:
        raise UserError(
            *(Problem(KEY, f"{name!r} is not allowed", listed(ALLOWED), nearest(name, ALLOWED)) for name in wrong)
        )
    return [int(signal.Signals[name]) for name in names]


def signal_name(number: int) -> str:
    """``SIGTERM`` for 15; an empty string for 0."""
    return signal.Signals(number).name if number else ""


def ignore_in_worker(names: Sequence[str]) -> None:
    """In a data worker: let signals pass, which schedulers may send to every process of a job.

    A worker that died of one would take the rank with it before the state is saved. Lifts what
    :func:`blocked` held back in the child; whatever came meanwhile is dropped.
    """
    numbers = {*signal_numbers(names), int(signal.SIGINT)}
    for number in numbers:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, numbers)


@contextlib.contextmanager
def blocked(names: Sequence[str]) -> Iterator[None]:
    """Hold signals back while a worker is started: it inherits the mask, and ignores them before it lifts it.

    What comes meanwhile reaches this process at the end of the block.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {*signal_numbers(names), int(signal.SIGINT)})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
