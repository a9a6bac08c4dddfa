"""SIGKILL of one rank and of all in every phase of a save, and everywhere else that a run can be cut off.

What is lost is what was trained since the last checkpoint that was committed, never more. By default each place of a
save is tried with each rank and in each ZeRO stage, but not each rank in each stage: XTRAIN_ALL_FAULTS=1 has them all.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from runs import SAVE_EVERY, STEPS, Ended, Nursery, events, left_over, make_run, note_case, reached, same_weights
from runs import settings as settings_of
from runs import steps as steps_recorded

from xtrain.cli import main

SAVED = 6  # the save that is disturbed: the second one
PLACES = ["before", "weights", "after weights", "exp_avg", "after exp_avg", "exp_avg_sq", "after exp_avg_sq",
          "before the barrier", "before the rename", "after"]  # fmt: skip
RANKS = ["0", "1", "all"]
SAME = {  # the same thing under another name
    ("before the rename", "1"): ("before the rename", "all"),  # rank 0 renames, while rank 1 waits for it
    ("before the barrier", "1"): ("after exp_avg_sq", "1"),  # that is the last thing that rank 1 writes
}
ALL_FAULTS = bool(os.environ.get("XTRAIN_ALL_FAULTS"))


def cases_of_a_save() -> list[tuple[int, str, str]]:
    """Stage, place and rank. The default: for each place a Latin square of stages and ranks, one line of it."""
    cases = {}
    for number, place in enumerate(PLACES):
        for shift, who in enumerate(RANKS):
            for stage in (1, 2, 3):
                if ALL_FAULTS or (number + shift) % 3 == stage - 1:
                    cases[(stage, *SAME.get((place, who), (place, who)))] = None
    return list(cases)


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


def went_on(nursery: Nursery, run: Path, case: str, expected: int, other: Path, lost_before: int = 0) -> Ended:
    """Run again what was killed; it goes on from step ``expected`` and ends as ``other``, whom nothing disturbed."""
    last = reached(run)
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
    note_case(case, run, max(0, last - expected) + lost_before, again.seconds_to_recover)
    return again


@pytest.mark.parametrize(("stage", "place", "who"), cases_of_a_save())
def test_killed_while_saving(
    tmp_path: Path,
    nursery: Nursery,
    undisturbed: Callable[[int], Path],
    tiny_model: Path,
    toy_data: Path,
    stage: int,
    place: str,
    who: str,
) -> None:
    run = make_run(tmp_path / "run", tiny_model, toy_data, settings_of(stage))
    killed = nursery.run(run, fault={"kind": "kill in save", "step": SAVED, "place": place, "who": who})
    died_alone(killed, who)
    assert verified(run)
    expected = SAVED if place == "after" else SAVED - SAVE_EVERY
    # what is saved beside training is not there yet while the next steps are trained
    assert reached(run) - expected <= SAVE_EVERY + max(0, reached(run) - SAVED)
    went_on(nursery, run, f"SIGKILL of rank {who}, save of a step: {place}", expected, undisturbed(stage))
