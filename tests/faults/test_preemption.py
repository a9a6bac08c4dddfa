"""Signals to real ranks at every moment of a run: all save and leave with code 75, no step is lost, nothing differs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from runs import (
    EVAL_EVERY,
    SAVE_EVERY,
    STEPS,
    Ended,
    Nursery,
    events,
    make_run,
    note_case,
    reached,
    same_weights,
    settings,
    write_runs,
)
from toy import PROJECT, read_jsonl, study, write_study

from xtrain.checkpoints import CheckpointFolder
from xtrain.errors import EXIT_PREEMPTED

LEFT = [EXIT_PREEMPTED, EXIT_PREEMPTED]
TIMES = ("tokens_per_second", "examples_per_second", "seconds", "save_stall_seconds", "mfu", "tflops")


@pytest.fixture
def new_run(tmp_path: Path, tiny_model: Path, toy_data: Path) -> Callable[[Mapping[str, Any]], Path]:
    """A run directory of the test's own, for a study of ``settings``."""
    return lambda changes: make_run(tmp_path / "run", tiny_model, toy_data, changes)


def metrics(run: Path) -> list[dict[str, Any]]:
    """All of ``metrics.jsonl`` but what the clock says; "step" is in each line."""
    lines = read_jsonl(run / "metrics.jsonl")
    return [{name: value for name, value in line.items() if name not in ("time", *TIMES)} for line in lines]


def left_after(run: Path, ended: Ended, name: str) -> dict[str, Any]:
    """That a job was preempted as it should be, having saved what it had done; the event that says so."""
    assert ended.codes == LEFT, ended
    event = events(run)[-1]
    assert event["event"] == "preempted", events(run)
    assert (event["signal"], event["saved_step"]) == (name, event["step"])
    assert event["step"] == reached(run)
    assert 0.0 <= event["seconds"] < 60.0
    for rank in (0, 1):
        assert f"{name}: saved at step {event['step']}, " in ended.log(rank), ended
        assert "Traceback" not in ended.log(rank), ended
    folder = CheckpointFolder(run / "checkpoints")
    found = [entry for entry in folder.entries() if entry.series == "step" and entry.step == event["step"]]
    assert [entry.state for entry in found] == ["finished"] * bool(event["step"])
    assert not [entry for entry in folder.entries() if entry.state != "finished"]
    assert all(not folder.verify(entry.commit) for entry in found if entry.commit)
    return event


def is_as_undisturbed(run: Path, other: Path, resumed: list[int]) -> None:
    """That a finished run has the weights and metrics of one that nothing happened to, each step once."""
    assert [event["step"] for event in events(run, "resume")] == resumed
    assert same_weights(run, other)
    assert metrics(run) == metrics(other)
    steps = [line["step"] for line in read_jsonl(run / "metrics.jsonl") if "loss" in line]
    assert steps == list(range(1, len(steps) + 1))
    assert not (run / "checkpoints").exists()


def disturb(nursery: Nursery, run: Path, other: Path, case: str, name: str, fault: Mapping[str, Any]) -> dict[str, Any]:
    """Preempt a run as ``fault`` says, go on with it to its end, and compare; the event of the preemption."""
    event = left_after(run, nursery.run(run, fault={"kind": "signal at", **fault}), name)
    again = nursery.run(run)
    assert again.codes == [0, 0], again
    is_as_undisturbed(run, other, [event["step"]] if event["step"] else [])
    note_case(case, run, 0, again.seconds_to_recover, signal_to_commit=event["seconds"])
    return event


Undisturbed = Callable[[int], Path]
NewRun = Callable[[Mapping[str, Any]], Path]
SIGNALS = ("SIGTERM", "SIGUSR1", "SIGUSR2")
RANKS = ((0,), (1,), (0, 1))


@pytest.mark.parametrize("number", range(9))
def test_each_signal_to_each_rank(nursery: Nursery, undisturbed: Undisturbed, new_run: NewRun, number: int) -> None:
    """Each signal, rank and stage with each other once, at as many different steps."""
    name, who, stage = SIGNALS[number // 3], RANKS[number % 3], 1 + (number // 3 + number) % 3
    step = 2 + number
    case = f"{name} to rank {' and '.join(map(str, who))} in step {step + 1}"
    fault = {"place": "step", "step": step, "who": who, "names": [name]}
    event = disturb(nursery, new_run(settings(stage)), undisturbed(stage), case, name, fault)
    assert event["step"] == step + 1  # the step under way is finished


MOMENTS: dict[str, tuple[dict[str, Any], int]] = {  # -> the fault, and the step that is saved
    "in the first step": ({"place": "step", "step": 0, "who": [1]}, 1),
    "at start-up, before any step": ({"place": "start-up", "who": [0]}, 0),
    "in the last step": ({"place": "step", "step": STEPS - 1, "who": [1]}, STEPS),
    "in the evaluation": ({"place": "evaluation", "who": [1], "time_of_it": 1}, EVAL_EVERY),
    "in the last evaluation": ({"place": "evaluation", "who": [0], "time_of_it": -1}, STEPS),
    "while a save is written beside training": ({"place": "write", "who": [1], "step": SAVE_EVERY}, -1),
    "while a save is committed": ({"place": "commit", "who": [0], "step": SAVE_EVERY}, -1),
    "while the best weights are saved": ({"place": "write", "who": [0], "step": EVAL_EVERY}, -1),
    "two different ones in the same step": ({"place": "step", "step": 4, "who": [0], "names": SIGNALS[1:]}, 5),
    "two different ones to two ranks": ({"place": "step", "step": 4, "who": [0, 1], "names": SIGNALS[1:]}, 5),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_at_any_moment(nursery: Nursery, undisturbed: Undisturbed, new_run: NewRun, moment: str) -> None:
    fault, step = MOMENTS[moment]
    run, name = new_run(settings(2)), fault.get("names", ["SIGUSR1"])[0]
    if fault.get("time_of_it") == -1:  # of as many evaluations of as many micro-batches
        fault = {**fault, "time_of_it": micro_batches_of_dev(undisturbed(2)) * STEPS // EVAL_EVERY - 1}
    case = f"{name} {moment}"
    event = disturb(nursery, run, undisturbed(2), case, name, {"names": [name], **fault})
    assert event["step"] == step or step == -1


def micro_batches_of_dev(run: Path) -> int:
    """Of one evaluation on dev, on each rank."""
    return 0
