"""The state of every phase of a study in one word: from its run directory, and from the queue where it has a job."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from xtrain.dispatch import attempts
from xtrain.dispatch.job_graph import REPORT, JobGraph, JobNode, lock_file
from xtrain.dispatch.processes import ALIVE, fate
from xtrain.dispatch.slurm import Answer, JobState
from xtrain.errors import counted
from xtrain.watching.reasons import explain
from xtrain.watching.record_end import Pace, event_words, log_progress, newest_event, pace_of, stamp
from xtrain.watching.run_view import RunView, held_here, local_process, view, views

DONE = "done"
RUNNING = "running"
WAITING = "waiting"  # in the queue
HELD = "held"  # by a job that it waits for
RESTARTING = "restarting"  # back in the queue after a start
FAILED = "failed"
CANCELLED = "cancelled"
LOST = "lost"  # no job is in the queue, and none wrote how it ended
STOPPED = "stopped"  # of `xtrain run`: the same command goes on
TO_DO = "to do"
UNKNOWN = "unknown"  # the queue does not answer
STATES = (DONE, RUNNING, RESTARTING, WAITING, HELD, TO_DO, STOPPED, UNKNOWN, LOST, FAILED, CANCELLED)
IN_QUEUE = (RUNNING, RESTARTING, WAITING, HELD)
NO_RESULT = (FAILED, CANCELLED, LOST)  # what starts from such a phase cannot run


@dataclass(frozen=True)
class PhaseState:
    """A line of the status."""

    node: JobNode
    state: str
    """One of :data:`STATES`."""
    detail: str = ""
    """In words: what it waits for, why it failed."""
    job: str = ""
    nodes: str = ""
    """As SLURM writes them: ``n[1-2]``."""
    attempts: int = 0
    step: int | None = None
    planned_steps: int | None = None
    unit: str = "steps"
    """What ``step`` counts: steps of training, tokens of an evaluation."""
    loss: float | None = None
    score: float | None = None
    """Of a finished phase: on dev where it trained, on test where it evaluated."""
    tokens_per_second: float | None = None
    eta_seconds: float | None = None
    event: str = ""
    """The newest event in a few words."""
    event_age: float | None = None
    """Seconds."""
    queue: JobState | None = field(default=None, repr=False)


def totals(states: Sequence[PhaseState]) -> dict[str, int]:
    """How many phases are in each state, in the order of :data:`STATES`; those with none are left out."""
    counts = Counter(state.state for state in states)
    return {word: counts[word] for word in STATES if counts[word]}


def observe(
    out: Path, graph: JobGraph, answer: Answer, seen: Sequence[RunView] = (), now: float | None = None
) -> list[PhaseState]:
    """The state of every job of ``graph``, in its order.

    ``answer`` is what the queue said of :func:`~xtrain.watching.run_view.jobs_to_ask`; ``seen`` what was read of the
    run directories before, so that it need not be read again.
    """
    seen = seen or views(graph.nodes, out)
    watcher = _Watcher(graph, out, answer, {view.node.hash: view for view in seen}, now or time.time())
    for one in seen:
        watcher.states[one.node.hash] = watcher.state(one)
    return list(watcher.states.values())


def local_queue_lock(out: Path, graph: JobGraph) -> Path:
    """What the queue of a study on this machine, without SLURM, holds while it runs."""
    return lock_file(out, graph.study)


class _Watcher:
    def __init__(self, graph: JobGraph, out: Path, answer: Answer, seen: Mapping[str, RunView], now: float) -> None:
        self.graph, self.out, self.answer, self.seen, self.now = graph, out, answer, seen, now
        self.states: dict[str, PhaseState] = {}
        self.names = {job: one.node.job_name for one in seen.values() for job in one.jobs}
        self.queue = local_queue_lock(out, graph)
        self.locked = held_here([self.queue, *(one.run.lock for one in seen.values() if not one.over)])

    def state(self, one: RunView) -> PhaseState:
        """The state of a job whose parents' states are known."""
        found = self._over(one) or self._in_queue(one)
        if found is None and one.submissions and not one.over:
            one = view(one.node, self.out)  # it may have ended since it was looked at, and left the queue
            found = self._over(one)
        found = found or self._nowhere(one)
        word, detail, queue = found
        return self._described(one, word, detail, queue)

    def _over(self, one: RunView) -> tuple[str, str, JobState | None] | None:
        if one.done is not None:
            return DONE, "", None
        if one.failed is not None:
            where = f" (step {one.failed['step']})" if "step" in one.failed else ""
            return FAILED, f"{one.failed.get('reason', 'collapsed')}{where}", None
        if one.ended is not None:
            word = CANCELLED if one.ended.how == attempts.CANCELLED else FAILED
            return word, one.ended.reason, None
        return None

    def _in_queue(self, one: RunView) -> tuple[str, str, JobState | None] | None:
        """Of the phase's jobs, the one that counts: a running one, else the newest that waits; None for none."""
        known = [self.answer.states[job] for job in one.jobs if job in self.answer.states]
        here = [state for state in known if state.running]
        if here:
            return RUNNING, "" if one.attempt else "its job has begun", here[-1]
        waiting = [state for state in known if state.waiting]
        if waiting:
            return (*self._waiting(one, waiting[-1]), waiting[-1])
        alive = [job for job in one.jobs if local_process(job) is not None]
        if alive:
            begun = one.attempt > 0 and one.newest_end() is None
            return (RUNNING if begun else WAITING), "" if begun else "waits for its turn", None
        if one.jobs and not self.answer.complete and not one.jobs[-1].startswith("local"):
            begun = one.attempt > 0 and one.newest_end() is None
            return (
                UNKNOWN,
                "squeue does not answer" + (f"; attempt {one.attempt} has written no end" if begun else ""),
                None,
            )
        return None

    def _waiting(self, one: RunView, state: JobState) -> tuple[str, str]:
        newest = one.submissions[-1]
        means, _ = explain(state.reason)
        reason = f"{state.reason}: {means}" if state.reason not in ("", "None") else means
        if state.restarts or newest.chained or one.attempt >= newest.first_attempt:
            return RESTARTING, reason
        if "Dependency" not in state.reason:
            return WAITING, reason
        held = self._held(one)
        return (HELD, held) if held else (WAITING, "what it waited for has ended; SLURM is about to look at it again")

    def _held(self, one: RunView) -> str:
        """Which jobs a waiting one waits for, in words."""
        parents = [self.states[parent] for parent in one.node.parents if parent in self.states]
        missing = [parent for parent in parents if parent.state != DONE]
        if one.node.kind == REPORT:
            missing = [parent for parent in missing if parent.state in IN_QUEUE]
            if len(missing) > 1:
                return f"waits for the end of {counted(len(missing), 'job')}"
        if missing:
            return "waits for " + ", ".join(parent.node.job_name for parent in missing[:3])
        ended = one.submissions[-1].ended if one.submissions else ()
        before = [job for job in ended if job in self.answer.states]
        before = [job for job in before if not self.answer.states[job].ended]
        if not before:
            return ""
        behind = self.names.get(before[-1], f"job {before[-1]}")
        return f"waits for its turn: lane {one.submissions[-1].lane + 1}, behind {behind}"

    def _nowhere(self, one: RunView) -> tuple[str, str, JobState | None]:
        """No job of the phase is in the queue, and it has no end."""
        if one.run.lock in self.locked:
            return RUNNING, "", None
        if one.stopped:
            return CANCELLED, "by the user", None
        parents = [self.states[parent] for parent in one.node.parents if parent in self.states]
        broken = next((parent for parent in parents if parent.state in NO_RESULT), None)
        if broken is not None and one.node.kind != REPORT:
            return CANCELLED, self._cause(broken), None
        if one.submissions:
            newest = one.submissions[-1].job
            last = self.answer.states.get(newest)
            how = f"{_ended_words(last)} and" if last is not None else "is not in the queue and"
            end = one.newest_end()
            told = f"its attempt {one.attempt}: {end.reason}" if end is not None else "wrote no end"
            return LOST, f"job {newest} {how} {told}: submit again", last
        if self.queue in self.locked:
            missing = self._held(one)
            return (HELD, missing, None) if missing else (WAITING, "waits for its turn on this machine", None)
        if one.begun or one.attempt:
            return self._stopped(one)
        report = self.seen.get(self.graph.nodes[-1].hash)
        if report is not None and report.node.kind == REPORT and self._in_queue(report) is not None:
            return TO_DO, f"no room in the queue; {report.node.job_name} submits it later", None
        return TO_DO, "", None

    @staticmethod
    def _stopped(one: RunView) -> tuple[str, str, JobState | None]:
        """Of a phase that was not submitted: how its newest start ended, in its own words."""
        end, attempt = one.newest_end(), one.newest_attempt()
        if end is None and attempt is not None and fate(attempt.process, attempt.host) == ALIVE:
            return RUNNING, "", None  # by a launcher of the user's own
        known = f"{end.how}: {end.reason.strip()}" if end is not None and end.how != attempts.DONE else ""
        after = "" if end is not None and end.how == attempts.USER else "the same command goes on"
        return STOPPED, "; ".join(filter(None, [known, after])), None

    @staticmethod
    def _cause(broken: PhaseState) -> str:
        """Why a phase that starts from ``broken`` cannot run: the first in the chain is to blame."""
        if broken.state == CANCELLED and broken.detail.endswith((" failed", " is lost", " was cancelled")):
            return broken.detail
        words = {FAILED: "failed", CANCELLED: "was cancelled", LOST: "is lost"}
        return f"{broken.node.job_name} {words[broken.state]}"

    def _described(self, one: RunView, word: str, detail: str, queue: JobState | None) -> PhaseState:
        """With the numbers that belong to the state."""
        if not one.begun and not one.submissions:
            return PhaseState(one.node, word, detail)
        event = newest_event(one.run)
        when = stamp(event.get("time"))
        pace, unit, eta = pace_of(one.run, rate=word == RUNNING), "steps", None
        score = None
        if one.done is not None:
            pace, score = _finished(one, pace)
        elif word == RUNNING:
            eta = pace.eta_seconds(self.now)
            if pace.step is None:
                pace, unit, eta = self._progress(one)
        attempt = one.newest_attempt() if word == RUNNING or not (queue and queue.nodes) else None
        said = event_words(event)
        if word == RUNNING and attempt is not None and (when is None or when < attempt.started - 1):
            said, when = f"attempt {attempt.number} began", attempt.started  # its ranks have said nothing yet
        job = queue.job if queue is not None else attempt.job if attempt is not None else ""
        return PhaseState(
            one.node, word, detail,
            job=job or (one.submissions[-1].job if one.submissions else ""),
            nodes=queue.nodes if queue is not None and queue.nodes else ",".join(attempt.nodes) if attempt else "",
            attempts=one.attempt,
            step=pace.step, planned_steps=pace.planned_steps, unit=unit, loss=pace.loss, score=score,
            tokens_per_second=pace.tokens_per_second, eta_seconds=eta,
            event=said, event_age=None if when is None else max(0.0, self.now - when),
            queue=queue,
        )  # fmt: skip

    def _progress(self, one: RunView) -> tuple[Pace, str, float | None]:
        """Of a phase that records no steps (an evaluation): by what its first rank prints."""
        path = one.run.logs / "rank-0.log"
        found = log_progress(path)
        try:
            age = max(0.0, self.now - path.stat().st_mtime)
        except OSError:
            age = 0.0
        if found is None:
            return Pace(), "steps", None
        eta = None if found.eta_seconds is None else max(0.0, found.eta_seconds - age)
        unit = found.unit if found.unit.endswith("s") else f"{found.unit}s"
        return Pace(found.done, found.total, tokens_per_second=found.tokens_per_second), unit, eta


def _finished(one: RunView, pace: Pace) -> tuple[Pace, float | None]:
    """The summary of a finished phase, with the last loss."""
    done = one.done or {}
    steps = done.get("steps")
    score = done.get("dev_score", done.get("score"))
    rate = done.get("tokens_per_second")
    return Pace(
        int(steps) if isinstance(steps, (int, float)) else None,
        done.get("planned_steps"),
        pace.loss,
        float(rate) if isinstance(rate, (int, float)) else None,
    ), float(score) if isinstance(score, (int, float)) else None


def _ended_words(state: JobState) -> str:
    """``ended with exit code 1``, ``was CANCELLED``..."""
    if state.state == "COMPLETED":
        return "ended"
    words = {"FAILED": "failed", "CANCELLED": "was cancelled in the queue", "TIMEOUT": "ran out of time",
             "OUT_OF_MEMORY": "ran out of memory"}  # fmt: skip
    code = f" (exit code {state.exit_code})" if state.exit_code and state.exit_code > 0 else ""
    return words.get(state.state, f"ended as {state.state}") + code
