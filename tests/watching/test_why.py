"""Why a phase waits, or why it failed."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import pytest
from by_hand import LOST_PEER, TRACEBACK, Run, every_state, graph
from rich.console import Console

from xtrain.dispatch.slurm import Answer
from xtrain.errors import UserError
from xtrain.watching.reasons import explain
from xtrain.watching.state import observe
from xtrain.watching.studies import Found, Observed, find_phase
from xtrain.watching.why import trouble
from xtrain.watching.why_view import explain_phase


@pytest.fixture
def why(tmp_path: Path) -> Callable[[str], str]:
    study, states = every_state(tmp_path)
    answer = Answer(states)
    observed = Observed(study, observe(tmp_path, study, answer), answer)

    def explained(name: str) -> str:
        stream = io.StringIO()
        explain_phase(
            Found(tmp_path, study, study.find(f"phang/{name}")), observed, Console(file=stream, width=140), 12
        )
        return stream.getvalue()

    return explained


def test_a_mistake_of_the_user(why: Callable[[str], str]) -> None:
    text = why("qnli-s0")
    assert text.startswith("phang/qnli-s0  failed\n")
    assert "label 'maybe' is none of the task's\n    allowed: yes, no" in text
    assert "on node n2" in text
    assert "logs/rank-0.log" in text
    assert "| error: data/phang/train-en.jsonl:7" in text
    for name in ("qnli-s0/xnli", "qnli-s0/xnli/evaluate", "qnli-s0/pawsx", "qnli-s0/pawsx/evaluate"):
        assert f"  phang/{name}\n" in text.partition("cannot run without it")[2]
    assert "correct what the message says" in text


def test_a_crash_that_was_tried_three_times(why: Callable[[str], str]) -> None:
    text = why("csqa-s0")
    assert "3 attempts without a new step" in text
    assert "RuntimeError: CUDA error: an illegal memory access" in text.partition("attempt ")[0]
    assert "logs/rank-3.log" in text
    assert "logs/rank-0.log" not in text
    rows = [line.split()[:2] for line in text.splitlines() if "rank 3 ended with exit code 1; rank 0" in line]
    assert rows == [["1", "120"], ["2", "120"], ["3", "120"]]


def test_a_dependant_names_what_failed(why: Callable[[str], str]) -> None:
    text = why("qnli-s0/xnli")
    assert "phang/qnli-s0 failed: data/phang/train-en.jsonl:7" in text
    assert "python -m xtrain why phang/qnli-s0 says more" in text


def test_what_a_phase_waits_for(why: Callable[[str], str]) -> None:
    assert "SLURM says Priority: jobs of a higher priority come first" in why("late-s0")
    assert "SLURM thinks it will start in 1h5" in why("late-s0")
    assert "phang/none-s0/pawsx runs, step 140 of 400" in why("none-s0/pawsx/evaluate")
    assert "its dependency: afterok:103" in why("none-s0/pawsx/evaluate")
    text = why("mnli-s0/pawsx")
    assert "SLURM says BeginTime" in text
    assert "SIGUSR2: saved at step 120" in text
    assert "reason\n" not in text.partition("attempt")[0]


def test_a_running_phase_and_a_finished_one_have_no_reason(why: Callable[[str], str]) -> None:
    for name in ("none-s0/pawsx", "none-s0/xnli"):
        assert "reason" not in why(name)
        assert "to do" not in why(name)


def test_the_log_with_the_cause_is_found_without_an_event(tmp_path: Path) -> None:
    run = Run(graph().nodes[1], tmp_path).submit("7").attempt("7")
    for rank in (0, 1, 2):
        run.print(LOST_PEER, rank)
    run.print("a line\n" + TRACEBACK + "[W1204 socket.cpp:461] connection closed\n", 7)
    found = trouble(run.run)
    assert found is not None
    assert found.where == "logs/rank-7.log"
    assert found.exception == "RuntimeError: CUDA error: an illegal memory access was encountered"


def test_what_an_earlier_attempt_printed_is_not_to_blame(tmp_path: Path) -> None:
    run = Run(graph().nodes[1], tmp_path).submit("7").attempt("7")
    run.print(TRACEBACK, 1, ago=600)
    run.event("failed", error="KeyError: 'old'").event("start", host="n1")
    run.attempt("7")
    job_log = run.folder.submitit / "7_0_log.out"
    job_log.parent.mkdir()
    job_log.write_text("attempt 2\nsrun: error: n2: task 3: Exited with exit code 1\n", "utf-8")
    found = trouble(run.run)
    assert found is not None
    assert found.where == "job/submitit/7_0_log.out"
    assert "old" not in found.exception
    assert found.lines[-1] == "srun: error: n2: task 3: Exited with exit code 1"


def test_phases_are_found_by_all_their_names(tmp_path: Path) -> None:
    study, _ = every_state(tmp_path)
    node = study.nodes[1]
    run = tmp_path / node.folder
    for name in (node.job_name, node.folder, node.hash, node.hash[:7], str(run), f"{run}/"):
        found = find_phase(name, tmp_path)
        assert found.node == node
        assert found.out == tmp_path
    assert find_phase("none-s0/xnli", tmp_path).node.kind == "target", "as the queue shows it, without the study"
    with pytest.raises(UserError, match="did you mean 'phang/none-s0/xnli'"):
        find_phase("phang/none-s0/xnIi", tmp_path)
    with pytest.raises(UserError, match="no study was run or submitted"):
        find_phase("x", run)


@pytest.mark.parametrize(
    ("reason", "means", "remedy"),
    [
        ("QOSMaxWallDurationPerJobLimit", "more time than the QOS allows a job: it never starts", "time_limit"),
        ("AssocMaxNodePerJobLimit", "more than the account allows a single job or node: it never starts", "nodes"),
        ("QOSMaxGRESPerNode", "it never starts", "nodes, GPUs"),
        ("QOSMinCpuNotSatisfied", "less than the QOS demands of every job: it never starts", "more"),
        ("QOSMaxJobsPerUserLimit", "a limit of the QOS on all jobs together", "limits.running"),
        ("MaxNodePerAccount", "a limit of the QOS on all jobs together", "limits.running"),
        ("AssocGrpCpuLimit", "a limit of the account on all jobs together", "limits.running"),
        ("AssocGrpCPURunMinutesLimit", "the running jobs of the account", "limits.running"),
        ("QOSGrpGRESMinutes", "the hours of the QOS are used up", "sshare"),
        ("QOSNotAllowed", "it never starts", "AllowQos"),
        ("AccountNotAllowed", "it never starts", "AllowAccounts"),
        ("PartitionConfig", "it never starts", "scontrol show partition"),
        ("PartitionTimeLimit", "it never starts", "time_limit"),
        ("PartitionNodeLimit", "nodes", "MaxNodes"),
        ("BadConstraints", "it never starts", "constraint"),
        ("InvalidAccount", "it never starts", "sacctmgr show assoc"),
        ("(InvalidQOS)", "it never starts", "sacctmgr show assoc"),
        ("JobHeldAdmin", "held by an administrator", "ask the site"),
        ("ReqNodeNotAvail, May be reserved for other job", "maintenance", "sinfo -R"),
        ("Reservation", "has not begun", "scontrol show reservation"),
        ("Licenses", "licences", "scontrol show licenses"),
        ("BeginTime", "two minutes", ""),
    ],
)
def test_a_reason_of_slurm(reason: str, means: str, remedy: str) -> None:
    said, to_do = explain(reason, "7")
    assert means in said
    assert remedy in to_do
    assert bool(to_do) == bool(remedy)


def test_reasons_of_slurm_in_words() -> None:
    assert "nodes" in explain("Resources")[0]
    assert explain("ReqNodeNotAvail, UnavailableNodes:n1")[0] == explain("ReqNodeNotAvail")[0]
    assert explain("JobHeldUser", "12")[1] == "scontrol release 12"
    assert "man squeue" in explain("SomethingNew")[0]
