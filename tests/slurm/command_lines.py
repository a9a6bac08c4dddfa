"""Every command line for SLURM that the product makes: written down by stand-ins that take SLURM's commands' places.

The product itself runs: jobs are submitted, the supervisor lives through a start, the doctor asks a site and its nodes.
"""

from __future__ import annotations

import ast
import contextlib
import json
import re
import secrets
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from slurm_files import COMMANDS
from toy import PROJECT

from xtrain.dispatch import job, slurm
from xtrain.dispatch.batch_script import helper_command, job_scratch, srun_command
from xtrain.dispatch.cluster import KINDS, TRAINING, Profile, Resources, load_profile
from xtrain.dispatch.job_graph import JobGraph, JobNode
from xtrain.dispatch.job_spec import VARIABLE, JobSpec
from xtrain.dispatch.site_limits import SACCTMGR, submit_limit
from xtrain.dispatch.submissions import JobFolder
from xtrain.dispatch.submit_job import Behind, submit_job
from xtrain.doctor import allocation
from xtrain.doctor.allocation import NotGranted, allocated
from xtrain.doctor.network import check_all_reduce
from xtrain.doctor.node import refusal_of_sbatch
from xtrain.doctor.nodes import KIND, NodeJob, ask_nodes, options_of_chain, with_nodes
from xtrain.doctor.scheduler import ask_site
from xtrain.doctor.submission import check_kinds, check_submission
from xtrain.watching.accounting import ask_accounting

SHIPPED = ("a100", "cpu", "h100")
JOB = "77"
STAND_IN = """#!/bin/sh
# Writes down how it was called: its words, its environment, and the script that it was given.
name=${{0##*/}}
cat /proc/$$/environ >{record}/$$.environment
eval "last=\\${{$#}}"
if [ "$name" = sbatch ] && [ -f "$last" ]; then cp "$last" {record}/$$.script; fi
printf '%s\\0' "$name" "$@" >{record}/$$.part  # the doctor may end a salloc at any moment: whole, or not there
mv {record}/$$.part {record}/$$.words
case "$name $*" in
    "sbatch "*--parsable*) echo {job} ;;
    "sbatch "*) echo "Submitted batch job {job}" ;;
    "salloc "*) echo "salloc: Granted job allocation {job}" >&2 ;;
    "scontrol "*"show hostnames "*) printf 'n1\\nn2\\n' ;;
    "scontrol "*"show config"*) printf 'ClusterName = lab\\nPreemptType = preempt/qos\\n' ;;
    "scontrol "*"--oneliner show partition "*) echo "PartitionName=gpu QoS=night" ;;
    "sacctmgr "*" show user "*) echo "me|lab|me||100|normal" ;;
    "sacctmgr "*"format=Name,MaxSubmitJobsPerUser"*) echo "normal|50" ;;
    "squeue "*--format=%N*) echo "n[1-2]" ;;
    "sinfo "*"%N|%P"*) printf 'n1|main*\\nn2|main*\\nn3|main*\\nn4|main*\\n' ;;
    "srun "*train.py*) exit 75 ;;
    "srun "*) echo "srun: error: n1: task 0: Exited with exit code 1" >&2; exit 1 ;;
esac
"""


@dataclass(frozen=True)
class Line:
    """A command line, with what SLURM's commands read beside it."""

    words: tuple[str, ...]
    environment: Mapping[str, str]
    script: str = ""
    """Of sbatch: what stood in the file that its last word names."""

    def __str__(self) -> str:
        return " ".join(self.words)

    @property
    def key(self) -> str:
        """The same for lines that are the same to SLURM."""
        words = self.words[:-1] if self.script else self.words
        return json.dumps([words, dict(self.environment), self.script], sort_keys=True)


class Recorder:
    """Stand-ins for SLURM's commands in a folder, first in PATH, and what they were called with."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.record = folder / "record"
        self.record.mkdir(parents=True)
        for name in COMMANDS:
            program = folder / name
            program.write_text(STAND_IN.format(record=shlex.quote(str(self.record)), job=JOB))
            program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")

    def lines(self) -> list[Line]:
        """What was called so far, in order."""
        return list(map(self._line, sorted(self.record.glob("*.words"), key=lambda path: path.stat().st_mtime_ns)))

    @staticmethod
    def _line(path: Path) -> Line:
        words, environment = (one.read_text().split("\0")[:-1] for one in (path, path.with_suffix(".environment")))
        script = path.with_suffix(".script")
        pairs = (pair.partition("=")[::2] for pair in environment)
        theirs = {key: value for key, value in pairs if key.startswith(("SLURM_", "SBATCH_", "SALLOC_", "SRUN_"))}
        return Line(tuple(words), theirs, script.read_text() if script.exists() else "")


def profiles() -> Iterator[Profile]:
    """Those that the project ships, and one for every key that changes a command line, in each of its values."""
    for name in SHIPPED:
        yield load_profile(name, PROJECT / "slurm" / "clusters")
    gpus = {"gpus_per_node": 4, "gpu_type": "h100", "cpus_per_task": 6}
    site = {"partition": "gpu", "account": "me", "qos": "long", "constraint": "a&b", "reservation": "r"}
    image = {"image": "/images/x.sqsh", "mounts": ["/data", "/a:/b:ro"]}
    mail = {"mail-type": "END,FAIL", "mail-user": "me@example.org", "spread-job": True, "hint": False, "exclude": "n9"}
    more = {"switches": "1@00:30:00", "nice": 100, "wckey": "k", "export": "ALL,A=b", "licenses": "x:2", "tmp": "1G"}
    yield made("bare", {})
    yield made("site", {**gpus, **site, "exclusive": True, "memory_gib": 480.5, "comment": "project 7"})
    yield made("no type", {**gpus, "gpu_type": "", "gpu_layout": "one", "memory_gib": 0})
    yield made("layout", {**gpus, "gpu_layout": "one", "nodes": 2, "memory_gib_per_cpu": 3.5})
    yield made("gres", {**gpus, "gpu_option": "gres"})
    yield made("shared", {"tasks_per_node": 4, "nodes": 2}, preemption={"signal": "SIGTERM"})
    yield made("more", {**gpus, "sbatch": {**mail, **more}}, preemption={"signal": "SIGUSR1"})
    yield made("elsewhere", gpus, cluster="other")
    yield made("no requeue", {"sbatch": {"no-requeue": True}}, preemption={"requeue": False})
    for runtime in ("pyxis", "apptainer", "singularity"):
        yield made(runtime, gpus, container={**image, "runtime": runtime})


def made(name: str, job: Mapping[str, Any], **tables: Any) -> Profile:
    mapping = {"scheduler": "slurm", "name": name, "job": {"time_limit": "04:00:00", **job}, **tables}
    return Profile.from_mapping(mapping)


def nodes_of_study(profile: Profile) -> list[JobNode]:
    """A job of each kind, and those that train once for each size of a batch."""
    sizes = (0, 4, 8, 32) if profile.name in SHIPPED else (0,)
    found = []
    for kind in KINDS:
        for batch in sizes if kind in TRAINING else (0,):
            name = f"{kind}-{batch}"
            found.append(JobNode(f"h{name}", kind, name, f"study/{name}", f"{kind}/{name}", batch=batch))
    return found


def submit_all(profile: Profile, out: Path) -> None:
    """Submit a job of each kind: behind others and alone, kept off nodes and not."""
    nodes = nodes_of_study(profile)
    graph = JobGraph("study", tuple(nodes), profile.to_mapping())
    waits = [Behind(), Behind(("7", "8"), ("9",)), Behind(ended=("9",))]
    for number, node in enumerate(nodes):
        folder = JobFolder(node.run(out).create())
        excluded = ("n3", "n5") if number % 2 else ()
        submit_job(folder, profile, node, graph, waits[number % 3], lane=0, excluded=excluded)


def in_a_job(asked: Resources) -> dict[str, str]:
    """What sbatch and slurmd tell a job of this."""
    variables = {
        "SLURM_JOB_ID": JOB, "SLURM_JOBID": JOB, "SLURM_CPUS_ON_NODE": "8",
        "SLURM_JOB_NODELIST": f"n[1-{asked.nodes}]" if asked.nodes > 1 else "n1",
        "SLURM_JOB_NUM_NODES": str(asked.nodes), "SLURM_NNODES": str(asked.nodes),
        "SLURM_NTASKS": str(asked.num_ranks), "SLURM_NTASKS_PER_NODE": str(asked.ranks_per_node),
    }  # fmt: skip
    if asked.cpus_per_task:
        variables["SLURM_CPUS_PER_TASK"] = str(asked.cpus_per_task)
    if asked.gpus_per_node and asked.gpu_option != "gres":
        variables["SLURM_GPUS_PER_NODE"] = f"{asked.gpu_type}:{asked.gpus_per_node}".removeprefix(":")
    return variables


def steps_of(profile: Profile, out: Path) -> list[Line]:
    """The srun lines of a profile's jobs, as their supervisors make them."""
    found = []
    for node in nodes_of_study(profile):
        asked = profile.resources(node.kind, node.batch)
        inside = in_a_job(asked)
        ranks = srun_command(profile, node.kind, node.run(out).path, [out], node.batch, inside)
        found.append(Line((*ranks, profile.rank_python, "train.py"), inside))
        found.append(Line((*helper_command(asked.nodes), "true"), inside))
    return found


def live(profile: Profile, out: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    """One start of a training job, from its batch script's command on; the job's exit code."""
    node = JobNode("life", "target", "life", "study/life", "target/life")
    graph = JobGraph("study", (node,), profile.to_mapping())
    graph.write(out)
    node.run(out).create()
    job_scratch(profile, JOB).mkdir(parents=True, exist_ok=True)  # then it is removed at the end, on every node
    # sbatch of 23.11 and newer sets the last one; SLURM may have given a task more CPUs than were asked for
    for key, value in {**in_a_job(profile.resources("target")), "SLURM_TRES_PER_TASK": "cpu=9"}.items():
        monkeypatch.setenv(key, value)
    monkeypatch.setenv(VARIABLE, JobSpec.of(graph, node, profile, out).text())
    return job.main()


def ask_slurm() -> None:
    """All that :mod:`xtrain.dispatch.slurm` asks and tells."""
    slurm.job_states(["7", "8"], 30)
    slurm.live_jobs_of("xtrain a b")
    slurm.nodes_of("main")
    slurm.nodes_of("")
    slurm.cancel(["7", "8"])
    slurm.cancel(["7", "8"], waiting=True)
    ask_accounting(["7", "8"])
    slurm.requeue("7")
    slurm.update_dependency("7", "afterok:12:13,afterany:9")
    slurm.update_dependency("7", "")
    slurm.exclude_nodes("7", ["n3", "n5"])


def examine(profile: Profile, out: Path) -> None:
    """The doctor's questions of a site: its settings, a job that is submitted, nodes that are lent, steps on them."""
    profile = with_nodes(profile, 2)
    ask_site(profile)
    check_submission(profile)
    check_kinds(profile)
    refusal_of_sbatch(options_of_chain(profile))
    submit_limit(profile, KINDS)
    with allocated(profile, KIND, 10.0) as lent:
        work = NodeJob(profile, out, out, patience_seconds=1.0)
        ask_nodes(work, lent)
        check_all_reduce(work, lent)
    with contextlib.suppress(NotGranted), allocated(profile, KIND, -1.0):  # too late: it asks why the job waits
        pass


def made_in_source() -> Iterator[tuple[str, re.Pattern[str]]]:
    """Where a list in the product's source begins with a command of SLURM's, and a pattern of the lines it makes."""
    names = {"SQUEUE": slurm.SQUEUE, "SACCT": slurm.SACCT}
    for path in sorted((PROJECT / "xtrain").rglob("*.py")):
        for part in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(part, ast.List) and part.elts:
                first, *others = part.elts
                if isinstance(first, ast.Starred) and getattr(first.value, "id", "") == "SACCTMGR":
                    first, *others = [*map(ast.Constant, SACCTMGR), *others]
                word = names.get(first.id) if isinstance(first, ast.Name) else getattr(first, "value", None)
                if isinstance(word, str) and word in COMMANDS:
                    rest = "".join(map(_pattern, others))
                    yield f"{path.relative_to(PROJECT)}:{part.lineno}", re.compile(f"{word}\0{rest}", re.DOTALL)


def _pattern(part: ast.expr) -> str:
    if isinstance(part, ast.Starred):
        return "(?:[^\0]*\0)*?"
    if isinstance(part, ast.Constant):
        return re.escape(str(part.value)) + "\0"
    if isinstance(part, ast.JoinedStr):
        texts = (re.escape(str(one.value)) if isinstance(one, ast.Constant) else "[^\0]*" for one in part.values)
        return "".join(texts) + "\0"
    return "[^\0]*\0"


def every_line(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[Line]:
    """All of them, each once."""
    recorder = Recorder(folder / "bin", monkeypatch)
    ask_slurm()
    monkeypatch.setattr(secrets, "token_hex", lambda size: "5eed" * (size // 2))  # no name is new for every job
    monkeypatch.setattr(allocation, "_POLL_SECONDS", 0.005)
    out, scratch = folder / "out put", {"scratch": str(folder / "scratch")}  # with a blank, as a user's may have
    steps = []
    for profile in profiles():
        slurm.ask_of(profile.cluster)
        if profile.cluster:
            ask_slurm()
        submit_all(profile, out)
        examine(profile, out)
        steps += steps_of(profile, out)
        slurm.ask_of("")
    for number, preemption in enumerate([{"check_nodes": False}, {"check_nodes": True}, {"requeue": False}]):
        live(made("life", {"nodes": 2}, preemption=preemption, storage=scratch), folder / f"{number}", monkeypatch)
    return list({line.key: line for line in [*recorder.lines(), *steps]}.values())
