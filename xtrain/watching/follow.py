"""Following a study until all its jobs have ended: a table on a terminal, a line a change in a log."""

from __future__ import annotations

import time
from pathlib import Path

from rich.console import Console
from rich.live import Live

from xtrain.dispatch.job_graph import JobGraph
from xtrain.watching.state import IN_QUEUE, NO_RESULT, RUNNING, TO_DO, UNKNOWN
from xtrain.watching.studies import look
from xtrain.watching.table import say, show, study_table

EVERY_SECONDS = 3.0  # where there is no scheduler
ASK_SECONDS, LONGEST_SECONDS = 30.0, 120.0  # of SLURM, longer from time to time: everybody asks the one controller
PATIENCE_SECONDS = 10.0  # for the queue: nobody waits for this screen
SAY_SECONDS = 60.0  # between lines about what runs, in a log
STARTING_SECONDS = 30.0  # a queue on this machine needs a moment before its first job shows


def follow(out: Path, graph: JobGraph, console: Console, every_seconds: float | None = None) -> bool:
    """Show the study's jobs until none is in the queue any more; whether any has no result."""
    asks = graph.profile.get("scheduler") == "slurm"
    pause = every_seconds or (ASK_SECONDS if asks else EVERY_SECONDS)
    before: dict[str, str] = {}
    began = said = time.monotonic()
    with Live(console=console, auto_refresh=False) if console.is_terminal else _Nothing() as live:
        while True:
            (observed,) = look(out, [graph], PATIENCE_SECONDS)
            states = observed.states
            if isinstance(live, Live):
                live.update(study_table(observed, console.width), refresh=True)
            else:
                for one in states:
                    if before.get(one.node.hash, TO_DO) != one.state:
                        say(console, f"{one.node.job_name}: {one.state}" + (f": {one.detail}" if one.detail else ""))
                if time.monotonic() - said > SAY_SECONDS:
                    said = time.monotonic()
                    for one in states:
                        if one.state == RUNNING and one.step is not None:
                            of = f" of {one.planned_steps:,}" if one.planned_steps else ""
                            say(console, f"{one.node.job_name}: {one.step:,}{of} {one.unit}")
            now = {one.node.hash: one.state for one in states}
            if asks and not every_seconds:
                pause = ASK_SECONDS if now != before else min(1.2 * pause, LONGEST_SECONDS)
            before = now
            going_on = {*IN_QUEUE, UNKNOWN} & set(before.values())
            starting = TO_DO in before.values() and time.monotonic() - began < STARTING_SECONDS
            if not going_on and not starting:
                break
            time.sleep(pause)
    show([observed], console)
    return any(one.state in (*NO_RESULT, TO_DO) for one in states)


class _Nothing:
    """What stands for the live table in a log."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, *error: object) -> None:
        return None
