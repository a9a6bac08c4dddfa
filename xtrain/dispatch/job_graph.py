"""A study as jobs: which run directory each fills, and which others it waits for; kept in the output folder."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from xtrain.errors import Problem, UserError, listed, nearest
from xtrain.files import make_folder, read_json, write_json
from xtrain.run_directory import RunDirectory

PREPARE, REPORT = "prepare", "report"  # the two jobs that are no phases: before the first and after the last of them
INTERMEDIATE, TARGET, EVALUATE = "intermediate", "target", "evaluate"
JOBS = "jobs"  # the output folder's folder of job graphs
_FORMAT = 1


@dataclass(frozen=True)
class JobNode:
    """One job of a study: it fills one run directory."""

    hash: str
    """The phase's content hash; of the prepare and the report job, one over all phases'."""
    kind: str
    """``prepare``, ``intermediate``, ``target``, ``evaluate`` or ``report``."""
    name: str
    """The phase's name: ``mnli/xnli-s1``."""
    job_name: str
    """What the queue shows: ``phang2020/mnli-s1/xnli``."""
    folder: str
    """The run directory, relative to the output folder."""
    parents: tuple[str, ...] = ()
    """Hashes of the jobs whose success it waits for; the report waits for the end of all others, however they end."""
    batch: int = 0
    """Examples of a global batch of a phase that trains; 0 for others."""

    def run(self, out: Path) -> RunDirectory:
        """Its run directory below ``out``."""
        return RunDirectory(out / self.folder)


@dataclass(frozen=True)
class JobGraph:
    """All jobs of a study, in an order in which they can run."""

    study: str
    nodes: tuple[JobNode, ...]
    profile: Mapping[str, Any] = field(default_factory=dict)
    """The cluster profile that it was last submitted with, resolved; empty where ``xtrain run`` ran it."""
    data: str = ""
    """The folder of ``--data``, absolute; empty for none."""

    @cached_property
    def by_hash(self) -> Mapping[str, JobNode]:
        """The jobs by their hashes."""
        return {node.hash: node for node in self.nodes}

    def descendants(self, node: JobNode) -> list[JobNode]:
        """The jobs that cannot run without ``node``, in order; the report can."""
        lost = {node.hash}
        for other in self.nodes:
            if other.kind != REPORT and lost & set(other.parents):
                lost.add(other.hash)
        return [other for other in self.nodes if other.hash in lost - {node.hash}]

    def write(self, out: Path) -> Path:
        """Write ``jobs/STUDY.json`` below ``out``."""
        path = graph_file(out, self.study)
        make_folder(path.parent)
        write_json(path, self.to_mapping())
        return path

    def to_mapping(self) -> dict[str, Any]:
        """As plain values for JSON; :meth:`from_mapping` reads them."""
        return {"format": _FORMAT, **dataclasses.asdict(self)}

    @classmethod
    def read(cls, path: Path) -> JobGraph:
        """Read a ``jobs/STUDY.json``."""
        return cls.from_mapping(read_json(path), str(path))

    @classmethod
    def from_mapping(cls, value: Any, where: str) -> JobGraph:
        """A job graph of plain values; a :class:`UserError` names ``where`` they are from."""
        if not isinstance(value, dict) or value.get("format") != _FORMAT:
            remedy = "submit the study again with this version of xtrain"
            raise UserError(Problem(where, f"is no job graph of format {_FORMAT}", remedy=remedy))
        nodes = tuple(JobNode(**{**node, "parents": tuple(node["parents"])}) for node in value["nodes"])
        return cls(value["study"], nodes, value["profile"], value["data"])

    def find(self, name: str) -> JobNode:
        """The job with this job name (the study before it may be left out), phase name, folder or beginning of a hash.

        Raises a :class:`UserError` where there is none, or where several phases are called so.
        """
        for node in self.nodes:
            if name in (node.job_name, node.job_name.partition("/")[2], node.folder, node.hash):
                return node
        found = [node for node in self.nodes if name == node.name or (len(name) > 5 and node.hash.startswith(name))]
        if len(found) == 1:
            return found[0]
        known = [node.job_name for node in self.nodes]
        if found:
            raise UserError(
                Problem(name, "is the name of several phases", listed(node.job_name for node in found), "name one")
            )
        raise UserError(Problem(name, f"is no phase of {self.study}", listed(known), nearest(name, known)))


def graph_file(out: Path, study: str) -> Path:
    """Where the job graph of ``study`` lies below ``out``."""
    return out / JOBS / f"{study}.json"


def lock_file(out: Path, name: str) -> Path:
    """What holds ``name`` below ``out`` for one process: a study that is run on this machine, or a submission."""
    return out / JOBS / f".{name}.lock"


def graphs(out: Path) -> Iterator[JobGraph]:
    """The job graphs of all studies that were run or submitted into ``out``, by name."""
    for path in sorted((out / JOBS).glob("*.json")):
        yield JobGraph.read(path)


def study_file(run: RunDirectory) -> Path:
    """The study as it was submitted, variant and ``--set`` laid on it: what the job that prepares it, or reports on it,
    reads. In the job's own run directory, so that no later submission changes what a queued job does."""
    return run.path / "study.toml"
