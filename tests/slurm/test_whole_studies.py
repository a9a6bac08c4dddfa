"""A study from slurm/submit.py to its report on the test cluster: jobs, their order, number and failures."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from cluster import Cluster
from life import ENVIRONMENT
from toy import PROJECT, study, write_study

from xtrain.dispatch.cluster import KINDS, load_profile
from xtrain.dispatch.job_graph import JobGraph
from xtrain.dispatch.submissions import JobFolder
from xtrain.starter import cache_folder

SMALL = {"max_steps": 6, "batch_size": 8, "max_length": 64, "learning_rate": 1e-3, "eval_every": 3, "dropout": 0.0}
QUICK = """
import json, os, sys, time
run = sys.argv[-1]
time.sleep(0.3)
open(os.path.join(run, "DONE"), "w").write("{}")
"""


class Submitted:
    """A study in a folder of its own, submitted by the real command."""

    def __init__(self, cluster: Cluster, root: Path, base: Path, data: Path, **changes: Any) -> None:
        self.cluster, self.root, self.data, self.out = cluster, root, data, root / "out"
        self.study = write_study(root / "study.toml", study(base, **changes))
        self.profile = root / "lab.toml"

    def write_profile(self, **tables: Any) -> None:
        job = {"partition": "main", "time_limit": 10, "cpus_per_task": 1, **tables.pop("job", {})}
        mapping = {
            "scheduler": "slurm", "job": job, "storage": {"cache": str(cache_folder())},
            "environment": {"variables": ENVIRONMENT, **tables.pop("environment", {})}, **tables,
        }  # fmt: skip
        self.profile.write_text(tomli_w.dumps(mapping))

    def submit(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self.command(
            str(PROJECT / "slurm" / "submit.py"), str(self.study), "--cluster", str(self.profile),
            "--data", str(self.data), "--out", str(self.out), *arguments,
        )  # fmt: skip

    def command(self, *words: str) -> subprocess.CompletedProcess[str]:
        environment = {**self.cluster.environment, **ENVIRONMENT, "PYTHONPATH": str(PROJECT), "COLUMNS": "200"}
        return self.cluster.run(sys.executable, *words, env=environment, cwd=self.root, timeout=120, check=False)

    @property
    def graph(self) -> JobGraph:
        return JobGraph.read(self.out / "jobs" / "toy.json")

    def folder(self, job_name: str) -> JobFolder:
        return JobFolder(self.graph.find(job_name).run(self.out))

    def jobs(self) -> dict[str, str]:
        """Every job's name -> its newest job id."""
        return {
            node.job_name: submissions[-1].job
            for node in self.graph.nodes
            if (submissions := JobFolder(node.run(self.out)).submissions())
        }

    def wait_empty(self, seconds: float = 240) -> None:
        """Until no job is in the queue."""
        end = time.monotonic() + seconds
        while self.cluster.run("squeue", "-h").stdout.strip():
            assert time.monotonic() < end, self.cluster.run("squeue").stdout
            time.sleep(0.3)

    def logs(self) -> str:
        paths = [*self.out.rglob("*_log.out"), *self.out.rglob("rank-*.log")]
        return "\n".join(f"== {path}\n{path.read_text('utf-8', errors='replace')[-1500:]}" for path in sorted(paths))


def scores_of(out: Path) -> Mapping[str, Any]:
    return {path.parent.name: json.loads(path.read_bytes())["tasks"] for path in out.glob("evaluate/*/scores.json")}


def test_a_study_gives_what_a_local_run_gives(
    cluster: Cluster, tmp_path: Path, tiny_model: Path, toy_data: Path
) -> None:
    """All phases as dependent jobs, on two nodes in training; the local run has two ranks as well."""
    changes = {
        "intermediate": [{"name": "choose", "tasks": ["choose"]}],
        "target": [{"task": "toy"}],
        "recipe": {"intermediate": SMALL, "target": SMALL},
        "engine": {"precision": "fp32", "tokens_per_micro_batch": 512},
    }
    one = Submitted(cluster, tmp_path / "slurm", tiny_model, toy_data, **changes)
    one.write_profile(job={"intermediate": {"nodes": 2}, "target": {"nodes": 2}})
    done = one.submit()
    assert done.returncode == 0, done.stdout + done.stderr
    local = ["-m", "xtrain", "run", str(one.study), "--data", str(toy_data), "--out", str(tmp_path / "local")]
    alone = one.command(*local, "--ranks", "2")
    assert alone.returncode == 0, alone.stdout + alone.stderr
    one.wait_empty()
    assert (one.out / "report-toy.html").is_file(), one.logs()
    assert scores_of(one.out) == scores_of(tmp_path / "local") != {}
    names = {line["launcher"] for path in one.out.glob("target/*/events.jsonl") for line in starts(path)}
    assert names == {"srun"}
    used = json.loads(one.command("-m", "xtrain", "usage", str(one.out), "--json").stdout)
    assert used["silent"] == {}
    assert (used["totals"]["starts"], used["totals"]["no_devices"], used["totals"]["wait_unknown"]) == (
        len(one.jobs()),
        0,
        0,
    )
    (phase,) = (phase for phase in used["studies"][0]["phases"] if phase["job_name"] == "toy/choose-s0")
    assert [(start["ranks"], start["gpus"], start["time_limit_seconds"]) for start in phase["attempts"]] == [
        (2, 0, 600)
    ]
    assert [start["job"] for start in phase["accounting"]] == [one.jobs()["toy/choose-s0"]]
    again = one.submit()
    assert "nothing to submit" in again.stdout, again.stdout + again.stderr


def starts(path: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    return [line for line in lines if line["event"] == "start"]


def quick_ranks(one: Submitted, folder: Path, **tables: Any) -> None:
    """A profile whose ranks have finished at once."""
    quick = folder / "python"
    (folder / "quick.py").write_text(QUICK)
    quick.write_text(
        f'#!/bin/sh\ncase "$*" in *train.py*) exec {sys.executable} {folder / "quick.py"} "$@";; esac\n'
        f'exec {sys.executable} "$@"\n'
    )
    quick.chmod(0o755)
    environment = {"python": str(quick), "variables": ENVIRONMENT}
    one.write_profile(environment=environment, preemption={"check_nodes": False}, **tables)


@pytest.mark.long
def test_many_phases(cluster: Cluster, tmp_path: Path, tiny_model: Path, toy_data: Path) -> None:
    """Submitted by a shell that ends; no more at a time than allowed; given again, nothing changes."""
    seeds = list(range(4))
    one = Submitted(cluster, tmp_path, tiny_model, toy_data, seeds=seeds, target=[{"task": "toy"}])
    quick_ranks(one, tmp_path, limits={"running": 3})
    cluster.run("scontrol", "update", "PartitionName=main", "State=DOWN")  # jobs may be queued, but do not start
    done = one.submit()
    assert done.returncode == 0, done.stdout + done.stderr
    jobs = one.jobs()
    assert len(jobs) == 4 * (2 + 3) + 2
    again = one.submit()
    assert "nothing to submit" in again.stdout
    assert one.jobs() == jobs
    assert len(cluster.run("squeue", "-h").stdout.split("\n")) - 1 == len(jobs)
    cluster.run("scontrol", "update", "PartitionName=main", "State=UP")
    most = 0
    while len(cluster.run("squeue", "-h").stdout.splitlines()) > len(jobs) - 6:
        running = cluster.run("squeue", "-h", "-t", "running,completing", "-o", "%j").stdout.split()
        most = max(most, len(running))
    assert 2 <= most <= 3
    cancelled = one.command("-m", "xtrain", "cancel", str(one.out), "--yes")
    assert cancelled.returncode == 0, cancelled.stdout + cancelled.stderr
    one.wait_empty()


def spoiled(data: Path, folder: Path) -> Path:
    """A copy of ``data`` with a label that the task does not have in the training set, and a test set without rows."""
    shutil.copytree(data, folder)
    bad = folder / "toy" / "train-en.jsonl"
    lines = bad.read_text("utf-8").splitlines()
    lines[3] = json.dumps({**json.loads(lines[3]), "label": "class9"})
    bad.write_text("\n".join(lines) + "\n", "utf-8")
    (folder / "toy" / "test-ar.jsonl").write_bytes(b"")
    return folder


def test_the_users_mistake_ends_a_phase_once(
    cluster: Cluster, tmp_path: Path, tiny_model: Path, toy_data: Path
) -> None:
    """Data that are wrong are not submitted. Where they are right here and wrong on the nodes, the first job says so,
    once, and `why` too; what depends on it is cancelled, and named."""
    one = Submitted(cluster, tmp_path / "study", tiny_model, spoiled(toy_data, tmp_path / "wrong"))
    one.write_profile()
    done = one.submit()
    assert done.returncode == 2, done.stdout + done.stderr
    assert "error: 2 problems:" in done.stderr
    assert "class9" in done.stderr
    assert "test-ar.jsonl: has no rows" in done.stderr
    assert not list(one.out.glob("jobs/*.json")), "nothing was submitted"
    one.data = tmp_path / "right"
    shutil.copytree(toy_data, one.data)
    for node in cluster.nodes:
        cluster.mount_folder(node, one.data, tmp_path / "wrong")
    done = one.submit()
    assert done.returncode == 0, done.stdout + done.stderr
    one.wait_empty()
    ended = one.folder("toy/prepare").ended()
    assert ended is not None
    assert ended.how == "user error"
    assert "class9" in ended.reason
    assert "test-ar.jsonl: has no rows" in ended.reason
    assert len(list((one.folder("toy/prepare").path).glob("attempt-*"))) == 1
    why = one.command("-m", "xtrain", "why", "toy/prepare", "--out", str(one.out))
    assert "class9" in why.stdout, why.stdout + why.stderr
    assert "toy/choose-s0/toy/evaluate" in why.stdout, why.stdout
    why = one.command("-m", "xtrain", "why", "toy/choose-s0/toy", "--out", str(one.out))
    assert "prepare" in why.stdout, why.stdout


def test_data_that_only_the_nodes_see(cluster: Cluster, tmp_path: Path, tiny_model: Path, toy_data: Path) -> None:
    """The first job looks at them: it ends with all that is wrong, and submits the study once they are mended."""
    wrong, seen = spoiled(toy_data, tmp_path / "wrong"), tmp_path / "data"
    seen.mkdir()
    for node in cluster.nodes:
        cluster.mount_folder(node, seen, wrong)
    one = Submitted(cluster, tmp_path / "study", tiny_model, seen, target=[{"task": "toy"}])
    quick_ranks(one, tmp_path)
    done = one.submit()
    assert done.returncode == 0, done.stdout + done.stderr
    assert "not seen on this machine" in done.stdout
    one.wait_empty()
    assert list(one.jobs()) == ["toy/prepare"]
    why = one.command("-m", "xtrain", "why", "toy/prepare", "--out", str(one.out))
    for part in ("2 problems", "train-en.jsonl:4", "class9", "test-ar.jsonl: has no rows"):
        assert part in why.stdout, why.stdout + why.stderr
    shutil.copytree(toy_data, wrong, dirs_exist_ok=True)
    done = one.submit()
    assert done.returncode == 0, done.stdout + done.stderr
    one.wait_empty()
    assert len(one.jobs()) == 5 + 1, one.logs()
    assert all(node.run(one.out).done for node in one.graph.nodes if node.kind == "target"), one.logs()
    assert len({path.parent.name for path in one.out.glob("prepare/*/DONE")}) == 2, "that job, and the study's own"


def test_what_sbatch_refuses_is_said(cluster: Cluster, tmp_path: Path, tiny_model: Path, toy_data: Path) -> None:
    one = Submitted(cluster, tmp_path, tiny_model, toy_data)
    one.write_profile(job={"partition": "nosuch"})
    done = one.submit()
    assert done.returncode == 2, done.stdout
    assert "sbatch refuses it" in done.stderr
    assert "nosuch" in done.stderr or "partition" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("name", ["a100", "h100"])
def test_scripts_of_a_site_with_gpus_are_accepted(
    make_cluster: Any, tmp_path: Path, tiny_model: Path, toy_data: Path, name: str
) -> None:
    """What --dry-run shows, sbatch takes, with the partitions and GPUs of that site."""
    profile = load_profile(name, PROJECT / "slurm" / "clusters")
    asked = profile.resources("target")
    features = [word for kind in KINDS for word in re.findall(r"\w+", profile.resources(kind).constraint)]
    partitions = {profile.resources(kind).partition for kind in ("prepare", "target", "evaluate")}
    cluster = make_cluster(
        nodes=4, cpus=128, memory_gib=2000, gpus=f"{asked.gpu_type}:{asked.gpus_per_node}", accounting=False,
        features=",".join({*features}), partitions=dict.fromkeys(partitions, "Nodes=ALL MaxTime=INFINITE State=UP"),
    )  # fmt: skip
    one = Submitted(cluster, tmp_path, tiny_model, toy_data)
    one.profile = PROJECT / "slurm" / "clusters" / f"{name}.toml"
    done = one.submit("--dry-run", "--scripts", str(tmp_path / "scripts"), "--set", "recipe.target.batch_size=64",
                      "--set", "recipe.intermediate.batch_size=64")  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "GPU-hours" in done.stdout
    scripts = sorted((tmp_path / "scripts").glob("*.sh"))
    assert len(scripts) == 9
    for script in scripts:
        tested = cluster.run("sbatch", "--test-only", str(script), check=False)
        assert tested.returncode == 0, f"{script.read_text('utf-8')}\n{tested.stderr}"
        assert tested.stderr.startswith("sbatch: Job "), tested.stderr
