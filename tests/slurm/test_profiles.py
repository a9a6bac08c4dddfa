"""The example profiles on a cluster with simulated GPUs: sbatch takes the scripts, srun places the ranks."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cluster import Cluster

from xtrain.dispatch.batch_script import script_text, srun_command
from xtrain.dispatch.cluster import KINDS, Profile, load_profile

PROFILES = Path(__file__).parents[2] / "slurm" / "clusters"
SITES: dict[str, dict[str, Any]] = {
    "h100": {"nodes": 2, "cpus": 96, "memory_gib": 2048, "gpus": "h100:8", "partitions": {"gpu-h100": "", "cpu": ""}},
    "a100": {"nodes": 4, "cpus": 64, "memory_gib": 512, "gpus": 4, "features": "gpu,a100,cpu"},
    "cpu": {"nodes": 2, "cpus": 64, "memory_gib": 256, "partitions": {"cpu": ""}},
}
WHO = "echo $SLURM_PROCID $SLURM_LOCALID $(hostname) $SLURM_CPUS_ON_NODE ${CUDA_VISIBLE_DEVICES-none}"


@pytest.mark.parametrize("name", sorted(SITES))
def test_sbatch_accepts_the_jobs_of_every_kind(make_cluster: Callable[..., Cluster], tmp_path: Path, name: str) -> None:
    site = make_cluster(accounting=False, **SITES[name])
    read = load_profile(name, PROFILES)
    for kind in KINDS:
        script = tmp_path / f"{kind}.sh"
        script.write_text(script_text(read, kind, "true", logs=tmp_path, job_name=f"study/mnli-s1/{kind}", comment="x"))
        submitted = site.run("sbatch", "--hold", "--parsable", str(script)).stdout.strip()
        shown = dict(
            field.split("=", 1)
            for field in site.run("scontrol", "show", "job", submitted).stdout.split()
            if "=" in field
        )
        asked = read.resources(kind)
        assert shown["JobName"] == f"study/mnli-s1/{kind}"
        assert int(shown["NumTasks"]) == asked.num_ranks
        assert shown["Requeue"] == "1"
        assert (f":{asked.gpus_per_node}" in shown.get("TresPerNode", "")) == bool(asked.gpus_per_node)


@pytest.fixture(scope="module")
def site(slurm_installed: None) -> Iterator[Cluster]:
    with Cluster(nodes=2, cpus=16, gpus="h100:8", accounting=False) as cluster:
        yield cluster


def run_ranks(
    site: Cluster, folder: Path, job: dict[str, Any], command: str, *, kind: str = "target", code: int = 0
) -> list[list[str]]:
    """Run `command` as the ranks of a job, which ends with `code`; the words that each printed, by rank."""
    read = Profile.from_mapping({"scheduler": "slurm", "job": {"time_limit": 5, "nodes": 2, **job}})
    (folder / "logs").mkdir()
    ranks = shlex.join([*srun_command(read, kind, folder), "bash", "-c", command])
    script = folder / "script.sh"
    script.write_text(script_text(read, kind, ranks, job_name="test"))
    ran = site.run("sbatch", "--wait", f"--output={folder}/job.log", str(script), check=False)
    assert ran.returncode == code, ran.stderr + (folder / "job.log").read_text()
    logs = sorted((folder / "logs").iterdir(), key=lambda path: int(path.stem.removeprefix("rank-")))
    return [log.read_text().split() for log in logs]


@pytest.mark.parametrize(
    ("option", "layout", "seen"),
    [("gpus-per-node", "all", ["0,1", "0,1"]), ("gpus-per-node", "one", ["0", "1"]), ("gres", "all", ["0,1", "0,1"])],
)
def test_ranks_see_all_gpus_of_their_node_or_one(
    site: Cluster, tmp_path: Path, option: str, layout: str, seen: list[str]
) -> None:
    job = {"gpus_per_node": 2, "gpu_type": "h100", "cpus_per_task": 4, "gpu_layout": layout, "gpu_option": option}
    assert run_ranks(site, tmp_path, job, WHO) == [
        [str(rank), str(rank % 2), f"n{1 + rank // 2}", "8", seen[rank % 2]] for rank in range(4)
    ]


def test_ranks_on_cpus(site: Cluster, tmp_path: Path) -> None:
    found = run_ranks(site, tmp_path, {"tasks_per_node": 2, "cpus_per_task": 3}, WHO)
    assert found == [[str(rank), str(rank % 2), f"n{1 + rank // 2}", "6", "none"] for rank in range(4)]


def test_one_process_has_one_rank(site: Cluster, tmp_path: Path) -> None:
    found = run_ranks(site, tmp_path, {"gpus_per_node": 2, "cpus_per_task": 4}, WHO, kind="prepare")
    assert [words[:2] for words in found] == [["0", "0"]]


def test_a_rank_that_has_left_leaves_the_others_their_time(site: Cluster, tmp_path: Path) -> None:
    """With srun's kill-on-bad-exit they would be sent SIGTERM, and SIGKILL a little later."""
    command = "[ $SLURM_PROCID = 1 ] && exit 75; trap 'echo ended by SLURM; exit 1' TERM; sleep 2; echo whole"
    found = run_ranks(site, tmp_path, {"tasks_per_node": 2}, command, code=75)  # the highest of theirs
    assert found == [["whole"], [], ["whole"], ["whole"]]


def test_a_short_job_is_not_warned_by_slurm_but_at_its_preemption(site: Cluster, tmp_path: Path) -> None:
    """--signal=USR2@0: nothing at the time limit, which the supervisor sees to, and USR2 to make room."""
    job: dict[str, Any] = {"time_limit": 1, "partition": "main"}
    read = Profile.from_mapping({"scheduler": "slurm", "job": job, "preemption": {"lead_seconds": 30}})
    signals = tmp_path / "signals"
    body = f"trap 'echo USR2 >> {signals}' USR2; touch {tmp_path}/ready; while :; do sleep 0.1; done"
    script = tmp_path / "script.sh"
    text = script_text(read, "target", shlex.join(["srun", "bash", "-c", body]), job_name="short", comment="x")
    assert "#SBATCH --signal=USR2@0" in text.splitlines()
    script.write_text(text)
    site.run("sbatch", "--exclusive", "--nodes=2", f"--output={tmp_path}/job.log", str(script))
    site._wait(30, "the step", (tmp_path / "ready").exists)
    site.run("sbatch", "--partition=high", "--nodes=1", "--output=/dev/null", "--wrap=true")
    site._wait(30, "the signal", signals.exists)
    assert set(signals.read_text().split()) == {"USR2"}
    site.reset()
