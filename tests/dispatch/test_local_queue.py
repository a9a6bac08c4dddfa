"""A study's jobs on this machine: real queues and jobs; what a rank does is played by a small script."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from toy import PROJECT

from xtrain.dispatch.attempts import Attempts
from xtrain.dispatch.cluster import Profile
from xtrain.dispatch.job_graph import JobGraph, JobNode, study_file
from xtrain.dispatch.local_queue import held_as_queue, local_job, start_queue
from xtrain.dispatch.submissions import JobFolder
from xtrain.errors import UserError
from xtrain.run_directory import RunDirectory
from xtrain.watching.cancel import cancel_jobs
from xtrain.watching.run_view import local_process

PREPARE = JobNode("p", "prepare", "prepare", "toy/prepare", "prepare/p")
A = JobNode("a", "target", "a", "toy/a", "target/a", ("p",))
B = JobNode("b", "target", "b", "toy/b", "target/b", ("p",))
C = JobNode("c", "target", "c", "toy/c", "target/c", ("p",))
AFTER = JobNode("e", "evaluate", "a", "toy/a/evaluate", "evaluate/a", ("a",))
REPORT = JobNode("r", "report", "report", "toy/report", "report/r", ("p", "a", "b", "c", "e"))
STAND_IN = """
import json, os, sys, time
root = {root!r}
folder = "/".join(sys.argv[-1].split("/")[-2:]) if "train.py" in " ".join(sys.argv) else sys.argv[4]
def note(word):
    with open(root + "/notes", "a") as handle:
        handle.write(f"{{word}} {{folder}} {{os.environ.get('OF_THE_PROFILE')}}\\n")
note("start")
how = json.load(open(root + "/how.json")).get(folder, "")
if how == "user":
    sys.exit(print("error: a.toml: batch_size: 0 is not allowed\\n  to do:   write 8", file=sys.stderr) or 2)
if how == "crash":
    raise RuntimeError("CUDA error")
while how == "wait" and not os.path.exists(root + "/go"):
    time.sleep(0.05)
time.sleep(0.2)
note("end")
if "train.py" in " ".join(sys.argv):
    open(sys.argv[-1] + "/DONE", "w").write("{{}}")
"""


class Local:
    """A graph in an output folder, and the queues that run it."""

    def __init__(self, root: Path) -> None:
        self.root, self.out = root, root / "out"
        (root / "stand_in.py").write_text(STAND_IN.format(root=str(root)))
        python = root / "python"
        python.write_text(
            f'#!/bin/sh\ncase "$*" in *train.py*|*"-m xtrain "*) exec {sys.executable} {root}/stand_in.py "$@";; esac\n'
            f'exec {sys.executable} "$@"\n'
        )
        python.chmod(0o755)
        self.queues: list[subprocess.Popen[str]] = []

    def write(self, *nodes: JobNode, running: int = 1, **how: str) -> Local:
        """The study; ``how`` says what becomes of the rank of a job, by its folder's first letter."""
        known = {node.hash for node in nodes}
        nodes = tuple(replace(node, parents=tuple(p for p in node.parents if p in known)) for node in nodes)
        folders = {node.hash: node.folder for node in nodes}
        (self.root / "how.json").write_text(json.dumps({folders[key]: word for key, word in how.items()}))
        profile = Profile.from_mapping(
            {
                "scheduler": "local",
                "limits": {"running": running},
                "job": {"tasks_per_node": 1},
                "environment": {"python": str(self.root / "python"), "variables": {"OF_THE_PROFILE": "yes"}},
            }
        )
        JobGraph("toy", nodes, profile.to_mapping()).write(self.out)
        for node in nodes:
            if node.kind in ("prepare", "report"):
                study_file(node.run(self.out).create()).write_text('name = "toy"\n')
        return self

    def start(self) -> subprocess.Popen[str]:
        """A queue in the foreground."""
        command = [sys.executable, "-u", "-m", "xtrain.dispatch.local_queue", str(self.out)]
        environment = {**os.environ, "PYTHONPATH": str(PROJECT), "OMP_NUM_THREADS": "1"}
        with open(self.out / "jobs" / "toy.json", encoding="utf-8") as graph:
            queue = subprocess.Popen(
                command, env=environment, stdin=graph, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
            )
        self.queues.append(queue)
        return queue

    def finish(self) -> tuple[int, str]:
        """Run a queue to its end; its exit code, and what it said."""
        queue = self.start()
        said, _ = queue.communicate(timeout=120)
        return queue.returncode, said

    def notes(self) -> list[str]:
        """``start target/a``, ``end target/a``, ... in the order in which it happened."""
        path = self.root / "notes"
        return [" ".join(line.split()[:2]) for line in path.read_text().splitlines()] if path.exists() else []

    def go(self) -> None:
        """What waits need not wait any more."""
        (self.root / "go").touch()

    def folder(self, node: JobNode) -> JobFolder:
        return JobFolder(node.run(self.out))

    def wait(self, there: Callable[[], Any], seconds: float = 30) -> None:
        end = time.monotonic() + seconds
        while not there():
            assert time.monotonic() < end, self.story()
            time.sleep(0.05)

    def story(self) -> str:
        paths = [*self.out.rglob("*_log.out"), *self.out.rglob("*.log")]
        return "\n".join(f"== {path}\n{path.read_text()[-2000:]}" for path in paths) + f"\n{self.notes()}"


@pytest.fixture
def local(tmp_path: Path) -> Iterator[Local]:
    local = Local(tmp_path)
    yield local
    for queue in local.queues:
        queue.kill()
        queue.wait()
    for path in local.out.glob("*/*/job/submissions.jsonl"):  # a job outlives its queue
        for submission in JobFolder(RunDirectory(path.parents[1])).submissions():
            if (process := local_process(submission.job)) is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, signal.SIGTERM)


def test_in_order_and_as_many_at_a_time_as_allowed(local: Local) -> None:
    nodes = (PREPARE, A, B, C, AFTER, REPORT)
    queue = local.write(*nodes, running=2, a="wait", b="wait", c="wait").start()
    local.wait(lambda: {"start target/a", "start target/b"} <= set(local.notes()))
    local.go()
    said, _ = queue.communicate(timeout=120)
    assert queue.returncode == 0, said + local.story()
    assert all(node.run(local.out).done for node in nodes)
    notes = local.notes()
    for node in nodes[1:]:
        for parent in nodes[:-1] if node is REPORT else [n for n in nodes if n.hash in node.parents]:
            before, after = _folder(parent), _folder(node)
            assert notes.index(f"end {before}") < notes.index(f"start {after}"), notes
    running = most = 0
    for note in notes:
        running += 1 if note.startswith("start") else -1
        most = max(most, running)
    assert most == 2, notes
    assert (local.root / "notes").read_text().count("yes") == len(notes), "the profile's variables"
    submission = local.folder(A).submissions()[-1]
    attempt = Attempts(A.run(local.out)).read(1)
    assert attempt is not None
    assert (attempt.job, attempt.ranks, attempt.gpus, attempt.time_limit) == (submission.job, 1, 0, None)


def _folder(node: JobNode) -> str:
    """As the stand-in calls it: of prepare and report, it sees the command alone."""
    return {"prepare": "plan", "report": "report"}.get(node.kind, node.folder)


def test_a_failure_ends_what_depends_on_it_and_nothing_else(local: Local) -> None:
    code, said = local.write(PREPARE, A, B, AFTER, REPORT, a="user").finish()
    assert code == 1, said
    ended = local.folder(A).ended()
    assert ended is not None, local.story()
    assert (ended.how, ended.code, ended.attempt) == ("user error", 2, 1)
    assert ended.reason == "a.toml: batch_size: 0 is not allowed\n  to do:   write 8"
    assert local.notes().count("start target/a") == 1
    lost = local.folder(AFTER).ended()
    assert lost is not None
    assert (lost.how, lost.reason) == ("cancelled", "toy/a, which it needs, has no result")
    assert B.run(local.out).done
    assert REPORT.run(local.out).done


def test_a_crash_is_tried_again_and_given_up(local: Local) -> None:
    code, said = local.write(A, a="crash").finish()
    assert code == 1, said
    assert local.notes() == ["start target/a"] * 3
    ended = local.folder(A).ended()
    assert ended is not None
    assert ended.how == "given up"
    assert "CUDA error" in ended.reason
    local.write(A).finish()
    assert A.run(local.out).done, "submitted again, it has new attempts"


def test_stopped_and_gone_on_with(local: Local) -> None:
    queue = local.write(A, AFTER, a="wait").start()
    local.wait(lambda: local.notes())
    queue.send_signal(signal.SIGTERM)
    said, _ = queue.communicate(timeout=60)
    assert queue.returncode == 75, said
    assert "submitting the study again goes on" in said
    end = Attempts(A.run(local.out)).read_end(1)
    assert end is not None, local.story()
    assert end.how == "preempted"
    assert local.folder(A).ended() is None
    assert not local.folder(AFTER).path.exists(), "what has not begun has not failed either"
    local.go()
    code, said = local.finish()
    assert code == 0, said + local.story()


def test_two_queues_at_once_are_refused(local: Local) -> None:
    local.write(A, a="wait").start()
    local.wait(lambda: local.notes())
    code, said = local.finish()
    assert code == 2, said
    assert "study toy is being run on this machine already" in said
    with pytest.raises(UserError), held_as_queue(local.out, "toy"):
        pass
    local.go()
    local.wait(lambda: A.run(local.out).done)
    assert len(local.folder(A).submissions()) == 1


def test_the_queue_outlives_who_submitted(local: Local) -> None:
    local.write(A, a="wait")
    code = (
        "import sys, time; from pathlib import Path; from xtrain.dispatch.job_graph import JobGraph;"
        "from xtrain.dispatch.local_queue import start_queue; out = Path(sys.argv[1]);"
        "print(start_queue(out, JobGraph.read(out / 'jobs/toy.json')), flush=True); time.sleep(60)"
    )
    shell = subprocess.Popen(
        [sys.executable, "-c", code, str(local.out)], stdout=subprocess.PIPE, text=True, start_new_session=True,
        env={**os.environ, "PYTHONPATH": str(PROJECT)},
    )  # fmt: skip
    assert shell.stdout is not None
    queue = int(shell.stdout.readline())
    local.wait(lambda: local.notes())
    for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(shell.pid, number)
    shell.communicate()
    assert os.getsid(queue) == queue
    local.go()
    local.wait(lambda: A.run(local.out).done)
    local.wait(lambda: "toy/a: done" in (local.out / "jobs" / "toy.log").read_text())


def test_cancelled(local: Local) -> None:
    """A job that runs is marked and told to leave; what waits for it does not begin."""
    nodes = (A, AFTER, REPORT)
    local.write(*nodes, a="wait").start()
    local.wait(lambda: local.notes())
    (job,) = [submission.job for submission in local.folder(A).submissions()]
    assert local_process(job) is not None
    graph = JobGraph.read(local.out / "jobs" / "toy.json")
    cancelled = cancel_jobs(graph, graph.nodes, local.out)
    assert cancelled.jobs == {job: "toy/a"}
    said, _ = local.queues[0].communicate(timeout=60)
    ended = local.folder(A).ended()
    assert ended is not None, said
    assert ended.how == "cancelled"
    assert local.notes() == ["start target/a"]
    assert local_process(job) is None


def test_a_job_id_is_that_of_one_process_alone() -> None:
    with subprocess.Popen(["sleep", "60"]) as process:
        job = local_job(process.pid)
        assert local_process(job) == process.pid
        head, _, began = job.rpartition("-")
        assert local_process(f"{head}-{int(began) + 1}") is None, "another process that got the same number"
        process.kill()
    assert local_process(job) is None


def test_the_queue_starts_where_xtrain_is_not_installed(local: Local, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTHONPATH", raising=False)
    monkeypatch.chdir("/")
    local.write(A)
    start_queue(local.out, JobGraph.read(local.out / "jobs" / "toy.json"))
    local.wait(lambda: A.run(local.out).done)


def test_nothing_that_lies_in_the_run_directory_runs(local: Local, monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted when the queue has submitted the job and the job is about to begin, by its own interpreter."""
    sprung, run = local.root / "sprung", A.run(local.out).path
    plant_it = f"from planted import plant; import os, pathlib, sys; plant(pathlib.Path({str(run)!r}), "
    plant_it += f"pathlib.Path({str(sprung)!r}), [os.environ['SUBMITIT_LOCAL_JOB_ID']])"
    local.write(A, AFTER)
    python = local.root / "python"
    lines = python.read_text().splitlines()
    planting = f"PYTHONPATH={PROJECT}/tests {sys.executable} -c {shlex.quote(plant_it)}"
    python.write_text("\n".join([lines[0], planting, *lines[1:]]) + "\n")
    monkeypatch.chdir(A.run(local.out).create().path)  # Python would look here for what it imports
    start_queue(local.out, JobGraph.read(local.out / "jobs" / "toy.json"))
    local.wait(lambda: AFTER.run(local.out).done)
    assert {"start target/a", "end evaluate/a"} <= set(local.notes()), "with the interpreter that was submitted"
    assert list(run.glob("job/submitit/*_submitted.pkl")), "nothing was planted"
    assert not sprung.exists(), local.story()
