"""What becomes of a training job when SLURM, the machine or somebody disturbs it: it ends with the same weights."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from cluster import Cluster
from life import SAVE_EVERY, Life, make_life, run_alone
from runs import note_case, same_weights, wait_until

from xtrain.dispatch.attempts import Attempts

SOON_DOWN = {"slurmd_timeout": 8, "message_timeout": 5}  # a silent node, after some 13 s

MakeLife = Callable[..., Life]
MakeCluster = Callable[..., Cluster]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, toy_data: Path) -> Path:
    return run_alone(tmp_path_factory.mktemp("alone"), tiny_model, toy_data)


@pytest.fixture
def life(tmp_path: Path, tiny_model: Path, toy_data: Path, monkeypatch: pytest.MonkeyPatch) -> MakeLife:
    """Submit the phase to a cluster."""

    def submitted(cluster: Cluster, name: str = "run", **options: object) -> Life:
        cluster.use_in(monkeypatch)
        return make_life(cluster, tmp_path / name, tiny_model, toy_data, **options).submit()

    return submitted


def check(life: Life, undisturbed: Path, case: str, *, attempts: int, lost: int, seconds: float | None = None) -> None:
    """Done in so many attempts, with the weights of the undisturbed run, and no more steps lost than allowed."""
    life.wait_done()
    assert same_weights(life.path, undisturbed), life.story()
    assert life.attempts() == attempts, life.story()
    note_case(case, life.path, life.steps_lost(), seconds)
    assert life.steps_lost() <= lost, life.story()


@pytest.mark.long
def test_the_warning_signal_saves_and_requeues(cluster: Cluster, life: MakeLife, undisturbed: Path) -> None:
    one = life(cluster).wait_step(8)
    one.disturb(lambda: cluster.run("scancel", "--signal=USR2", one.job))
    seconds = one.recover(2)
    check(one, undisturbed, "scancel --signal=USR2", attempts=2, lost=0, seconds=seconds)


def test_a_signal_to_another_rank_than_the_first_and_a_requeue_by_hand(
    cluster: Cluster, life: MakeLife, undisturbed: Path
) -> None:
    one = life(cluster, pace="0.25,0.25,0.02").wait_step(8)
    nodes = Attempts(one.run).read(1).nodes
    one.disturb(lambda: cluster.node_run(nodes[1], "pkill", "-USR2", "-f", "train.py"))
    seconds = one.recover(2)
    assert one.steps_lost() == 0, one.story()
    note_case("SIGUSR2 to rank 1 alone", one.path, 0, seconds)
    one.disturb(lambda: cluster.run("scontrol", "requeue", one.job))
    check(one, undisturbed, "scontrol requeue", attempts=3, lost=0, seconds=one.recover(3))


@pytest.mark.long
@pytest.mark.parametrize("told", [True, False], ids=["told first", "SIGTERM only"])
def test_preempted_by_a_higher_partition(
    make_cluster: MakeCluster, life: MakeLife, undisturbed: Path, told: bool
) -> None:
    cluster = make_cluster(nodes=2, preempt_user_signal=told, grace_time=20 if told else 0)
    one = life(cluster).wait_step(8)
    higher = ["sbatch", "-p", "high", "-N2", "--exclusive", "-t", "1", "-o", "/dev/null", "--wrap", "sleep 3"]
    one.disturb(lambda: cluster.run(*higher))
    word = "with" if told else "without"
    check(one, undisturbed, f"preempted {word} preempt_send_user_signal", attempts=2, lost=0, seconds=one.recover(2))


@pytest.mark.long
def test_power_off_of_the_first_node(make_cluster: MakeCluster, life: MakeLife, undisturbed: Path) -> None:
    cluster = make_cluster(nodes=3, **SOON_DOWN)
    one = life(cluster).wait_step(8)
    one.disturb(lambda: cluster.power_off(Attempts(one.run).read(1).nodes[0]))
    check(one, undisturbed, "power-off of node 1 of 2", attempts=2, lost=SAVE_EVERY + 1, seconds=one.recover(2))


@pytest.mark.long
def test_two_jobs_lose_a_node_each(make_cluster: MakeCluster, life: MakeLife, undisturbed: Path) -> None:
    """Power-off in mid step, and a slurmd that dies while its task goes on. SLURM's time to see it is the same.

    No split brain: the deaf job's ranks live on where SLURM does not see them, and must not write any more.
    """
    cluster = make_cluster(nodes=4, **SOON_DOWN)
    deaf = life(cluster, "deaf", job={"nodes": 1, "tasks_per_node": 2}, pace="3,0.1").wait_step(2)
    dark = life(cluster, "dark").wait_step(8)
    (node,) = Attempts(deaf.run).read(1).nodes
    dark.disturb(lambda: cluster.power_off(Attempts(dark.run).read(1).nodes[1]))
    deaf.disturb(lambda: cluster.kill_slurmd(node))
    seconds = [one.recover(2) for one in (dark, deaf)]
    check(dark, undisturbed, "power-off of node 2 of 2", attempts=2, lost=SAVE_EVERY + 1, seconds=seconds[0])
    check(deaf, undisturbed, "slurmd killed, its task goes on", attempts=2, lost=100, seconds=seconds[1])
    assert Attempts(deaf.run).read(2).nodes != (node,)
    assert "attempt 2 at this phase has begun" in (deaf.path / "logs" / "rank-0.log").read_text()


@pytest.mark.long
@pytest.mark.parametrize("seconds", [6, 60])
def test_network_of_a_node_cut(make_cluster: MakeCluster, life: MakeLife, undisturbed: Path, seconds: int) -> None:
    cluster = make_cluster(nodes=4, **SOON_DOWN)
    one = life(cluster).wait_step(8)
    node = Attempts(one.run).read(1).nodes[1]

    def cut() -> None:
        cluster.cut_network(node)
        threading.Timer(seconds, cluster.restore_network, [node]).start()

    one.disturb(cut)
    if seconds < 10:  # connections outlive it
        one.wait_step(one.reached_at + 1)
        check(one, undisturbed, "network of a node cut for 6 s", attempts=1, lost=0, seconds=one.since())
        return
    took = one.recover(2)
    one.wait_done()
    time.sleep(max(0.0, seconds - one.since()) + 1)
    cluster.wait_state(node, "idle")  # it is back, and with it what ran there
    check(one, undisturbed, "network of a node cut for 60 s", attempts=2, lost=SAVE_EVERY + 1, seconds=took)


@pytest.mark.long
def test_slurmctld_down(make_cluster: MakeCluster, life: MakeLife, undisturbed: Path) -> None:
    """It is down when the phase wants to be put back into the queue: that waits until it is there again."""
    cluster = make_cluster(nodes=2)
    one = life(cluster).wait_step(8)
    nodes = Attempts(one.run).read(1).nodes

    def stop() -> None:
        cluster.stop_controller()
        cluster.node_run(nodes[0], "pkill", "-USR2", "-f", "train.py")
        threading.Timer(20, cluster.start_controller).start()

    one.disturb(stop)
    check(one, undisturbed, "slurmctld down for 20 s, and a signal", attempts=2, lost=0, seconds=one.recover(2))


@pytest.mark.long
def test_munge_is_away_at_the_time_limit(make_cluster: MakeCluster, life: MakeLife, undisturbed: Path) -> None:
    """For a minute, in which ranks are to be warned, then to be ended: nothing reaches them until it is there again."""
    cluster = make_cluster(nodes=2, slurmd_timeout=300, kill_wait=30)  # as SLURM has them by default
    one = life(cluster, pace="4.5,0.02", job={"time_limit": 1}).wait_step(4)

    def away() -> None:
        cluster.stop_munge()
        threading.Timer(60, cluster.start_munge).start()

    one.disturb(away)
    check(one, undisturbed, "munge away for 60 s at the time limit", attempts=2, lost=0, seconds=one.recover(2))
    end = Attempts(one.run).read_end(1)
    assert end is not None, one.story()
    assert (end.how, end.step) == ("time limit", one.resumed_at()[0]), one.story()


@pytest.mark.long
def test_two_jobs_on_one_node(make_cluster: MakeCluster, life: MakeLife, undisturbed: Path) -> None:
    cluster = make_cluster(nodes=1)
    job = {"nodes": 1, "tasks_per_node": 2}
    lives = [life(cluster, name, job=job, pace="1,0.02") for name in ("one", "two")]
    for one in lives:
        one.wait_step(2)
        one.disturb(lambda: None)
    assert all(not one.run.done for one in lives), "they are to run at the same time"
    for one in lives:
        check(one, undisturbed, "two jobs on one node", attempts=1, lost=0)


@pytest.mark.long
def test_time_limit_reached(cluster: Cluster, life: MakeLife, undisturbed: Path) -> None:
    """A limit of a minute, the shortest there is: every job gets some work done, and loses none."""
    times = 3
    one = life(cluster, pace="6,6,6,0.1", job={"time_limit": 1}).wait_step(1)
    one.wait_done(times * 120 + 120)
    known = Attempts(one.run)
    wait_until(lambda: known.read_end(known.newest()) is not None)
    ends = [end for number in known.numbers() if (end := known.read_end(number))]
    assert [end.how for end in ends] == ["time limit"] * (len(ends) - 1) + ["done"], one.story()
    assert len(ends) > times, one.story()
    assert [end.step for end in ends[:-1]] == one.resumed_at(), "a step was done twice"
    case = f"time limit reached {len(ends) - 1} times"
    check(one, undisturbed, case, attempts=len(ends), lost=0)
