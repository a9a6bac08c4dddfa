"""Reports of nodes: what is wrong is named with the node that has it, and what is well takes one line."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from xtrain.dispatch.cluster import Container, Network, Profile
from xtrain.doctor.examination import places
from xtrain.doctor.findings import Finding
from xtrain.doctor.folders import FolderReport
from xtrain.doctor.framing import MARK, Reader, emit
from xtrain.doctor.hardware import TOOLS, Gpu, Hardware
from xtrain.doctor.meeting import HERE, Acquaintance
from xtrain.doctor.node import NodeReport
from xtrain.doctor.node_findings import INSIDE, OUTSIDE, check_reports
from xtrain.doctor.nodes import NodeJob
from xtrain.doctor.servers import HUB, WANDB

OUT, DATA = Path("/shared/out"), Path("/shared/data")
GPU = Gpu("NVIDIA H100", "570.1", 80.0, "9.0")
FREE = 2**40


def report(node: str, other: str, **changes: Any) -> NodeReport:
    hardware = Hardware("EPYC", 64, True, 2**39, 2**38, (GPU, GPU), "", 65536, TOOLS)
    whole = NodeReport(
        node=node,
        host=f"{node}.site",
        time=0.0,
        python="/venv/bin/python",
        versions={"python": "3.12.1", "torch": "2.11", "deepspeed": "0.19.8", "transformers": "5.17"},
        hardware=hardware,
        interfaces={"eth0": "10.0.0.1", "ib0": "10.1.0.1"},
        own_address="10.0.0.1",
        folders={
            name: FolderReport(f"/{name}", True, free=FREE, files_free=None, kind="lustre" if name == "out" else "xfs")
            for name in ("out", "cache", "scratch", "shm")
        },
        met={other: Acquaintance("", "10.0.0.2", 1e-4, 0.01)},
        bytes_per_second=1e9,
    )
    return dataclasses.replace(whole, **changes)


def look(interface: str = "ib0", **changes: Any) -> dict[str, Finding]:
    """The findings where b differs from a by ``changes``, those that are not ok first."""
    reports = {"a": report("a", "b"), "b": report("b", "a", **changes)}
    job = {"gpus_per_node": 2, "time_limit": "04:00:00"}
    profile = Profile("slurm", job=job, network=Network(interface))
    found = sorted(check_reports(reports, profile, OUT, DATA), key=lambda one: one.level == "ok")
    return {one.looked_at: one for one in reversed(found)}


def folder(name: str, **changes: Any) -> dict[str, FolderReport]:
    folders = dict(report("b", "a").folders)
    return {**folders, name: dataclasses.replace(folders[name], **changes)}


def hardware(**changes: Any) -> Hardware:
    return dataclasses.replace(report("b", "a").hardware, **changes)


def test_two_nodes_that_are_alike() -> None:
    found = look()
    assert {one.level for one in found.values()} == {"ok"}
    assert "nodes a, b" in found["cache"].found


@pytest.mark.parametrize(
    ("changes", "looked_at", "level", "words"),
    [
        ({"not_seen": (HERE, "a")}, "shared output folder", "problem", "b and this machine do not see"),
        ({"not_seen": ("a",)}, "shared output folder", "problem", "b does not see the files of a"),
        ({"folders": folder("out", exists=False)}, "shared output folder", "problem", "does not exist on b"),
        ({"folders": folder("out", refused="Permission denied")}, "output folder", "problem", "on node b: cannot"),
        ({"folders": folder("cache", refused="Read-only file system")}, "cache", "problem", "on node b: cannot"),
        ({"folders": folder("scratch", full=True, refused="No space")}, "scratch", "problem", "node b: the disk is"),
        ({"folders": folder("scratch", free=2**20)}, "scratch", "problem", "1 MiB free, xfs, less than 256 MiB"),
        ({"folders": folder("scratch", kind="nfs4")}, "scratch", "warning", "a network file system (nfs4)"),
        ({"folders": folder("out", free=2**33)}, "output folder", "warning", "XLM-R Large takes 20.8 GiB"),
        ({"no_locks": "No locks available"}, "locks in the output folder", "warning", "refused on b: No locks"),
        ({"not_locked": ("a", HERE)}, "locks in the output folder", "warning", "b does not see the lock of a, this"),
        ({"data": "No such file or directory"}, "data", "problem", "b: No such file"),
        ({"interfaces": {"eth0": "10.0.0.2"}}, "network interface", "problem", "ib0 is not on b (there: eth0)"),
        ({"met": {"a": Acquaintance("timed out")}}, "nodes reach each other", "problem", "a cannot be reached from b"),
        ({"hardware": hardware(tools=("c++", *TOOLS[3:]))}, "ops that build", "warning", "ninja not found on b"),
        ({"hardware": hardware(tools=TOOLS[:3])}, "SLURM's commands in a job", "problem", "scontrol, squeue not found"),
        ({"hardware": hardware(locked_memory=2**16)}, "locked memory", "warning", "node b: at most 64 KiB"),
        ({"hardware": hardware(processes=512)}, "processes", "warning", "node b: at most 512"),
        ({"hardware": hardware(address_space=2**36)}, "address space", "warning", "node b: at most 64.0 GiB"),
        ({"servers": {HUB: "timed out"}}, HUB, "note", "not reached from node b: timed out"),
        ({"servers": {WANDB: "no route"}}, WANDB, "note", "not reached from node b: no route"),
        ({"hardware": hardware(gpus=(GPU,))}, "GPUs", "problem", "1 on b"),
        ({"hardware": hardware(driver_trouble="Unknown Error")}, "GPUs", "problem", "b: Unknown Error"),
        ({"hardware": hardware(open_files=1024)}, "open files", "warning", "node b: at most 1024"),
        ({"hardware": hardware(memory_free=2**30)}, "memory", "problem", "node b: 1.0 GiB free"),
        ({"versions": {**report("a", "b").versions, "torch": "2.13"}}, "torch on all nodes", "problem", "2.13 on b"),
        ({"versions": {}}, "deepspeed on all nodes", "problem", "0.19.8 on a; missing on b"),
    ],
)
def test_a_fault_of_one_node(changes: dict[str, Any], looked_at: str, level: str, words: str) -> None:
    finding = look(**changes)[looked_at]
    assert (finding.level, words in finding.found) == (level, True), finding
    assert finding.to_do


def test_an_image_needs_no_slurm_and_a_node_no_compiler() -> None:
    """Each is looked for where it is used; what an image lacks is not said of the node."""
    bare = {node: report(node, "", hardware=hardware(tools=())) for node in ("a",)}
    profile = Profile("slurm", job={"gpus_per_node": 2, "time_limit": 60}, container=Container("x.sqsh"))
    seen = {}
    for place, work in places(NodeJob(profile, OUT, DATA)).items():
        found = {one.looked_at for one in check_reports(bare, profile, OUT, DATA, place) if one.to_do}
        options = [word for word in work.command("7", "intermediate", ["m"]) if word.startswith("--container")]
        seen[place] = (found, bool(options))
    assert seen == {OUTSIDE: ({"SLURM's commands in a job"}, False), INSIDE: ({"ops that build"}, True)}
    (only,) = places(NodeJob(Profile("slurm", job={"time_limit": 60}), OUT)).items()
    assert only[0] == ""


def test_chains_need_sbatch_on_the_nodes() -> None:
    def commands(chains: bool, **changes: Any) -> Finding:
        mapping = {"scheduler": "slurm", "job": {"time_limit": 60}, "preemption": {"requeue": not chains}}
        profile = Profile.from_mapping(mapping)
        found = check_reports({"a": report("a", "", **changes)}, profile, OUT, None)
        return next(one for one in found if one.looked_at == "SLURM's commands in a job")

    without = {"hardware": hardware(tools=TOOLS[:-1])}
    assert commands(True, **without).found == "sbatch not found on a"
    assert commands(False, **without).level == "ok"
    refused = {"sbatch": "Access/permission denied"}
    assert commands(True, **refused).found == "sbatch on a: Access/permission denied"
    assert commands(True, **refused).level == "problem"
    assert commands(True).level == commands(False, **refused).level == "ok"


def test_clocks() -> None:
    reports = {"a": report("a", "b", met={"b": Acquaintance("", "", 0.0, -30.0)}), "b": report("b", "a")}
    profile = Profile("slurm", job={"gpus_per_node": 2, "time_limit": 60})
    found = {one.looked_at: one for one in check_reports(reports, profile, OUT, None)}
    assert (found["clocks"].level, found["clocks"].found) == ("warning", "b is 30 s behind of a")


def test_a_name_that_stands_for_the_loop_back() -> None:
    assert "127.0.1.1" in look(interface="", own_address="127.0.1.1")["network interface"].found
    assert look(interface="")["network interface"].level == "ok"


def test_saving_slower_than_the_lead() -> None:
    reports = {"a": report("a", "b", bytes_per_second=1e7), "b": report("b", "a", bytes_per_second=0.0)}
    profile = Profile("slurm", job={"gpus_per_node": 2, "time_limit": "04:00:00"})
    found = {one.looked_at: one for one in check_reports(reports, profile, OUT, None)}["saving"]
    assert (found.level, "11.2 min" in found.found, "120 s before" in found.found) == ("warning", True, True)


def test_a_report_comes_through_json_and_through_srun(capsys: pytest.CaptureFixture[str]) -> None:
    first, second = report("a", "b"), report("b", "a", not_seen=("a",), not_locked=("a",))
    for one in (first, second):
        emit(one.node, {"report": one.to_mapping()})
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) < 1000  # srun passes on so much at a time
    mine, yours = ([line for line in lines if line.startswith(f"{MARK} {node} ")] for node in "ab")
    mixed = [line for pair in zip(mine, yours, strict=False) for line in pair]
    mixed += lines[len(mixed) :] if len(mine) == len(yours) else mine[len(yours) :] + yours[len(mine) :]
    reader = Reader()
    got = {task: value for line in ["module loaded", *mixed] for task, value in reader.feed(line)}
    assert {node: NodeReport.from_mapping(value["report"]) for node, value in got.items()} == {"a": first, "b": second}
    assert reader.other == ["module loaded"]
    assert json.dumps(got["a"])
