"""How an attempt ended, from the ranks' exit code and what they left; and when to stop trying."""

from __future__ import annotations

import json
import signal
from collections.abc import Sequence
from dataclasses import dataclass

from xtrain.dispatch import attempts
from xtrain.dispatch.attempts import Attempts, newest_step
from xtrain.dispatch.job_graph import INTERMEDIATE, PREPARE, TARGET
from xtrain.dispatch.rank_logs import RankLogs
from xtrain.dispatch.submissions import JobFolder
from xtrain.errors import EXIT_FAILED, EXIT_OURS, EXIT_PREEMPTED, EXIT_USER
from xtrain.run_directory import RunDirectory

# Killed by a signal before they had begun to listen, as srun tells it: nothing of that start was there to be saved.
_TOO_EARLY = {128 + int(number) for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)}


_OUT_OF_MEMORY = 253  # srun's own, where SLURM has ended a step that took too much
_EXCUSED_FOR_ONE = 5  # a job that never gets further must end some day, whoever is to blame


@dataclass(frozen=True)
class Verdict:
    """What an attempt came to."""

    how: str
    """A word of :mod:`xtrain.dispatch.attempts`."""
    code: int
    reason: str
    again: bool
    """Whether another attempt makes sense."""
    node: str = ""


def verdict_of(
    code: int,
    run: RunDirectory,
    logs: RankLogs,
    *,
    signalled: str,
    near_end: bool,
    nodes: Sequence[str],
    ranks_per_node: int,
) -> Verdict:
    """The verdict on ranks that ended with ``code``, srun's exit code: the highest of theirs.

    ``signalled`` names a signal that this job was sent, ``near_end`` is whether its time is nearly over.
    """
    if run.done:
        return Verdict(attempts.DONE, 0, "finished", again=False)
    code = 128 - code if code < 0 else code  # srun itself, before it listened
    failure = logs.failure()
    words = failure.words if failure else ""
    if code == EXIT_FAILED or run.failed:
        reason = json.loads(run.failed_marker.read_bytes())["reason"] if run.failed else words
        return Verdict(attempts.COLLAPSED, EXIT_FAILED, reason, again=False)
    # Others were killed perhaps while they waited for it. Without the words, 2 is what Python, or srun, ends with where
    # the node does not have the program.
    if failure is not None and failure.users and (code == EXIT_USER or code > 128):
        return Verdict(attempts.USER, EXIT_USER, words, again=False)
    if code == EXIT_PREEMPTED or code in _TOO_EARLY:
        step = newest_step(run)
        how = attempts.TIME_LIMIT if near_end else attempts.PREEMPTED
        kept = f"saved at step {step}" if step else "nothing was there to be saved yet"
        return Verdict(how, EXIT_PREEMPTED, kept + (f" ({signalled})" if signalled else ""), again=True)
    node = _node_of(failure.rank, nodes, ranks_per_node) if failure and failure.alone else ""
    who = f"rank {failure.rank}{f' on {node}' if node else ''}: " if failure else ""
    reason = f"{_ending(code)}; {who}{words}".rstrip("; ")
    return Verdict(attempts.FAILED, code or EXIT_OURS, reason, again=True, node=node)


def _ending(code: int) -> str:
    if code == _OUT_OF_MEMORY:
        return "out of memory"
    if code > 128:
        return f"killed (signal {code - 128})"
    return f"exit code {code}" if code else "no result was left"


def _node_of(rank: int, nodes: Sequence[str], ranks_per_node: int) -> str:
    """The node that ``rank`` ran on: srun deals them out block by block."""
    number = rank // ranks_per_node
    return nodes[number] if number < len(nodes) else ""


@dataclass(frozen=True)
class Idle:
    """The attempts in a row that brought nothing."""

    count: int
    """Of those that were no fault of the phase's, a few count as one."""
    reason: str


def idle_attempts(run: RunDirectory, folder: JobFolder, kind: str, job: str) -> Idle:
    """The newest attempts since ``job`` was submitted after which the phase stood where it had stood before.

    An evaluation has no steps: one that was preempted for another job's sake is not counted.
    """
    known, step = Attempts(run), newest_step(run)
    first = _first_attempt(known, folder, job)
    count, excused, why = 0, 0, ""
    numbers = [number for number in known.numbers() if number >= first]
    for number in reversed(numbers):
        attempt, end = known.read(number), known.ending(number)
        if attempt is not None and attempt.from_step != step:
            break
        if end is not None and end.how in _not_charged(kind):
            excused += 1
            continue
        count += 1
        why = why or (f"{end.how}: {end.reason}" if end else "killed without a word: a lost node, or its memory")
    where = f"all began at step {step}" if kind in (INTERMEDIATE, TARGET) else "it begins anew each time"
    reason = f"{count} attempts in a row made no new step ({where}); the last: {why}"
    return Idle(count + excused // _EXCUSED_FOR_ONE, reason)


def _not_charged(kind: str) -> tuple[str, ...]:
    """Ends of attempts that made no step since there are none to make."""
    if kind in (INTERMEDIATE, TARGET):
        return ()
    return (attempts.PREEMPTED, attempts.TIME_LIMIT) if kind == PREPARE else (attempts.PREEMPTED,)  # it keeps shards


def _first_attempt(known: Attempts, folder: JobFolder, job: str) -> int:
    """The number of the first attempt that counts: that of the jobs of one submission, which may be a chain."""
    mine = [submission for submission in folder.submissions() if submission.job == job]
    if mine:
        return mine[-1].first_attempt
    # It began before the one who submits it could write it down.
    others = [number for number in known.numbers() if (attempt := known.read(number)) is None or attempt.job != job]
    return max(others, default=0) + 1
