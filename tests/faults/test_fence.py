"""A stopped attempt that wakes when a newer one has begun: it leaves, and not a byte of the run is changed by it.

The ranks of a job are stopped (SIGSTOP) where it matters most: just before the rename of what they commit. So does a
task whose SLURM daemon has died, or whose node had no network for a while, look to the attempt that took its place.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from runs import (
    Ended,
    Nursery,
    events,
    left_over,
    make_run,
    same_weights,
    settings,
    steps_recorded,
    wait_until,
    write_runs,
)
from toy import read_jsonl

from xtrain.dispatch.attempts import DONE, FENCED, VARIABLE, Attempts
from xtrain.errors import EXIT_FENCED
from xtrain.run_directory import RunDirectory

STEPS = 12


@pytest.fixture(scope="module")
def other_nursery() -> Iterator[Nursery]:
    """For the second attempt, beside the first: a nursery has one job at a time."""
    opened = Nursery.open()
    yield opened
    opened.close()


def stopped(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


@dataclass
class Job:
    """The ranks of an attempt, which stop themselves at a fault."""

    nursery: Nursery
    run: Path
    aside: Path
    """Where its log goes, for the next start makes new ones."""

    def start(self, fault: Mapping[str, Any]) -> None:
        """Start it, and return when it has stopped itself."""
        self.pids = self.nursery.start(self.run, fault=fault)
        wait_until(lambda: all(map(stopped, self.pids)))
        self.aside.mkdir()
        for log in (self.run / "logs").glob("rank-*.log"):
            log.rename(self.aside / log.name)

    def go_on(self) -> Ended:
        """Wake it up, and wait for its end."""
        os.killpg(self.pids[0], signal.SIGCONT)
        ended = self.nursery.wait()
        return Ended(ended.codes, ended.seconds, self.aside, ended.began)


def content(run: Path) -> dict[str, bytes | None]:
    """Every file of a run directory and every folder, but for logs/ and job/."""
    paths = [path for path in run.rglob("*") if path.relative_to(run).parts[0] not in ("logs", "job")]
    return {str(path.relative_to(run)): path.read_bytes() if path.is_file() else None for path in paths}


def was_fenced(run: Path, first: Job) -> None:
    """Wake the first attempt: it leaves, all its ranks alike, and changes nothing."""
    before = content(run)
    ended = first.go_on()
    assert ended.codes == [EXIT_FENCED, EXIT_FENCED], ended
    assert content(run) == before
    assert "attempt 2 at this phase has begun" in ended.log(0), ended
    assert "attempt 1 ends here" in ended.log(0), ended
    for rank in (0, 1):
        assert "Traceback" not in ended.log(rank), ended
    end = Attempts(RunDirectory(run)).read_end(1)
    assert end is not None
    assert (end.how, end.code) == (FENCED, EXIT_FENCED)


def ended_as(run: Path, other: Path) -> None:
    """The run is what it is where nothing happened."""
    assert same_weights(run, other)
    assert steps_recorded(run) == list(range(1, STEPS + 1))
    assert [line["step"] for line in read_jsonl(run / "batches.jsonl")] == list(range(STEPS))
    assert [event["attempt"] for event in events(run, "start")] == [1, 2]
    assert not events(run, "failed")
    assert events(run)[-1]["event"] == "done"
    assert left_over(run) == []
    assert not (run / "checkpoints").exists()
    attempts = Attempts(RunDirectory(run))
    end = attempts.read_end(2)
    assert end is not None
    assert end.how == DONE
    assert sorted(path.name for path in attempts.path(1).iterdir()) == ["attempt.json", "end.json"], "nothing is left"


def rename(name: str, of: str = "target") -> dict[str, Any]:
    return {"kind": "stop at rename", "name": name, "of": of}


STEP = {"kind": "stop all at step", "step": 5}
WITH_IDS = {"log_example_ids": True}


@pytest.mark.parametrize(
    ("stage", "fault"),
    [
        pytest.param(2, rename("step-6"), id="a commit"),
        pytest.param(1, STEP, id="a step", marks=pytest.mark.long),
        pytest.param(3, rename("step-3", "source"), id="a deletion", marks=pytest.mark.long),
    ],
)
def test_it_wakes_while_the_newer_one_trains(
    nursery: Nursery,
    other_nursery: Nursery,
    undisturbed: Callable[..., Path],
    tmp_path: Path,
    tiny_model: Path,
    toy_data: Path,
    stage: int,
    fault: Mapping[str, Any],
) -> None:
    run = make_run(tmp_path / "run", tiny_model, toy_data, settings(stage, **WITH_IDS))
    first, second = Job(nursery, run, tmp_path / "first"), Job(other_nursery, run, tmp_path / "second")
    first.start(fault)
    second.start({"kind": "stop all at step", "step": 10})
    was_fenced(run, first)
    ended = second.go_on()
    assert ended.codes == [0, 0], ended
    ended_as(run, undisturbed(stage, **WITH_IDS))


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(rename("best-step-4"), id="a commit", marks=pytest.mark.long),
        pytest.param(STEP, id="a step"),
        pytest.param(rename("encoder"), id="the encoder"),
        pytest.param(rename("DONE"), id="DONE", marks=pytest.mark.long),
        pytest.param(rename("environment.json"), id="the beginning", marks=pytest.mark.long),
    ],
)
def test_it_wakes_when_the_newer_one_is_done(
    nursery: Nursery,
    other_nursery: Nursery,
    undisturbed: Callable[..., Path],
    tmp_path: Path,
    tiny_model: Path,
    toy_data: Path,
    fault: Mapping[str, Any],
) -> None:
    run = make_run(tmp_path / "run", tiny_model, toy_data, settings(2, **WITH_IDS))
    first = Job(nursery, run, tmp_path / "first")
    first.start(fault)
    ended = other_nursery.run(run)
    assert ended.codes == [0, 0], ended
    was_fenced(run, first)
    ended_as(run, undisturbed(2, **WITH_IDS))
    assert other_nursery.run(run).codes == [0, 0]
    assert Attempts(RunDirectory(run)).newest() == 2, "nothing is claimed for a phase that is done"


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param({"kind": "stop in evaluation"}, id="a batch", marks=pytest.mark.long),
        pytest.param(rename("en.jsonl"), id="predictions", marks=pytest.mark.long),
        pytest.param(rename("scores.json"), id="scores", marks=pytest.mark.long),
        pytest.param(rename("DONE"), id="DONE"),
    ],
)
def test_an_evaluation(
    nursery: Nursery, other_nursery: Nursery, evaluated: Path, tmp_path: Path, fault: Mapping[str, Any]
) -> None:
    run, first = evaluated, Job(nursery, evaluated, tmp_path / "first")
    first.start(fault)
    ended = other_nursery.run(run)
    assert ended.codes == [0, 0], ended
    assert len(json.loads((run / "scores.json").read_bytes())["tasks"]["toy"]["languages"]) == 1
    was_fenced(run, first)
    assert [event["attempt"] for event in events(run, "start")] == [1, 2]
    assert left_over(run) == []


@pytest.fixture
def evaluated(
    nursery: Nursery, undisturbed: Callable[..., Path], tmp_path: Path, tiny_model: Path, toy_data: Path
) -> Path:
    """The run directory of an evaluation of what :func:`undisturbed` has trained."""
    training, evaluation = write_runs(tmp_path / "run", tiny_model, toy_data, settings(2))
    training.joinpath("encoder").symlink_to(undisturbed(2) / "encoder")
    return evaluation


def test_a_start_for_an_attempt_that_is_not_the_newest(
    nursery: Nursery, tmp_path: Path, tiny_model: Path, toy_data: Path
) -> None:
    """A launcher has claimed it; since then another has claimed the next. It leaves before it has touched anything."""
    run = make_run(tmp_path / "run", tiny_model, toy_data, settings(2))
    attempts = Attempts(RunDirectory(run))
    attempts.claim(job="17")
    attempts.claim(job="18")
    before = content(run)
    ended = nursery.run(run, environment={VARIABLE: "1"})
    assert ended.codes == [EXIT_FENCED, EXIT_FENCED], ended
    assert content(run) == before
    assert attempts.read_end(1) is None, "its launcher writes that down"
    ended = nursery.run(run, environment={VARIABLE: "3"})
    assert ended.codes == [2, 2], ended
    assert "XTRAIN_ATTEMPT=3: is no attempt" in ended.log(1)
    ended = nursery.run(run, environment={VARIABLE: "2"})
    assert ended.codes == [0, 0], ended
    assert [event["attempt"] for event in events(run, "start")] == [2]
    assert attempts.newest() == 2
    assert attempts.read_end(2) is None


def test_the_command_says_who_goes_on(nursery: Nursery, tmp_path: Path, tiny_model: Path, toy_data: Path) -> None:
    """A job takes over the phase that `xtrain run` is at: that ends as a mistake of the user's, in one message."""
    run = make_run(tmp_path / "run", tiny_model, toy_data, settings(2))
    root = tmp_path / "run"
    command = ["run", str(root / "study.toml"), "--data", str(toy_data), "--out", str(root / "out"), "--ranks", "2"]
    said = tmp_path / "said"
    nursery.start_command(*command, out=said, fault={"kind": "claim at step", "step": 4, "run": str(run)})
    assert nursery.wait().codes == [2], said.read_text()
    assert "another command or job has begun this phase anew" in said.read_text()
    assert not (run / "DONE").exists()
    assert not events(run, "failed")
