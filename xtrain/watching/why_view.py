"""How `why` says it."""

from __future__ import annotations

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from xtrain.dispatch.attempts import Attempts
from xtrain.dispatch.submissions import JobFolder
from xtrain.errors import counted
from xtrain.tracking.progress import duration
from xtrain.watching import state as words
from xtrain.watching.state import PhaseState
from xtrain.watching.studies import Found, Observed
from xtrain.watching.table import STYLES
from xtrain.watching.why import (
    AttemptRow,
    Trouble,
    attempt_rows,
    broken_parents,
    dependants,
    remedy,
    trouble,
    waits_for,
)

_MOST_NAMES = 12


def explain_phase(found: Found, observed: Observed, console: Console, lines: int) -> None:
    """Everything that is known of why the phase is where it is; ``lines`` of the log at least."""
    state = observed.of(found.node)
    run = found.node.run(found.out)
    head = Text(f"{found.node.job_name}  ", style="bold")
    head.append(state.state, style=STYLES[state.state])
    console.print(head)
    _facts(found, state, console)
    how = _how(found, state)
    if state.state in (*words.NO_RESULT, words.STOPPED, words.RESTARTING):
        error = trouble(run, lines) if _has_error(state, how) else None
        if state.state != words.RESTARTING:
            _reason(found, state, error, broken_parents(found, observed), console)
        _attempts(attempt_rows(run, alive=False), console)
        _log(error, console)
    elif state.attempts > 1:
        _attempts(attempt_rows(run, alive=state.state == words.RUNNING), console)
    if state.state not in (words.DONE, words.RUNNING, *words.NO_RESULT):
        _block("waits for", waits_for(found, state, observed), console)
    if state.state in words.NO_RESULT:
        names = dependants(found, observed)
        more = [f"and {len(names) - _MOST_NAMES} more"] if len(names) > _MOST_NAMES else []
        _block("cannot run without it", [*names[:_MOST_NAMES], *more], console)
    advice = remedy(found, state, observed, how)
    if advice:
        _block("to do", [advice], console)


def _how(found: Found, state: PhaseState) -> str:
    """The way it ended, as the attempts have it."""
    run = found.node.run(found.out)
    ended = JobFolder(run).ended()
    if ended is not None:
        return ended.how
    newest = Attempts(run)
    end = newest.ending(newest.newest())
    return end.how if end is not None else ""


def _has_error(state: PhaseState, how: str) -> bool:
    """Whether the logs may tell more: not of a phase that never ran, or was saved and goes on."""
    return bool(state.attempts or state.event) and how not in ("preempted", "time limit", "done")


def _facts(found: Found, state: PhaseState, console: Console) -> None:
    run = found.node.run(found.out)
    lines = [f"run directory  {run.path}"]
    if state.job:
        queue = state.queue
        where = f" on {state.nodes}" if state.nodes else ""
        since = ""
        if queue is not None and queue.time_limit is not None:
            since = f", time limit {duration(queue.time_limit)}"
        again = f", put back in the queue {queue.restarts} times" if queue is not None and queue.restarts else ""
        lines.append(f"job            {state.job}{where}{since}{again}")
    if state.step is not None:
        total = f" of {state.planned_steps:,}" if state.planned_steps else ""
        left = "" if state.eta_seconds is None else f", done in {duration(state.eta_seconds)}"
        lines.append(f"{state.unit:<14} {state.step:,}{total}{left}")
    if state.event:
        age = "" if state.event_age is None else f", {duration(state.event_age)} ago"
        lines.append(f"last event     {state.event.partition(chr(10))[0]}{age}")
    for line in lines:
        console.print(f"  {line}", highlight=False, markup=False, soft_wrap=True)


def _reason(found: Found, state: PhaseState, error: Trouble | None, broken: list[str], console: Console) -> None:
    said = broken if broken and state.state == words.CANCELLED else state.detail.strip().splitlines()
    more = error.exception.splitlines() if error is not None and error.exception else []
    # What the user did wrong is said in both.
    lines = said + [line for line in more if line.strip().removeprefix("error: ") not in state.detail]
    ended = JobFolder(found.node.run(found.out)).ended()
    node = (ended.node if ended is not None else "") or (error.node if error is not None else "")
    _block("reason", [*lines, *([f"on node {node}"] if node else [])], console, state.state == words.FAILED)


def _attempts(rows: list[AttemptRow], console: Console) -> None:
    if not rows:
        return
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bright_black")
    for name in ("attempt", "job", "nodes", "from step", "to step", "how it ended", "reason"):
        right = name in ("attempt", "job", "from step", "to step")
        table.add_column(name, justify="right" if right else "left", no_wrap=name != "reason")
    for row in rows[-10:]:
        table.add_row(
            str(row.number),
            row.job,
            Text(row.nodes),
            _count(row.from_step),
            _count(row.step),
            row.how,
            Text(row.reason),
        )
    console.print()
    if len(rows) > 10:
        console.print(f"  the last 10 of {counted(len(rows), 'attempt')}:", highlight=False)
    console.print(Padding(table, (0, 0, 0, 2)))


def _log(error: Trouble | None, console: Console) -> None:
    if error is None or not error.lines:
        return
    console.print()
    console.print(Text(error.where, style="bright_black"))
    for line in error.lines:
        console.print(Text(f"  | {line}"), soft_wrap=True)


def _block(title: str, lines: list[str], console: Console, bad: bool = False) -> None:
    if not lines:
        return
    console.print()
    console.print(Text(title, style="bright_black"))
    for line in lines:
        console.print(Text(f"  {line}", style="red" if bad else ""), soft_wrap=True)


def _count(value: int | None) -> str:
    return "" if value is None else f"{value:,}"
