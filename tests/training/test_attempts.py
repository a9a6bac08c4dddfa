"""What becomes of a collapsed training: seeds, policies, what is on record, and runs that are killed in between."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from xtrain.run_directory import RunDirectory
from xtrain.study import Recipe
from xtrain.training.attempts import Attempts, Collapsed, TrainingFailed, attempt_seed
from xtrain.training.collapse import Collapse

pytestmark = pytest.mark.usefixtures("alone")


class Listener:
    """Keeps the events."""

    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []

    def event(self, kind: str, **fields: Any) -> None:
        self.events.append((kind, fields))


def collapse(step: int) -> Collapsed:
    return Collapsed(Collapse(step, 40, {"mnli": "all inputs look alike to the model"}))


def test_stop_marks_the_run_as_failed_and_keeps_the_attempt(tmp_path: Path) -> None:
    run, listener = RunDirectory(tmp_path), Listener()
    attempts = Attempts.of(run, 7, Recipe())
    assert (attempts.seed, attempts.number, attempts.summary()) == (7, 0, {"reseeds": 0, "collapses": []})
    with pytest.raises(TrainingFailed, match="mnli: all inputs look alike") as failure:
        attempts.collapsed(collapse(60), listener)
    assert failure.value.step == 60
    assert json.loads(run.failed_marker.read_text()) == {"reason": failure.value.reason, "step": 60}
    (entry,) = json.loads(run.attempts.read_text())
    assert entry == {"attempt": 0, "seed": 7, "collapsed_at": 60, "reason": str(collapse(60))}
    assert [kind for kind, _ in listener.events] == ["collapse"]


def test_reseeding_begins_with_another_seed_so_often_and_then_fails(tmp_path: Path) -> None:
    run, listener = RunDirectory(tmp_path), Listener()
    recipe = Recipe(on_collapse="reseed", max_reseeds=2)
    attempts = Attempts.of(run, 7, recipe)
    seeds = [attempts.seed]
    for number, step in enumerate((60, 80), 1):
        attempts.collapsed(collapse(step), listener)
        assert Attempts.of(run, 7, recipe).seed == attempts.seed, "a restarted run goes on with this attempt"
        assert attempts.number == number
        seeds.append(attempts.seed)
    assert seeds == [7, attempt_seed(7, 1), attempt_seed(7, 2)]
    assert len(set(seeds)) == 3
    assert attempts.summary([90]) == {"reseeds": 2, "collapses": [60, 80, 90]}
    assert not run.failed
    with pytest.raises(TrainingFailed, match="as did 2 before it"):
        attempts.collapsed(collapse(70), listener)
    assert run.failed
    assert len(json.loads(run.attempts.read_text())) == 3
    assert [kind for kind, _ in listener.events] == ["collapse", "reseed", "collapse", "reseed", "collapse"]


def test_seeds_of_attempts_differ_between_seeds_too() -> None:
    assert len({attempt_seed(seed, attempt) for seed in range(20) for attempt in range(4)}) == 80


@pytest.mark.parametrize("recipe", [Recipe(), Recipe(on_collapse="reseed", max_reseeds=1)])
def test_without_its_marker_a_failed_run_is_repeated_from_the_first_attempt(tmp_path: Path, recipe: Recipe) -> None:
    run = RunDirectory(tmp_path)
    attempts = Attempts.of(run, 7, recipe)
    if recipe.on_collapse == "reseed":
        attempts.collapsed(collapse(60), Listener())
    with pytest.raises(TrainingFailed):
        attempts.collapsed(collapse(60), Listener())
    run.failed_marker.unlink()
    assert Attempts.of(run, 7, recipe).seed == 7
