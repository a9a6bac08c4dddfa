"""The studies in an output folder, one of their phases by any of its names, and the state of all at once."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from xtrain.dispatch.cluster import SLURM
from xtrain.dispatch.job_graph import JOBS, JobGraph, JobNode, graph_file, graphs
from xtrain.dispatch.slurm import BUDGET_SECONDS, Answer, ask_of, is_slurm_job, job_states
from xtrain.errors import Problem, UserError, listed, nearest
from xtrain.watching.run_view import RunView, jobs_to_ask, views
from xtrain.watching.state import PhaseState, observe


@dataclass(frozen=True)
class Found:
    """A phase and where it stands."""

    out: Path
    graph: JobGraph
    node: JobNode


@dataclass(frozen=True)
class Observed:
    """A study with the state of each of its jobs."""

    graph: JobGraph
    states: Sequence[PhaseState]
    answer: Answer = field(default_factory=Answer)

    @cached_property
    def _by_hash(self) -> dict[str, PhaseState]:
        return {state.node.hash: state for state in self.states}

    def of(self, node: JobNode) -> PhaseState:
        """The state of one job."""
        return self._by_hash[node.hash]


def studies(out: Path, name: str = "") -> list[JobGraph]:
    """The studies that were run or submitted into ``out``, or the one called ``name``; :class:`UserError` for none."""
    if name:
        path = graph_file(out, name)
        if path.is_file():
            return _asked_of(out, [JobGraph.read(path)])
    found = list(graphs(out))
    if not found:
        what = "no study was run or submitted into this folder" if out.is_dir() else "there is no such folder"
        raise UserError(
            Problem(str(out), what, f"an output folder with {JOBS}/STUDY.json", "name the output folder of a study")
        )
    if name:
        known = [graph.study for graph in found]
        raise UserError(Problem(f"--study {name}", f"is no study in {out}", listed(known), nearest(name, known)))
    return _asked_of(out, found)


def _asked_of(out: Path, found: list[JobGraph]) -> list[JobGraph]:
    """``found``, once SLURM's commands ask the cluster that these were submitted to."""
    clusters = sorted({graph.profile.get("cluster", "") for graph in found if graph.profile.get("scheduler") == SLURM})
    if len(clusters) > 1:
        what = f"its studies are on several clusters: {', '.join(name or 'the own one' for name in clusters)}"
        raise UserError(Problem(str(out), what, remedy="name a study with --study, or a phase by its run directory"))
    ask_of(*clusters or [""])
    return found


def find_phase(name: str, out: Path) -> Found:
    """The phase called ``name``: by phase name, job name, folder, beginning of its hash, or a run directory's path."""
    path = Path(name)
    if path.is_dir():
        found = _by_path(path.absolute())
        if found is not None:
            return found
    errors, matches = [], {}
    for graph in studies(out):
        try:
            node = graph.find(name.rstrip("/"))
            matches[node.hash] = Found(out, graph, node)
        except UserError as error:
            errors.append(error)
    if len(matches) == 1:
        return next(iter(matches.values()))
    if matches:
        names = listed(f"{found.node.job_name} ({found.node.hash})" for found in matches.values())
        raise UserError(Problem(name, "is a phase of several studies", names, "name one by its hash"))
    raise errors[0] if len(errors) == 1 else UserError(*(problem for error in errors for problem in error.problems))


def _by_path(path: Path) -> Found | None:
    """The phase whose run directory this is; None where it is none of a study that is known."""
    for out in path.parents:
        if (out / JOBS).is_dir():
            for graph in graphs(out):
                for node in graph.nodes:
                    if out / node.folder == path:
                        _asked_of(out, [graph])
                        return Found(out, graph, node)
    return None


def look(out: Path, graphs: Sequence[JobGraph], budget: float = BUDGET_SECONDS) -> list[Observed]:
    """The state of every job of ``graphs``: run directories are read, then the queue is asked once for all."""
    seen = [views(graph.nodes, out) for graph in graphs]
    answer = ask([view for some in seen for view in some], budget)
    now = time.time()
    pairs = zip(graphs, seen, strict=True)
    return [Observed(graph, observe(out, graph, answer, some, now), answer) for graph, some in pairs]


def ask(seen: Sequence[RunView], budget: float = BUDGET_SECONDS) -> Answer:
    """What the queue says of the jobs whose state matters; where none is SLURM's, nothing is asked."""
    jobs = [job for job in dict.fromkeys(jobs_to_ask(seen)) if is_slurm_job(job)]
    return job_states(jobs, budget) if jobs else Answer()
