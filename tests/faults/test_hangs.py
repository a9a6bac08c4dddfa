"""Ranks that hang, die, fail or stand still; data workers that die; gradients that are no numbers."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from long import with_long
from runs import (
    SAVE_EVERY,
    STEPS,
    Nursery,
    events,
    make_run,
    note_case,
    reached,
    same_weights,
    settings,
    wait_until,
)
from toy import read_jsonl

from xtrain.checkpoints import CheckpointFolder
from xtrain.errors import EXIT_OURS, EXIT_PREEMPTED, EXIT_USER

Undisturbed = Callable[..., Path]
NewRun = Callable[[Mapping[str, Any]], Path]
STEP = 8  # from 0: where the fault strikes
SAVED = 6  # the last save before it


def goes_on(nursery: Nursery, run: Path, other: Path, case: str) -> None:
    """After a job that ended badly: the next one ends in the weights of a run that nothing happened to."""
    before, saved = reached(run), CheckpointFolder(run / "checkpoints").commits()[-1].step
    assert saved in (SAVED, SAVED - SAVE_EVERY)  # that of before, if this one was still being written
    again = nursery.run(run)
    assert again.codes == [0, 0], again
    assert [event["step"] for event in events(run, "resume")] == [saved]
    assert same_weights(run, other)
    note_case(case, run, before - saved, again.seconds_to_recover)


@pytest.mark.parametrize(("stage", "who"), with_long([(3, 0)], [(1, 1)]))
def test_a_hung_rank(nursery: Nursery, undisturbed: Undisturbed, new_run: NewRun, stage: int, who: int) -> None:
    """Every rank's stacks are on record, the line where one sleeps among them, and the run ends."""
    run = new_run(settings(stage))
    hung = nursery.run(run, fault={"kind": "hang soon", "step": STEP, "who": who, "seconds": 2.0})
    assert hung.codes == [EXIT_OURS, EXIT_OURS], hung
    stacks = [(run / "logs" / f"stack-rank-{rank}.txt").read_text() for rank in (0, 1)]
    for rank in (0, 1):
        assert ("in sleep_for_ever" in stacks[rank]) == (rank == who), stacks[rank]
        assert "in _global_step" in stacks[rank] or "in acted" in stacks[rank]
        assert f"stack-rank-{rank}.txt" in hung.log(rank)
        assert "has made no progress for" in hung.log(rank)
    (event,) = events(run, "ended_stall")
    assert "has made no progress for" in event["text"]
    goes_on(nursery, run, undisturbed(stage), f"rank {who} hangs in step {STEP + 1}")


def test_the_stall_limit_is_a_setting(nursery: Nursery, new_run: NewRun) -> None:
    run = new_run(settings(2, stall_minutes=0.1))
    hung = nursery.run(run, fault={"kind": "hang at step", "step": STEP, "who": 1})
    assert hung.codes == [EXIT_OURS, EXIT_OURS], hung
    assert "'step 9" in hung.log(0) or "'step 8" in hung.log(0), hung


def test_nothing_is_waited_for_once_the_watchdog_has_stopped(nursery: Nursery, new_run: NewRun) -> None:
    run = new_run(settings(2, recipe={"max_steps": 1}))
    ended = nursery.run(run, fault={"kind": "hang in leave"})
    assert ended.codes == [0, 0], ended


@pytest.mark.parametrize("who", with_long([0], [1]))
def test_a_killed_rank_takes_the_other_with_it(
    nursery: Nursery, undisturbed: Undisturbed, new_run: NewRun, who: int
) -> None:
    """Within seconds, and by name: not as a timeout, nor as a broken connection in a collective."""
    run = new_run(settings(2))
    killed = nursery.run(run, fault={"kind": "kill at step", "step": STEP, "who": str(who)})
    other = 1 - who
    assert (killed.codes[who], killed.codes[other]) == (-signal.SIGKILL, EXIT_OURS), killed
    assert f"error: rank {who} on " in killed.log(other)
    assert "died (last: " in killed.log(other)
    assert "Traceback" not in killed.log(other)
    assert [event["rank"] for event in events(run, "ended_died")] == ([who] if other == 0 else [])
    goes_on(nursery, run, undisturbed(2), f"rank {who} killed in step {STEP + 1}")


@pytest.mark.parametrize("who", with_long([1], [0]))
def test_a_rank_that_fails_is_named_by_the_other(
    nursery: Nursery, undisturbed: Undisturbed, new_run: NewRun, who: int
) -> None:
    run = new_run(settings(3))
    fault = {"kind": "raise at step", "step": STEP, "who": who, "error": "out of cheese"}
    failed = nursery.run(run, fault=fault)
    assert failed.codes == [EXIT_OURS, EXIT_OURS], failed
    assert "Traceback" in failed.log(who)
    assert f"error: rank {who} on " in failed.log(1 - who)
    assert " failed: RuntimeError: out of cheese" in failed.log(1 - who)
    assert "Traceback" not in failed.log(1 - who)
    assert len(events(run, "failed") if who == 0 else events(run, "ended_failed")) == 1
    goes_on(nursery, run, undisturbed(3), f"rank {who} raises in step {STEP + 1}")


def test_a_users_mistake_on_one_rank_alone(nursery: Nursery, undisturbed: Undisturbed, new_run: NewRun) -> None:
    run = new_run(settings(1))
    failed = nursery.run(run, fault={"kind": "raise at step", "step": STEP, "who": 1, "error": "user"})
    assert failed.codes == [EXIT_USER, EXIT_USER], failed
    for rank in (0, 1):
        assert "the data: are wrong on one rank" in failed.log(rank)
        assert "Traceback" not in failed.log(rank)
    goes_on(nursery, run, undisturbed(1), "a user's mistake on rank 1 alone")


@pytest.mark.parametrize("who", with_long([1], [0]))
def test_a_rank_that_is_stopped(nursery: Nursery, undisturbed: Undisturbed, new_run: NewRun, who: int) -> None:
    """SIGSTOP, as a debugger or a node that stands still: the others end it after a time of silence."""
    run = new_run(settings(2))
    stopped = nursery.run(run, fault={"kind": "stop at step", "step": STEP, "who": who, "seconds": 3.0})
    assert (stopped.codes[who], stopped.codes[1 - who]) == (-signal.SIGKILL, EXIT_OURS), stopped
    assert f"error: rank {who} on " in stopped.log(1 - who)
    assert "has not been heard of for" in stopped.log(1 - who)
    goes_on(nursery, run, undisturbed(2), f"rank {who} stopped in step {STEP + 1}")


def test_killed_data_workers(nursery: Nursery, undisturbed: Undisturbed, new_run: NewRun) -> None:
    """Another one takes its place; training does not even stop."""
    run = new_run(settings(2, data_workers=1))
    strikes = [{"kind": "signal worker", "step": 4 + who, "who": [who], "names": ["SIGKILL"]} for who in (0, 1)]
    ended = nursery.run(run, fault={"kind": "several", "faults": strikes})
    assert ended.codes == [0, 0], ended
    (event,) = events(run, "data_worker_died")
    assert (event["rank"], event["end"], event["restarts"]) == (0, "SIGKILL", 1)
    for rank in (0, 1):
        assert ended.log(rank).count("another takes its place") == 1
    assert len(read_losses(run)) == STEPS
    assert same_weights(run, undisturbed(2))
    note_case("data workers of both ranks killed", run, 0, None)


def test_data_workers_let_signals_pass(nursery: Nursery, undisturbed: Undisturbed, new_run: NewRun) -> None:
    """Those to them alone, and those that a scheduler sends to every process of a job."""
    run = new_run(settings(2, data_workers=1))
    names = ["SIGTERM", "SIGUSR1", "SIGUSR2"]
    pids = nursery.start(run, fault={"kind": "signal worker", "step": 2, "who": [0, 1], "names": names})
    wait_until(lambda: reached(run) >= 4)
    os.killpg(pids[0], signal.SIGTERM)
    left = nursery.wait()
    assert left.codes == [EXIT_PREEMPTED, EXIT_PREEMPTED], left
    (event,) = events(run, "preempted")
    assert event["saved_step"] == event["step"] == reached(run)
    again = nursery.run(run)
    assert again.codes == [0, 0], again
    assert not events(run, "data_worker_died")
    assert same_weights(run, undisturbed(2))
    note_case("SIGTERM to every process, data workers included", run, 0, again.seconds_to_recover,
              signal_to_commit=event["seconds"])  # fmt: skip


BAD = {"2": ["loss", 0], "3": ["gradient", 1], "6": ["element", 1], "9": ["element", 0]}  # step (from 0) -> what, who


def read_losses(run: Path) -> list[dict[str, Any]]:
    """The lines of ``metrics.jsonl`` that have a loss."""
    return [line for line in read_jsonl(run / "metrics.jsonl") if "loss" in line]


@pytest.mark.parametrize(
    ("stage", "precision"),
    with_long([(2, "bf16"), (3, "fp32")], [(0, "fp32")] + [(n, p) for n in (1, 2, 3) for p in ("fp32", "bf16")]),
)
def test_gradients_that_are_no_numbers(
    nursery: Nursery,
    undisturbed: Undisturbed,
    new_run: NewRun,
    tmp_path: Path,
    tiny_model: Path,
    toy_data: Path,
    stage: int,
    precision: str,
) -> None:
    """The step is skipped on all ranks, whichever has it, and left out of the schedule; a resume changes nothing."""
    run = new_run(settings(stage, precision=precision))
    fault = {"kind": "not finite", "steps": BAD, "digest": str(tmp_path / "digest")}
    leave = {"kind": "signal at", "place": "step", "step": 3, "who": [1], "names": ["SIGUSR1"]}  # one of a row
    left = nursery.run(run, fault={"kind": "several", "faults": [fault, leave]})
    assert left.codes == [EXIT_PREEMPTED, EXIT_PREEMPTED], left
    state = json.loads((run / "checkpoints/step-4/trainer.json").read_text())
    assert state["health"]["skipped"] == {"total": 2, "in_a_row": 2, "loss_scale": None}
    assert (state["step"], state["num_updates"]) == (4, 2)
    ended = nursery.run(run, fault=fault)
    assert ended.codes == [0, 0], ended

    skipped = [(event["step"], event["in_all"]) for event in events(run, "step_skipped")]
    assert skipped == [(3, 1), (4, 2), (7, 3), (10, 4)]
    assert json.loads((run / "DONE").read_text())["skipped_steps"] == 4
    usual = undisturbed(stage) if precision == "bf16" else undisturbed(stage, precision=precision)
    rates = [line["learning_rate"] for line in read_losses(run)]
    done = [rate for step, rate in enumerate(rates) if str(step) not in BAD]
    assert done == [line["learning_rate"] for line in read_losses(usual)][: len(done)]
    norms = [line["grad_norm"] for line in read_losses(run)]
    assert [step for step, norm in enumerate(norms) if isinstance(norm, str)] == sorted(map(int, BAD))

    digests = [json.loads((tmp_path / f"digest-{rank}.json").read_text()) for rank in (0, 1)]
    assert digests[0] == digests[1]
    assert digests[0]["finite"]
    assert not same_weights(run, usual), "the fault did nothing"
    straight = make_run(tmp_path / "straight", tiny_model, toy_data, settings(stage, precision=precision))
    assert nursery.run(straight, fault=fault).codes == [0, 0]  # the same steps, but no resume
    assert same_weights(run, straight)
    assert [line["loss"] for line in read_losses(straight)] == [line["loss"] for line in read_losses(run)]
    assert rates == [line["learning_rate"] for line in read_losses(straight)]
    note_case(f"4 gradients that are no numbers, {precision}, one resume", run, 0, ended.seconds_to_recover)


def test_too_many_in_a_row(nursery: Nursery, undisturbed: Undisturbed, new_run: NewRun) -> None:
    """The run ends with the remedy; a resume does not count anew, and goes on once the cause is gone."""
    run = new_run(settings(2, max_skipped_steps=3, background_save=False))
    fault = {"kind": "not finite", "steps": {str(step): ["loss", 1] for step in range(4, STEPS)}}
    for skipped_steps in ([5, 6, 7], [5, 6, 7, 7]):  # the second time from the save after step 6
        ended = nursery.run(run, fault=fault)
        assert ended.codes == [EXIT_USER, EXIT_USER], ended
        for rank in (0, 1):
            assert "the gradient was not finite in 3 steps in a row (engine.max_skipped_steps = 3" in ended.log(rank)
            assert "lower recipe.*.learning_rate" in ended.log(rank)
        assert [event["step"] for event in events(run, "step_skipped")] == skipped_steps
    again = nursery.run(run)
    assert again.codes == [0, 0], again
    assert json.loads((run / "DONE").read_text())["skipped_steps"] == 2
    note_case("gradients that are no numbers, 3 in a row", run, 0, again.seconds_to_recover)
