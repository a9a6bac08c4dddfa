"""What stands by while ranks work: signals, the ranks' agreement about them, and the watchdog."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

from xtrain.dispatch.signals import Signals, signal_name
from xtrain.training.agreement import Agreement
from xtrain.training.preemption import Preempted
from xtrain.training.watchdog import Watchdog


@dataclass(frozen=True)
class Guard:
    """One rank's view of the run as a whole."""

    signals: Signals
    agreement: Agreement
    watchdog: Watchdog
    """Where nothing is ticked for too long, it takes the run for hung."""

    def tick(self, what: str) -> None:
        """This rank's main thread is alive and begins ``what``."""
        self.watchdog.tick(what)

    def allow(self, what: str, minutes: float) -> contextlib.AbstractContextManager[None]:
        """Inside, ``what`` may take so long without a tick."""
        return self.watchdog.allow(what, 60.0 * minutes)

    def signalled(self) -> int:
        """The number of a signal that any rank has received, 0 if none has; collective."""
        return self.agreement.worst([self.signals.number])[0]

    def preempted(self, step: int) -> Preempted:
        """What to raise, on all ranks, once everything up to ``step`` is saved; collective."""
        seconds, number = max(self.agreement.gather((self.signals.seconds, self.signals.number)))  # the first one
        return Preempted(step, signal_name(number), seconds)
