"""What stands by while ranks work: signals, the ranks' agreement about them, newer attempts, and the watchdog."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from xtrain.dispatch.signals import Signals, signal_name
from xtrain.errors import Fenced
from xtrain.training.agreement import Agreement
from xtrain.training.preemption import Preempted
from xtrain.training.watchdog import Watchdog

LOOK_SECONDS = 1.0  # between two looks at the disk


class Lookout:
    """Whether a newer attempt has begun, which ``holds`` denies: asked now and then, for it looks at the disk."""

    def __init__(self, holds: Callable[[], bool]) -> None:
        self._holds = holds
        self._looked = -math.inf
        self._found = False

    def __call__(self) -> bool:
        """What is known by now."""
        if not self._found and time.monotonic() - self._looked >= LOOK_SECONDS:
            self._looked = time.monotonic()
            self._found = not self._holds()
        return self._found


@dataclass(frozen=True)
class Guard:
    """One rank's view of the run as a whole."""

    signals: Signals
    agreement: Agreement
    watchdog: Watchdog
    """Where nothing is ticked for too long, it takes the run for hung."""
    newer: Callable[[], bool] = bool
    """Whether this rank knows of a newer attempt; by default it does not look."""

    def tick(self, what: str) -> None:
        """This rank's main thread is alive and begins ``what``."""
        self.watchdog.tick(what)

    def allow(self, what: str, minutes: float) -> contextlib.AbstractContextManager[None]:
        """Inside, ``what`` may take so long without a tick."""
        return self.watchdog.allow(what, 60.0 * minutes)

    def signalled(self) -> int:
        """The number of a signal that any rank has received, 0 if none has; collective.

        Raises :class:`xtrain.errors.Fenced`, on all ranks, if a newer attempt has begun.
        """
        return self.worst([])[0]

    def worst(self, values: Sequence[int]) -> list[int]:
        """The signal as :meth:`signalled` has it, and behind it the largest of each of ``values`` over all ranks."""
        signal, newer, *found = self.agreement.worst([self.signals.number, int(self.newer()), *values])
        if newer:
            raise Fenced("a newer attempt at this phase has begun")
        return [signal, *found]

    def preempted(self, step: int) -> Preempted:
        """What to raise, on all ranks, once everything up to ``step`` is saved; collective."""
        seconds, number = max(self.agreement.gather((self.signals.seconds, self.signals.number)))  # the first one
        return Preempted(step, signal_name(number), seconds)
