"""What of a study was left for later: for want of room in the queue, or since its data were not seen outside of it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from xtrain.dispatch.job_graph import REPORT, JobNode, graphs
from xtrain.dispatch.job_spec import VARIABLE, JobSpec
from xtrain.dispatch.submissions import JobFolder


def never_submitted(out: Path, report: JobNode) -> list[JobNode]:
    """The jobs of the study that ``report`` belongs to which had no room in the queue so far, and have no result.

    None of a study that has been submitted anew with other phases: that one has a report of its own.
    """
    graph = next((graph for graph in graphs(out) if report.hash in graph.by_hash), None)
    nodes = graph.nodes if graph is not None else ()
    found = []
    for node in nodes:
        run = node.run(out)
        folder = JobFolder(run)
        submitted = folder.submissions() and not folder.postponed()
        if node.kind != REPORT and not (run.done or run.failed or submitted):
            found.append(node)
    return found


def waited_for(out: Path, node: JobNode) -> bool:
    """Whether any job of its study waits for ``node``; none does where the others are not known yet."""
    return any(node.hash in other.parents for graph in graphs(out) for other in graph.nodes)


def submit_remainder(job: JobSpec) -> str:
    """Submit as many as there is room for, from inside ``job``; why it failed, or ``""``.

    In a process of its own: that a study is expanded takes far more than a supervisor otherwise needs.
    """
    command = [sys.executable, "-u", "-m", "xtrain.submit_remainder"]
    environment = {**os.environ, VARIABLE: job.text()}
    done = subprocess.run(
        command, env=environment, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, errors="replace"
    )
    print(done.stderr, end="", file=sys.stderr, flush=True)
    return (done.stderr.strip() or f"it ended with exit code {done.returncode}") if done.returncode else ""
