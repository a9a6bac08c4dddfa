"""The cluster for tests is what it says: nodes that are apart, and nothing left behind.

That nodes, daemons, networks, disks and accounting fail as real ones do is seen where it matters: in the other tests.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from cluster import Cluster, ClusterError

HERE = Path(__file__).parent


def wait_for(condition: Callable[[], object], what: str) -> None:
    until = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < until, f"waited in vain for {what}"
        time.sleep(0.05)


def submit(cluster: Cluster, folder: Path, script: str, *options: str) -> str:
    """A job of a shell script that finds its folder in $F; gives its number."""
    words = ["sbatch", "--parsable", f"--output={folder}/job.log", "--open-mode=append", f"--export=ALL,F={folder}"]
    return cluster.run(*words, *options, f"--wrap={script}").stdout.strip()


def reaches(cluster: Cluster, node: str, other: str) -> bool:
    """Whether a connection from one node to slurmd's port of another is taken within a second."""
    return (
        cluster.node_run(node, "timeout", "1", "bash", "-c", f": </dev/tcp/{other}/6818", check=False).returncode == 0
    )


def test_two_nodes_of_two_tasks_are_apart(cluster: Cluster) -> None:
    script = """
        mkdir /dev/shm/mine$SLURM_LOCALID
        echo $SLURM_PROCID $(hostname) $(ip -br -4 addr show eth0 | awk '{print $3}') \
             $(readlink /proc/self/ns/{net,uts,pid,ipc,mnt}) $(getent hosts n1 n2 | wc -l) $(ls /sys/class/net | xargs)
    """
    out = cluster.run("srun", "-w", "n[1-2]", "-N2", "--ntasks-per-node=2", "bash", "-c", script).stdout
    tasks = [line.split() for line in sorted(out.splitlines())]
    assert [task[1] for task in tasks] == ["n1", "n1", "n2", "n2"]
    assert tasks[0][2:] == tasks[1][2:]
    assert tasks[2][2:] == tasks[3][2:]
    assert all(ours != theirs for ours, theirs in zip(tasks[0][2:8], tasks[2][2:8], strict=True))
    here = [os.readlink(f"/proc/self/ns/{kind}") for kind in ("net", "uts", "pid", "ipc", "mnt")]
    assert not set(here) & {space for task in tasks for space in task}
    assert tasks[0][8:] == ["2", "eth0", "lo"]  # both names are known; the interfaces are the node's own
    assert not list(Path("/dev/shm").glob("mine?"))
    assert reaches(cluster, "n1", "n2")


def test_a_job_outlives_a_cut_network(cluster: Cluster, tmp_path: Path) -> None:
    job = submit(cluster, tmp_path, "touch $F/runs; until [ -e $F/go ]; do sleep 0.1; done", "-w", "n2")
    wait_for((tmp_path / "runs").exists, "the job to run")
    cluster.cut_network("n2")
    assert not reaches(cluster, "n1", "n2")
    assert reaches(cluster, "n1", "n3")
    (tmp_path / "go").touch()  # the job ends while nobody hears of it
    cluster.restore_network("n2")
    assert reaches(cluster, "n1", "n2")
    cluster.wait_job(job, "COMPLETED")


def test_limits_are_enforced_when_a_job_is_submitted(cluster: Cluster) -> None:
    assert (
        "Requested time limit is invalid" in cluster.run("srun", "-p", "limits", "-t", "3", "true", check=False).stderr
    )
    assert "Node count" in cluster.run("srun", "-N", "5", "true", check=False).stderr


def test_a_failed_start_leaves_nothing(slurm_installed: None) -> None:
    cluster = Cluster(nodes=1, accounting=False, extra="NoSuchSetting=1")
    with pytest.raises(ClusterError) as caught:
        cluster.start()
    assert "NoSuchSetting" in "".join(caught.value.__notes__)
    assert not cluster.folder.exists()
    assert not processes_of(cluster.folder)


def test_a_killed_test_process_leaves_nothing(slurm_installed: None) -> None:
    script = f"""
import sys, time
sys.path.insert(0, {str(HERE)!r})
from cluster import Cluster
cluster = Cluster(nodes=2, accounting=True)
cluster.start()
cluster.run("sbatch", "--wrap=sleep 300", "--output=/dev/null")
print(cluster.folder, flush=True)
time.sleep(300)
"""
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as test:
        assert test.stdout is not None
        folder = Path(test.stdout.readline().strip())
        try:
            assert folder.exists()
            assert len(processes_of(folder)) > 4
        finally:
            test.send_signal(signal.SIGKILL)
    wait_for(lambda: not processes_of(folder), "every process to be gone")
    wait_for(lambda: not folder.exists(), "the folder to be removed")


@pytest.mark.parametrize(("required", "outcome"), [("0", "1 skipped"), ("1", "1 error")])
def test_without_slurm_the_tests_skip_or_fail_where_they_must_run(
    slurm_installed: None, required: str, outcome: str
) -> None:
    one = f"{__file__}::test_limits_are_enforced_when_a_job_is_submitted"
    tests = f"{sys.executable} -m pytest -rs -p no:cacheprovider --confcutdir={HERE} {one}"
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", f"mount --bind /dev/null $(command -v slurmctld) && exec {tests}"],
        env=dict(os.environ, XTRAIN_REQUIRE_SLURM=required, PATH=f"{os.environ['PATH']}:/usr/sbin:/sbin"),
        capture_output=True,
        text=True,
        cwd=HERE,
    )
    assert outcome in done.stdout
    assert "a SLURM cluster for tests needs slurmctld" in done.stdout


def processes_of(folder: Path) -> list[int]:
    """The processes that name a cluster's folder in their command line or environment."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            texts = (entry / "cmdline").read_bytes(), (entry / "environ").read_bytes()
        except OSError:
            continue
        if any(os.fsencode(folder) in text for text in texts):
            found.append(int(entry.name))
    return found
