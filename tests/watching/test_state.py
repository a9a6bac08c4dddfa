"""The state of every phase: from run directories made by their real writers, and what squeue says of their jobs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from by_hand import Run, every_state, graph, in_queue

from xtrain.dispatch.job_graph import JobGraph
from xtrain.dispatch.slurm import Answer, JobState
from xtrain.watching.run_view import jobs_to_ask, views
from xtrain.watching.state import PhaseState, observe, totals


def observed(out: Path, study: JobGraph, answer: Answer) -> dict[str, PhaseState]:
    return {state.node.job_name.removeprefix("phang/"): state for state in observe(out, study, answer)}


@pytest.fixture
def life(tmp_path: Path) -> dict[str, PhaseState]:
    study, states = every_state(tmp_path)
    return observed(tmp_path, study, Answer(states))


def test_every_state_in_one_word(life: dict[str, PhaseState]) -> None:
    words = {name: state.state for name, state in life.items()}
    assert words == {
        "prepare": "done",
        "none-s0/xnli": "done",
        "none-s0/xnli/evaluate": "done",
        "none-s0/pawsx": "running",
        "none-s0/pawsx/evaluate": "held",
        "mnli-s0": "done",
        "mnli-s0/xnli": "done",
        "mnli-s0/xnli/evaluate": "running",
        "mnli-s0/pawsx": "restarting",
        "mnli-s0/pawsx/evaluate": "held",
        "qnli-s0": "failed",
        "qnli-s0/xnli": "cancelled",
        "qnli-s0/xnli/evaluate": "cancelled",
        "qnli-s0/pawsx": "cancelled",
        "qnli-s0/pawsx/evaluate": "cancelled",
        "csqa-s0": "failed",
        "csqa-s0/xnli": "cancelled",
        "csqa-s0/xnli/evaluate": "cancelled",
        "csqa-s0/pawsx": "cancelled",
        "csqa-s0/pawsx/evaluate": "cancelled",
        "race-s0": "lost",
        "race-s0/xnli": "held",
        "race-s0/xnli/evaluate": "held",
        "race-s0/pawsx": "held",
        "race-s0/pawsx/evaluate": "to do",
        "late-s0": "waiting",
        "late-s0/xnli": "to do",
        "late-s0/xnli/evaluate": "to do",
        "late-s0/pawsx": "to do",
        "late-s0/pawsx/evaluate": "to do",
        "report": "held",
    }
    assert sum(totals(list(life.values())).values()) == len(life)


def test_numbers_of_a_running_training(life: dict[str, PhaseState]) -> None:
    state = life["none-s0/pawsx"]
    assert (state.job, state.nodes, state.attempts, state.step, state.planned_steps) == ("103", "n[1-2]", 1, 140, 400)
    assert state.loss == pytest.approx(2 / 140)
    assert state.tokens_per_second == 5120.0
    assert state.eta_seconds == pytest.approx(260 * 2 - 3, abs=25)  # 260 steps of 2 s
    assert state.event == "saved step 100"


def test_numbers_of_a_running_evaluation(life: dict[str, PhaseState]) -> None:
    state = life["mnli-s0/xnli/evaluate"]
    assert (state.step, state.planned_steps, state.unit) == (45_000, 100_000, "tokens")
    assert state.tokens_per_second == 12345.0
    assert state.eta_seconds == pytest.approx(60, abs=5)


def test_words_for_what_a_phase_waits_for(life: dict[str, PhaseState]) -> None:
    assert life["none-s0/pawsx/evaluate"].detail == "waits for phang/none-s0/pawsx"
    assert "higher priority" in life["late-s0"].detail
    assert life["qnli-s0/xnli/evaluate"].detail == "phang/qnli-s0 failed"  # the first in the chain
    assert "label 'maybe'" in life["qnli-s0"].detail
    assert "submit again" in life["race-s0"].detail


def test_finished_phases_are_not_asked_for(tmp_path: Path) -> None:
    study, _ = every_state(tmp_path)
    asked = jobs_to_ask(views(study.nodes, tmp_path))
    assert "103" in asked
    assert "130" in asked
    assert not {"100", "101", "105", "110", "120"} & set(asked)


def test_without_an_answer_nothing_is_called_lost(tmp_path: Path) -> None:
    study, _ = every_state(tmp_path)
    silent = observed(tmp_path, study, Answer({}, {"squeue": "did not answer within 0.6 s"}))
    assert silent["none-s0/pawsx"].state == "unknown"
    assert "squeue does not answer" in silent["none-s0/pawsx"].detail
    assert silent["none-s0/pawsx"].step == 140  # the record is there all the same
    assert silent["qnli-s0"].state == "failed"
    assert "lost" not in {state.state for state in silent.values()}


def test_a_job_that_ended_between_the_two_looks_is_not_lost(tmp_path: Path) -> None:
    study = graph(("none-s0",), ("xnli",))
    target = study.nodes[1]
    run = Run(target, tmp_path).submit("7").attempt("7").train(10, 10)
    seen = views(study.nodes, tmp_path)
    run.finish(steps=10)
    states = {state.node.hash: state for state in observe(tmp_path, study, Answer({}), seen)}
    assert states[target.hash].state == "done"


@pytest.mark.parametrize(
    ("state", "word", "part"),
    [
        (in_queue("7", "FAILED", exit_code=1), "lost", "failed (exit code 1)"),
        (in_queue("7", "TIMEOUT"), "lost", "ran out of time"),
        (in_queue("7", "NODE_FAIL"), "lost", "NODE_FAIL"),
        (in_queue("7", "COMPLETING", nodes="n1"), "running", ""),
        (in_queue("7", "CONFIGURING"), "running", ""),
        (in_queue("7", "PENDING", "QOSMaxJobsPerUserLimit"), "waiting", "a limit of the QOS"),
        (in_queue("7", "PENDING", "ReqNodeNotAvail, UnavailableNodes:n[1-3]"), "waiting", "down, drained"),
        (in_queue("7", "PENDING", "", restarts=1), "restarting", "has not looked at it"),
        (in_queue("7", "REQUEUED"), "waiting", ""),
    ],
)
def test_what_slurm_says_of_a_job(tmp_path: Path, state: JobState, word: str, part: str) -> None:
    study = graph(("none-s0",), ("xnli",))
    Run(study.nodes[1], tmp_path).submit("7")
    found = observed(tmp_path, study, Answer({"7": state}))["none-s0/xnli"]
    assert found.state == word
    assert part in found.detail


def test_a_chained_job_waits_behind_the_one_that_runs(tmp_path: Path) -> None:
    study = graph(("none-s0",), ("xnli",))
    run = Run(study.nodes[1], tmp_path).submit("7").attempt("7").submit("8", chained=True)
    both = {"7": in_queue("7", "RUNNING", nodes="n1"), "8": in_queue("8", "PENDING", "Dependency")}
    found = observed(tmp_path, study, Answer(both))["none-s0/xnli"]
    assert (found.state, found.job) == ("running", "7")
    run.end_attempt("time limit", 75, "saved")
    found = observed(tmp_path, study, Answer({"7": in_queue("7", "COMPLETED"), "8": in_queue("8", "PENDING")}))
    assert (found["none-s0/xnli"].state, found["none-s0/xnli"].job) == ("restarting", "8")


def test_a_phase_in_a_lane_waits_for_its_turn(tmp_path: Path) -> None:
    study = graph(("none-s0",), ("xnli", "pawsx"))
    by_name = {node.job_name: node for node in study.nodes}
    Run(by_name["phang/prepare"], tmp_path).finish(seconds=1)
    Run(by_name["phang/none-s0/xnli"], tmp_path).submit("7").attempt("7")
    Run(by_name["phang/none-s0/pawsx"], tmp_path).submit("8", lane=2, ended=("7",))
    states = {"7": in_queue("7", "RUNNING"), "8": in_queue("8", "PENDING", "Dependency")}
    found = observed(tmp_path, study, Answer(states))["none-s0/pawsx"]
    assert found.state == "held"
    assert found.detail == "waits for its turn: lane 3, behind phang/none-s0/xnli"


def test_cancelled_by_the_user(tmp_path: Path) -> None:
    study = graph(("none-s0",), ("xnli",))
    Run(study.nodes[1], tmp_path).submit("7").folder.ask_to_stop()
    found = observed(tmp_path, study, Answer({"7": in_queue("7", "CANCELLED")}))
    assert (found["none-s0/xnli"].state, found["none-s0/xnli"].detail) == ("cancelled", "by the user")
    assert found["none-s0/xnli/evaluate"].state == "cancelled"
    assert found["none-s0/xnli/evaluate"].detail == "phang/none-s0/xnli was cancelled"


def test_training_that_collapsed(tmp_path: Path) -> None:
    study = graph(("none-s0",), ("xnli",))
    Run(study.nodes[1], tmp_path).train(30, 100).run.mark_failed("the loss is not finite", 31)
    found = observed(tmp_path, study, Answer())["none-s0/xnli"]
    assert (found.state, found.detail) == ("failed", "the loss is not finite (step 31)")


def test_run_on_this_machine_without_jobs(tmp_path: Path) -> None:
    study = graph(("none-s0",), ("xnli", "pawsx"))
    by_name = {node.job_name: node for node in study.nodes}
    Run(by_name["phang/none-s0/xnli"], tmp_path).train(30, 100)
    running = Run(by_name["phang/none-s0/pawsx"], tmp_path).train(30, 100)
    with running.run.held():
        found = observed(tmp_path, study, Answer())
    assert found["none-s0/pawsx"].state == "running"
    assert found["none-s0/pawsx"].eta_seconds is not None
    assert found["none-s0/xnli"].state == "stopped"
    assert found["report"].state == "to do"
    assert observed(tmp_path, study, Answer())["none-s0/pawsx"].state == "stopped"


def test_a_local_job_is_its_process(tmp_path: Path) -> None:
    study = graph(("none-s0",), ("xnli",))
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        Run(study.nodes[1], tmp_path).submit(f"local-{process.pid}").attempt(f"local-{process.pid}", ("here",))
        assert observed(tmp_path, study, Answer())["none-s0/xnli"].state == "running"
        assert process.stdin is not None
        process.stdin.close()
    assert observed(tmp_path, study, Answer())["none-s0/xnli"].state == "lost"


def test_another_process_with_the_same_id_is_not_the_job(tmp_path: Path) -> None:
    started = Path(f"/proc/{os.getpid()}/stat").read_text("utf-8").rpartition(")")[2].split()[19]
    study = graph(("none-s0",), ("xnli", "pawsx"))
    by_name = {node.job_name: node for node in study.nodes}
    Run(by_name["phang/none-s0/xnli"], tmp_path).submit(f"local-{os.getpid()}-{started}")
    Run(by_name["phang/none-s0/pawsx"], tmp_path).submit(f"local-{os.getpid()}-{int(started) - 1}")
    found = observed(tmp_path, study, Answer())
    assert found["none-s0/xnli"].state == "waiting"
    assert found["none-s0/pawsx"].state == "lost"


def test_infinite_losses_do_not_break_the_line(tmp_path: Path) -> None:
    study = graph(("none-s0",), ("xnli",))
    run = Run(study.nodes[1], tmp_path).train(30, 100)
    with open(run.run.metrics, "a", encoding="utf-8") as handle:
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        handle.write(json.dumps({"time": now, "step": 40, "loss": "NaN"}) + "\n")
    found = observed(tmp_path, study, Answer())["none-s0/xnli"]
    assert found.loss is not None
    assert found.loss != found.loss
    assert found.step == 40


def test_a_start_whose_ranks_have_said_nothing_yet(tmp_path: Path) -> None:
    study = graph(("none-s0",), ("xnli",))
    run = Run(study.nodes[1], tmp_path).submit("7").attempt("7")
    states = Answer({"7": in_queue("7", "RUNNING", nodes="n1")})
    assert observed(tmp_path, study, states)["none-s0/xnli"].event == "attempt 1 began"
    run.train(30, 100, ago=100).attempt("7", restart=1)
    found = observed(tmp_path, study, states)["none-s0/xnli"]
    assert (found.event, found.attempts, found.step) == ("attempt 2 began", 2, 30)
    run.event("start", host="n1")
    assert observed(tmp_path, study, states)["none-s0/xnli"].event == "started on n1"


def test_a_dependency_that_is_met(tmp_path: Path) -> None:
    study = graph(("none-s0",), ("xnli",))
    Run(study.nodes[0], tmp_path).finish(seconds=1)
    Run(study.nodes[1], tmp_path).submit("7")
    found = observed(tmp_path, study, Answer({"7": in_queue("7", "PENDING", "Dependency")}))["none-s0/xnli"]
    assert found.state == "waiting"
    assert "has ended" in found.detail
