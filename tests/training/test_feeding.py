"""Batches made ahead by worker processes: the same whatever their number, and whatever is done to the workers."""

from __future__ import annotations

import gc
import os
import pickle
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from xtrain.data import JoinedShard, PackedBatch, Shard
from xtrain.data.masking import Masking, Vocabulary
from xtrain.data.shards import write_shard
from xtrain.errors import UserError
from xtrain.study import Engine, Recipe
from xtrain.training.feeding import WITHIN_STEPS, Feeder, StepWork, num_workers, work_of
from xtrain.training.plan import Plan

SIGNALS = ("SIGTERM", "SIGHUP")
STEPS = 24
MASKING = Masking(Vocabulary(np.arange(3), 399, np.arange(4, 399)), 5, 0.15, 0.8, 0.1)


def shard(path: Path, examples: int, sequences: int, task: str, seed: int = 0) -> Shard:
    """Examples of so many sequences each, of 3 to 60 tokens."""
    rng = np.random.default_rng(seed)
    rows = [rng.integers(4, 399, size=rng.integers(3, 60)).astype(np.uint32) for _ in range(examples * sequences)]
    kinds = {} if task == "mlm" else {"group": "example", "kind": "example"}
    return write_shard(
        path, rows, [len(row) for row in rows], [sequences] * examples, {name: list(range(examples)) for name in kinds},
        [f"{task}-{n}" for n in range(examples)],
        {"task": task, "format": task, "language": f"l{seed}", "split": "train", "fields": kinds},
    )  # fmt: skip


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    """Two tasks in turn: masked language modelling in two languages, and pairs."""
    folder = tmp_path_factory.mktemp("feeding")
    languages = JoinedShard([shard(folder / "a", 50, 1, "mlm", 1), shard(folder / "b", 30, 1, "mlm", 2)])
    shards: dict[str, Shard | JoinedShard] = {"mlm": languages, "pairs": shard(folder / "pairs", 40, 2, "pairs")}
    recipe = Recipe(batch_size=8, max_steps=STEPS, window_batches=3)
    return Plan.of(shards, recipe, 3, {"mlm": 0.5}, {"mlm": MASKING})


@dataclass
class Events:
    """What a feeder reported."""

    seen: list[dict[str, Any]]

    def __call__(self, kind: str, **values: Any) -> None:
        self.seen.append({"kind": kind, **values})


@pytest.fixture
def events() -> Events:
    return Events([])


def feeder(plan: Plan, workers: int, events: Events, tokens: int = 100) -> Feeder:
    return Feeder(
        plan, rank=1, world_size=2, tokens_per_micro_batch=tokens, num_workers=workers, signals=SIGNALS, with_ids=True,
        on_event=events,
    )  # fmt: skip


def alone(plan: Plan, step: int, tokens: int = 100) -> StepWork:
    return work_of(plan, step, rank=1, world_size=2, tokens_per_micro_batch=tokens, with_ids=True)


def equal(one: Any, other: Any) -> None:
    """The same types and the same values, to the last bit."""
    assert type(one) is type(other)
    if isinstance(one, StepWork | PackedBatch):
        for field in fields(one):
            equal(getattr(one, field.name), getattr(other, field.name))
    elif isinstance(one, tuple):
        assert len(one) == len(other)
        for pair in zip(one, other, strict=True):
            equal(*pair)
    elif isinstance(one, dict):
        assert list(one) == list(other)
        equal(tuple(one.values()), tuple(other.values()))
    elif isinstance(one, np.ndarray | torch.Tensor):
        assert one.dtype == other.dtype
        assert one.shape == other.shape
        assert bool((one == other).all())
    else:
        assert one == other


def rest(feed: Feeder, begin: int, end: int) -> None:
    for step in range(begin, end):
        feed.at(step)


def until(true: Callable[[], bool]) -> None:
    """Wait, but not for ever."""
    end = time.monotonic() + 200
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


def gone(pid: int) -> bool:
    """Whether the process has ended; nobody may have taken note of it yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    until(lambda: gone(pid))


def test_the_ranks_shares_are_the_whole_batch(plan: Plan) -> None:
    for step in range(STEPS):
        whole = plan.batch(step)
        works = [work_of(plan, step, rank=rank, world_size=3, tokens_per_micro_batch=90) for rank in range(3)]
        assert len({len(work.batches) for work in works}) == 1
        batches = [batch for work in works for batch in work.batches]
        rows = torch.cat([batch.indices[batch.weights > 0] for batch in batches])
        assert sorted(rows.tolist()) == sorted(whole.indices.tolist())
        tokens = sum(length for batch in batches for length in lengths(batch, counted=True))
        squares = sum(length**2 for batch in batches for length in lengths(batch, counted=True))
        for work in works:
            assert (work.step, work.task, work.num_examples) == (step, whole.task, len(whole.indices))
            assert (work.num_units, work.num_tokens, work.sum_squared_lengths) == (whole.num_units(), tokens, squares)
            assert work.ids == ()


def lengths(batch: PackedBatch, counted: bool) -> Iterator[int]:
    """Tokens of each example; of those that only fill in, none."""
    ends = batch.cu_seqlens[batch.example_offsets]
    for length, weight in zip(ends.diff().tolist(), batch.weights.tolist(), strict=True):
        if weight or not counted:
            yield length


@pytest.mark.parametrize(("workers", "begins"), [(0, [0, 7]), (1, [0, 7]), (2, [5])])
def test_any_number_of_workers_makes_the_same(plan: Plan, events: Events, workers: int, begins: list[int]) -> None:
    """From the first step or from one in the middle, also one after the other; what comes may be written into."""
    with feeder(plan, workers, events) as feed:
        for begin in begins:
            feed.start(begin)
            assert len(feed.pids) == workers
            for step in range(begin, STEPS):
                work = feed.at(step)
                equal(work, alone(plan, step))
                work.batches[0].input_ids.zero_()
        feed.start(STEPS)  # after the last one there is nothing to make
        assert feed.pids == ()
    assert {plan.batch(step).task for step in range(STEPS)} == {"mlm", "pairs"}
    assert sum(len(alone(plan, step).batches) > 1 for step in range(STEPS)) > STEPS / 2, "nothing was cut"
    assert events.seen == []
    assert feed.seconds_waited > 0


def test_steps_are_asked_for_in_order(plan: Plan, events: Events) -> None:
    with feeder(plan, 0, events) as feed:
        feed.start(3)
        with pytest.raises(AssertionError, match="step 5"):
            feed.at(5)


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def mapped_steps() -> int:
    return Path("/proc/self/maps").read_text().count("xtrain-ahead")


def test_killed_workers_lose_nothing_and_leave_nothing(plan: Plan, events: Events) -> None:
    """One is killed before it has begun, one with steps ready: noticed in at(), nowhere else."""
    wanted = [alone(plan, step) for step in range(STEPS)]  # which opens the shards, once for this process
    gc.collect()
    before = open_files(), mapped_steps()
    with feeder(plan, 2, events) as feed:
        feed.start(0)
        killed = [feed.pids[0]]
        kill(killed[0])
        works = [feed.at(step) for step in range(10)]
        killed.append(feed.pids[1])
        kill(killed[1])
        works += [feed.at(step) for step in range(10, STEPS)]
        pids = feed.pids
    for work, one in zip(works, wanted, strict=True):
        equal(work, one)
    assert [event["pid"] for event in events.seen] == killed
    assert [event["restarts"] for event in events.seen] == [1, 2]
    assert {(event["kind"], event["end"], event["rank"]) for event in events.seen} == {
        ("data_worker_died", "SIGKILL", 1)
    }
    assert [event["step"] for event in events.seen] in ([0, 11], [0, 13])  # 11 may have been there already
    assert all(gone(pid) for pid in pids)
    del work, works
    gc.collect()
    assert (open_files(), mapped_steps()) == before


@dataclass(frozen=True)
class Held:
    """A masking that waits, at one step of the task, until it is let go; stands in for a step that takes long."""

    folder: Path
    step: int

    def num_units(self, shard: Any, indices: np.ndarray, occurrence: int) -> int:
        if occurrence == self.step:
            (self.folder / "new").write_text(str(os.getpid()))
            (self.folder / "new").rename(self.folder / "busy")
            until((self.folder / "go").exists)
        return len(indices)

    def apply(self, batch: PackedBatch, occurrence: int) -> PackedBatch:
        return batch


def test_a_worker_is_killed_while_its_step_is_waited_for(plan: Plan, events: Events, tmp_path: Path) -> None:
    """The same at once: the training process is inside at()."""
    held = replace(plan, maskings={"mlm": Held(tmp_path, 2)})

    def kill_it() -> None:
        until((tmp_path / "busy").exists)
        time.sleep(0.3)  # at() has been entered by now
        kill(int((tmp_path / "busy").read_text()))
        (tmp_path / "go").touch()

    killer = threading.Thread(target=kill_it)
    killer.start()
    with feeder(held, 1, events) as feed:
        feed.start(0)
        works = [feed.at(step) for step in range(8)]
    killer.join()
    for step, work in enumerate(works):
        equal(work, alone(held, step))
    assert [(event["end"], event["restarts"]) for event in events.seen] == [("SIGKILL", 1)]
    assert plan.mixture.at(events.seen[0]["step"]) == ("mlm", 2)


def test_workers_that_die_again_and_again_end_the_run(tmp_path: Path, events: Events) -> None:
    """Three times within some steps; now and then is no reason to stop."""
    begin = WITHIN_STEPS + 10
    recipe = Recipe(batch_size=1, max_steps=begin + 40)
    plan = Plan.of({"pairs": shard(tmp_path / "pairs", 40, 2, "pairs")}, recipe, 3)
    with feeder(plan, 1, events) as feed:
        feed.start(0)
        step = 0
        for deaths, first in ((1, 0), (2, begin), (3, begin)):
            while step < first:
                assert feed.at(step).step == step
                step += 1
            kill(feed.pids[0])
            while len(events.seen) < deaths:  # what it had sent before comes first
                assert feed.at(step).step == step
                step += 1
        kill(feed.pids[0])
        with pytest.raises(UserError) as caught:
            rest(feed, step, step + 10)
    problem = caught.value.problems[0]
    assert problem.where == "engine.data_workers"
    assert "SIGKILL" in problem.what
    assert "memory" in problem.remedy
    assert "engine.data_workers = 0" in problem.remedy
    assert len(events.seen) == 4


def test_signals_do_nothing_to_a_worker(plan: Plan, events: Events) -> None:
    """Neither while it starts nor later: schedulers may send them to every process of a job.

    And starting one leaves this process's handlers and mask what they were, that of SIGCHLD included.
    """
    numbers = [signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT, signal.SIGHUP]

    def state() -> tuple[Any, ...]:
        handlers = [signal.getsignal(number) for number in (*numbers, signal.SIGCHLD)]
        return handlers, signal.pthread_sigmask(signal.SIG_BLOCK, [])

    before = state()
    with feeder(plan, 1, events) as feed:
        feed.start(0)
        (pid,) = feed.pids
        for step in range(STEPS):
            if step % 6 == 0:
                for number in numbers:
                    os.kill(pid, number)
            equal(feed.at(step), alone(plan, step))
        assert feed.pids == (pid,)
        assert state() == before
    assert events.seen == []


def parent(plan: Plan, when: str, tell: int, held: int) -> None:
    """A process with a worker, to be killed; what it forked lives until the pipe ``held`` ends."""
    try:
        feed = feeder(plan, 1, Events([]))
        feed.start(0)
        if when != "starting":
            feed.at(0)
        if when == "held open" and os.fork() == 0:
            os.read(held, 1)
            return
        os.write(tell, f"{feed.pids[0]}\n".encode())
        os.read(held, 1)
    finally:
        os._exit(0)


def test_workers_end_when_their_parent_is_killed(plan: Plan) -> None:
    """While they start, while they wait for work, and while a process forked from the parent holds their line open."""
    (hear, tell), (held, hold) = os.pipe(), os.pipe()
    parents = []
    for when in ("starting", "running", "held open"):
        pid = os.fork()
        if pid == 0:
            os.close(hold)
            parent(plan, when, tell, held)
        parents.append(pid)
    os.close(tell)
    with os.fdopen(hear) as lines:
        workers = [int(lines.readline()) for _ in parents]
    assert not any(gone(pid) for pid in workers)
    for pid in parents:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    until(lambda: all(gone(pid) for pid in workers))
    os.close(hold)
    os.close(held)


def test_a_shard_cut_short_is_named_and_not_read_for_ever(tmp_path: Path, events: Events) -> None:
    """The kernel kills who reads beyond the end of a mapped file; the next worker finds it when it maps it."""
    pairs = shard(tmp_path / "pairs", 200, 2, "pairs")
    plan = Plan.of({"pairs": pairs}, Recipe(batch_size=8, max_steps=STEPS), 3)
    with feeder(plan, 1, events) as feed:
        feed.start(0)
        feed.at(0)
        os.truncate(tmp_path / "pairs" / "tokens.npy", 4096)
        with pytest.raises(ValueError, match="mmap length is greater than file size") as caught:
            rest(feed, 1, STEPS)
    assert [event["end"] for event in events.seen] == ["SIGBUS"]
    assert "tokens" in caught.value.__notes__[0]


def test_a_plan_is_sent_without_its_data(tmp_path: Path) -> None:
    """Shards are mapped by each process; what was read from them before does not go along."""
    shards = [shard(tmp_path / str(n), 2000, 2, "pairs", n) for n in range(2)]
    plan = Plan.of({"pairs": JoinedShard(shards)}, Recipe(batch_size=8, max_steps=10), 3, {"pairs": 0.5})
    alone(plan, 0)
    sent = pickle.dumps(plan)
    lengths = plan.shards["pairs"].lengths.nbytes
    assert len(sent) < lengths + 20_000
    again = pickle.loads(sent)
    assert isinstance(again.shards["pairs"].parts[0], Shard)
    for step in range(10):
        equal(alone(again, step), alone(plan, step))


def test_with_a_gpu_batches_are_pinned(plan: Plan, events: Events, monkeypatch: pytest.MonkeyPatch) -> None:
    """All that goes to the GPU; there is none here, so that pinning only copies."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    pinned: set[int] = set()

    def pin(tensor: torch.Tensor) -> torch.Tensor:
        copy = tensor.clone()
        pinned.add(id(copy))
        return copy

    monkeypatch.setattr(torch.Tensor, "pin_memory", pin)
    with feeder(plan, 0, events) as feed:
        feed.start(0)
        work = feed.at(0)
    equal(work, alone(plan, 0))
    for batch in work.batches:
        tensors = [value for field in fields(batch) if isinstance(value := getattr(batch, field.name), torch.Tensor)]
        moved = [*tensors, *batch.fields.values()]
        assert [id(one) for one in moved if id(one) not in pinned] == [id(batch.indices)]


@pytest.mark.parametrize(("asked", "gpu", "wanted"), [(None, True, 1), (None, False, 0), (3, False, 3), (0, True, 0)])
def test_how_many_workers(asked: int | None, gpu: bool, wanted: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    assert num_workers(Engine(data_workers=asked)) == wanted
