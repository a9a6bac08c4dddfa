"""What a job does that has to leave, by what SLURM says of it: states that a real cluster shows rarely, or for moments.

The programs here stand for SLURM's; tests/slurm/test_requeueing.py has the real ones.
"""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from xtrain.dispatch import requeueing, supervisor
from xtrain.dispatch.attempts import Attempts
from xtrain.dispatch.cluster import Profile
from xtrain.dispatch.job_graph import JobGraph, JobNode
from xtrain.dispatch.requeueing import Requeued, Requeueing
from xtrain.dispatch.slurm import _SQUEUE_FIELDS
from xtrain.dispatch.supervisor import Supervisor
from xtrain.errors import EXIT_PREEMPTED

NODE = JobNode("a", "target", "a", "toy/a", "target/a")
DISABLED = "Slurm accounting storage is disabled"


class Slurm:
    """Programs that say what they are told to."""

    def __init__(self, root: Path) -> None:
        self.root, self.bin = root, root / "bin"
        self.bin.mkdir()
        self.program("scontrol", f"echo $* >> {root}/told")
        self.accounting("")

    def program(self, name: str, script: str) -> None:
        path = self.bin / name
        path.write_text(f"#!/bin/sh\n{script}\n", "utf-8")
        path.chmod(0o755)

    def queue(self, state: str, reason: str = "None", restarts: int = 0) -> None:
        known = {"JobID": "7", "State": state, "RestartCnt": str(restarts), "Reason": reason}
        self.program("squeue", f"echo '{'|'.join(known.get(name, 'N/A') for name in _SQUEUE_FIELDS)}|'")

    def accounting(self, state: str) -> None:
        """As sacct has it; without a state, accounting is disabled."""
        self.program("sacct", f"echo '7|{state}|0:0|N/A|N/A|10:00|n1|N/A|None|toy/a'" if state
                     else f"echo '{DISABLED}' >&2; exit 1")  # fmt: skip

    @property
    def told(self) -> list[str]:
        """What scontrol was told to do."""
        path = self.root / "told"
        return path.read_text("utf-8").splitlines() if path.exists() else []


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Slurm:
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    monkeypatch.setattr(requeueing, "ACCOUNTING_SECONDS", 0.0)
    return Slurm(tmp_path)


def again(slurm: Slurm, bad: tuple[str, ...] = (), restart: int = 0, **asked: Any) -> Requeued:
    """Of job 7 in its first start."""
    profile = Profile.from_mapping({"scheduler": "slurm", "name": "lab", "job": {"time_limit": 60, **asked}})
    run = NODE.run(slurm.root).create()
    if not Attempts(run).newest():
        Attempts(run).claim(job="7")
    graph = JobGraph("toy", (NODE,))
    return Requeueing(run, graph, NODE, profile, slurm.root, "7", restart).again(bad)


@pytest.mark.parametrize(
    ("state", "reason", "accounting"),
    [
        ("RUNNING", "None", ""),
        ("COMPLETING", "TimeLimit", ""),  # the warning was missed
        ("COMPLETING", "TimeLimit", "TIMEOUT"),
        ("COMPLETING", "None", "PREEMPTED"),  # on a partition with PreemptMode=CANCEL
        ("COMPLETING", "NodeDown", ""),
        ("COMPLETING", "None", "RUNNING"),  # accounting lags behind: rather once too often
        ("NODE_FAIL", "NodeDown", ""),
    ],
)
def test_it_asks_to_be_put_back(slurm: Slurm, state: str, reason: str, accounting: str) -> None:
    slurm.queue(state, reason)
    slurm.accounting(accounting)
    assert again(slurm) == Requeued("job 7 is back in the queue")
    assert slurm.told == ["requeue 7"]


@pytest.mark.parametrize(("state", "restarts"), [("PENDING", 1), ("COMPLETING", 1), ("REQUEUED", 0)])
def test_slurm_has_done_it_already(slurm: Slurm, state: str, restarts: int) -> None:
    slurm.queue(state, restarts=restarts)
    assert again(slurm) == Requeued("SLURM has put job 7 back into the queue")
    assert slurm.told == []


@pytest.mark.parametrize(
    ("state", "accounting"),
    [("CANCELLED", ""), ("COMPLETING", ""), ("COMPLETING", "CANCELLED by 1000")],
)
def test_a_cancelled_job_is_not_brought_back(slurm: Slurm, state: str, accounting: str) -> None:
    slurm.queue(state, restarts=2)
    slurm.accounting(accounting)
    assert again(slurm, restart=2).cancelled
    assert slurm.told == []


def test_bad_nodes_are_excluded_wherever_it_was_put_back(slurm: Slurm) -> None:
    slurm.queue("RUNNING")
    again(slurm, bad=("n2", "n1"))
    assert slurm.told == ["requeue 7", "update JobId=7 ExcNodeList=n1,n2"]
    slurm.queue("COMPLETING", restarts=1)
    again(slurm, bad=("n3",))
    assert slurm.told[-1] == "update JobId=7 ExcNodeList=n3"


def test_nodes_that_the_profile_excludes_stay_excluded(slurm: Slurm) -> None:
    slurm.queue("RUNNING")
    again(slurm, bad=("n2",), sbatch={"exclude": "n[7-9]"})
    assert slurm.told[-1] == "update JobId=7 ExcNodeList=n[7-9],n2"


@pytest.mark.parametrize(("nodes", "excluded"), [(1, True), (2, True), (3, False)])
def test_a_job_is_never_left_without_a_node_that_it_could_get(slurm: Slurm, nodes: int, excluded: bool) -> None:
    slurm.queue("RUNNING")
    slurm.program("sinfo", 'for name in n1 n2 n3; do echo "$name|main*"; echo "$name|other"; done; echo \'n4|other\'')
    again(slurm, bad=("n1",), nodes=nodes)
    assert ("update JobId=7 ExcNodeList=n1" in slurm.told) == excluded


def test_scontrol_dies_of_what_it_has_brought_about(slurm: Slurm) -> None:
    """SLURM ends the job's processes before the answer comes: that is no refusal, for which another job would go on."""
    slurm.queue("RUNNING")
    slurm.program("scontrol", f"""echo $* >> {slurm.root}/told
[ -e {slurm.root}/asked ] || {{ touch {slurm.root}/asked; kill -TERM $$; sleep 5; }}
echo "Job is pending execution for job 7" >&2; exit 1""")  # fmt: skip
    assert again(slurm) == Requeued("job 7 is back in the queue")
    assert slurm.told == ["requeue 7", "requeue 7"]


def test_another_job_has_the_phase(slurm: Slurm) -> None:
    slurm.queue("RUNNING")
    Attempts(NODE.run(slurm.root).create()).claim(job="7")
    Attempts(NODE.run(slurm.root)).claim(job="8")
    assert again(slurm).fenced
    assert slurm.told == []


def test_ranks_that_a_warning_has_not_reached_are_warned_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """srun cannot pass a signal on while munged is away, and does not try again."""
    monkeypatch.setattr(supervisor, "AGAIN_SECONDS", 0.3)
    profile = Profile.from_mapping({"scheduler": "slurm", "job": {"time_limit": 60}})
    run = NODE.run(tmp_path).create()
    one = Supervisor(run, JobGraph("toy", (NODE,)), NODE, profile, tmp_path, "7", 0, ("n1",))
    one.asked.first = signal.SIGUSR2
    deaf_once = "trap 'k=$((k+1)); [ $k = 1 ] || exit 75' USR2; echo; for n in {1..250}; do sleep 0.02; done; exit 1"
    process = subprocess.Popen(["bash", "-c", deaf_once], stdout=subprocess.PIPE)
    assert process.stdout is not None
    with process.stdout:
        process.stdout.readline()
        assert one._watch(process, Attempts(run).claim(job="7", restart=0, nodes=("n1",)), None) == EXIT_PREEMPTED
