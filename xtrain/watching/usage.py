"""What the phases of an output folder have used: device-hours, waiting, the time limit, work done again after kills.

All of it is from the run directories; accounting adds what nobody could write down: when a start ended that was killed.
What is not known is said to be so, and never made up: such a start counts until its last sign of life.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from xtrain.dispatch.job_graph import JobGraph, JobNode
from xtrain.dispatch.slurm import Answer, is_slurm_job
from xtrain.watching import state as words
from xtrain.watching.accounting import CLOCKS_SECONDS, JobStart, ask_accounting
from xtrain.watching.run_view import RunView, views
from xtrain.watching.starts import StartUsage, account_of, starts_of
from xtrain.watching.state import PhaseState, observe
from xtrain.watching.studies import ask

_HOUR = 3600.0
NO_STUDY = "in no study any more"  # the name under which run directories are shown that no study has now


@dataclass(frozen=True)
class PhaseUsage:
    """What a phase has used."""

    state: PhaseState
    starts: tuple[StartUsage, ...] = ()
    waiting: float | None = None
    """Seconds that a job of it has waited by now; None where none waits, or since when is not known."""
    held: float = 0.0
    """Seconds of these in which the jobs were not over that it waits for."""
    accounted: tuple[JobStart, ...] = ()
    """What SLURM's accounting has of its jobs."""


@dataclass(frozen=True)
class Usage:
    """What was found out of an output folder."""

    studies: Mapping[str, Sequence[PhaseUsage]]
    silent: Mapping[str, str]
    """``squeue`` or ``sacct`` to why it did not answer."""

    @property
    def distinct(self) -> list[PhaseUsage]:
        """Each phase once: several studies may share one."""
        return list({phase.state.node.folder: phase for some in self.studies.values() for phase in some}.values())


@dataclass(frozen=True)
class Total:
    """What several phases, or one, come to; hours are device-hours, ``rank_hours`` those of ranks without a GPU."""

    starts: int
    running: int
    no_end: int
    """Starts whose end is not known, which count until their last sign of life."""
    no_devices: int
    """Starts whose number of devices is not known, which count for no hours."""
    seconds: float
    gpu_hours: float
    rank_hours: float
    redone_steps: int
    redone_gpu_hours: float
    redone_rank_hours: float
    redone_unknown: bool
    """Whether the hours of some of these steps are not known."""
    wait: float
    """Seconds, waiting jobs until now included."""
    held: float
    waited: int
    """Starts and waiting jobs of which ``wait`` is known."""
    wait_unknown: int
    limit_share: float | None
    """Time used of the time limits, over the starts that are over and have one."""
    fullest: StartUsage | None
    """The start that came nearest to its time limit."""
    allocated_gpu_hours: float
    """By SLURM's accounting."""
    gpu_percent: float | None
    memory_share: float | None
    """The most that a start used of what it had asked for."""
    joules: float | None


def total(phases: Iterable[PhaseUsage]) -> Total:
    """The sum over ``phases``."""
    phases = list(phases)
    starts = [start for phase in phases for start in phase.starts]
    limited = [start for start in starts if start.time_limit]
    over = [start for start in limited if not start.running and not start.at_least]
    waits = [start.wait for start in starts if start.wait is not None]
    waits += [phase.waiting for phase in phases if phase.waiting is not None]
    held = sum(start.held for start in starts if start.wait is not None) + sum(phase.held for phase in phases)
    jobs = [job for phase in phases for job in phase.accounted]
    measured = [job for job in jobs if job.gpu_percent is not None]
    weight = sum(job.seconds * job.gpus for job in measured)
    return Total(
        starts=len(starts),
        running=sum(start.running for start in starts),
        no_end=sum(start.at_least for start in starts),
        no_devices=sum(not start.ranks for start in starts),
        seconds=sum(start.seconds for start in starts),
        gpu_hours=sum(start.seconds * start.gpus for start in starts) / _HOUR,
        rank_hours=sum(start.seconds * start.ranks for start in starts if not start.gpus) / _HOUR,
        redone_steps=sum(start.lost_steps for start in starts),
        redone_gpu_hours=sum((start.lost_seconds or 0) * start.gpus for start in starts) / _HOUR,
        redone_rank_hours=sum((start.lost_seconds or 0) * start.ranks for start in starts if not start.gpus) / _HOUR,
        redone_unknown=any(start.lost_seconds is None for start in starts),
        wait=sum(waits),
        held=held,
        waited=len(waits),
        wait_unknown=sum(start.wait is None and is_slurm_job(start.job) for start in starts),
        limit_share=sum(s.seconds for s in over) / sum(s.time_limit or 0 for s in over) if over else None,
        fullest=max(limited, key=lambda start: start.limit_share, default=None),
        allocated_gpu_hours=sum(job.seconds * job.gpus for job in jobs) / _HOUR,
        gpu_percent=sum((j.gpu_percent or 0) * j.seconds * j.gpus for j in measured) / weight if weight else None,
        memory_share=max((j.memory / j.memory_asked for j in jobs if j.memory and j.memory_asked), default=None),
        joules=sum(job.joules or 0 for job in jobs) or None,
    )


def usage(out: Path, graphs: Sequence[JobGraph], now: float, *, patience: float, others: bool = True) -> Usage:
    """What the phases of ``graphs`` have used until ``now`` (seconds since 1970).

    With ``others`` also what lies in ``out`` and is in no study now. SLURM is asked for ``patience`` seconds: squeue
    about what is not over, the accounting about all jobs at once.
    """
    left = _in_no_study(out, graphs) if others else []
    if left:
        graphs = [*graphs, JobGraph(NO_STUDY, tuple(left))]
    seen = [views(graph.nodes, out) for graph in graphs]
    every = {view.node.folder: view for some in seen for view in some}
    answer = ask(list(every.values()), patience)
    jobs = dict.fromkeys(job for view in every.values() for job in view.jobs if is_slurm_job(job))
    accounts, silent = ask_accounting(list(jobs)) if jobs else ({}, "")
    states = [observe(out, graph, answer, some, now) for graph, some in zip(graphs, seen, strict=True)]
    by_folder = {state.node.folder: state for some in states for state in some}
    reckoning = _Reckoning(every, by_folder, accounts, now)
    return Usage(
        {graph.study: [reckoning.phase(node) for node in graph.nodes] for graph in graphs},
        _silent(answer, silent),
    )


def _silent(answer: Answer, accounting: str) -> dict[str, str]:
    return {**answer.silent, **({"sacct": accounting} if accounting else {})}


def _in_no_study(out: Path, graphs: Sequence[JobGraph]) -> list[JobNode]:
    """Run directories with attempts that no study has now: of a recipe that was changed since, for example."""
    known = {node.folder for graph in graphs for node in graph.nodes}
    kinds = {node.kind for graph in graphs for node in graph.nodes}
    folders = sorted({path.parents[1] for kind in kinds for path in (out / kind).glob("*/job/attempt-*")})
    names = [str(folder.relative_to(out)) for folder in folders]
    return [
        JobNode(name.rpartition("-")[2], name.partition("/")[0], name, name, name)
        for name in names
        if name not in known
    ]


class _Reckoning:
    """All starts first, as how long one waited depends on when others ended."""

    def __init__(
        self,
        seen: Mapping[str, RunView],
        states: Mapping[str, PhaseState],
        accounts: Mapping[str, Sequence[JobStart]],
        now: float,
    ) -> None:
        self.seen, self.states, self.accounts, self.now = seen, states, accounts, now
        self.starts = {folder: self._starts(view) for folder, view in seen.items()}
        self.folder_of = {job: folder for folder, view in seen.items() for job in view.jobs}

    def phase(self, node: JobNode) -> PhaseUsage:
        view, state = self.seen[node.folder], self.states[node.folder]
        starts, before = [], None
        for start in self.starts[node.folder]:
            wait, held = self._wait(view, start, before)
            starts.append(dataclasses.replace(start, wait=wait, held=held))
            before = start
        waiting, held = self._waits_now(view, state, before)
        accounted = tuple(one for job in dict.fromkeys(view.jobs) for one in self.accounts.get(job, ()))
        return PhaseUsage(state, tuple(starts), waiting, held, accounted)

    def _starts(self, view: RunView) -> list[StartUsage]:
        running = self.states[view.node.folder].state == words.RUNNING
        until = self.now if running else None
        return starts_of(view.run, view.node.kind, running_until=until, accounts=self.accounts)

    def _wait(self, view: RunView, start: StartUsage, before: StartUsage | None) -> tuple[float | None, float]:
        """Seconds that a start has waited, None where that is not known; and how many of them behind other jobs."""
        since, free = self._queued(view, start.job, before, start.began)
        if since is None:
            account = account_of(self.accounts, start.job, start.began)
            since = account.submitted if account is not None else None
        if since is None:
            return None, 0.0
        wait = max(0.0, start.began - since)
        return wait, min(wait, max(0.0, free - since))

    def _waits_now(self, view: RunView, state: PhaseState, last: StartUsage | None) -> tuple[float | None, float]:
        if state.state not in (words.WAITING, words.HELD, words.RESTARTING) or not view.submissions:
            return None, 0.0
        since, free = self._queued(view, view.submissions[-1].job, last, self.now)
        if since is None:
            return None, 0.0
        wait = max(0.0, self.now - since)
        return wait, wait if state.state == words.HELD else min(wait, max(0.0, free - since))

    def _queued(self, view: RunView, job: str, before: StartUsage | None, until: float) -> tuple[float | None, float]:
        """Since when ``job`` was in the queue that it left at ``until``, and when those that it waited for were over.

        The first is None where that is not known, the second 0 where it waited for none.
        """
        if before is not None and before.job == job:  # put back
            return None if before.at_least or not job else before.until, 0.0
        submission = next((one for one in view.submissions if one.job == job), None)
        if submission is None:
            return None, 0.0
        folders = {self.folder_of.get(other, "") for other in (*submission.succeeded, *submission.ended)}
        ends = [start.until for folder in folders for start in self.starts.get(folder, ()) if not start.running]
        return submission.submitted, max((end for end in ends if end <= until + CLOCKS_SECONDS), default=0.0)
