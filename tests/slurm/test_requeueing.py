"""What becomes of jobs that have to leave, on the real cluster: put back, followed by another, given up, cancelled.

What a rank does is played by a small script: the inside of a training job has its tests in test_life.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cluster import Cluster
from life import ENVIRONMENT
from planted import plant
from test_whole_studies import Submitted
from toy import PROJECT

from xtrain.dispatch.attempts import Attempts
from xtrain.dispatch.cluster import Profile
from xtrain.dispatch.job_graph import JobGraph, JobNode, study_file
from xtrain.dispatch.node_check import bad_nodes
from xtrain.dispatch.submissions import Ended, JobFolder
from xtrain.dispatch.submit_job import Behind, behind_of, submit_job

A = JobNode("a", "target", "a", "toy/a", "target/a")
AFTER = JobNode("e", "evaluate", "a", "toy/a/evaluate", "evaluate/e", ("a",))
OTHER = JobNode("b", "target", "b", "toy/b", "target/b")
REPORT = JobNode("r", "report", "report", "toy/report", "report/r", ("a", "e", "b"))
PREPARE = JobNode("p", "prepare", "prepare", "toy/prepare", "prepare/p")
PREPARED = JobNode("c", "target", "c", "toy/c", "target/c", ("p",))
STAND_IN = """
import json, os, sys, time
root = {root!r}
trains = "train.py" in " ".join(sys.argv)
name = sys.argv[-1].split("/")[-1] if trains else sys.argv[4]
with open(f"{{root}}/{{name}}.calls", "a") as handle:
    handle.write("x")
acts = json.load(open(root + "/how.json")).get(name, ["done"])
act = acts[min(os.path.getsize(f"{{root}}/{{name}}.calls"), len(acts)) - 1]
while "wait" in act and not os.path.exists(root + "/go"):
    time.sleep(0.05)
if "crash" in act:
    raise RuntimeError("CUDA error: uncorrectable ECC error")
if "75" in act:
    sys.exit(75)
if trains:
    open(sys.argv[-1] + "/DONE", "w").write("{{}}")
"""

MakeCluster = Callable[..., Cluster]


def python_of(root: Path, *played: str) -> Path:
    """An interpreter whose ranks are the stand-in, where their command has one of these words."""
    root.mkdir(parents=True, exist_ok=True)
    (root / "stand_in.py").write_text(STAND_IN.format(root=str(root)))
    (root / "how.json").write_text("{}")
    python = root / "python"
    cases = "|".join(f'*"{word}"*' for word in played)
    python.write_text(
        f'#!/bin/sh\ncase "$*" in {cases}) exec {sys.executable} {root}/stand_in.py "$@";; esac\n'
        f'exec {sys.executable} "$@"\n'
    )
    python.chmod(0o755)
    return python


class Jobs:
    """A graph in an output folder, and its jobs in the queue of a cluster."""

    def __init__(self, cluster: Cluster, root: Path, *nodes: JobNode, **tables: Any) -> None:
        self.cluster, self.root, self.out = cluster, root, root / "out"
        mapping = {
            "scheduler": "slurm",
            "name": "lab",
            "job": {"partition": "main", "time_limit": 10, "cpus_per_task": 1, **tables.pop("job", {})},
            "environment": {"python": str(python_of(root, "train.py", "-m xtrain ")), "variables": ENVIRONMENT},
            "storage": {"cache": str(root / "cache")},
            "preemption": {"check_nodes": False, **tables.pop("preemption", {})},
            **tables,
        }
        self.profile = Profile.from_mapping(mapping)
        self.graph = JobGraph("toy", nodes, self.profile.to_mapping())
        self.graph.write(self.out)
        for node in nodes:
            if node.kind in ("prepare", "report"):
                study_file(node.run(self.out).create()).write_text('name = "toy"\n')

    def how(self, **acts: list[str]) -> Jobs:
        """What the ranks of a phase do, at their first start, the second ...; the last is repeated."""
        (self.root / "how.json").write_text(json.dumps(acts))
        return self

    def submit(self, node: JobNode, behind: Behind | None = None, lane: list[str] | None = None) -> str:
        """Put one job into the queue, behind its parents' newest jobs if not told otherwise; its id."""
        jobs = {other.hash: self.jobs(other)[-1] for other in self.graph.nodes if self.jobs(other)}
        behind = behind if behind is not None else behind_of(node, self.graph, jobs, lane or [])
        self.folder(node).reopen()
        return submit_job(self.folder(node), self.profile, node, self.graph, behind, lane=0).job

    def folder(self, node: JobNode) -> JobFolder:
        return JobFolder(node.run(self.out).create())

    def jobs(self, node: JobNode) -> list[str]:
        return [submission.job for submission in self.folder(node).submissions()]

    def attempts(self, node: JobNode) -> int:
        return Attempts(node.run(self.out)).newest()

    def calls(self, node: JobNode) -> int:
        """How often its ranks have begun."""
        path = self.root / f"{'plan' if node.kind == 'prepare' else Path(node.folder).name}.calls"
        return path.stat().st_size if path.exists() else 0

    def go(self) -> None:
        (self.root / "go").touch()

    def ended(self, node: JobNode) -> Ended:
        ended = self.folder(node).ended()
        assert ended is not None, self.story()
        return ended

    def dependency(self, job: str) -> str:
        """As scontrol shows it, without what has come of it."""
        found = re.search(r"Dependency=(\S+)", self.cluster.run("scontrol", "show", "job", job).stdout)
        assert found is not None
        return re.sub(r"\([^)]*\)", "", found[1])

    def wait(self, there: Callable[[], Any], seconds: float = 90) -> None:
        end = time.monotonic() + seconds
        while not there():
            assert time.monotonic() < end, self.story()
            time.sleep(0.1)

    def wait_done(self, *nodes: JobNode) -> None:
        """Until each has its result, and its last attempt's end is written down, which comes after."""

        def over(node: JobNode) -> bool:
            attempts = Attempts(node.run(self.out))
            return node.run(self.out).done and attempts.read_end(attempts.newest()) is not None

        self.wait(lambda: all(map(over, nodes)))

    def wait_state(self, job: str, state: str) -> None:
        self.wait(lambda: self.cluster.job_states().get(job) == state)

    def wait_empty(self) -> None:
        self.wait(lambda: not self.cluster.run("squeue", "-h").stdout.strip())

    def xtrain(self, *words: str) -> str:
        environment = {**self.cluster.environment, **ENVIRONMENT, "PYTHONPATH": str(PROJECT), "COLUMNS": "200"}
        done = self.cluster.run(sys.executable, "-m", "xtrain", *words, env=environment, cwd=self.root)
        return done.stdout + done.stderr

    def story(self) -> str:
        paths = [*self.out.rglob("*_log.out"), *self.out.rglob("*.log")]
        logs = [f"== {path}\n{path.read_text('utf-8', errors='replace')[-2500:]}" for path in sorted(paths)]
        return "\n".join([str(self.cluster.job_states()), *logs])


@pytest.fixture
def jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Jobs]:
    def made(cluster: Cluster, *nodes: JobNode, **tables: Any) -> Jobs:
        cluster.use_in(monkeypatch)
        return Jobs(cluster, tmp_path / "lab", *nodes, **tables)

    return made


def program_before(one: Jobs, monkeypatch: pytest.MonkeyPatch, name: str, script: str, **more: str) -> None:
    """Let ``script`` stand before a command of SLURM's, here and in the jobs that are submitted from here."""
    program = one.root / "bin" / name
    program.parent.mkdir()
    program.write_text(script.format(real=shutil.which(name), root=one.root, **more))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")


def test_nothing_that_lies_in_the_run_directory_runs(
    cluster: Cluster, jobs: Callable[..., Jobs], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Planted while the job waits in the queue: for it, and for the job that goes on in its place."""
    one = jobs(cluster, A, preemption={"requeue": False}).how(a=["75", "done"])
    run, sprung = one.folder(A).run.path, one.root / "sprung"
    before = cluster.run("sbatch", "--parsable", "--hold", "-o/dev/null", "--wrap=true").stdout.strip()
    monkeypatch.chdir(run)  # Python would look here for what it imports
    first = one.submit(A, Behind(ended=(before,)))
    assert not list(run.rglob("*.pkl"))
    plant(run, sprung, [str(int(first) + more) for more in range(5)])
    cluster.run("scontrol", "release", before)
    one.wait_done(A)
    assert (len(one.jobs(A)), one.calls(A)) == (2, 2), "both with the interpreter that was submitted"
    assert not sprung.exists(), one.story()


def test_a_chain_of_jobs(cluster: Cluster, jobs: Callable[..., Jobs]) -> None:
    """requeue = false: each job submits the next, and what waited for the old one waits for the new one, twice."""
    one = jobs(cluster, A, AFTER, OTHER, REPORT, preemption={"requeue": False})
    one.how(a=["wait 75", "75", "wait"])
    first = one.submit(A)
    after, other = one.submit(AFTER), one.submit(OTHER, lane=[first])
    report = one.submit(REPORT)
    one.wait(lambda: one.calls(A))
    one.go()
    one.wait(lambda: one.calls(A) == 2)
    (one.root / "go").unlink()
    one.wait(lambda: one.calls(A) == 3)
    newest = one.jobs(A)[-1]
    assert len(one.jobs(A)) == 3
    assert one.dependency(after) == f"afterok:{newest}"
    assert one.dependency(other) == f"afterany:{newest}"
    assert set(one.dependency(report).split(",")) == {f"afterany:{after}", f"afterany:{other}"}
    one.go()
    one.wait_done(A, AFTER, OTHER, REPORT)
    one.wait_empty()
    submissions = one.folder(A).submissions()
    assert [s.chained for s in submissions] == [False, True, True]
    assert [s.first_attempt for s in submissions] == [1, 1, 1]
    assert one.attempts(A) == 3
    assert [len(one.jobs(node)) for node in (AFTER, OTHER, REPORT)] == [1, 1, 1], one.story()
    states = cluster.job_states()
    assert {states[job] for job in (*one.jobs(A), after, other, report)} == {"COMPLETED"}


def test_a_chain_where_requeueing_is_refused(cluster: Cluster, jobs: Callable[..., Jobs]) -> None:
    one = jobs(cluster, A, AFTER).how(a=["wait 75", "done"])
    first, after = one.submit(A), one.submit(AFTER)
    cluster.run("scontrol", "update", f"JobId={first}", "Requeue=0")
    one.wait(lambda: one.calls(A))
    one.go()
    one.wait_done(A, AFTER)
    assert len(one.jobs(A)) == 2
    assert one.jobs(AFTER) == [after]
    assert "scontrol requeue: " in one.story(), "SLURM's words are kept"


def test_a_dependant_that_began_too_early(cluster: Cluster, jobs: Callable[..., Jobs]) -> None:
    """As where SLURM could not be told to let it wait for another job: it submits itself again, behind that one."""
    one = jobs(cluster, A, AFTER, REPORT).how(a=["wait"])
    first = one.submit(A)
    early, report = one.submit(AFTER, Behind()), one.submit(REPORT, Behind())
    one.wait(lambda: len(one.jobs(AFTER)) == 2 and len(one.jobs(REPORT)) >= 2)
    one.wait_state(early, "COMPLETED")
    one.wait_state(report, "COMPLETED")
    assert one.dependency(one.jobs(AFTER)[-1]) == f"afterok:{first}"
    assert one.calls(AFTER) == one.attempts(REPORT) == 0
    one.go()
    one.wait_done(A, AFTER, REPORT)
    assert one.attempts(AFTER) == 1
    one.wait_empty()


def test_given_up(cluster: Cluster, jobs: Callable[..., Jobs]) -> None:
    """Ranks that die at once: three attempts, then the end; what depends on it is cancelled; a new submission counts
    anew."""
    one = jobs(cluster, A, AFTER).how(a=["crash"])
    first, after = one.submit(A), one.submit(AFTER)
    one.wait(lambda: one.folder(A).ended())
    one.wait_state(after, "CANCELLED")
    assert (one.calls(A), one.jobs(A)) == (3, [first])
    ended = one.ended(A)
    assert (ended.how, ended.attempt, ended.job) == ("given up", 3, first)
    assert "3 attempts in a row made no new step" in ended.reason
    assert "uncorrectable ECC error" in ended.reason
    assert cluster.job_states()[first] == "FAILED"
    why = one.xtrain("why", "toy/a", "--out", str(one.out))
    assert "uncorrectable ECC error" in why
    assert "toy/a/evaluate" in why
    assert "toy/a" in one.xtrain("why", "toy/a/evaluate", "--out", str(one.out))
    one.how(a=["crash", "crash", "crash", "75", "done"])
    one.submit(A)
    one.wait_done(A)
    assert one.attempts(A) == 5
    assert one.folder(A).ended() is None


@pytest.mark.parametrize("accounting", [True, False], ids=["with accounting", "without"])
def test_scancel(make_cluster: MakeCluster, jobs: Callable[..., Jobs], accounting: bool) -> None:
    """It has time to leave, in which `scontrol requeue` would bring it back: a cancelled job stays cancelled."""
    cluster = make_cluster(nodes=1, accounting=accounting, kill_wait=40)
    one = jobs(cluster, A, AFTER).how(a=["wait"])
    first, after = one.submit(A), one.submit(AFTER)
    one.wait(lambda: one.calls(A))
    cluster.run("scancel", first)
    one.wait_state(first, "CANCELLED")
    one.wait_state(after, "CANCELLED")
    ended = one.ended(A)
    assert (ended.how, ended.attempt) == ("cancelled", 1)
    assert one.jobs(A) == [first]
    assert one.calls(A) == 1


REQUEUE = """#!/bin/sh
# The real one; its first request to requeue waits until munge is away, and what comes of each is written down.
if [ "$1" = requeue ] && mkdir {root}/asked 2>/dev/null; then
    while [ ! -e {root}/away ]; do sleep 0.05; done
fi
{real} "$@"
code=$?
[ "$1" != requeue ] || echo $code >> {root}/codes
exit $code
"""


@pytest.mark.long
def test_munge_is_away_when_a_job_wants_back(
    make_cluster: MakeCluster, jobs: Callable[..., Jobs], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its ranks have saved and left, and `scontrol requeue` gets no answer: it asks again until munge is there.

    Ranks that train, and a minute without munge at a real time limit: test_life.
    """
    cluster = make_cluster(nodes=1, accounting=False)
    one = jobs(cluster, A).how(a=["75", "done"])
    program_before(one, monkeypatch, "scontrol", REQUEUE)
    job = one.submit(A)
    one.wait((one.root / "asked").exists)
    cluster.stop_munge()
    (one.root / "away").touch()
    codes = one.root / "codes"
    one.wait(codes.exists)
    assert codes.read_text().split() == ["1"]
    cluster.start_munge()
    one.wait_done(A)
    assert one.jobs(A) == [job]
    assert (one.calls(A), one.attempts(A)) == (2, 2), one.story()
    ends = Attempts(A.run(one.out)).read_end(1), Attempts(A.run(one.out)).read_end(2)
    assert [end and end.how for end in ends] == ["preempted", "done"]


def test_cancelled_by_the_user(cluster: Cluster, jobs: Callable[..., Jobs]) -> None:
    one = jobs(cluster, A, AFTER).how(a=["wait"])
    first, after = one.submit(A), one.submit(AFTER)
    one.wait(lambda: one.calls(A))
    assert "toy/a" in one.xtrain("cancel", str(one.out), "--yes")
    one.wait_empty()
    states = cluster.job_states()
    assert (states[first], states[after]) == ("CANCELLED", "CANCELLED")
    assert one.folder(A).asked_to_stop()
    assert (one.calls(A), one.attempts(A)) == (1, 1)
    one.go()
    one.submit(A)
    one.wait_done(A)
    assert not one.folder(A).asked_to_stop()


def test_preparing_is_begun_again(make_cluster: MakeCluster, jobs: Callable[..., Jobs]) -> None:
    """Put back by hand, then preempted: it has no steps to lose, and none to be judged by."""
    cluster = make_cluster(nodes=1, accounting=False, grace_time=0)
    one = jobs(cluster, PREPARE, PREPARED).how(plan=["wait"])
    job = one.submit(PREPARE)
    one.wait(lambda: one.calls(PREPARE))
    cluster.run("scontrol", "requeue", job)
    one.wait(lambda: one.calls(PREPARE) == 2)
    cluster.run("sbatch", "-p", "high", "-N1", "--exclusive", "-o", "/dev/null", "--wrap", "sleep 1")
    one.wait(lambda: one.calls(PREPARE) == 3)
    one.go()
    one.wait_done(PREPARE)
    known = Attempts(PREPARE.run(one.out))
    ends = [end.how for number in known.numbers() if (end := known.read_end(number))]
    assert ends == ["preempted", "preempted", "done"], one.story()
    assert one.jobs(PREPARE) == [job]


def test_a_node_that_is_not_fit(
    cluster: Cluster, jobs: Callable[..., Jobs], tmp_path: Path, tiny_model: Path, toy_data: Path
) -> None:
    """The next attempt does not get it, nor do later submissions, which say so."""
    one = jobs(cluster, A, job={"nodes": 2}, preemption={"check_nodes": True})
    cluster.hide_folder("n2", one.out)
    one.submit(A)
    one.wait_done(A)
    known = Attempts(A.run(one.out))
    first, second, end = known.read(1), known.read(2), known.read_end(1)
    assert first is not None
    assert second is not None
    assert end is not None
    assert first.nodes == ("n1", "n2"), "the cluster was idle"
    assert "n2" not in second.nodes, one.story()
    assert (end.how, end.node) == ("failed", "n2")
    (bad,) = bad_nodes(one.out)
    assert bad.node == "n2"
    assert str(A.run(one.out).path) in bad.reason
    one.wait_empty()
    cluster.unmount("n2", one.out)

    later = Submitted(cluster, tmp_path / "later", tiny_model, toy_data, target=[{"task": "toy"}])
    later.out = one.out
    later.write_profile()
    cluster.run("scontrol", "update", "PartitionName=main", "State=DOWN")
    try:
        done = later.submit()
        assert done.returncode == 0, done.stderr
        assert f"not on n2: {bad.reason}" in done.stdout
        for job in later.jobs().values():
            assert "ExcNodeList=n2" in cluster.run("scontrol", "show", "job", job).stdout
    finally:
        cluster.run("scancel", "--user=root")
        cluster.run("scontrol", "update", "PartitionName=main", "State=UP")
    one.wait_empty()


def test_more_phases_than_may_be_queued(cluster: Cluster, tmp_path: Path, tiny_model: Path, toy_data: Path) -> None:
    """The report's job submits what there was no room for, by and by; a phase that failed meanwhile is left alone."""
    one = Submitted(cluster, tmp_path, tiny_model, toy_data, target=[{"task": "toy"}])
    played = python_of(tmp_path / "ranks", "train.py", "-m xtrain report ")
    one.write_profile(
        environment={"python": str(played)}, limits={"running": 2, "queued": 4}, preemption={"check_nodes": False}
    )
    done = one.submit()
    assert done.returncode == 0, done.stdout + done.stderr
    assert "submitted 4 jobs" in done.stdout
    assert "3 jobs are left for later: toy/report submits them when there is room" in done.stdout
    assert (
        "no room in the queue; toy/report submits it later"
        in one.command("-m", "xtrain", "status", str(one.out)).stdout
    )
    one.wait_empty()
    assert all(node.run(one.out).done for node in one.graph.nodes), one.logs()
    report = one.graph.nodes[-1]
    assert len(JobFolder(report.run(one.out)).submissions()) > 1
    assert "nothing to submit" in one.submit().stdout


@pytest.mark.long
@pytest.mark.parametrize("told", [False, True], ids=["by sbatch's refusal", "by sacctmgr"])
def test_a_site_that_lets_in_few_jobs(
    make_cluster: MakeCluster, tmp_path: Path, tiny_model: Path, toy_data: Path, told: bool
) -> None:
    """MaxSubmitJobs: the report's job gets a place, and submits the others; all from a snapshot."""
    cluster = make_cluster(nodes=2, extra="AccountingStorageEnforce=limits")
    cluster.run("sacctmgr", "-i", "modify", "user", "root", "set", "MaxSubmitJobs=4")
    for folder in ("bin", "bin-node") if not told else ():
        (cluster.folder / folder / "sacctmgr").write_text("#!/bin/sh\nexit 1\n")
    one = Submitted(cluster, tmp_path, tiny_model, toy_data, target=[{"task": "toy"}])
    played = python_of(tmp_path / "ranks", "train.py", "-m xtrain report ")
    one.write_profile(
        environment={"python": str(played)}, limits={"running": 2}, preemption={"check_nodes": False},
        **({"cluster": "tests"} if told else {}),
    )  # fmt: skip
    done = one.submit("--snapshot")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "submitted 4 jobs" in done.stdout
    assert "3 jobs are left for later: toy/report submits them when there is room" in done.stdout
    assert ("MaxSubmitJobs of account root = 4" if told else "AssocMaxSubmitJobLimit") in done.stdout
    report = one.graph.nodes[-1]
    status = one.command("-m", "xtrain", "status", str(one.out)).stdout
    assert "no room in the queue; toy/report submits it later" in status
    assert "toy/report" in status
    (code,) = (one.out / "code").iterdir()
    scripts = list(one.out.glob("*/*/job/submitit/*.sh"))
    assert len(scripts) >= 4
    assert all(f"export PYTHONPATH={code}" in script.read_text() for script in scripts)
    one.wait_empty()
    assert all(node.run(one.out).done for node in one.graph.nodes), one.logs()
    assert len(JobFolder(report.run(one.out)).submissions()) > 1
    scripts = list(JobFolder(report.run(one.out)).submitit.glob("*.sh"))
    assert all(f"export PYTHONPATH={code}" in script.read_text() for script in scripts), "what jobs submit, too"
    assert "nothing to submit" in one.submit().stdout


SBATCH = """#!/bin/sh
# The real one; its answer gets lost once.
answer=$({real} "$@") || exit
if mkdir {root}/lost 2>/dev/null; then
    echo "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation" >&2
    {after}
    exit 1
fi
echo "$answer"
"""


@pytest.mark.parametrize("after", ["true", "kill -9 $PPID; sleep 1"], ids=["a time-out", "killed meanwhile"])
def test_an_answer_of_sbatch_that_is_lost(
    cluster: Cluster, jobs: Callable[..., Jobs], after: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The job is in the queue all the same: it is found there, and none is submitted a second time."""
    one = jobs(cluster, A, AFTER)
    program_before(one, monkeypatch, "sbatch", SBATCH, after=after)
    cluster.run("scontrol", "update", "PartitionName=main", "State=DOWN")
    try:
        if after != "true":
            child = os.fork()
            if child == 0:
                one.submit(A)
                os._exit(0)
            assert os.waitpid(child, 0)[1] == signal.SIGKILL
            assert one.jobs(A) == []
        first = one.submit(A)
        then = one.submit(AFTER)
        queued = cluster.run("squeue", "--noheader", "--format=%i").stdout.split()
        assert sorted(queued) == sorted([first, then])
    finally:
        cluster.run("scontrol", "update", "PartitionName=main", "State=UP")
    one.wait_done(A, AFTER)
    assert one.attempts(A) == 1
