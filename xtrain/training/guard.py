"""What stands by while ranks work: signals, the ranks' agreement about them, and the watchdog."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from xtrain.training.agreement import Agreement
from xtrain.training.preemption import Preempted, Signals, signal_name


@dataclass(frozen=True)
class Guard:
    """One rank's view of the run as a whole."""

    signals: Signals
    agreement: Agreement
    tick: Callable[[str], None]
    """Tells the watchdog what begins now: without a tick for too long, the run is taken for hung."""

    def signalled(self) -> int:
        """The number of a signal that any rank has received, 0 if none has; collective."""
        return self.agreement.worst([self.signals.number])[0]

    def preempted(self, step: int) -> Preempted:
        """What to raise, on all ranks, once everything up to ``step`` is saved; collective."""
        name = signal_name(self.signalled())
        return Preempted(step, name, max(self.agreement.gather(self.signals.seconds)))
