"""A copy of the state that could not be made is never written: half a copy is no checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from runs import Nursery, events, make_run, note_case, same_weights, settings


def test_half_a_copy_is_not_saved(
    tmp_path: Path, nursery: Nursery, undisturbed: Callable[..., Path], tiny_model: Path, toy_data: Path
) -> None:
    """Training goes on, and the state of the next step is saved in its stead."""
    run = make_run(tmp_path / "run", tiny_model, toy_data, settings(2))
    ended = nursery.run(run, fault={"kind": "refuse copy", "step": 6, "who": 1})
    assert ended.codes == [0, 0], ended
    (failed,) = events(run, "save_failed")
    assert (failed["step"], "no memory for the rest" in failed["reason"]) == (6, True)
    saved = [event["step"] for event in events(run, "save")]
    assert 6 not in saved
    assert {3, 4, 9, 12} < set(saved) <= {3, 4, 7, 8, 9, 12}, "the state of 6 is gone; that of the next step is saved"
    assert same_weights(run, undisturbed(2))
    note_case("no memory for a copy", run, 0, None)


def test_best_weights_without_a_copy_end_the_phase(
    tmp_path: Path, nursery: Nursery, undisturbed: Callable[..., Path], tiny_model: Path, toy_data: Path
) -> None:
    """Nothing else holds them: the phase ends, and goes on from the last checkpoint when it is run again."""
    run = make_run(tmp_path / "run", tiny_model, toy_data, settings(2))
    ended = nursery.run(run, fault={"kind": "refuse copy", "step": 4, "who": 0})
    assert ended.codes == [2, 2], ended
    assert "the best so far, could not be saved" in ended.log(0)
    again = nursery.run(run)
    assert again.codes == [0, 0], again
    assert [event["step"] for event in events(run, "resume")] == [3]
    assert same_weights(run, undisturbed(2))
