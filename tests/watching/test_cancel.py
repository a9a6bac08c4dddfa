"""Cancelling: what is concerned, and the end of processes on this machine; of SLURM jobs in tests/slurm."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from by_hand import Run, every_state, graph

from xtrain.dispatch.local_queue import held_as_queue
from xtrain.dispatch.slurm import Answer
from xtrain.dispatch.submissions import JobFolder
from xtrain.watching.cancel import cancel_jobs, concerned, to_cancel, to_come
from xtrain.watching.state import observe


def test_what_depends_on_a_phase_goes_with_it() -> None:
    study = graph()
    by_name = {node.job_name: node for node in study.nodes}
    names = [node.job_name for node in concerned(study, [by_name["phang/mnli-s0"]])]
    assert names == [
        "phang/mnli-s0",
        "phang/mnli-s0/xnli",
        "phang/mnli-s0/xnli/evaluate",
        "phang/mnli-s0/pawsx",
        "phang/mnli-s0/pawsx/evaluate",
    ]
    assert concerned(study, []) == list(study.nodes)


def test_only_what_is_not_over_is_cancelled(tmp_path: Path) -> None:
    study, states = every_state(tmp_path)
    found = to_cancel(study.nodes, tmp_path, Answer(states))
    jobs = [job for _, some in found for job in some]
    assert jobs == ["103", "104", "107", "108", "109", "131", "133", "132", "134", "140"]
    silent = to_cancel(study.nodes, tmp_path, Answer({}, {"squeue": "down"}))
    assert {job for _, some in silent for job in some} >= {*jobs, "130"}  # nobody knows: they may run
    assert not {"100", "110", "120"} & {job for _, some in silent for job in some}


def test_a_process_of_a_local_job_is_ended_and_no_other(tmp_path: Path) -> None:
    study = graph(("none-s0",), ("xnli", "pawsx"))
    by_name = {node.job_name: node for node in study.nodes}
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        other = Run(by_name["phang/none-s0/pawsx"], tmp_path).submit(f"local-{os.getpid()}-1")  # the id was used again
        run = Run(by_name["phang/none-s0/xnli"], tmp_path).submit(f"local-{process.pid}").attempt("", ("here",))
        cancelled = cancel_jobs(study, study.nodes, tmp_path)
        assert process.wait(20) == -signal.SIGTERM
    assert cancelled.jobs == {f"local-{process.pid}": "phang/none-s0/xnli"}
    assert not cancelled.refused
    assert run.folder.asked_to_stop()
    assert not other.folder.asked_to_stop()


def test_without_slurm_the_jobs_are_marked_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    study = graph(("none-s0",), ("xnli",))
    run = Run(study.nodes[1], tmp_path).submit("77")
    waiting = Run(study.nodes[2], tmp_path).submit("78")
    cancelled = cancel_jobs(study, study.nodes, tmp_path)
    assert run.folder.asked_to_stop()
    assert waiting.folder.asked_to_stop()
    assert cancelled.jobs == {}
    assert "scancel" in cancelled.refused


def test_what_the_queue_on_this_machine_has_not_started_is_marked(tmp_path: Path) -> None:
    study = graph(("none-s0",), ("xnli",))
    prepare, target, evaluation, _ = study.nodes
    Run(prepare, tmp_path).finish(seconds=1)
    study.write(tmp_path)
    assert to_come(study, study.nodes, tmp_path) == []
    with held_as_queue(tmp_path, study.study):
        states = {state.node.kind: state for state in observe(tmp_path, study, Answer())}
        assert states["target"].state == "waiting"
        assert (states["evaluate"].state, states["evaluate"].detail) == ("held", "waits for phang/none-s0/xnli")
        cancel_jobs(study, [target, evaluation], tmp_path)
    assert [JobFolder(node.run(tmp_path)).asked_to_stop() for node in study.nodes] == [False, True, True, False]
