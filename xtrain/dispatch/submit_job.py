"""One job into the queue, through submitit: it writes the batch script, which holds all that the job goes by."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import subprocess
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from xtrain.dispatch import slurm
from xtrain.dispatch.attempts import Attempts
from xtrain.dispatch.batch_script import in_place_of_bash, overruling_variables, submitit_parameters
from xtrain.dispatch.cluster import Profile
from xtrain.dispatch.job_graph import REPORT, JobGraph, JobNode
from xtrain.dispatch.job_spec import JobSpec
from xtrain.dispatch.node_check import bad_nodes
from xtrain.dispatch.submissions import JobFolder, Submission
from xtrain.errors import Problem, UserError
from xtrain.files import content_hash, make_folder, write_text

PATIENCE_SECONDS = 600.0  # slurmctld may be down for a while
T = TypeVar("T")
# How SLURM says that somebody has too many jobs in the queue; its general sentence may stand for another limit, which
# then is named beside it.
_TOO_MANY = re.compile(r"MaxSubmit|GrpSubmit|too many jobs|MaxJobCount|maximum number of jobs", re.IGNORECASE)
_ANY_LIMIT = re.compile(r"job violates accounting/QOS policy", re.IGNORECASE)
_NAMED_LIMIT = re.compile(r"\b(QOS|Assoc)\w+Limit\b", re.IGNORECASE)


class QueueFull(UserError):
    """sbatch takes no more jobs of this user for now: a limit of the site on how many may be in the queue."""


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

    Raises a :class:`UserError` with sbatch's own words where SLURM refuses it; :class:`QueueFull` for want of room.
    """
    make_folder(folder.submitit)  # SLURM does not make it
    out = folder.run.path.absolute().parents[len(Path(node.folder).parts) - 1]
    command = JobSpec.of(graph, node, profile, out).command()
    first = Attempts(folder.run).newest() + 1  # before it can have begun
    parameters = submitit_parameters(
        profile, node.kind, node.batch, job_name=node.job_name, logs=folder.submitit, dependency=str(behind),
        exclude=tuple(excluded), comment=job_comment(folder, node),
    )  # fmt: skip
    overruling = overruling_variables(profile, node.kind, os.environ)
    job = _once(folder, parameters, lambda: _through_submitit(folder, parameters, command, overruling))
    if chained and folder.submissions():
        first = folder.submissions()[-1].first_attempt
    submission = Submission(
        job, node.job_name, time.time(), profile.name, lane, behind.succeeded, behind.ended, chained, first
    )
    folder.add(submission)
    return submission


def job_comment(folder: JobFolder, node: JobNode) -> str:
    """By which a job is found whose id is not known: the phase and its run directory."""
    return f"xtrain {node.hash} {content_hash(str(folder.run.path.resolve()), 8)}"


def _once(folder: JobFolder, parameters: Mapping[str, Any], send: Callable[[], str]) -> str:
    """The id of the job that ``send`` puts into the queue, or of one that an earlier call has put there unnoticed.

    Where slurmctld is busy, sbatch gives up ("Socket timed out") though the job is in the queue; or it was killed, or
    we were, before its answer was written down.
    """
    if folder.sending.is_file():
        jobs, reply = _unnoticed(folder, parameters["comment"])
        if not reply.ok:
            remedy = "try again when `squeue` answers here: a job may have been submitted without our hearing of it"
            raise UserError(Problem(f"job {parameters['job_name']}", f"squeue: {reply.said}", remedy=remedy))
        if jobs:
            slurm.update_dependency(jobs[-1], parameters["dependency"] or "")
            return jobs[-1]
    write_text(folder.sending, "")
    try:
        return send()
    except UserError as error:
        if not slurm.is_unreachable(str(error)):
            folder.sending.unlink(missing_ok=True)
            raise
        jobs, _ = _unnoticed(folder, parameters["comment"])
        if not jobs:
            raise
        return jobs[-1]


def _unnoticed(folder: JobFolder, comment: str) -> tuple[list[str], slurm.Reply]:
    """Live jobs of this phase that no note tells of; this very job is none of them."""
    known = {*(submission.job for submission in folder.submissions()), os.environ.get("SLURM_JOB_ID")}
    jobs, reply = slurm.live_jobs_of(comment)
    return [job for job in jobs if job not in known], reply


def _through_submitit(
    folder: JobFolder, parameters: Mapping[str, Any], command: str, overruling: Collection[str]
) -> str:
    """The id of a new job that runs ``command``.

    By submitit's way for commands, not its way for Python objects: a job's start would unpickle those from the run
    directory. sbatch reads the script in a folder of this user alone; the copy in ``job/submitit/`` is for people.
    """
    import submitit

    logging.getLogger("submitit").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory(prefix="xtrain-") as private, _without(overruling):
        executor = submitit.SlurmExecutor(folder=private)
        executor.update_parameters(**parameters)
        executor._get_job_id_from_submission_command = job_id_of
        try:
            job = executor._submit_command(in_place_of_bash(command))
        except (submitit.core.utils.FailedJobError, submitit.core.utils.FailedSubmissionError) as error:
            refusal = _refusal(error, parameters)
            raise (QueueFull if _too_many(str(refusal)) else UserError)(refusal) from error
        number: str = job.job_id
        write_text(folder.submitit / f"{number}_submission.sh", job.paths.submission_file.read_text("utf-8"))
    return number


def job_id_of(said: bytes | str) -> str:
    """The id in what sbatch printed, whatever a site's own words around it say of jobs.

    Raises submitit's ``FailedSubmissionError`` where there is none.
    """
    import submitit

    text = said if isinstance(said, str) else said.decode(errors="replace")
    found: list[str] = re.findall(r"Submitted batch job (\d+)", text)
    if not found:
        raise submitit.core.utils.FailedSubmissionError(f"sbatch said no job's number: {text.strip()!r}")
    return found[-1]


def nodes_to_avoid(profile: Profile, kind: str, out: Path, bad: Sequence[str] = ()) -> list[str]:
    """``bad`` nodes and those that were found bad before: what a new job is not to get.

    None where the partition then has too few others: SLURM would hold the job for ever.
    """
    nodes = sorted({*bad, *(node.node for node in bad_nodes(out))})
    asked = profile.resources(kind)
    there = slurm.nodes_of(asked.partition) if nodes else set()
    if there and len(there - set(nodes)) < asked.nodes:
        print(f"{', '.join(nodes)}: not left out, as too few others are in the partition", flush=True)
        return []
    return nodes


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
    if slurm.is_unreachable(said):
        remedy = "try again when SLURM answers"
    elif _too_many(said):
        remedy = "lower limits.queued in the cluster profile to what the site allows, or wait until jobs have ended"
    kept = "; what is submitted already stays, and the same command goes on from there"
    return Problem(f"job {parameters.get('job_name', '')}", f"sbatch refuses it: {what}", remedy=remedy + kept)


def _too_many(said: str) -> bool:
    if _TOO_MANY.search(said):
        return True
    return _ANY_LIMIT.search(said) is not None and not _NAMED_LIMIT.search(said)


def patiently(submit: Callable[[], T]) -> T:
    """The result of ``submit``, again and again while SLURM does not answer or the user has too many jobs.

    Raises what it raises after :data:`PATIENCE_SECONDS`, or at once where sbatch refuses for good.
    """
    until = time.monotonic() + PATIENCE_SECONDS
    for pause in slurm.pauses():
        try:
            return submit()
        except UserError as error:
            for_now = slurm.is_unreachable(str(error)) or isinstance(error, QueueFull)
            if not for_now or time.monotonic() > until:
                raise
            print(f"{error}\ntrying again", flush=True)
            time.sleep(pause)
    raise AssertionError


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
