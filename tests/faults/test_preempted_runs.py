"""Signals to real ranks at every moment of a run: all save and leave with code 75, no step is lost, nothing differs."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from long import with_long
from runs import (
    EVAL_EVERY,
    SAVE_EVERY,
    STEPS,
    Ended,
    Nursery,
    events,
    left_over,
    metrics,
    note_case,
    reached,
    same_weights,
    settings,
    wait_until,
    write_runs,
)
from toy import read_jsonl, study, write_study

from xtrain.checkpoints import CheckpointFolder
from xtrain.errors import EXIT_OURS, EXIT_PREEMPTED

LEFT = [EXIT_PREEMPTED, EXIT_PREEMPTED]


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
    assert not left_over(run)
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
    event = left_after(run, nursery.run(run, fault=fault), name)
    again = nursery.run(run)
    assert again.codes == [0, 0], again
    is_as_undisturbed(run, other, [event["step"]] if event["step"] else [])
    note_case(case, run, 0, again.seconds_to_recover, signal_to_commit=event["seconds"])
    return event


Undisturbed = Callable[..., Path]
NewRun = Callable[[Mapping[str, Any]], Path]
SIGNALS = ("SIGTERM", "SIGUSR1", "SIGUSR2")
RANKS = ((0,), (1,), (0, 1))


@pytest.mark.parametrize("number", with_long([0, 4, 8], range(9)))  # the diagonal has each of all three
def test_each_signal_to_each_rank(nursery: Nursery, undisturbed: Undisturbed, new_run: NewRun, number: int) -> None:
    """Each signal, rank and stage with each other once, at as many different steps."""
    name, who, stage = SIGNALS[number // 3], RANKS[number % 3], 1 + (number // 3 + number) % 3
    step = 2 + number
    case = f"{name} to rank {' and '.join(map(str, who))} in step {step + 1}"
    fault = {"kind": "signal at", "place": "step", "step": step, "who": who, "names": [name]}
    event = disturb(nursery, new_run(settings(stage)), undisturbed(stage), case, name, fault)
    assert event["step"] == step + 1  # the step under way is finished


MOMENTS: dict[str, tuple[dict[str, Any], int]] = {  # -> the fault, and the step that is saved (-1: it depends)
    "in the first step": ({"place": "step", "step": 0, "who": [1]}, 1),
    "at start-up, before any step": ({"place": "start-up", "who": [0]}, 0),
    "in the last step": ({"place": "step", "step": STEPS - 1, "who": [1]}, STEPS),
    "in the middle of an evaluation": ({"place": "evaluation", "who": [1], "time_of_it": 1}, EVAL_EVERY),
    "in the last evaluation": ({"place": "start of an evaluation", "who": [0], "step": STEPS}, STEPS),
    "while a save is written beside training": ({"place": "write", "who": [1], "step": SAVE_EVERY}, -1),
    "while a save is committed": ({"place": "commit", "who": [0], "step": SAVE_EVERY}, -1),
    "while the best weights are saved": ({"place": "write", "who": [0], "step": EVAL_EVERY}, -1),
    "twice in the same step": ({"place": "step", "step": 4, "who": [0], "names": ["SIGUSR1", "SIGTERM"]}, 5),
}
LONG = [  # others come close
    "in the first step",
    "in the last step",
    "in the last evaluation",
    "while the best weights are saved",
]


@pytest.mark.parametrize("moment", with_long([moment for moment in MOMENTS if moment not in LONG], LONG))
def test_at_any_moment(nursery: Nursery, undisturbed: Undisturbed, new_run: NewRun, moment: str) -> None:
    fault, step = MOMENTS[moment]
    fault = {"kind": "signal at", "names": ["SIGUSR1"], **fault}
    event = disturb(nursery, new_run(settings(2)), undisturbed(2), f"SIGUSR1 {moment}", "SIGUSR1", fault)
    assert step in (event["step"], -1)


@pytest.mark.parametrize("place", with_long(["commit", "leaving"], ["write"]))
def test_again_while_it_saves_or_leaves(
    nursery: Nursery, undisturbed: Undisturbed, new_run: NewRun, place: str
) -> None:
    """Impatient schedulers send it again: to a rank that saves already, and to one that has saved."""
    first = {"kind": "signal at", "place": "step", "step": 6, "who": [0], "names": ["SIGUSR1"]}
    names, step = ["SIGTERM", "SIGUSR2", "SIGUSR1"], None if place == "leaving" else 7
    again = {"kind": "signal at", "place": place, "who": [0, 1], "names": names, "step": step}
    fault = {"kind": "several", "faults": [first, again]}
    event = disturb(nursery, new_run(settings(3)), undisturbed(3), f"SIGUSR1, others at: {place}", "SIGUSR1", fault)
    assert event["step"] == 7


@pytest.mark.parametrize("place", with_long(["export"], ["last save"]))
def test_a_run_that_is_at_its_end_ends(nursery: Nursery, undisturbed: Undisturbed, new_run: NewRun, place: str) -> None:
    """After the last step there is nothing to go on with but what the signal would interrupt."""
    run = new_run(settings(1))
    fault = {"kind": "signal at", "place": place, "who": [0, 1], "names": ["SIGTERM", "SIGTERM"]}
    ended = nursery.run(run, fault=fault)
    assert ended.codes == [0, 0], ended
    assert "SIGTERM received" in ended.log(0)
    assert (run / "DONE").exists()
    is_as_undisturbed(run, undisturbed(1), [])
    note_case(f"SIGTERM at: {place} (the run ends)", run, 0, None)


def test_twice_in_a_row_and_before_any_new_step(nursery: Nursery, undisturbed: Undisturbed, new_run: NewRun) -> None:
    run = new_run(settings(2))
    steps = []
    for place, step in (("step", 3), ("step", 4), ("resume", None), ("start-up", None), ("step", 5)):
        fault = {"kind": "signal at", "place": place, "who": [1], "names": ["SIGTERM"], "step": step}
        ended = nursery.run(run, fault=fault)
        event = left_after(run, ended, "SIGTERM")
        steps.append(event["step"])
        if steps[-1:] == steps[-2:-1]:  # nothing new: nothing is saved
            last = [entry["event"] for entry in events(run)][-4:]
            assert last == ["start", "save_mode", "resume", "preempted"]
    assert steps == [4, 5, 5, 5, 6]
    again = nursery.run(run)
    assert again.codes == [0, 0], again
    is_as_undisturbed(run, undisturbed(2), [*steps])
    note_case("SIGTERM twice in a row, then twice before any new step", run, 0, again.seconds_to_recover)


def test_before_any_new_step_where_an_evaluation_was_due(
    nursery: Nursery, undisturbed: Undisturbed, new_run: NewRun
) -> None:
    """The evaluation that a signal ended is made again at the resume, where another signal ends it."""
    run = new_run(settings(3))
    fault = {"kind": "signal at", "place": "evaluation", "who": [0], "names": ["SIGUSR2"]}
    for _ in range(2):
        event = left_after(run, nursery.run(run, fault=fault), "SIGUSR2")
        assert event["step"] == EVAL_EVERY
        assert not events(run, "best"), "the evaluation was not ended"
    again = nursery.run(run)
    assert again.codes == [0, 0], again
    is_as_undisturbed(run, undisturbed(3), [EVAL_EVERY, EVAL_EVERY])
    assert [event["step"] for event in events(run, "best")] == [
        event["step"] for event in events(undisturbed(3), "best")
    ]
    note_case("SIGUSR2 in an evaluation, and again when it is made again", run, 0, again.seconds_to_recover)


def test_where_training_waits_for_each_save(nursery: Nursery, undisturbed: Undisturbed, new_run: NewRun) -> None:
    """The memory for a copy is not there, or not wanted; and the signal comes in a save."""
    run = new_run(settings(1, background_save=False))
    fault = {"kind": "signal at", "place": "write", "who": [1], "names": ["SIGUSR1"], "step": SAVE_EVERY}
    event = disturb(nursery, run, undisturbed(1), "SIGUSR1 in a save that training waits for", "SIGUSR1", fault)
    assert event["step"] == SAVE_EVERY + 1
    assert not any(event["beside_training"] for event in events(run, "save"))


def test_without_zero(nursery: Nursery, undisturbed: Undisturbed, new_run: NewRun) -> None:
    fault = {"kind": "signal at", "place": "step", "step": 6, "who": [1], "names": ["SIGTERM"]}
    run, other = new_run(settings(0, precision="fp32")), undisturbed(0, precision="fp32")
    disturb(nursery, run, other, "SIGTERM to rank 1 in step 7, fp32", "SIGTERM", fault)


def test_signals_that_are_not_asked_for(nursery: Nursery, undisturbed: Undisturbed, new_run: NewRun) -> None:
    """Only those of ``engine.preemption_signals`` preempt; the others do what they do to any process."""
    run = new_run(settings(2, preemption_signals=["SIGUSR1"]))
    killed = nursery.run(run, fault={"kind": "signal at", "place": "step", "step": 8, "who": [1], "names": ["SIGTERM"]})
    assert killed.codes == [EXIT_OURS, -signal.SIGTERM], killed
    assert not events(run, "preempted")
    saved = CheckpointFolder(run / "checkpoints").commits()[-1].step
    fault = {"kind": "signal at", "place": "step", "step": 9, "who": [1], "names": ["SIGUSR1"]}
    event = left_after(run, nursery.run(run, fault=fault), "SIGUSR1")
    again = nursery.run(run)
    assert again.codes == [0, 0], again
    is_as_undisturbed(run, undisturbed(2), [saved, 10])
    note_case("SIGUSR1, the only one asked for", run, 0, again.seconds_to_recover, signal_to_commit=event["seconds"])


def test_an_evaluation_phase(nursery: Nursery, tmp_path: Path, tiny_model: Path, toy_data: Path) -> None:
    """Zero-shot evaluation keeps nothing that it has not finished: it is made again, with the same result."""
    changes = {**settings(1, recipe={"max_steps": 2}), "target": [{"task": "toy"}, {"task": "mine"}]}
    train, *phases = write_runs(tmp_path / "run", tiny_model, toy_data, changes)
    assert nursery.run(train).codes == [0, 0]
    for phase in phases:
        assert nursery.run(phase).codes == [0, 0]
    other = {path.relative_to(tmp_path / "run"): path.read_bytes() for phase in phases for path in results(phase)}
    assert len(other) == len(phases) + 3 + 2  # scores, and predictions of each language
    for phase in phases:
        for path in [*results(phase), phase / "DONE"]:
            path.unlink()
        for who, time_of_it in (([0], 0), ([1], 2)):
            fault = {"kind": "signal at", "place": "evaluation phase", "who": who, "names": ["SIGUSR1"]}
            ended = nursery.run(phase, fault={**fault, "time_of_it": time_of_it})
            assert ended.codes == LEFT, ended
            event = events(phase)[-1]
            assert (event["event"], event["signal"]) == ("preempted", "SIGUSR1")
            assert not list(results(phase))
        again = nursery.run(phase)
        assert again.codes == [0, 0], again
        note_case("SIGUSR1 in an evaluation phase", phase, 0, again.seconds, signal_to_commit=event["seconds"])
    found = {path.relative_to(tmp_path / "run"): path.read_bytes() for phase in phases for path in results(phase)}
    assert found == other


def results(phase: Path) -> list[Path]:
    """What an evaluation phase leaves."""
    return sorted([*phase.glob("scores.json"), *phase.glob("predictions/*/*.jsonl")])


def test_the_command(
    nursery: Nursery, undisturbed: Undisturbed, tmp_path: Path, tiny_model: Path, toy_data: Path
) -> None:
    """SIGTERM to ``python -m xtrain run`` with two ranks: it says where it goes on, and the same command does."""
    path = write_study(tmp_path / "study.toml", study(tiny_model, **settings(2)))
    command = ["run", str(path), "--data", str(toy_data), "--out", str(tmp_path / "out"), "--ranks", "2"]
    said = tmp_path / "said"
    pid = nursery.start_command(*command, out=tmp_path / "printed", errors=said)
    wait_until(lambda: any(map(reached, trained(tmp_path))))
    os.kill(pid, signal.SIGTERM)
    assert nursery.wait().codes == [EXIT_PREEMPTED], said.read_text()
    (run,) = trained(tmp_path)
    event = events(run)[-1]
    where = f"phase none/toy-s0 saved at step {event['saved_step']}; the same command goes on from there"
    assert said.read_text().splitlines()[-1] == f"SIGTERM: {where}"
    nursery.start_command(*command, out=tmp_path / "printed", errors=said)
    assert nursery.wait().codes == [0], said.read_text()
    is_as_undisturbed(run, undisturbed(2), [event["step"]])
    assert (tmp_path / "out/report-toy.html").exists()
    note_case("SIGTERM to python -m xtrain run", run, 0, None, signal_to_commit=event["seconds"])


def trained(root: Path) -> list[Path]:
    """The run directories of training phases that are there."""
    return [path.parent for path in root.glob("out/target/*/metrics.jsonl")]
