"""SIGKILL of one rank and of all in every phase of a save, and everywhere else that a run can be cut off.

What is lost is what was trained since the last checkpoint that was committed, never more. Every instant of a save is
tried in tests/training/test_killed_savers.py, by ranks without an engine, and of a commit and a deletion in
tests/checkpoints. Here real ranks are killed, one of each kind of place; XTRAIN_ALL_FAULTS=1 has all the others.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from long import with_long
from runs import (
    SAVE_EVERY,
    STEPS,
    Ended,
    Nursery,
    events,
    left_over,
    make_run,
    note_case,
    reached,
    same_weights,
    settings,
    steps_recorded,
)

from xtrain.cli import main

SAVED = 6  # the save that is disturbed: the second one
PLACES = ["before", "weights", "after weights", "exp_avg", "after exp_avg", "exp_avg_sq", "after exp_avg_sq",
          "before the barrier", "before the rename", "after"]  # fmt: skip
IN_A_SAVE = [(2, "exp_avg", "1"), (3, "before the rename", "all")]  # stage, place and rank
MORE_IN_A_SAVE = [
    (stage, place, who)
    for place in PLACES
    for who in ("0", "1", "all")
    for stage in (1, 2, 3)
    if (place, who) != ("before the rename", "1")  # rank 0 renames, while rank 1 waits for it
]


def named(who: str) -> str:
    return "all ranks" if who == "all" else f"rank {who}"


def died_alone(ended: Ended, who: str) -> None:
    """The ranks that were to be killed were; any other left by itself, and says who is gone."""
    if who == "all":
        assert ended.codes == [-9, -9], ended
        return
    dead, alive = int(who), 1 - int(who)
    assert (ended.codes[dead], ended.codes[alive]) == (-9, 1), ended
    assert f"rank {dead} on {socket.gethostname()} died" in ended.log(alive), ended


def verified(run: Path) -> bool:
    """What ``python -m xtrain checkpoint verify`` says of what is left: that every byte is as it was written."""
    return main(["checkpoint", "verify", str(run)]) == 0


def went_on(nursery: Nursery, run: Path, case: str, expected: int, other: Path, last: int | None = None) -> Ended:
    """Run again what was killed; it goes on from step ``expected`` and ends as ``other``, whom nothing disturbed.

    ``last`` is the step that was reached before, where the record does not have it any more.
    """
    last = reached(run) if last is None else last
    again = nursery.run(run)
    assert again.codes == [0, 0], again
    assert again.beginning["step"] == expected, again
    assert not [name for name in again.beginning["folders"] if name.endswith(".tmp")], again.beginning
    resumed = events(run, "resume")
    assert [event["step"] for event in resumed[-1:]] == ([expected] if expected else []), resumed
    assert steps_recorded(run) == list(range(1, STEPS + 1))
    assert left_over(run) == []
    assert not (run / "checkpoints").exists()
    assert same_weights(run, other)
    note_case(case, run, max(0, last - expected), again.seconds_to_recover)
    return again


@pytest.mark.parametrize(("stage", "place", "who"), with_long(IN_A_SAVE, MORE_IN_A_SAVE))
def test_killed_while_saving(
    tmp_path: Path,
    nursery: Nursery,
    undisturbed: Callable[..., Path],
    tiny_model: Path,
    toy_data: Path,
    stage: int,
    place: str,
    who: str,
) -> None:
    run = make_run(tmp_path / "run", tiny_model, toy_data, settings(stage))
    killed = nursery.run(run, fault={"kind": "kill in save", "step": SAVED, "place": place, "who": who})
    died_alone(killed, who)
    assert verified(run)
    expected = SAVED if place == "after" else SAVED - SAVE_EVERY
    # what is saved beside training is not there yet while the next steps are trained
    last = reached(run)
    assert last - expected <= SAVE_EVERY + max(0, last - SAVED)
    went_on(nursery, run, f"SIGKILL of {named(who)}, save of a step: {place}", expected, undisturbed(stage))
    lost = [(event["step"], event["reached"]) for event in events(run, "steps_lost")]
    assert lost == [(expected, last)] * (last > expected)


@dataclass(frozen=True)
class Elsewhere:
    """A place to be killed at that is not in the save of a step of an ordinary run."""

    name: str
    who: str
    stage: int
    expected: int
    """The step that the next start goes on from; 0 is the beginning, DONE that there is nothing to go on with."""
    fault: Mapping[str, Any]
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.name}-{self.who}".replace(" ", "_")


DONE = -1
BOTH = {"recipe": {"eval_every": SAVED}}  # one save of two folders: the best weights so far, and the step
ELSEWHERE = [
    Elsewhere("an evaluation", "1", 2, 6, {"kind": "kill in evaluation", "step": 8}),
    Elsewhere("the copy for a save", "0", 1, 3, {"kind": "kill in copy", "step": SAVED}),
    Elsewhere("the last save, after", "all", 1, 12, {"kind": "kill in save", "step": STEPS, "place": "after"}),
    Elsewhere("the export of encoder", "all", 2, 12,
              {"kind": "kill in export", "folder": "encoder", "name": "model.safetensors"}),
    Elsewhere("DONE is written", "all", 1, 12, {"kind": "kill at done", "place": "half"}),
]  # fmt: skip
MORE = [
    Elsewhere("a step", "0", 1, 3, {"kind": "kill at step", "step": 5}),
    Elsewhere("a step", "all", 3, 3, {"kind": "kill at step", "step": 5}),
    Elsewhere("a step before the first save", "all", 2, 0, {"kind": "kill at step", "step": 2}),
    Elsewhere("the copy for a save", "all", 3, 3, {"kind": "kill in copy", "step": SAVED}),
    Elsewhere("the first save", "1", 2, 0, {"kind": "kill in save", "step": 3, "place": "exp_avg"}),
    Elsewhere("the first save, before the rename", "all", 1, 0,
              {"kind": "kill in save", "step": 3, "place": "before the rename"}),
    Elsewhere("between the best weights and the step", "0", 2, 3,
              {"kind": "kill after publishing", "name": f"best-step-{SAVED}"}, BOTH),
    Elsewhere("between the best weights and the step", "all", 1, 3,
              {"kind": "kill after publishing", "name": f"best-step-{SAVED}"}, BOTH),
    Elsewhere("retention: the name is gone", "0", 2, 9, {"kind": "kill in deletion", "name": "step-3", "place": ""}),
    Elsewhere("retention: half is gone", "all", 1, 9, {"kind": "kill in deletion", "name": "step-3", "place": "half"}),
    Elsewhere("a save that training waits for", "0", 1, 3,
              {"kind": "kill in save", "step": SAVED, "place": "exp_avg"}, {"background_save": False}),
    Elsewhere("the last save", "1", 2, 9, {"kind": "kill in save", "step": STEPS, "place": "weights"}),
    Elsewhere("the last save, before the rename", "0", 3, 9,
              {"kind": "kill in save", "step": STEPS, "place": "before the rename"}),
    Elsewhere("after DONE", "0", 2, DONE, {"kind": "kill at done", "place": "after"}),
    Elsewhere("a step", "1", 2, 3, {"kind": "kill at step", "step": 5}),
    Elsewhere("the copy for a save", "1", 2, 3, {"kind": "kill in copy", "step": SAVED}),
    Elsewhere("between the best weights and the step", "all", 3, 3,
              {"kind": "kill after publishing", "name": f"best-step-{SAVED}"}, BOTH),
    Elsewhere("a save that training waits for, before the rename", "all", 2, 3,
              {"kind": "kill in save", "step": SAVED, "place": "before the rename"}, {"background_save": False}),
    Elsewhere("the export of encoder-last", "0", 1, 12,
              {"kind": "kill in export", "folder": "encoder-last", "name": "model.safetensors"}),
    Elsewhere("the export of the heads", "0", 2, 12,
              {"kind": "kill in export", "folder": "encoder", "name": "heads.safetensors"}),
    Elsewhere("before DONE", "0", 3, 12, {"kind": "kill at done", "place": "before"}),
]  # fmt: skip


@pytest.mark.parametrize("case", with_long(ELSEWHERE, MORE), ids=str)
def test_killed_elsewhere(
    tmp_path: Path,
    nursery: Nursery,
    undisturbed: Callable[..., Path],
    tiny_model: Path,
    toy_data: Path,
    case: Elsewhere,
) -> None:
    run = make_run(tmp_path / "run", tiny_model, toy_data, settings(case.stage, **case.settings))
    killed = nursery.run(run, fault={**case.fault, "who": case.who})
    died_alone(killed, case.who)
    other = undisturbed(case.stage, **case.settings)
    if case.expected == DONE:
        assert nursery.run(run).codes == [0, 0]
        assert not events(run, "resume")
        assert left_over(run) == []
        assert not (run / "checkpoints").exists()
        assert same_weights(run, other)
        note_case(f"SIGKILL of {named(case.who)}: {case.name}", run, 0, None)
        return
    if case.expected:
        assert verified(run)
    went_on(nursery, run, f"SIGKILL of {named(case.who)}: {case.name}", case.expected, other)


@pytest.mark.parametrize(
    ("place", "who", "stage"), with_long([("fill", "1", 3)], [("verify", "0", 2), ("fill", "all", 1)])
)
def test_killed_while_resuming(
    tmp_path: Path,
    nursery: Nursery,
    undisturbed: Callable[..., Path],
    tiny_model: Path,
    toy_data: Path,
    place: str,
    who: str,
    stage: int,
) -> None:
    """A restart changes nothing that the next restart needs."""
    run = make_run(tmp_path / "run", tiny_model, toy_data, settings(stage))
    died_alone(nursery.run(run, fault={"kind": "kill at step", "step": 8, "who": "all"}), "all")
    before = {path: path.read_bytes() for path in run.glob("checkpoints/step-*/*")}
    last = reached(run)
    died_alone(nursery.run(run, fault={"kind": "kill in resume", "place": place, "who": who}), who)
    assert {path: path.read_bytes() for path in run.glob("checkpoints/step-*/*")} == before
    went_on(nursery, run, f"SIGKILL of {named(who)} in the restart after one: {place}", 6, undisturbed(stage), last)
