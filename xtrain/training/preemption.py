"""What training does upon a signal: all ranks save together at a step boundary, and leave."""

from __future__ import annotations


class Preempted(Exception):
    """Raised on every rank once the state is committed after a signal; the same command goes on from there.

    ``step`` is the number of optimizer steps in the checkpoint, ``signal_name`` what came first to any rank, and
    ``seconds`` the time from the signal to the committed checkpoint.
    """

    def __init__(self, step: int, signal_name: str, seconds: float) -> None:
        self.step, self.signal_name, self.seconds = step, signal_name, seconds
        super().__init__(f"{signal_name}: saved at step {step}, {seconds:.1f} s after the signal")
