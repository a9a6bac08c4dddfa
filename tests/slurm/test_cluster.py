"""The cluster for tests is what it says: nodes that are apart, failures as on a real one, nothing left behind."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from cluster import Cluster, ClusterError

HERE = Path(__file__).parent
MakeCluster = Callable[..., Cluster]


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


def test_commands_reach_the_cluster_from_a_job_too(cluster: Cluster, tmp_path: Path) -> None:
    submit(cluster, tmp_path, "sbatch --parsable --wrap='hostname > $F/inner' --output=$F/inner.log")
    wait_for((tmp_path / "inner").exists, "the job that a job submitted")
    assert re.fullmatch(r"n\d", (tmp_path / "inner").read_text().strip())


def test_use_in_makes_the_cluster_that_of_this_process(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    cluster.use_in(monkeypatch)
    assert subprocess.check_output(["sinfo", "-h", "-p", "main", "-o", "%D"], text=True).strip() == "4"
    assert "SLURM_JOB_ID" not in os.environ


def test_accounting_knows_an_ended_job(cluster: Cluster, tmp_path: Path) -> None:
    job = submit(cluster, tmp_path, "exit 7")

    def row() -> str:
        return cluster.run("sacct", "-X", "-n", "-P", "-o", "State,ExitCode", "-j", job).stdout.strip()

    wait_for(lambda: row() == "FAILED|7:0", "sacct to say how the job ended")


def test_without_accounting_sacct_says_so_and_the_queue_knows(make_cluster: MakeCluster, tmp_path: Path) -> None:
    cluster = make_cluster(nodes=1, accounting=False, preempt_user_signal=False)
    job = submit(cluster, tmp_path, "true")
    cluster.wait_job(job, "COMPLETED")
    asked = cluster.run("sacct", "-j", job, check=False)
    assert asked.returncode == 1
    assert "accounting storage is disabled" in asked.stderr


def test_a_node_without_power_is_down_and_its_job_starts_again(make_cluster: MakeCluster, tmp_path: Path) -> None:
    cluster = make_cluster(nodes=2, accounting=False, slurmd_timeout=6, message_timeout=5)
    script = 'echo $SLURM_RESTART_COUNT $(hostname) >> $F/starts; [ -n "$SLURM_RESTART_COUNT" ] || sleep 300'
    job = submit(cluster, tmp_path, script, "-w", "n2")
    wait_for((tmp_path / "starts").exists, "the job to run")
    cluster.power_off("n2")
    assert not cluster.is_on("n2")
    with pytest.raises(ClusterError, match="n2 is off"):
        cluster.node_run("n2", "true")
    cluster.wait_state("n2", "down*")
    cluster.wait_job(job, "PENDING")
    cluster.power_on("n2")
    cluster.wait_job(job, "COMPLETED")
    assert (tmp_path / "starts").read_text().split() == ["n2", "1", "n2"]


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


def test_a_job_outlives_slurmd(cluster: Cluster, tmp_path: Path) -> None:
    job = submit(
        cluster, tmp_path, "touch $F/runs; until [ -e $F/go ]; do sleep 0.1; done; hostname > $F/on", "-w", "n3"
    )
    wait_for((tmp_path / "runs").exists, "the job to run")
    cluster.kill_slurmd("n3")
    assert not reaches(cluster, "n1", "n3")
    (tmp_path / "go").touch()
    wait_for((tmp_path / "on").exists, "the job to go on without slurmd")
    cluster.start_slurmd("n3")
    assert reaches(cluster, "n1", "n3")
    cluster.wait_job(job, "COMPLETED")
    assert (tmp_path / "on").read_text() == "n3\n"


def test_a_job_outlives_the_controller(cluster: Cluster, tmp_path: Path) -> None:
    job = submit(cluster, tmp_path, "touch $F/runs; until [ -e $F/go ]; do sleep 0.1; done; touch $F/went")
    wait_for((tmp_path / "runs").exists, "the job to run")
    cluster.stop_controller()
    assert "DOWN" in cluster.run("scontrol", "ping", check=False).stdout
    (tmp_path / "go").touch()
    wait_for((tmp_path / "went").exists, "the job to go on without slurmctld")
    cluster.start_controller()
    cluster.wait_job(job, "COMPLETED")


def test_simulated_gpus_are_handed_out(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(
        nodes=2, accounting=False, gpus="h100:8", features="h100,ib", partitions={"big": "MaxTime=60"}
    )
    script = "echo $SLURM_PROCID $CUDA_VISIBLE_DEVICES"
    ask = ["srun", "-p", "big", "-C", "h100&ib", "-N2", "--ntasks-per-node=2", "--overcommit"]
    out = cluster.run(*ask, "--gpus-per-node=h100:2", "bash", "-c", script).stdout
    assert sorted(out.splitlines()) == ["0 0,1", "1 0,1", "2 0,1", "3 0,1"]
    refused = cluster.run("srun", "--gpus-per-node=a100:1", "true", check=False)
    assert refused.returncode
    assert "Requested node configuration is not available" in refused.stderr


@pytest.mark.parametrize("told", [True, False])
def test_whether_a_preempted_job_is_told_can_be_set(make_cluster: MakeCluster, told: bool) -> None:
    cluster = make_cluster(nodes=1, accounting=False, preempt_user_signal=told)
    assert ("preempt_send_user_signal" in cluster.run("scontrol", "show", "config").stdout) == told


def test_limits_are_enforced_when_a_job_is_submitted(cluster: Cluster) -> None:
    assert (
        "Requested time limit is invalid" in cluster.run("srun", "-p", "limits", "-t", "3", "true", check=False).stderr
    )
    assert "Node count" in cluster.run("srun", "-N", "5", "true", check=False).stderr


def test_folders_differ_on_one_node_alone(cluster: Cluster, tmp_path: Path) -> None:
    (tmp_path / "there").touch()
    look = ["srun", "-w", "n[1-2]", "-N2", "-l", "--chdir=/", "sh", "-c"]
    cluster.hide_folder("n2", tmp_path)
    assert cluster.run(*look, f"ls {tmp_path}").stdout == "0: there\n"
    cluster.unmount("n2", tmp_path)
    cluster.mount_readonly("n1", tmp_path)
    assert "Read-only" in cluster.run(*look, f"touch {tmp_path}/$(hostname)", check=False).stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["n2", "there"]
    cluster.mount_small("n2", tmp_path, "64k")
    full = cluster.run(*look, f"head -c 100000 /dev/zero > {tmp_path}/there", check=False)
    assert "1: " in full.stderr
    assert "No space left" in full.stderr
    cluster.reset()  # undoes both that are left
    assert cluster.run(*look, f"ls {tmp_path} | wc -l; touch {tmp_path}/there").stdout.split()[1::2] == ["2", "2"]


def test_a_node_may_have_a_tmp_of_its_own(make_cluster: MakeCluster, tmp_path: Path) -> None:
    shared = Path("/tmp").resolve() in tmp_path.parents
    cluster = make_cluster(nodes=2, accounting=False, own_tmp=True, shared=[tmp_path] if shared else [])
    script = f"echo $(hostname) > /tmp/xtrain-own; touch {tmp_path}/$(hostname)"
    cluster.run("srun", "-N2", "--chdir=/", "bash", "-c", script)
    assert cluster.node_run("n2", "cat", "/tmp/xtrain-own").stdout == "n2\n"
    assert not Path("/tmp/xtrain-own").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["n1", "n2"]


def test_a_failed_start_leaves_nothing(slurm_installed: None) -> None:
    cluster = Cluster(nodes=1, accounting=False, extra="NoSuchSetting=1")
    with pytest.raises(ClusterError) as caught:
        cluster.start()
    assert "NoSuchSetting" in "".join(caught.value.__notes__)
    assert not cluster.folder.exists()
    assert not processes_of(cluster.folder)


@pytest.mark.parametrize("accounting", [False, True])
def test_a_killed_test_process_leaves_nothing(slurm_installed: None, accounting: bool) -> None:
    script = f"""
import sys, time
sys.path.insert(0, {str(HERE)!r})
from cluster import Cluster
cluster = Cluster(nodes=2, accounting={accounting})
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
