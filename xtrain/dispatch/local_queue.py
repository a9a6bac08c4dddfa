"""A study's jobs on this machine, without SLURM: the same graph, each job through submitit's local executor.

``python -m xtrain.dispatch.local_queue OUT`` is the queue: a process of its own that outlives the shell which
submitted, and has the graph from it. It starts a job when what it needs is done, as many at a time as the profile says.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from xtrain.dispatch import attempts
from xtrain.dispatch.attempts import Attempts, Fence
from xtrain.dispatch.batch_script import PROJECT
from xtrain.dispatch.cluster import Profile
from xtrain.dispatch.job_graph import JOBS, REPORT, JobGraph, JobNode, lock_file
from xtrain.dispatch.job_spec import JobSpec
from xtrain.dispatch.local import RanksPreempted, run_ranks
from xtrain.dispatch.processes import process_stat
from xtrain.dispatch.submissions import JobFolder, Submission
from xtrain.dispatch.supervisor import Supervisor
from xtrain.errors import EXIT_OURS, EXIT_PREEMPTED, EXIT_USER, Problem, UserError
from xtrain.files import lock, make_folder, writing
from xtrain.starting import prepare

POLL_SECONDS = 0.2
TELL_SECONDS = 5.0  # between signals to jobs that are to stop: one that is just beginning does not hear the first
A_YEAR_OF_MINUTES = 60 * 24 * 365  # submitit's executor must have a time limit


def start_queue(out: Path, graph: JobGraph) -> int:
    """Start the queue of a study in the background; returns its process id."""
    log = make_folder(out / JOBS) / f"{graph.study}.log"
    path = os.pathsep.join(filter(None, [str(PROJECT), os.getenv("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": path, "PYTHONSAFEPATH": "1"}
    with writing(log), open(log, "ab") as handle:
        process = subprocess.Popen(
            [sys.executable, "-u", "-m", "xtrain.dispatch.local_queue", str(out)], env=environment,
            stdin=subprocess.PIPE, stdout=handle, stderr=handle, start_new_session=True, text=True,
        )  # fmt: skip
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError), process.stdin as pipe:  # its log says why it ended
        json.dump(graph.to_mapping(), pipe)
    return process.pid


@contextlib.contextmanager
def held(out: Path, name: str, what: str, patience_seconds: float = 0.0) -> Iterator[None]:
    """Hold the lock ``jobs/.NAME.lock`` of an output folder.

    Where another does for longer than ``patience_seconds``, :class:`UserError` says ``what``.
    """
    path = lock_file(out, name)
    make_folder(path.parent)
    until = time.monotonic() + patience_seconds
    with writing(path), open(path, "a", encoding="ascii") as handle:
        while not lock(handle, path):
            if time.monotonic() >= until:
                remedy = f"python -m xtrain status {out} shows what there is, python -m xtrain cancel {out} ends it"
                raise UserError(Problem(str(out), what, remedy=remedy))
            time.sleep(POLL_SECONDS)
        yield


def held_as_queue(out: Path, study: str) -> contextlib.AbstractContextManager[None]:
    """Hold the study, so that one queue at a time runs it on this machine."""
    return held(out, study, f"study {study} is being run on this machine already")


def local_job(process: int) -> str:
    """``local-PID-START``, a job's id: START is when that process began, as the same PID will be used again."""
    stat = process_stat(process)
    return f"local-{process}-{stat[19]}" if stat else f"local-{process}"


@dataclass
class LocalSupervisor(Supervisor):
    """One start of one job on this machine: the ranks are started by us, and a crash is tried again at once."""

    @classmethod
    def of(cls, spec: JobSpec, job: str) -> Supervisor:
        """The supervisor of the job ``job`` (:func:`local_job`)."""
        profile = Profile.from_mapping(spec.profile)
        return cls(spec.run, spec.graph(), spec.node, profile, Path(spec.out), job, 0, (os.uname().nodename,))

    def first_end(self) -> float | None:
        """There is no time limit."""
        return None

    def _clean(self) -> None:
        """Nothing lies elsewhere."""

    def _check_nodes(self, fence: Fence) -> list[Any]:
        return []

    def _parents(self) -> int | None:
        return None  # the queue has seen to it

    def _run_ranks(self, fence: Fence, end: float | None) -> int:
        if self.asked.first:  # before there were ranks to tell
            return EXIT_PREEMPTED
        os.environ.update(
            {**{k: str(v) for k, v in self.profile.environment.variables.items()}, attempts.VARIABLE: str(fence.number)}
        )
        outcome = run_ranks(self._command(), self.asks.num_ranks, self.run.logs)
        if isinstance(outcome, RanksPreempted):
            self.asked.first = self.asked.first or signal.SIGTERM
            return EXIT_PREEMPTED
        if outcome is None:
            return 0
        return outcome.code if outcome.code >= 0 else 128 - outcome.code  # as srun has it

    def _again(self, attempt: int, why: str, bad: Any = ()) -> int:
        if self.asked.first and not self.folder.asked_to_stop():  # the machine is to end, or the queue: submitting
            return EXIT_PREEMPTED  # again goes on
        return self._unless_idle(attempt) or self.work()


@dataclass
class Queue:
    """The jobs of one study on this machine."""

    out: Path
    graph: JobGraph
    running: dict[str, Any] = field(default_factory=dict)
    """Hash -> submitit's job."""
    over: set[str] = field(default_factory=set)
    """Hashes of the jobs that have ended, however that was, and of those that cannot run."""
    stopping: bool = False
    _tell_at: float = 0.0

    def run(self) -> int:
        """Run all jobs that can be run; returns the exit code."""
        profile = Profile.from_mapping(self.graph.profile)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        while len(self.over) < len(self.graph.nodes):
            self._collect()
            if self.stopping and not self.running:
                print("stopped; submitting the study again goes on from here", flush=True)
                return EXIT_PREEMPTED
            if self.stopping and time.monotonic() >= self._tell_at:
                self._tell_at = time.monotonic() + TELL_SECONDS
                self._tell()
            for node in self.graph.nodes:
                if len(self.running) < profile.limits.running and not self.stopping and self._ready(node):
                    self._start(node, profile)
            time.sleep(POLL_SECONDS)
        return 0 if all(node.run(self.out).done for node in self.graph.nodes) else EXIT_OURS

    def _stop(self, number: int, frame: object) -> None:
        self.stopping = True

    def _tell(self) -> None:
        """Let the jobs that run save and leave."""
        for job in self.running.values():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(job.job_id), signal.SIGTERM)

    def _collect(self) -> None:
        for key, job in list(self.running.items()):
            if job.done():
                node = self.graph.by_hash[key]
                del self.running[key]
                self.over.add(key)
                state = "done" if node.run(self.out).done else "ended without a result"
                print(f"{node.job_name}: {state}", flush=True)

    def _ready(self, node: JobNode) -> bool:
        """Whether a job can start now; one that never can is put to rest."""
        if node.hash in self.over or node.hash in self.running:
            return False
        run = node.run(self.out)
        over = (run.done or run.failed) and node.kind != REPORT
        if over or JobFolder(run).asked_to_stop():
            self.over.add(node.hash)
            return False
        if node.kind == REPORT:
            return len(self.over) == len(self.graph.nodes) - 1
        parents = [self.graph.by_hash[parent] for parent in node.parents]
        lost = [parent for parent in parents if parent.hash in self.over and not parent.run(self.out).done]
        if lost:
            reason = f"{lost[0].job_name}, which it needs, has no result"
            JobFolder(run.create()).end(attempts.CANCELLED, EXIT_OURS, reason)
            self.over.add(node.hash)
        return all(parent.run(self.out).done for parent in parents)

    def _start(self, node: JobNode, profile: Profile) -> None:
        import submitit

        folder = JobFolder(node.run(self.out).create())
        folder.reopen()
        logging.getLogger("submitit").setLevel(logging.ERROR)
        executor = submitit.LocalExecutor(folder=folder.submitit)
        resources = profile.resources(node.kind, node.batch)
        executor.update_parameters(
            timeout_min=A_YEAR_OF_MINUTES, tasks_per_node=1, gpus_per_node=resources.gpus_per_node,
            stderr_to_stdout=True,
        )  # fmt: skip
        first = Attempts(folder.run).newest() + 1  # before it can have begun
        job = executor._submit_command(JobSpec.of(self.graph, node, profile, self.out).command())
        name = local_job(int(job.job_id))
        folder.add(Submission(name, node.job_name, time.time(), profile.name, first_attempt=first))
        print(f"{node.job_name}: starts as {name}", flush=True)
        self.running[node.hash] = job


def main() -> int:
    """Run the jobs of the graph on standard input below ``OUT``."""
    out, graph = Path(sys.argv[1]).absolute(), JobGraph.from_mapping(json.load(sys.stdin), "standard input")
    try:
        with held_as_queue(out, graph.study):
            return Queue(out, graph).run()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USER


if __name__ == "__main__":
    prepare()
    sys.exit(main())
