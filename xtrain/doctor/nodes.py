"""The nodes of a real job: what each reports, what is not the same on all, and which cannot reach which."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import secrets
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from xtrain.dispatch.batch_script import PROJECT, overruling_variables, rank_environment, setup_lines, srun_command
from xtrain.dispatch.cluster import Container, Profile
from xtrain.dispatch.rendezvous import slurm_port
from xtrain.doctor.allocation import Allocation, Step, options, run_step
from xtrain.doctor.findings import Finding, note, problem
from xtrain.doctor.meeting import HERE, PREFIX, locked, token_file
from xtrain.doctor.node import NodeReport
from xtrain.errors import UserError, listed
from xtrain.files import write_token

KIND = "intermediate"  # of the jobs whose resources are tried: those of most ranks
PATIENCE_SECONDS = 40.0  # that nodes wait for each other
NODE_SECONDS = 120.0  # beyond that, for starting Python on all nodes and looking at folders


@dataclass(frozen=True)
class NodeJob:
    """What is asked of the nodes."""

    profile: Profile
    """With ``nodes`` as many as are tried."""
    out: Path
    data: Path | None = None
    patience_seconds: float = PATIENCE_SECONDS

    def command(self, job: str, kind: str, arguments: Sequence[str]) -> list[str]:
        """The srun line for a module of ours: as ranks are started, but each may end as it likes."""
        dropped = ("--output=", "--open-mode=", "--kill-on-bad-exit=", "--wait=")
        exported = [*self._variables(job), "MASTER_ADDR", "MASTER_PORT", "PYTHONPATH"]
        folders = [path for path in (self.out, self.data) if path]
        first, *words = srun_command(self.profile, kind, self.out, folders, exported=exported)
        kept = [word for word in words if not word.startswith(dropped)]
        run = [self.profile.rank_python, "-u", "-m", *arguments]
        if not self.profile.container.image:  # what it exports is in the environment; modules are not in an image
            run = ["bash", "-c", "\n".join([*setup_lines(self.profile), 'exec "$@"']), "xtrain-doctor", *run]
        return [first, f"--jobid={job}", "--kill-on-bad-exit=0", "--wait=0", "--quiet", *kept, *run]

    def environment(self, allocation: Allocation, step: int) -> dict[str, str]:
        """What the tasks get beside this environment."""
        found = self._variables(allocation.job)
        found |= {"MASTER_ADDR": allocation.nodes[0], "MASTER_PORT": str(slurm_port(int(allocation.job), 0, step))}
        before = found.get("PYTHONPATH") or os.environ.get("PYTHONPATH", "")
        return {**found, "PYTHONPATH": os.pathsep.join(filter(None, [str(PROJECT), before]))}

    def _variables(self, job: str) -> dict[str, str]:
        with contextlib.suppress(UserError):  # a variable that only a job on a node has: the nodes report it
            return rank_environment(self.profile, KIND, job)
        return {}

    @property
    def outside(self) -> NodeJob:
        """The same without the image: what a job's own supervisor finds on a node."""
        return dataclasses.replace(self, profile=dataclasses.replace(self.profile, container=Container()))


def with_nodes(profile: Profile, nodes: int) -> Profile:
    """The profile with ``nodes`` nodes for the jobs that are tried."""
    table = profile.job.get(KIND, {})
    return dataclasses.replace(profile, job={**profile.job, KIND: {**table, "nodes": nodes}})


def with_open_keys(profile: Profile, environment: Mapping[str, str]) -> Profile:
    """The profile with the keys that it leaves open as ``SBATCH_ACCOUNT`` and the like of a shell have them.

    sbatch reads these when a study is submitted; salloc and srun read others.
    """
    hidden = overruling_variables(profile, KIND, environment)
    names = [name for name in environment if name.startswith("SBATCH_") and name not in hidden]
    given = {name.removeprefix("SBATCH_").lower(): environment[name] for name in names if environment[name]}
    return dataclasses.replace(profile, job={**profile.job, KIND: {**profile.job.get(KIND, {}), **given}})


def one_task_a_node(profile: Profile) -> Profile:
    """The profile with a single task a node, which sees all GPUs of it."""
    table = {**profile.job.get(KIND, {}), "tasks_per_node": 1, "gpu_layout": "all"}
    return dataclasses.replace(profile, job={**profile.job, KIND: table})


@contextlib.contextmanager
def _token(out: Path) -> Iterator[tuple[str, list[str]]]:
    """A new token, and what the nodes are told of this machine's file of it in the output folder, which is locked."""
    token = secrets.token_hex(6)
    made = not out.exists()
    with contextlib.suppress(OSError):  # then the checks on this machine have said so
        out.mkdir(parents=True, exist_ok=True)
    try:
        own = token_file(out, token, HERE)
        if write_token(own, token):
            yield token, []
        else:
            with locked(own) as refused:
                yield token, [f"--host={HERE}", *([] if refused else ["--host-locked"])]
    finally:
        with contextlib.suppress(OSError):
            for left in out.glob(f"{PREFIX}{token}-*"):
                left.unlink(missing_ok=True)
            if made:
                out.rmdir()


def ask_nodes(work: NodeJob, allocation: Allocation) -> tuple[dict[str, NodeReport], list[Finding]]:
    """Run a report on every node; returns those that came, by node, and what is to be said of those that did not."""
    profile = one_task_a_node(work.profile)
    with _token(work.out) as (token, host):
        arguments = [
            "xtrain.doctor.node",
            f"--nodes={','.join(allocation.nodes)}",
            f"--token={token}",
            f"--port={slurm_port(int(allocation.job), 0, 1)}",
            f"--out={work.out}",
            *host,
            f"--cache={profile.storage.cache}",
            f"--scratch={profile.storage.scratch}",
            f"--interface={profile.network.interface}",
            f"--patience={work.patience_seconds}",
            *([f"--data={work.data}"] if work.data else []),
            *([f"--sbatch={options_of_chain(work.profile)}"] if not work.profile.preemption.requeue else []),
        ]
        command = dataclasses.replace(work, profile=profile).command(allocation.job, KIND, arguments)
        environment = work.environment(allocation, 1)
        limit = work.patience_seconds + NODE_SECONDS
        step = run_step(command, environment, limit, lambda step: _all_reported(step, allocation))
        step.nodes = allocation.nodes
    reports = {}
    for node in allocation.nodes:
        value = step.last(node, "report")
        if value is not None:
            reports[node] = NodeReport.from_mapping(value)
    silent = [node for node in allocation.nodes if node not in reports]
    never_began = [node for node in silent if step.last(node, "at") is None]
    return reports, [_silence(node, step, limit, [*never_began]) for node in silent]


def options_of_chain(profile: Profile) -> str:
    """The options of a job that another one submits in its place, on its own cluster."""
    here = dataclasses.replace(profile, cluster="")
    words = [f"--time={here.resources(KIND).time_limit_minutes}", *options(here, KIND, "doctor", script=True)]
    return shlex.join(words)


def _all_reported(step: Step, allocation: Allocation) -> bool:
    return all(step.last(node, "report") is not None for node in allocation.nodes)


def _silence(node: str, step: Step, limit: float, never_began: Sequence[str]) -> Finding:
    """Why a node has not reported; ``never_began`` are those from which nothing came at all."""
    stage = step.last(node, "at")
    words = "; ".join(_said_of(node, step))
    if stage is not None and never_began and not step.timed_out:
        return note(f"node {node}", f"began; SLURM ended it since {listed(never_began)} could not be started")
    if stage is not None:
        how = f"within {limit:.0f} s" if step.timed_out else f"({words or 'no word'})"
        to_do = f"log in to {node} and look whether that answers (ls, df, nvidia-smi); have the node drained if not"
        return problem(f"node {node}", f"began, and did not come to an end {how}: {stage}", to_do)
    if "launch" in words or "xited with" not in words:
        to_do = f"srun --nodelist={node} hostname shows whether jobs start there; have the node drained if not"
    else:
        to_do = (
            f"mend [environment] of the profile (modules, setup, python): python and the project ({PROJECT}) have to "
            "be on a file system that every node has, under the same path"
        )
    return problem(f"node {node}", f"did not report: {words or 'no word'}", to_do)


def _said_of(node: str, step: Step) -> list[str]:
    """The last lines that name a node; before them those that name none: programs seldom say where they are."""
    said = (line.removeprefix("srun: error: ") for line in (*step.errors, *step.other))
    lines = list(dict.fromkeys(line for line in said if "lacks support for cpu binding" not in line))  # harmless
    of_it = [line for line in lines if re.search(rf"\b{re.escape(node)}\b", line)]
    nodes = re.compile("|".join(rf"\b{re.escape(name)}\b" for name in {*step.nodes} - {node}) or "$^")
    of_none = [line for line in lines if line not in of_it and not nodes.search(line)]
    return [*of_none[-2:], *of_it[-3:]]
