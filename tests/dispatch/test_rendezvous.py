"""Ranks as each launcher sets them."""

from __future__ import annotations

import pytest

from xtrain.dispatch.rendezvous import Ranks, first_host, from_environment, slurm_port
from xtrain.errors import UserError

SRUN = {
    "SLURM_JOB_ID": "77",
    "SLURM_STEP_ID": "0",
    "SLURM_PROCID": "5",
    "SLURM_LOCALID": "1",
    "SLURM_NTASKS": "8",
    "SLURM_STEP_TASKS_PER_NODE": "4(x2)",
    "SLURM_STEP_NODELIST": "gpu[03-04]",
}


def test_nobody() -> None:
    ranks = from_environment({})
    assert (ranks.rank, ranks.world_size, ranks.local_rank, ranks.launcher) == (0, 1, 0, "none")
    assert ranks.is_first


def test_torchrun() -> None:
    env = {
        "RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "n1", "MASTER_PORT": "1234",
    }  # fmt: skip
    assert from_environment({**SRUN, **env}) == Ranks(3, 4, 1, 2, "n1", 1234, "torchrun")


def test_srun() -> None:
    ranks = from_environment(SRUN)
    assert ranks == Ranks(5, 8, 1, 4, "gpu03", slurm_port(77, 0, 0), "srun")


def test_sbatch_without_srun_is_one_rank() -> None:
    env = {name: value for name, value in SRUN.items() if name != "SLURM_STEP_ID"}
    assert from_environment(env).launcher == "none"


def test_restarts_and_neighbours_get_other_ports() -> None:
    ports = {slurm_port(job, restart, 0) for job in range(1000, 1010) for restart in range(3)}
    assert len(ports) == 30
    assert all(1024 < port < 32768 for port in ports), "below the ephemeral range"


@pytest.mark.parametrize(
    ("prefix", "local"), [("OMPI_COMM_WORLD_", "OMPI_COMM_WORLD_LOCAL_RANK"), ("PMI_", "MPI_LOCALRANKID")]
)
def test_mpirun(prefix: str, local: str) -> None:
    env = {f"{prefix}RANK": "1", f"{prefix}SIZE": "2", local: "1", "MASTER_ADDR": "n1", "MASTER_PORT": "9"}
    assert from_environment(env) == Ranks(1, 2, 1, 2, "n1", 9, "mpirun")


@pytest.mark.parametrize(
    ("nodelist", "host"),
    [("gpu[03-05,9],login", "gpu03"), ("n1", "n1"), ("a-1,b-2", "a-1"), ("r[1,4]-x[2]", "r1-x[2]")],
)
def test_first_host(nodelist: str, host: str) -> None:
    assert first_host(nodelist) == host


def test_incomplete_and_contradictory_sets_are_named() -> None:
    with pytest.raises(UserError, match="MASTER_ADDR"):
        from_environment({"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0"})
    with pytest.raises(UserError, match="'two' is not allowed"):
        from_environment({"RANK": "0", "WORLD_SIZE": "two"})
    env = {"RANK": "4", "WORLD_SIZE": "4", "LOCAL_RANK": "0", "MASTER_ADDR": "a", "MASTER_PORT": "1"}
    with pytest.raises(UserError, match="4 of a world of 4"):
        from_environment(env)
