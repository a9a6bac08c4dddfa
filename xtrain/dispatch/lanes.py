"""A limit on how many jobs of a study run at once, as dependencies that are fixed when the jobs are submitted.

As many lanes as jobs may run at once; in each, a job waits for the end of the earlier ones, however they end. For all
of them, not for the last one alone: a job whose parent failed is cancelled while it waits, which counts as its end
though the job before it in the lane still runs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class LaneJob:
    """A job as far as lanes go."""

    key: str
    """Its hash, or whatever else names it."""
    parents: tuple[str, ...] = ()
    """Keys of the jobs whose success it waits for. One that is neither to be placed nor queued has ended."""
    hours: float = 1.0
    """How long it is expected to run: this decides between lanes, not whether the limit holds."""


@dataclass(frozen=True)
class Placement:
    """Where a job runs."""

    lane: int
    """From 0."""
    after: tuple[str, ...]
    """Keys of the jobs whose end it waits for (``afterany``), the earliest first.

    Its parents (``afterok``) are not among them, nor what must have ended before these could start.
    """


def assign(
    jobs: Sequence[LaneJob], num_lanes: int, queued: Mapping[int, Sequence[LaneJob]] | None = None
) -> dict[str, Placement]:
    """A place for each of ``jobs``, which come in an order in which they can run.

    ``queued`` has the jobs that are in the queue already or run, by lane, in the order in which they were put there
    (all that have not ended; with their parents as far as these have not ended): new ones go behind them. Where there
    were more lanes then, several of them are followed by one. A job is put where it can start first; of such lanes
    where its parents run, then where there is the most time left until it can.
    """
    assert num_lanes > 0, num_lanes
    lanes = [_Lane(number) for number in range(num_lanes)]
    placed = _Placed()
    for number, old in sorted((queued or {}).items()):
        lane = lanes[number % num_lanes]
        free = 0.0
        for before, job in enumerate(old):
            free = max(free, placed.ready(job)) + job.hours
            placed.add(job, [earlier.key for earlier in old[:before]], free)
        lane.keys += [job.key for job in old]
        lane.free = max(lane.free, free)
    placements: dict[str, Placement] = {}
    later = {job.key for job in jobs}
    for job in jobs:
        later.discard(job.key)
        assert not later & set(job.parents), f"{job.key} comes before a parent of it"
        ready = placed.ready(job)
        parents = set(job.parents)
        lane = min(
            lanes,
            key=lambda lane: (max(lane.free, ready), not parents & set(lane.keys[-1:]), lane.free, lane.number),
        )
        # Once its parents have succeeded, these have ended.
        over = placed.over(job.parents)
        after = tuple(key for key in lane.keys if key not in over)
        placements[job.key] = Placement(lane.number, after)
        lane.free = max(lane.free, ready) + job.hours
        lane.keys.append(job.key)
        placed.add(job, after, lane.free)
    return placements


@dataclass
class _Lane:
    number: int
    keys: list[str] = field(default_factory=list)
    free: float = 0.0
    """In how many hours its jobs will have ended, as expected."""


@dataclass
class _Placed:
    """The jobs that have a place, and what follows from the success of each."""

    ends: dict[str, float] = field(default_factory=dict)
    _over: dict[str, frozenset[str]] = field(default_factory=dict)

    def add(self, job: LaneJob, after: Iterable[str], end: float) -> None:
        """``job`` is expected to end in ``end`` hours; its success tells that it has run, hence what it waited for."""
        self.ends[job.key] = end
        self._over[job.key] = self.over(job.parents) | {job.key, *after}

    def ready(self, job: LaneJob) -> float:
        """In how many hours its parents will have ended, as expected."""
        return max((self.ends[parent] for parent in job.parents if parent in self.ends), default=0.0)

    def over(self, succeeded: Iterable[str]) -> frozenset[str]:
        """The jobs that have ended when these have succeeded."""
        none: frozenset[str] = frozenset()
        return none.union(*(self._over.get(key, none) for key in succeeded))
