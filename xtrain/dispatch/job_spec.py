"""What a job goes by, and how it is handed to it: in its own batch script, which SLURM keeps from submission on.

Nothing of it is read from the run directory, so that who can write there cannot say what the job runs.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shlex
import sys
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xtrain.dispatch.cluster import Profile
from xtrain.dispatch.job_graph import REPORT, JobGraph, JobNode
from xtrain.errors import Problem, UserError
from xtrain.run_directory import RunDirectory

VARIABLE = "XTRAIN_JOB"
ENTRY = "xtrain.dispatch.job"


@dataclass(frozen=True)
class JobSpec:
    """What a job must know beside its phase, as it was submitted.

    Not read from the study's graph, which a later submission replaces: a job goes on with the profile that sbatch had.
    """

    study: str
    node: JobNode
    parents: tuple[JobNode, ...]
    profile: Mapping[str, Any]
    data: str
    out: str
    """The output folder, absolute."""

    @classmethod
    def of(cls, graph: JobGraph, node: JobNode, profile: Profile, out: Path) -> JobSpec:
        """That of a job of ``graph``; only its parents are looked up there."""
        parents = () if node.kind == REPORT else tuple(graph.by_hash[parent] for parent in node.parents)
        return cls(graph.study, node, parents, profile.to_mapping(), graph.data, str(out.absolute()))

    @property
    def run(self) -> RunDirectory:
        """The job's run directory."""
        return self.node.run(Path(self.out))

    def graph(self) -> JobGraph:
        """The job with its parents alone."""
        return JobGraph(self.study, (*self.parents, self.node), self.profile, self.data)

    def text(self) -> str:
        """On one line, for :meth:`taken`."""
        return json.dumps(dataclasses.asdict(self))

    def command(self) -> str:
        """The job's command, for a shell. The text is no argument of ours: on the nodes everybody sees those.

        PYTHONSAFEPATH: a module in the folder that somebody submits from is not taken for Python's or ours.
        """
        python = self.profile["environment"]["python"] or sys.executable
        return f"env PYTHONSAFEPATH=1 {VARIABLE}={shlex.quote(self.text())} {shlex.quote(python)} -u -m {ENTRY}"

    @classmethod
    def taken(cls, environment: MutableMapping[str, str] = os.environ) -> JobSpec:
        """This job's, taken out of ``environment``: no process below needs it, and no job submitted from here."""
        text = environment.pop(VARIABLE, None)
        if text is None:
            raise UserError(Problem(VARIABLE, "is not set", remedy="jobs are started by slurm/submit.py STUDY"))
        value = json.loads(text)
        node, *parents = (
            JobNode(**{**known, "parents": tuple(known["parents"])}) for known in (value["node"], *value["parents"])
        )
        return cls(**{**value, "node": node, "parents": tuple(parents)})
