"""Lanes: never more jobs at once than allowed, whatever the queue, failures and cancelled jobs make of it."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from xtrain.dispatch.lanes import LaneJob, Placement, assign


@dataclass
class Queue:
    """SLURM as far as dependencies go: a job whose parent did not succeed is cancelled at once, and has ended then."""

    jobs: Mapping[str, LaneJob]
    after: Mapping[str, tuple[str, ...]]
    chance: random.Random
    running: dict[str, float] = field(default_factory=dict)
    ended: dict[str, bool] = field(default_factory=dict)

    def run(self, check: object, failures: float, cancels: float) -> None:
        clock = 0.0
        while len(self.ended) < len(self.jobs):
            self._cancel_orphans()
            waiting = [key for key in self.jobs if key not in self.running and key not in self.ended]
            can = [key for key in waiting if self._may_start(key)]
            if waiting and self.chance.random() < cancels:
                self.ended[self.chance.choice(waiting)] = False  # by hand
            elif can and (not self.running or self.chance.random() < 0.8):
                key = self.chance.choice(can)
                self.running[key] = clock + self.chance.choice([0.1, 1.0, 5.0, 50.0])
                check(set(self.running))  # type: ignore[operator]
            elif self.running:
                key = min(self.running, key=lambda one: self.running[one])
                clock = self.running.pop(key)
                self.ended[key] = self.chance.random() >= failures
            else:
                assert len(self.ended) == len(self.jobs), "none runs and none may start: a cycle"

    def _cancel_orphans(self) -> None:
        for key, job in self.jobs.items():  # in order: one pass reaches all descendants
            if key not in self.ended and any(self.ended.get(parent, True) is False for parent in job.parents):
                assert key not in self.running
                self.ended[key] = False

    def _may_start(self, key: str) -> bool:
        parents = [parent for parent in self.jobs[key].parents if parent in self.jobs]
        return all(self.ended.get(parent) for parent in parents) and all(one in self.ended for one in self.after[key])


@st.composite
def studies(draw: st.DrawFn, most: int = 24) -> list[LaneJob]:
    jobs: list[LaneJob] = []
    for number in range(draw(st.integers(1, most))):
        earlier = [job.key for job in jobs]
        parents = draw(st.lists(st.sampled_from(earlier), max_size=3, unique=True)) if earlier else []
        jobs.append(LaneJob(f"j{number}", tuple(parents), draw(st.sampled_from([0.1, 1.0, 2.0, 8.0]))))
    return jobs


def in_lanes(jobs: Sequence[LaneJob], placements: Mapping[str, Placement]) -> dict[int, list[LaneJob]]:
    lanes: dict[int, list[LaneJob]] = {}
    for job in jobs:
        lanes.setdefault(placements[job.key].lane, []).append(job)
    return lanes


@given(studies(), st.integers(1, 5), st.randoms(use_true_random=False), st.sampled_from([0.0, 0.2, 0.6]),
       st.sampled_from([0.0, 0.2]))  # fmt: skip
def test_never_more_than_the_lanes(
    jobs: list[LaneJob], num_lanes: int, chance: random.Random, failures: float, cancels: float
) -> None:
    placements = assign(jobs, num_lanes)

    def check(running: set[str]) -> None:
        lanes = [placements[key].lane for key in running]
        assert len(lanes) == len(set(lanes)) <= num_lanes, running

    after = {key: place.after for key, place in placements.items()}
    Queue({job.key: job for job in jobs}, after, chance).run(check, failures, cancels)


@given(studies(), st.data(), st.integers(1, 4), st.integers(1, 4), st.randoms(use_true_random=False))
def test_a_second_submission_goes_behind_the_first(
    jobs: list[LaneJob], data: st.DataObject, before: int, now: int, chance: random.Random
) -> None:
    """Also with fewer lanes than before."""
    cut = data.draw(st.integers(0, len(jobs)))
    old, new = jobs[:cut], jobs[cut:]
    first = assign(old, before)
    second = assign(new, now, in_lanes(old, first))

    def check(running: set[str]) -> None:
        for key in running & set(second):
            beside = [other for other in running & set(second) if second[other].lane == second[key].lane]
            beside += [other for other in running & set(first) if first[other].lane % now == second[key].lane]
            assert beside == [key]

    after = {key: place.after for key, place in {**first, **second}.items()}
    Queue({job.key: job for job in jobs}, after, chance).run(check, failures=0.2, cancels=0.1)


def test_a_job_follows_its_parent_in_its_lane_and_waits_for_nothing_else() -> None:
    jobs = [LaneJob("a", hours=2), LaneJob("b", hours=1), LaneJob("a1", ("a",)), LaneJob("b1", ("b",))]
    assert assign(jobs, 2) == {
        "a": Placement(0, ()), "b": Placement(1, ()), "a1": Placement(0, ()), "b1": Placement(1, ()),
    }  # fmt: skip


def test_the_lane_that_is_free_first() -> None:
    jobs = [LaneJob("long", hours=8), LaneJob("x", hours=1), LaneJob("y", hours=1), LaneJob("z", hours=1)]
    lanes = {key: place.lane for key, place in assign(jobs, 2).items()}
    assert lanes == {"long": 0, "x": 1, "y": 1, "z": 1}


def test_a_job_waits_for_all_earlier_ones_that_may_still_run() -> None:
    """If ``bad`` fails, ``child`` is cancelled while ``long`` runs: ``last`` must not start then."""
    jobs = [LaneJob("bad", hours=9), LaneJob("long", hours=1), LaneJob("child", ("bad",), 1), LaneJob("last", hours=9)]
    places = assign(jobs, 1)
    assert places["last"].after == ("bad", "long", "child")
    assert places["child"].after == ("long",), "its parent is waited for anyway"


def test_siblings_share_the_lanes_out() -> None:
    jobs = [LaneJob("a"), *(LaneJob(f"a{number}", ("a",)) for number in range(4))]
    lanes = [place.lane for place in assign(jobs, 2).values()]
    assert lanes == [0, 0, 1, 0, 1]


def test_thousands_of_jobs() -> None:
    seeds = [LaneJob(f"s{seed}") for seed in range(40)]
    targets = [LaneJob(f"s{seed}t{task}", (f"s{seed}",)) for seed in range(40) for task in range(50)]
    places = assign([*seeds, *targets], 16)
    assert len(places) == 2040
    assert max(len(place.after) for place in places.values()) < 2040 / 16 + 1
