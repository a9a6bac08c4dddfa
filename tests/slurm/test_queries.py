"""What SLURM says of jobs and is told about them, and what a user sees of it: on a real cluster."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from cluster import Cluster

from xtrain.dispatch import slurm
from xtrain.dispatch.attempts import Attempts
from xtrain.dispatch.job_graph import JobGraph, JobNode
from xtrain.dispatch.submissions import JobFolder, Submission


def submit(cluster: Cluster, script: str, *options: str) -> str:
    return cluster.run("sbatch", "--parsable", "--output=/dev/null", *options, f"--wrap={script}").stdout.strip()


def wait_for(condition: Callable[[], object], what: str, seconds: float = 60) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, f"waited in vain for {what}"
        time.sleep(0.2)


@pytest.fixture
def here(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    """The cluster, as this process's own."""
    cluster.use_in(monkeypatch)
    return cluster


def test_jobs_in_all_states(here: Cluster) -> None:
    failed = submit(here, "exit 7", "--job-name=study/a|b c")
    killed = submit(here, "kill -9 $$")
    runs = submit(here, "sleep 100", "--time=1:30:00", "--nodelist=n2", "--exclusive")
    after = submit(here, "true", f"--dependency=afterok:{runs}")
    held = submit(here, "true", "--hold")
    here.wait_job(failed, "FAILED")
    here.wait_job(killed, "FAILED")
    here.wait_job(runs, "RUNNING")
    answer = slurm.squeue([failed, killed, runs, after, held, "999999", "local-12"])
    assert answer.complete
    states = answer.states
    assert set(states) == {failed, killed, runs, after, held}
    assert (states[failed].state, states[failed].exit_code, states[failed].name) == ("FAILED", 7, "study/a|b c")
    assert states[killed].exit_code == -9
    running = states[runs]
    assert (running.nodes, running.time_limit, running.restarts) == ("n2", 5400.0, 0)
    assert running.start is not None
    assert running.end == running.start + 5400
    assert abs(running.start - time.time()) < 60
    assert (states[after].reason, states[after].dependency) == ("Dependency", f"afterok:{runs}(unfulfilled)")
    assert states[held].reason == "JobHeldUser"
    assert slurm.squeue(["999999"]) == slurm.Answer()
    wait_for(lambda: slurm.sacct([runs]).states.get(runs), "the accounting to know the job")
    assert slurm.sacct([failed]).states[failed].exit_code == 7
    assert slurm.job_states([failed, "999999"], budget=30).silent == {}
    assert slurm.cancel([runs, after, held, "999999", failed]).ok
    here.wait_job(runs, "CANCELLED")
    here.wait_job(held, "CANCELLED")


def test_requeue_and_what_can_be_changed_of_a_waiting_job(here: Cluster) -> None:
    job = submit(here, "sleep 100", "--nodelist=n1")
    fixed = submit(here, "sleep 100", "--no-requeue")
    here.wait_job(job, "RUNNING")
    here.wait_job(fixed, "RUNNING")
    refused = slurm.requeue(fixed, patience_seconds=600)
    assert (refused.ok, refused.unreachable) == (False, False)
    assert "disabled" in refused.said
    assert slurm.requeue(job).ok
    assert slurm.requeue(job).ok  # it waits already
    wait_for(lambda: slurm.squeue([job]).states[job].waiting, "the job to be back in the queue")
    back = slurm.squeue([job]).states[job]
    assert (back.restarts, back.ended) == (1, False)
    accounted = slurm.job_states([job], budget=30).states[job]
    assert accounted.waiting  # whatever the accounting says of the first start
    assert slurm.exclude_nodes(job, ["n3", "n4"]).ok
    assert slurm.update_dependency(job, f"afterany:{fixed}").ok
    assert slurm.squeue([job]).states[job].dependency == f"afterany:{fixed}(unfulfilled)"
    assert "ExcNodeList=n3,n4" in here.run("scontrol", "show", "job", job).stdout
    assert not slurm.update_dependency(fixed, "").ok  # it runs
    assert slurm.cancel([job, fixed]).ok


def test_while_the_controller_is_away(make_cluster: Callable[..., Cluster], monkeypatch: pytest.MonkeyPatch) -> None:
    """On a cluster of its own, whose accounting is disabled too."""
    cluster = make_cluster(nodes=1, accounting=False)
    cluster.use_in(monkeypatch)
    job = submit(cluster, "sleep 100")
    cluster.wait_job(job, "RUNNING")
    answer = slurm.job_states([job], budget=30)
    assert answer.states[job].running
    assert answer.silent == {}, "what squeue knows, nobody else is asked"
    assert "disabled" in slurm.sacct([job]).silent["sacct"]
    cluster.stop_controller()
    assert not slurm.job_states([job], budget=0.6).complete
    reply = slurm.requeue(job, timeout=2)
    assert (reply.ok, reply.unreachable) == (False, True)
    reply = slurm.requeue(job)  # without our own limit the command gives up by itself, in words of its own
    assert (reply.ok, reply.unreachable) == (False, True), reply.said
    back = threading.Timer(2, cluster.start_controller)
    back.start()
    try:
        assert slurm.requeue(job, patience_seconds=120).ok
    finally:
        back.join()
    wait_for(lambda: slurm.squeue([job]).states[job].restarts == 1, "the job to be requeued")


def xtrain(cluster: Cluster, *arguments: str) -> subprocess.CompletedProcess[str]:
    return cluster.run(sys.executable, "-m", "xtrain", *arguments, check=False)


def test_status_why_and_cancel_of_jobs_in_the_queue(here: Cluster, tmp_path: Path) -> None:
    """A phase that runs, one that waits for it, and one that nobody holds any more."""
    names = {"runs": (), "waits": ("runs",), "lost": ()}
    nodes = {
        name: JobNode(
            f"{name:0<12}", "target", name, f"study/{name}", f"target/{name}", tuple(f"{p:0<12}" for p in parents)
        )
        for name, parents in names.items()
    }
    JobGraph("study", tuple(nodes.values())).write(tmp_path)
    jobs = {"runs": submit(here, "sleep 100", "--nodelist=n1"), "lost": submit(here, "exit 3")}
    jobs["waits"] = submit(here, "true", f"--dependency=afterok:{jobs['runs']}")
    for name, node in nodes.items():
        run = node.run(tmp_path).create()
        JobFolder(run).add(Submission(jobs[name], node.job_name, time.time(), "test"))
    Attempts(nodes["runs"].run(tmp_path)).claim(job=jobs["runs"], nodes=("n1",))
    here.wait_job(jobs["runs"], "RUNNING")
    here.wait_job(jobs["lost"], "FAILED")

    result = xtrain(here, "status", str(tmp_path), "--json")
    assert result.returncode == 0, result.stderr
    (study,) = json.loads(result.stdout)["studies"]
    phases = {phase["name"]: phase for phase in study["phases"]}
    assert {name: phase["state"] for name, phase in phases.items()} == {
        "runs": "running", "waits": "held", "lost": "lost",
    }  # fmt: skip
    assert phases["runs"]["nodes"] == "n1"
    assert phases["waits"]["detail"] == "waits for study/runs"
    assert "exit code 3" in phases["lost"]["detail"]
    said = xtrain(here, "why", "waits", "--out", str(tmp_path)).stdout
    assert f"afterok:{jobs['runs']}" in said
    assert "study/runs runs" in said

    result = xtrain(here, "cancel", str(tmp_path), "runs", "--yes")
    assert result.returncode == 0, result.stderr
    assert "study: cancelled: 2 jobs" in result.stdout  # and what depends on it
    here.wait_job(jobs["runs"], "CANCELLED")
    here.wait_job(jobs["waits"], "CANCELLED")
    assert JobFolder(nodes["runs"].run(tmp_path)).asked_to_stop()
    (study,) = json.loads(xtrain(here, "status", str(tmp_path), "--json").stdout)["studies"]
    assert study["totals"] == {"lost": 1, "cancelled": 2}
    assert "nothing to cancel" in xtrain(here, "cancel", str(tmp_path), "--yes").stdout
