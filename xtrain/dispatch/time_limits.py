"""How long ranks wait for one another, in the order in which the limits must come.

First comes the stall limit of the phase (``engine.stall_minutes``), or the minutes that a long call is allowed: the
watchdog then writes the stacks of all ranks, and the reason. Only where it cannot do so may the libraries end a process
by limits of their own: Gloo raises an error, NCCL's watchdog aborts.
"""

from __future__ import annotations

BUILDING_MINUTES = 30.0  # DeepSpeed's op, compiled by one rank for all
WRITING_MINUTES = 60.0  # an encoder or a large folder, by rank 0, on a slow disk
MARGIN_SECONDS = 300.0  # more than a rank may be silent, and than the watchdog needs for its farewell


def collective_seconds(stall_minutes: float) -> float:
    """After which a collective fails by itself: later than anything that ends, or is waited for, earlier."""
    return 60.0 * max(stall_minutes, BUILDING_MINUTES, WRITING_MINUTES) + MARGIN_SECONDS
