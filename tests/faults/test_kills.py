"""SIGKILL of one rank and of all in every phase of a save: what is lost is at most one save interval, never the run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from runs import SAVE_EVERY, Nursery, events, make_run, same_weights, settings

SAVED = 6  # the save that is disturbed: the second one
PLACES = ["before", "weights", "after weights", "exp_avg", "after exp_avg", "exp_avg_sq", "after exp_avg_sq",
          "before the barrier", "before the rename", "after"]  # fmt: skip


@pytest.mark.parametrize("stage", [1, 2, 3])
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("who", ["0", "1", "all"])
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
    if place == "before the rename" and who == "1":
        who = "0"  # rank 0 alone renames
    run = make_run(tmp_path / "run", tiny_model, toy_data, settings(stage))
    fault = {"kind": "kill in save", "step": SAVED, "place": place, "who": who}
    killed = nursery.run(run, fault=fault)
    assert -9 in killed.codes, killed
    assert 0 not in killed.codes, killed
    again = nursery.run(run)
    assert again.codes == [0, 0], again
    resumed = [event["step"] for event in events(run, "resume")]
    assert resumed in ([SAVED], [SAVED - SAVE_EVERY]), (resumed, again)
    assert same_weights(run, undisturbed(stage))
