"""The doctor on a real cluster: nothing wrong where all is well, and each of ten planted faults found and named."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from cluster import Cluster

from xtrain.dispatch.cluster import Profile
from xtrain.doctor import scheduler
from xtrain.doctor.scheduler import QosRules

PROJECT = Path(__file__).resolve().parents[2]
MakeCluster = Callable[..., Cluster]


class Site:
    """A cluster, and the folders and the profile that a user would have on it."""

    def __init__(self, cluster: Cluster, folder: Path) -> None:
        self.cluster, self.folder = cluster, folder
        for name in ("out", "data", "cache", "scratch"):
            (folder / name).mkdir()
        (folder / "data" / "xnli.tsv").write_text("a\n")

    def profile(self, **tables: Any) -> Path:
        job = {"partition": "main", "time_limit": "01:00:00", "intermediate": {"nodes": 2, "tasks_per_node": 1}}
        mapping = {
            "scheduler": "slurm",
            "storage": {"scratch": str(self.folder / "scratch"), "cache": str(self.folder / "cache")},
            **tables,
            "job": {**job, **tables.get("job", {})},
        }
        path = self.folder / "site.toml"
        path.write_text(tomli_w.dumps(mapping))
        return path

    def doctor(self, profile: Path, *more: str) -> tuple[int, dict[str, Any]]:
        """The exit code and what --json says."""
        words = [sys.executable, "-m", "xtrain", "doctor", "--cluster", str(profile), "--json", *more]
        folders = ["--out", str(self.folder / "out"), "--data", str(self.folder / "data")]
        env = {**self.cluster.environment, "OMP_NUM_THREADS": "1", "XTRAIN_CACHE": str(self.folder / "cache")}
        done = self.cluster.run(*words, *folders, env=env, cwd=PROJECT, check=False, timeout=240)
        assert done.returncode in (0, 2), done.stderr
        assert "Traceback" not in done.stderr
        return done.returncode, json.loads(done.stdout)


@pytest.fixture
def site(cluster: Cluster, tmp_path: Path) -> Site:
    cluster.wait_idle()  # else SLURM gives the first job that asks for nodes others than n1 and n2
    return Site(cluster, tmp_path)


def findings(report: Mapping[str, Any]) -> list[dict[str, str]]:
    return [finding for section in report["sections"] for finding in section["findings"]]


def said(report: Mapping[str, Any], looked_at: str, *words: str, level: str = "problem") -> dict[str, str]:
    """The finding of this level with these words in it; it has a remedy."""
    of_it = [finding for finding in findings(report) if finding["looked_at"] == looked_at]
    right = [one for one in of_it if one["level"] == level and all(word in one["found"] for word in words)]
    assert right, (looked_at, words, of_it)
    assert right[0]["to_do"]
    return right[0]


def test_a_healthy_cluster(site: Site) -> None:
    code, report = site.doctor(site.profile(network={"interface": "eth0"}), "--nodes", "2")
    assert [finding for finding in findings(report) if finding["level"] == "problem"] == []
    assert code == 0
    assert report["level"] != "problem"
    details = report["sections"][-1]["details"]
    assert [(rank["rank"], rank["node"], rank["backend"]) for rank in details["ranks"]] == [
        (0, "n1", "gloo"),
        (1, "n2", "gloo"),
    ]
    for timing in details["all_reduce"]:
        assert timing["bus_gbs"] == pytest.approx(timing["algorithm_gbs"], rel=1e-3)  # 2 (n - 1) / n is 1 for two
        assert timing["bytes"] / timing["seconds"] / 1e9 == pytest.approx(timing["algorithm_gbs"], rel=1e-2)
    told = {finding["looked_at"]: finding["found"] for finding in findings(report)}
    assert told["sbatch"] == "takes the jobs of the profile; scontrol requeue is allowed"
    assert told["jobs of all kinds"].startswith("sbatch --test-only takes them: prepare, intermediate")
    assert told["jobs in the queue"].startswith("no limit that sacctmgr tells")
    assert not list((site.folder / "out").iterdir())  # nothing is left behind
    assert site.cluster.run("squeue", "-h", "-t", "R,PD").stdout == ""


def test_a_node_that_submits_the_next_of_a_chain(site: Site) -> None:
    """And the cluster by its name, as from the login node of several."""
    code, report = site.doctor(site.profile(preemption={"requeue": False}, cluster="tests"), "--nodes", "1")
    assert code == 0, findings(report)
    told = {finding["looked_at"]: finding["found"] for finding in findings(report)}
    assert told["SLURM's commands in a job"] == "srun, scontrol, squeue, sbatch on node n1"
    assert site.cluster.run("squeue", "-h", "-t", "R,PD").stdout == "", "sbatch was only asked"


def test_the_rules_of_a_qos(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster.use_in(monkeypatch)
    cluster.run("sacctmgr", "-i", "add", "qos", "urgent", "set", "Preempt=normal", "GraceTime=60", "PreemptMode=cancel")
    try:
        rules = {name: scheduler._qos_rules(Profile("slurm", job={"qos": name})) for name in ("", "urgent", "none")}
    finally:
        cluster.run("sacctmgr", "-i", "delete", "qos", "urgent")
    assert rules[""] == QosRules("normal", "cluster", "00:00:00", ("urgent",))
    assert rules["urgent"] == QosRules("urgent", "cancel", "00:01:00", ())
    assert rules["none"] is None


def test_faults_of_a_node(site: Site) -> None:
    """Seven at once, on the second of two nodes: none hides another."""
    folder, cluster = site.folder, site.cluster
    shim = folder / "shim" / "submitit-99.0.dist-info"
    shim.mkdir(parents=True)
    (shim / "METADATA").write_text("Metadata-Version: 2.1\nName: submitit\nVersion: 99.0\n")
    tools, ninja = folder / "tools", folder / "ninja"
    tools.mkdir()
    ninja.mkdir()
    for name in ("bash", "c++"):
        (tools / name).symlink_to(str(shutil.which(name)))
    (ninja / "ninja").symlink_to(str(shutil.which("ninja")))
    path = os.pathsep.join([str(cluster.folder / "bin"), str(tools), str(ninja)])
    # srun of the test's machine enters the cluster's network with nsenter
    for name in ("nsenter", "sh"):
        (tools / name).symlink_to(str(shutil.which(name)))
    profile = site.profile(
        network={"interface": "ib7"},
        environment={"variables": {"PATH": path, "PYTHONPATH": str(folder / "shim")}},
    )
    cluster.hide_folder("n2", folder / "out")
    cluster.hide_folder("n2", folder / "data")
    cluster.hide_folder("n2", folder / "shim")
    cluster.hide_folder("n2", ninja)
    cluster.mount_readonly("n2", folder / "cache")
    cluster.mount_small("n2", folder / "scratch", "1m")
    cluster.node_run("n2", "dd", "if=/dev/zero", f"of={folder}/scratch/filler", "bs=64k", check=False)
    code, report = site.doctor(profile, "--nodes", "2")
    assert code == 2
    said(report, "shared output folder", str(folder / "out"), "n2 and this machine do not see each other's files")
    said(report, "ops that build", "ninja not found on n2", level="warning")
    said(report, "cache", str(folder / "cache"), "node n2", "cannot be written: Read-only file system")
    mended = said(report, "network interface", "ib7 is not on n1, n2", "eth0")
    assert "network.interface" in mended["to_do"]
    said(report, "data", str(folder / "data"), "n2: is empty")
    said(report, "submitit on all nodes", "99.0 on n1", "on n2")
    said(report, "scratch", str(folder / "scratch"), "node n2", "the disk is full")


@pytest.mark.long
def test_a_node_that_nobody_reaches(site: Site) -> None:
    site.cluster.cut_network("n2")
    try:
        code, report = site.doctor(site.profile(), "--nodes", "2")
    finally:
        site.cluster.restore_network("n2")
    assert code == 2
    assert "have the node drained" in said(report, "node n2", "did not report")["to_do"]
    assert not [one for one in findings(report) if one["looked_at"] == "node n1" and one["level"] == "problem"]
    site.cluster.wait_idle()


def test_faults_of_the_scheduler(make_cluster: MakeCluster, tmp_path: Path) -> None:
    cluster = make_cluster(
        nodes=2,
        accounting=False,
        preempt_user_signal=False,
        grace_time=0,
        partitions={"short": "Nodes=ALL MaxTime=1 State=UP"},
    )
    site = Site(cluster, tmp_path)
    cluster.run("scontrol", "update", "nodename=n2", "state=drain", "reason=fan broken")
    code, report = site.doctor(site.profile(job={"intermediate": {"nodes": 2}}), "--nodes", "0")
    assert code == 2
    said(report, "nodes", "2 are wanted, 1 of main can serve", "n2 (drained: fan broken)")
    mended = said(report, "signal before preemption", "send_user_signal", "5 s (KillWait)", level="warning")
    release = cluster.run("scontrol", "--version").stdout.split()[1]
    older = tuple(int(part) for part in release.split(".")[:2]) < (23, 2)
    place = "SlurmctldParameters=preempt_send_user_signal" if older else "PreemptParameters=send_user_signal"
    assert place in mended["to_do"], f"{release} has it there"
    said(report, "GraceTime of main", "has 5 s to save", level="warning")
    said(report, "accounting", "off", level="note")

    code, report = site.doctor(site.profile(job={"partition": "short"}), "--nodes", "0")
    assert code == 2
    said(report, "time limit", "60 min are asked for, short allows 60 s (MaxTime)")
    said(report, "lead time", "short allows 60 s", "120 s before the end")


def test_a_time_limit_shorter_than_the_lead_time(site: Site) -> None:
    code, report = site.doctor(site.profile(job={"time_limit": "00:01:00"}), "--nodes", "1")
    assert code == 2
    told = [one for one in findings(report) if one["level"] == "problem"]
    assert "time_limit" in told[0]["looked_at"]
    assert "60 s, but" in told[0]["found"]
    assert "120 s before" in told[0]["found"]
    assert "lead_seconds" in told[0]["to_do"]


def test_options_that_sbatch_refuses(site: Site) -> None:
    code, report = site.doctor(site.profile(job={"sbatch": {"licenses": "matlab:3"}}), "--nodes", "1")
    assert code == 2
    assert "[job]" in said(report, "sbatch", "Invalid license specification")["to_do"]
    assert site.cluster.run("squeue", "-h", "-t", "R,PD").stdout == ""


def test_a_partition_that_is_not_there(site: Site) -> None:
    code, report = site.doctor(site.profile(job={"partition": "mian"}), "--nodes", "1")
    assert code == 2
    assert "did you mean 'main'?" in said(report, "partition", "'mian'")["to_do"]
