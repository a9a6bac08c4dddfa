"""One job into the queue, through submitit: what it unpickles is the path of its run directory and nothing else."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import re
import subprocess
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xtrain.dispatch.attempts import Attempts
from xtrain.dispatch.batch_script import batch_python, overruling_variables, submitit_parameters
from xtrain.dispatch.cluster import Profile
from xtrain.dispatch.job_graph import REPORT, JobGraph, JobNode
from xtrain.dispatch.slurm import is_unreachable
from xtrain.dispatch.submissions import JobFolder, Submission
from xtrain.errors import Problem, UserError
from xtrain.files import make_folder, read_json, write_json
from xtrain.run_directory import RunDirectory

# How SLURM says that somebody has too many jobs in the queue.
TOO_MANY = re.compile(r"job violates accounting/QOS policy|MaxSubmit|too many jobs|job limit", re.IGNORECASE)


@dataclass(frozen=True)
class JobSpec:
    """``job/job.json``: what a job must know beside its phase, as it was submitted.

    Not read from the study's graph, which a later submission replaces: a job goes on with the profile that sbatch had.
    """

    study: str
    node: JobNode
    parents: tuple[JobNode, ...]
    profile: Mapping[str, Any]
    data: str
    levels_up: int
    """From the run directory to the output folder."""

    @classmethod
    def of(cls, graph: JobGraph, node: JobNode, profile: Profile) -> JobSpec:
        """That of a job of ``graph``; only its parents are looked up there."""
        parents = () if node.kind == REPORT else tuple(graph.by_hash[parent] for parent in node.parents)
        return cls(graph.study, node, parents, profile.to_mapping(), graph.data, len(Path(node.folder).parts))

    def write(self, folder: JobFolder) -> None:
        """Write it into ``job/``."""
        write_json(make_folder(folder.path) / "job.json", dataclasses.asdict(self))

    @classmethod
    def read(cls, folder: JobFolder) -> JobSpec:
        """Read it; raises a :class:`UserError` where the run directory was never submitted."""
        value = read_json(folder.path / "job.json")
        node, *parents = (
            JobNode(**{**known, "parents": tuple(known["parents"])}) for known in (value["node"], *value["parents"])
        )
        return cls(**{**value, "node": node, "parents": tuple(parents)})

    def out(self, run: RunDirectory) -> Path:
        """The output folder."""
        return run.path.absolute().parents[self.levels_up - 1]

    def graph(self) -> JobGraph:
        """The job with its parents alone."""
        return JobGraph(self.study, (*self.parents, self.node), self.profile, self.data)


@dataclass(frozen=True)
class Behind:
    """What a job waits for in the queue."""

    succeeded: tuple[str, ...] = ()
    """Jobs that must end with exit code 0; when one does not, this one is cancelled."""
    ended: tuple[str, ...] = ()
    """Jobs that must end, however that is."""

    def __str__(self) -> str:
        """As ``sbatch --dependency`` has it."""
        parts = [("afterok", self.succeeded), ("afterany", self.ended)]
        return ",".join(":".join([word, *dict.fromkeys(jobs)]) for word, jobs in parts if jobs)


def submit_job(
    folder: JobFolder,
    profile: Profile,
    node: JobNode,
    graph: JobGraph,
    behind: Behind,
    *,
    lane: int,
    excluded: Sequence[str] = (),
    chained: bool = False,
) -> Submission:
    """Put the job of a run directory into the queue, and write that down there.

    Raises a :class:`UserError` with sbatch's own words where SLURM refuses it.
    """
    from xtrain.dispatch.supervisor import PhaseJob

    JobSpec.of(graph, node, profile).write(folder)
    first = Attempts(folder.run).newest() + 1  # before it can have begun
    parameters = submitit_parameters(
        profile, node.kind, job_name=node.job_name, dependency=str(behind), exclude=tuple(excluded), comment=node.hash
    )
    overruling = overruling_variables(profile, node.kind, os.environ)
    work = PhaseJob(folder.run.path.absolute())
    job = _through_submitit(folder.submitit, parameters, profile, work, overruling)
    if chained and folder.submissions():
        first = folder.submissions()[-1].first_attempt
    submission = Submission(
        job, node.job_name, time.time(), profile.name, lane, behind.succeeded, behind.ended, chained, first
    )
    folder.add(submission)
    return submission


def _through_submitit(
    folder: Path, parameters: Mapping[str, Any], profile: Profile, work: Any, overruling: Collection[str]
) -> str:
    import submitit

    logging.getLogger("submitit").setLevel(logging.ERROR)
    executor = submitit.SlurmExecutor(folder=folder, python=batch_python(profile))
    executor.update_parameters(**parameters)
    try:
        with _without(overruling):
            job: str = executor.submit(work).job_id
    except (submitit.core.utils.FailedJobError, submitit.core.utils.FailedSubmissionError) as error:
        raise UserError(_refusal(error, parameters)) from error
    return job


def _refusal(error: Exception, parameters: Mapping[str, Any]) -> Problem:
    cause: BaseException = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    said = str(error)
    if isinstance(cause, subprocess.CalledProcessError) and cause.stderr:
        said = cause.stderr.decode() if isinstance(cause.stderr, bytes) else str(cause.stderr)
    lines = [line for line in said.splitlines() if line.strip()]
    what = "; ".join(line.removeprefix("sbatch: ").strip() for line in lines[-3:])
    remedy = "change the cluster profile (python -m xtrain doctor --cluster NAME says what the cluster has)"
    if is_unreachable(said):
        remedy = "try again when SLURM answers"
    elif TOO_MANY.search(said):
        remedy = "lower limits.queued in the cluster profile to what the site allows, or wait until jobs have ended"
    kept = "; what is submitted already stays, and the same command goes on from there"
    return Problem(f"job {parameters.get('job_name', '')}", f"sbatch refuses it: {what}", remedy=remedy + kept)


def is_for_now(error: UserError) -> bool:
    """Whether sbatch may take later what it has refused."""
    return is_unreachable(str(error)) or TOO_MANY.search(str(error)) is not None


@contextlib.contextmanager
def _without(names: Collection[str]) -> Iterator[None]:
    """Without the variables that sbatch would take for the new job's options: those of the job that we may be in, and
    what the user's shell has set for jobs of another kind."""
    hidden = {name: os.environ.pop(name) for name in names}
    try:
        yield
    finally:
        os.environ.update(hidden)


def behind_of(node: JobNode, graph: JobGraph, jobs: Mapping[str, str], lane: Sequence[str] = ()) -> Behind:
    """What the job of ``node`` waits for.

    ``jobs`` has the job in the queue by the node's hash: what is done or has failed is waited for by nobody. ``lane``
    are the jobs before it in its lane.
    """
    if node.kind == REPORT:  # it shows what there is, whatever has failed
        needed = {parent for other in graph.nodes if other.kind != REPORT for parent in other.parents}
        last = [other.hash for other in graph.nodes if other.kind != REPORT and other.hash not in needed]
        return Behind(ended=tuple(jobs[key] for key in last if key in jobs))
    succeeded = tuple(jobs[parent] for parent in node.parents if parent in jobs)
    return Behind(succeeded, tuple(job for job in lane if job not in succeeded))
