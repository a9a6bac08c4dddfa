"""Run directories of a study in all states, written by the writers that write the real ones."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

from xtrain.dispatch.attempts import Attempts
from xtrain.dispatch.job_graph import JobGraph, JobNode
from xtrain.dispatch.slurm import JobState
from xtrain.dispatch.submissions import JobFolder, Submission
from xtrain.files import content_hash, read_json, write_json
from xtrain.tracking import Recorder

TRACEBACK = """Traceback (most recent call last):
  File "/xtrain/phase/entry.py", line 108, in run_phase
    summary = work(rank)
  File "/xtrain/training/loop.py", line 96, in run
    result = self._global_step(step, learning_rate)
RuntimeError: CUDA error: an illegal memory access was encountered
"""
LOST_PEER = """Traceback (most recent call last):
  File "/xtrain/training/agreement.py", line 40, in worst
    dist.all_reduce(values)
RuntimeError: [../third_party/gloo/gloo/transport/tcp/pair.cc:534] Connection closed by peer [10.0.0.2]:4412
"""


def node(kind: str, name: str, *parents: JobNode, study: str = "phang") -> JobNode:
    """A job of the graph; its hash is made of its name."""
    hash_ = content_hash([kind, name])
    job_name = f"{study}/{name}" + ("/evaluate" if kind == "evaluate" else "")
    folder = f"{kind}/{name.replace('/', '-')}-{hash_}"
    return JobNode(hash_, kind, name, job_name, folder, tuple(parent.hash for parent in parents))


def graph(rows: tuple[str, ...] = ("none-s0", "mnli-s0"), tasks: tuple[str, ...] = ("xnli", "pawsx")) -> JobGraph:
    """Prepare, a row with two tasks for each of ``rows``, their evaluations, the report."""
    prepare = node("prepare", "prepare")
    nodes = [prepare]
    for row in rows:
        parent = prepare
        if not row.startswith("none"):
            parent = node("intermediate", row, prepare)
            nodes.append(parent)
        for task in tasks:
            target = node("target", f"{row}/{task}", parent)
            nodes += [target, node("evaluate", f"{row}/{task}", target)]
    return JobGraph("phang", (*nodes, node("report", "report", *nodes[1:])))


class Run:
    """One run directory, filled step by step."""

    def __init__(self, node: JobNode, out: Path) -> None:
        self.node, self.run = node, node.run(out).create()
        self.folder, self.attempts = JobFolder(self.run), Attempts(self.run)

    def submit(self, job: str, **more: Any) -> Run:
        self.folder.add(Submission(job, self.node.job_name, time.time(), "a100", **more))
        return self

    def attempt(self, job: str = "", nodes: tuple[str, ...] = ("n1", "n2"), restart: int = 0, **more: Any) -> Run:
        self.attempts.claim(job=job, restart=restart, nodes=nodes, **more)
        return self

    def end_attempt(self, how: str, code: int, reason: str, node: str = "") -> Run:
        self.attempts.end(self.attempts.newest(), how, code, reason, node)
        return self

    def train(self, steps: int, planned: int, seconds_a_step: float = 2.0, every: int = 10, ago: float = 0.0) -> Run:
        """The record of a training that came so far, as if its newest line were ``ago`` seconds old."""
        now = time.time() - ago
        with Recorder(self.run) as record:
            record.event("start", host="n1", world_size=4)
            record.event("begin", step=0, planned_steps=planned)
            for step in range(every, steps + 1, every):
                record.metrics(
                    step, {"loss": 2.0 / step, "tokens_per_second": 5120.0, "seconds": every * seconds_a_step}
                )
                if step % (5 * every) == 0:
                    record.event("save", step=step)
        steps_of = lambda line: line.get("step", 0)  # noqa: E731
        _restamp(self.run.metrics, lambda line: now - (steps - steps_of(line)) * seconds_a_step)
        _restamp(self.run.events, lambda line: now - (steps - steps_of(line)) * seconds_a_step)
        if self.attempts.newest():
            path = self.attempts.path(self.attempts.newest()) / "attempt.json"
            write_json(path, {**read_json(path), "started": now - steps * seconds_a_step - 10})
        (self.run.checkpoints / f"step-{steps}").mkdir(parents=True, exist_ok=True)
        return self

    def finish(self, **summary: Any) -> Run:
        with Recorder(self.run) as record:
            record.event("done", **summary)
        self.run.mark_done(summary)
        return self

    def event(self, kind: str, **fields: Any) -> Run:
        with Recorder(self.run) as record:
            record.event(kind, **fields)
        return self

    def print(self, text: str, rank: int = 0, ago: float = 0.0) -> Path:
        """What a rank printed, ``ago`` seconds before now."""
        path = self.run.logs / f"rank-{rank}.log"
        with open(path, "a", encoding="utf-8") as handle:
            handle.write(text)
        os.utime(path, (time.time() - ago,) * 2)
        return path


def _restamp(path: Path, when: Any) -> None:
    """Let the lines of a record be as old as they claim: their writer knows only the present."""
    lines = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    for line in lines:
        line["time"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(when(line)))
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")


def in_queue(job: str, state: str, reason: str = "", **more: Any) -> JobState:
    """What squeue says of a job."""
    return JobState(job, state, reason, **more)


def every_state(out: Path) -> tuple[JobGraph, dict[str, JobState]]:
    """A study in the middle of its life: every state, with what squeue says of its jobs."""
    study = graph(("none-s0", "mnli-s0", "qnli-s0", "csqa-s0", "race-s0", "late-s0"))
    by_name = {node.job_name: node for node in study.nodes}
    states: dict[str, JobState] = {}

    def run(name: str, job: str = "", state: str = "", reason: str = "", **more: Any) -> Run:
        submission = {key: more.pop(key) for key in ("lane", "ended", "succeeded", "chained") if key in more}
        found = Run(by_name[f"phang/{name}"], out)
        if job:
            found.submit(job, **submission)
        if state:
            states[job] = in_queue(job, state, reason, **more)
        return found

    run("prepare", "100").attempt("100", ("n1",)).finish(seconds=12.5)
    done = run("none-s0/xnli", "101").attempt("101").train(300, 300, ago=4000)
    done.finish(steps=300, planned_steps=300, dev_score=71.25, tokens_per_second=5003.2, seconds=640.0)
    run("none-s0/xnli/evaluate", "102").attempt("102", ("n1",)).finish(
        task="xnli", score=64.812, languages=15, seconds=33.0
    )
    run("none-s0/pawsx", "103", "RUNNING", nodes="n[1-2]").attempt("103").train(140, 400, ago=3)
    run("none-s0/pawsx/evaluate", "104", "PENDING", "Dependency", dependency="afterok:103(unfulfilled)")
    run("mnli-s0", "105").attempt("105").train(90, 90, ago=500).finish(steps=90, planned_steps=90, dev_score=80.1)
    run("mnli-s0/xnli", "106").attempt("106").train(300, 300, ago=60).finish(
        steps=300, planned_steps=300, dev_score=78.0
    )
    evaluated = run("mnli-s0/xnli/evaluate", "107", "RUNNING", nodes="n3").attempt("107", ("n3",))
    evaluated.event("start", host="n3")
    evaluated.print("      BERT\nevaluate mnli-s0/xnli  tokens 45,000/100,000  12,345 tokens/s  eta 1m05s\n", ago=5)
    preempted = run("mnli-s0/pawsx", "108", "PENDING", "BeginTime", restarts=2).attempt("108").train(120, 400, ago=90)
    preempted.event("preempted", step=120, saved_step=120, signal="SIGUSR2", seconds=1.25)
    preempted.end_attempt("preempted", 75, "SIGUSR2: saved at step 120")
    run("mnli-s0/pawsx/evaluate", "109", "PENDING", "Dependency")
    failed = run("qnli-s0", "110").attempt("110", ("n2",))
    failed.event("start", host="n2")
    message = (
        "data/phang/train-en.jsonl:7: label 'maybe' is none of the task's\n  allowed: yes, no\n  to do:   correct it"
    )
    failed.event("failed", error=f"UserError: {message}")
    failed.print(f"      reading\nerror: {message}\n")
    failed.end_attempt("user error", 2, message, "n2")
    failed.folder.end("user error", 2, message, attempt=1, node="n2", job="110")
    for number, name in enumerate(("qnli-s0/xnli", "qnli-s0/xnli/evaluate", "qnli-s0/pawsx", "qnli-s0/pawsx/evaluate")):
        run(name, str(111 + number), "CANCELLED", "Dependency")
    given_up = run("csqa-s0", "120")
    for number in range(3):
        given_up.attempt("120", ("n1", "n2"), number).event("start", host="n1")
        given_up.end_attempt("failed", 1, "rank 3 ended with exit code 1; rank 0 lost the connection", "n2")
    given_up.event("ended_failed", rank=3, host="n2", text="RuntimeError: CUDA error")
    given_up.print(LOST_PEER, rank=0)
    given_up.print(TRACEBACK, rank=3)
    given_up.folder.end(
        "given up", 1, "3 attempts without a new step: rank 3 ended with exit code 1", attempt=3, node="n2"
    )
    run("csqa-s0/xnli", "121")
    lost = run("race-s0", "130").attempt("130").train(50, 200, ago=5000)
    lost.print(TRACEBACK, ago=4000)
    run("race-s0/xnli", "131", "PENDING", "DependencyNeverSatisfied")
    run("race-s0/xnli/evaluate", "133", "PENDING", "Dependency")
    run("race-s0/pawsx", "132", "PENDING", "Dependency")
    run("late-s0", "134", "PENDING", "Priority", start=time.time() + 7000, time_limit=3600.0)
    run("report", "140", "PENDING", "Dependency")
    study.write(out)
    return study, states
