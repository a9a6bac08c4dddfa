"""The commands status, usage, why, logs and cancel, as the command line calls them."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.prompt import Confirm

from xtrain.dispatch.job_graph import JobGraph, JobNode
from xtrain.errors import EXIT_OURS, Problem, UserError, counted, listed
from xtrain.watching import logs
from xtrain.watching.cancel import Cancelled, cancel_jobs, concerned, to_cancel, to_come
from xtrain.watching.run_view import views
from xtrain.watching.studies import ask, find_phase, look, studies
from xtrain.watching.table import as_json, say, show
from xtrain.watching.usage import usage
from xtrain.watching.usage_view import show_usage, usage_json
from xtrain.watching.why_view import explain_phase

_PATIENCE_SECONDS = 10.0  # for the queue, where nobody waits for a screen
_MOST_NAMES = 40


def run_status(out: Path, *, study: str, machine: bool, watch: float, console: Console) -> int:
    """Print the state of every phase; with ``watch`` again every so many seconds, until Ctrl-C."""
    while True:
        observed = look(out, studies(out, study))
        if machine:
            print(json.dumps(as_json(out, observed), indent=None if watch else 2), flush=True)
        else:
            if watch and console.is_terminal:
                console.clear()
            show(observed, console)
        if not watch:
            return 0
        try:
            time.sleep(watch)
        except KeyboardInterrupt:
            return 0


def run_usage(out: Path, *, study: str, machine: bool, console: Console) -> int:
    """Print what every phase has used until now."""
    graphs, now = studies(out, study), time.time()
    found = usage(out, graphs, now, patience=_PATIENCE_SECONDS, others=not study)
    if machine:
        print(json.dumps(usage_json(out, found, now), indent=2), flush=True)
    else:
        show_usage(graphs, found, console)
    return 0


def run_why(phase: str, *, out: Path, lines: int, console: Console) -> int:
    """Say why a phase is where it is."""
    found = find_phase(phase, out)
    (observed,) = look(found.out, [found.graph], _PATIENCE_SECONDS)
    explain_phase(found, observed, console, lines)
    for source, why in observed.answer.silent.items():
        if observed.of(found.node).queue is None and observed.of(found.node).job:
            say(console, f"{source} did not answer: {why}")
    return 0


def run_logs(phase: str, *, out: Path, rank: int, job: bool, follow: bool, lines: int) -> int:
    """Print the end of a phase's log; Ctrl-C ends following it."""
    found = find_phase(phase, out)
    try:
        logs.print_log(found.node.run(found.out), rank=rank, job=job, follow=follow, lines=lines)
    except KeyboardInterrupt:
        return 0
    return 0


def run_cancel(out: Path, phases: Sequence[str], *, study: str, yes: bool, console: Console) -> int:
    """Cancel the jobs of all studies in ``out`` (or of ``study``), or of some phases and what depends on these."""
    concerns = [(graph, concerned(graph, chosen)) for graph, chosen in _chosen(out, phases, study)]
    seen = [(graph, to_cancel(nodes, out, ask(views(nodes, out), _PATIENCE_SECONDS))) for graph, nodes in concerns]
    jobs = {job: one.node.job_name for _, found in seen for one, some in found for job in some}
    later = [one.node.job_name for graph, nodes in concerns for one in to_come(graph, nodes, out)]
    if not jobs and not later:
        say(console, "no job of these is in the queue or runs: nothing to cancel")
        return 0
    if jobs:
        _list("to be cancelled", jobs, console)
    if later:
        say(console, f"not to be started any more: {listed(later)}")
    if not yes and not _agreed(len(jobs) + len(later), console):
        say(console, "nothing was cancelled")
        return 0
    return max(_report(graph, cancel_jobs(graph, nodes, out), console) for graph, nodes in concerns)


def _chosen(out: Path, phases: Sequence[str], study: str) -> list[tuple[JobGraph, list[JobNode]]]:
    graphs = studies(out, study)
    if not phases:
        return [(graph, []) for graph in graphs]
    chosen: dict[str, tuple[JobGraph, list[JobNode]]] = {}
    for name in phases:
        found = find_phase(name, out)
        chosen.setdefault(found.graph.study, (found.graph, []))[1].append(found.node)
    return list(chosen.values())


def _report(graph: JobGraph, cancelled: Cancelled, console: Console) -> int:
    if cancelled.jobs:
        _list(f"{graph.study}: cancelled", cancelled.jobs, console)
    if not cancelled.refused:
        return 0
    say(console, f"{graph.study}: not all jobs could be cancelled: {cancelled.refused}")
    if cancelled.unreachable:
        say(console, "they are marked and will not put themselves back in the queue; run the same command again to end "
            "those that run")  # fmt: skip
    return EXIT_OURS


def _list(title: str, jobs: dict[str, str], console: Console) -> None:
    say(console, f"{title}: {counted(len(jobs), 'job')}")
    width = max(map(len, jobs))
    for number, (job, name) in enumerate(jobs.items()):
        if number == _MOST_NAMES:
            say(console, f"  and {len(jobs) - number} more")
            break
        say(console, f"  {job:>{width}}  {name}")


def _agreed(count: int, console: Console) -> bool:
    if not sys.stdin.isatty():
        raise UserError(
            Problem("cancel", "nothing was cancelled: there is nobody to ask", remedy="add --yes in a script")
        )
    return Confirm.ask(f"Cancel {'it' if count == 1 else f'these {count} jobs'}?", console=console, default=False)
