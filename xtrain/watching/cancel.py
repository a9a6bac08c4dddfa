"""Cancel the jobs of a study, or of phases with all that cannot run without them."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from xtrain.dispatch import slurm
from xtrain.dispatch.job_graph import JobGraph, JobNode
from xtrain.dispatch.submissions import JobFolder
from xtrain.watching.run_view import RunView, held_here, local_process, views
from xtrain.watching.state import local_queue_lock

_ROUNDS = 3  # a job that is just leaving may have put another one in the queue


@dataclass(frozen=True)
class Cancelled:
    """What was cancelled, and what could not be."""

    jobs: dict[str, str] = field(default_factory=dict)
    """Job id to the job's name."""
    refused: str = ""
    """Why jobs could not be ended, in SLURM's words."""
    unreachable: bool = False
    """SLURM did not answer: the jobs are marked and will not come back, but may still run."""


def concerned(graph: JobGraph, chosen: Sequence[JobNode]) -> list[JobNode]:
    """``chosen`` and what cannot run without them, in the order of the graph; of an empty choice, all."""
    if not chosen:
        return list(graph.nodes)
    wanted = {node.hash for node in chosen}
    wanted |= {other.hash for node in chosen for other in graph.descendants(node)}
    return [node for node in graph.nodes if node.hash in wanted]


def to_cancel(
    nodes: Iterable[JobNode], out: Path, answer: slurm.Answer | None = None
) -> list[tuple[RunView, list[str]]]:
    """Of these jobs the ones that are not over and were submitted, each with the ids that may still be in the queue."""
    found = []
    for one in views(list(nodes), out):
        if one.over or not one.submissions:
            continue
        jobs = [job for job in one.jobs if _may_be_alive(job, answer)]
        if jobs:
            found.append((one, jobs))
    return found


def _may_be_alive(job: str, answer: slurm.Answer | None) -> bool:
    if not slurm.is_slurm_job(job):
        return local_process(job) is not None
    if answer is None or not answer.complete:
        return True
    state = answer.states.get(job)
    return state is not None and not state.ended


def to_come(graph: JobGraph, nodes: Sequence[JobNode], out: Path) -> list[RunView]:
    """Of these jobs the ones that the queue on this machine, which submits each when it can run, has still to start."""
    lock = local_queue_lock(out, graph)
    if lock not in held_here([lock]):
        return []
    return [one for one in views(list(nodes), out) if not one.over and not one.submissions]


def cancel_jobs(
    graph: JobGraph, nodes: Sequence[JobNode], out: Path, timeout: float = slurm.TIMEOUT_SECONDS
) -> Cancelled:
    """Mark the jobs, so that none puts itself back in the queue, then end them: what waits first, then what runs."""
    for one in to_come(graph, nodes, out):
        JobFolder(one.run).ask_to_stop()
    ended: dict[str, str] = {}
    for _ in range(_ROUNDS):
        jobs = [job for one in views(list(nodes), out) if not one.over for job in one.jobs]
        answer = slurm.squeue(jobs, timeout) if any(map(slurm.is_slurm_job, jobs)) else slurm.Answer()
        found = to_cancel(nodes, out, answer)
        new = {job: one.node.job_name for one, some in found for job in some if job not in ended}
        if not new:
            break
        for one, _ in found:
            JobFolder(one.run).ask_to_stop()
        reply = _end([job for job in new if slurm.is_slurm_job(job)], answer, timeout)
        for job in new:
            _terminate(job)
        if not reply.ok:
            return Cancelled(ended, reply.said, reply.unreachable)
        ended |= new
    return Cancelled(ended)


def _end(jobs: Sequence[str], answer: slurm.Answer, timeout: float) -> slurm.Reply:
    running = {job for job in jobs if job in answer.states and answer.states[job].running}
    # What waits goes first: else the end of what runs would let it start.
    for some in ([job for job in jobs if job not in running], sorted(running)):
        reply = slurm.cancel(some, timeout=timeout) if some else slurm.Reply(True)
        if not reply.ok:
            return reply
    return slurm.Reply(True)


def _terminate(job: str) -> None:
    process = None if slurm.is_slurm_job(job) else local_process(job)
    if process is not None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGTERM)
