"""Why a phase waits, or why it failed: what the record, the logs and the queue have to say about it."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xtrain.dispatch import attempts as ways
from xtrain.dispatch.attempts import Attempts
from xtrain.dispatch.job_graph import REPORT
from xtrain.dispatch.rank_logs import exception, user_error
from xtrain.run_directory import RunDirectory
from xtrain.tracking.progress import duration
from xtrain.watching import logs
from xtrain.watching import state as words
from xtrain.watching.reasons import explain
from xtrain.watching.record_end import EVENTS_BYTES, LOG_BYTES, end_of, newest_first
from xtrain.watching.state import PhaseState
from xtrain.watching.studies import Found, Observed

_HEAD = re.compile(r"^(?:\[rank\d+\]: ?)?Traceback \(most recent call last\)", re.MULTILINE)
_ERROR = re.compile(r"^error: ", re.MULTILINE)
_CLOCKS_SECONDS = 5.0  # by which the clocks of a file server and of a node may differ
_TELLING = ("failed", "ended_failed", "ended_died", "ended_silent", "ended_stall", "collapse")
_VERBS = {
    words.DONE: "is done", words.RUNNING: "runs", words.RESTARTING: "is about to start again",
    words.WAITING: "waits in the queue", words.HELD: "waits for other jobs", words.TO_DO: "was not submitted yet",
    words.STOPPED: "was stopped", words.UNKNOWN: "is in an unknown state", words.LOST: "is lost",
    words.FAILED: "failed", words.CANCELLED: "was cancelled",
}  # fmt: skip


@dataclass(frozen=True)
class AttemptRow:
    """One attempt, as the table of attempts has it."""

    number: int
    job: str
    nodes: str
    from_step: int | None
    began: float | None
    how: str
    reason: str
    step: int | None
    """In the newest checkpoint when it ended."""


@dataclass(frozen=True)
class Trouble:
    """What was found of the error that ended the phase."""

    where: str
    """The file that it stands in."""
    node: str
    exception: str
    """The last line of the traceback, or the message to the user."""
    lines: list[str]
    """The end of the log: the traceback where there is one."""


def attempt_rows(run: RunDirectory, *, alive: bool) -> list[AttemptRow]:
    """The attempts at a phase, the oldest first; ``alive`` where its newest still runs."""
    attempts = Attempts(run)
    numbers = attempts.numbers()
    rows = []
    for number in numbers:
        began, end = attempts.read(number), attempts.ending(number)
        how = end.how if end else "runs" if alive and number == numbers[-1] else ways.KILLED
        rows.append(
            AttemptRow(
                number,
                began.job if began else "",
                ",".join(began.nodes) or began.host if began else "",
                began.from_step if began else None,
                began.started if began else None,
                how,
                end.reason.strip().partition("\n")[0] if end else "",
                end.step if end else None,
            )
        )
    return rows


def trouble(run: RunDirectory, lines: int = 12) -> Trouble | None:
    """The error that ended the newest attempt: by the rank that the record blames, else by whichever log tells most."""
    event = _telling_event(run)
    rank = event.get("rank")
    node = str(event.get("host", ""))
    texts = {path: _newest_part(path, run) for path in _logs(run, rank)}
    best = max(texts, key=lambda path: _tells(texts[path]), default=None)
    own = logs.job_log(run)
    if (best is None or not texts[best].strip()) and own is not None:
        best, texts[own] = own, end_of(own, LOG_BYTES).decode("utf-8", errors="replace")
    said = str(event.get("error") or event.get("text") or event.get("reason") or "")
    if best is None:
        return Trouble("events.jsonl", node, said, []) if said else None
    shown = _shown(texts[best], lines)
    return Trouble(str(best.relative_to(run.path)), node, _exception(texts[best]) or said, shown)


def _telling_event(run: RunDirectory) -> dict[str, Any]:
    """The newest event that tells how the newest attempt failed; empty for none."""
    for line in newest_first(end_of(run.events, EVENTS_BYTES)):
        if line.get("event") in _TELLING:
            return line
        if line.get("event") == "start":  # what lies before is an older attempt's
            break
    return {}


def _logs(run: RunDirectory, rank: Any) -> list[Path]:
    """The ranks' logs, that of ``rank`` first; of many ranks, the few that were written to last."""
    paths = list(run.logs.glob("rank-*.log"))
    newest = sorted(paths, key=lambda path: -path.stat().st_mtime)[:32]
    blamed = logs.rank_log(run, rank) if isinstance(rank, int) else None
    return [*([blamed] if blamed in paths else []), *(path for path in sorted(newest) if path != blamed)]


def _newest_part(path: Path, run: RunDirectory) -> str:
    """The end of a log, if the newest attempt has written to it."""
    newest = Attempts(run).read(Attempts(run).newest())
    if newest is not None and path.stat().st_mtime < newest.started - _CLOCKS_SECONDS:
        return ""
    return end_of(path, LOG_BYTES).decode("utf-8", errors="replace")


def _tells(text: str) -> int:
    """How much the end of a log tells of an error; of the same, the first log in order is taken."""
    end = text[-20000:]
    from xtrain.dispatch.outcome import LOST  # not above: only failures need it

    if _ERROR.search(end):
        return 4
    if _HEAD.search(end):
        return 2 if LOST.search(_exception(end)) else 3
    return 1 if end.strip() else 0


def _exception(text: str) -> str:
    """The message of the last error in a log: what was said to the user, or what follows the stack; empty for none."""
    return user_error(text) or exception(text).partition("\n")[0]


def _shown(text: str, count: int) -> list[str]:
    """The last traceback with its message where it is near the end of the log, and not less than ``count`` lines."""
    lines = text.splitlines()
    heads = [number for number, line in enumerate(lines) if _HEAD.match(line)]
    start = heads[-1] if heads and len(lines) - heads[-1] <= 60 else len(lines)
    if len(lines) - start > 3 * count:  # a long stack: its end says most
        start = len(lines) - 3 * count
    return [line for line in lines[min(start, max(0, len(lines) - count)) :] if line.strip()]


def waits_for(found: Found, state: PhaseState, observed: Observed) -> list[str]:
    """What a phase without an end waits for, a line each."""
    lines = []
    queue = state.queue
    if queue is not None and queue.waiting:
        means, remedy = explain(queue.reason, queue.job)
        word = queue.reason or "no reason given yet"
        lines.append(f"SLURM says {word}: {means}")
        if remedy:
            lines.append(f"to do: {remedy}")
        if queue.start is not None:
            lines.append(f"SLURM thinks it will start in {duration(max(0.0, queue.start - time.time()))}")
        if queue.dependency:
            lines.append(f"its dependency: {queue.dependency}")
    lines += [parent_words(parent) for parent in _parents(found, observed) if parent.state != words.DONE][:12]
    if state.state == words.HELD and state.detail.startswith("waits for its turn"):
        lines.append(f"{state.detail}: limits.running of the profile says how many jobs run at once")
    return lines


def _parents(found: Found, observed: Observed) -> list[PhaseState]:
    by_hash = found.graph.by_hash
    return [observed.of(by_hash[parent]) for parent in found.node.parents if parent in by_hash]


def parent_words(parent: PhaseState) -> str:
    """``phang/mnli-s0 runs, step 120 of 400``, ``phang/mnli-s0 failed: ...``."""
    line = f"{parent.node.job_name} {_VERBS[parent.state]}"
    if parent.state == words.RUNNING and parent.step is not None:
        total = f" of {parent.planned_steps:,}" if parent.planned_steps else ""
        left = "" if parent.eta_seconds is None else f", done in {duration(parent.eta_seconds)}"
        return f"{line}, {parent.unit.removesuffix('s')} {parent.step:,}{total}{left}"
    detail = parent.detail.strip().partition("\n")[0]
    return f"{line}: {detail}" if detail else line


def broken_parents(found: Found, observed: Observed) -> list[str]:
    """Why the phases that this one starts from have no result, a line each."""
    return [parent_words(parent) for parent in _parents(found, observed) if parent.state in words.NO_RESULT]


def dependants(found: Found, observed: Observed) -> list[str]:
    """The names of the phases that cannot run without this one and have no result."""
    others = (observed.of(node) for node in found.graph.descendants(found.node))
    return [other.node.job_name for other in others if other.state != words.DONE]


def remedy(found: Found, state: PhaseState, observed: Observed, how: str) -> str:
    """What the user can do."""
    run = found.node.run(found.out)
    again = f"submit {found.graph.study} again: only what is missing is repeated"
    broken = next((parent for parent in _parents(found, observed) if parent.state in words.NO_RESULT), None)
    if broken is not None and state.state == words.CANCELLED and found.node.kind != REPORT:
        return f"python -m xtrain why {broken.node.job_name} says more; then {again}"
    if run.failed:
        return (f"change its recipe ([recipe.{found.node.kind}]: learning_rate, warmup_ratio, on_collapse = "
                f'"reseed"), or delete {run.failed_marker} to repeat it as it is; then {again}')  # fmt: skip
    by_how = {
        ways.USER: f"correct what the message says, then {again}",
        ways.GIVEN_UP: f"find what the attempts have in common: a node, a batch, a setting; then {again}",
        ways.CANCELLED: again,
        ways.FENCED: "nothing: a newer attempt went on",
    }
    if state.state in (words.FAILED, words.LOST, words.CANCELLED):
        return by_how.get(how, again)
    if state.state != words.STOPPED:
        return ""
    goes_on = "the same command goes on from there"
    return f"correct what the message says; then {goes_on}" if how == ways.USER else goes_on
