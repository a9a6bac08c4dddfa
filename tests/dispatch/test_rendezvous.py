"""Ranks as each launcher sets them."""

from __future__ import annotations

import os
import socket
from contextlib import ExitStack
from unittest import mock

import pytest

from xtrain.dispatch.rendezvous import (
    LocalRanks,
    Ranks,
    device_index,
    first_host,
    from_environment,
    probed_port,
    slurm_port,
    without_launchers,
)
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


def listening(stack: ExitStack, address: str, port: int) -> None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    taken = stack.enter_context(socket.socket(family))
    taken.bind((address, port))
    taken.listen()


def test_ranks_of_this_machine_start_without_what_an_outer_launcher_has_set() -> None:
    outer = {
        "TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RUN_ID": "x", "GROUP_RANK": "1", "ROLE_WORLD_SIZE": "8",
        "LOCAL_SIZE": "8", "NODE_RANK": "3", "PMI_RANK": "1", "PMIX_RANK": "1", "OMPI_COMM_WORLD_RANK": "1",
        "MV2_COMM_WORLD_LOCAL_RANK": "1", "MPI_LOCALRANKID": "1", "SLURM_PROCID": "1", "SLURM_STEP_NODELIST": "n1",
        "SLURM_NTASKS": "9", "NCCL_COMM_ID": "a:1", "RANK": "7", "MASTER_ADDR": "n9", "MASTER_PORT": "1",
    }  # fmt: skip
    kept = {"HOME": "/h", "SLURM_JOB_ID": "7", "NCCL_DEBUG": "INFO", "OMPI_MCA_btl": "tcp", "GLOO_SOCKET_IFNAME": "lo"}
    assert without_launchers({**outer, **kept}) == kept
    with LocalRanks(2) as place, LocalRanks(2) as other:
        first, second = (place.environment(rank, {**outer, **kept}) for rank in range(2))
        assert first["MASTER_PORT"] == second["MASTER_PORT"] != other.environment(0)["MASTER_PORT"]
        ranks = from_environment(first)
        assert (ranks.launcher, ranks.rank, ranks.world_size, ranks.store) == ("xtrain", 0, 2, place.socket.fileno())
        assert (place.inherited(0), place.inherited(1)) == ((ranks.store,), ())
        assert from_environment(second).store is None
        with socket.create_connection(("127.0.0.1", ranks.master_port)):  # held from here on, and knocked at already
            pass


def test_a_port_that_another_job_holds_is_passed_over() -> None:
    first = probed_port(77, 0, 0)
    with ExitStack() as stack:
        listening(stack, "127.0.0.1", first)  # on one interface only
        second = probed_port(77, 0, 0)
        assert second != first
        listening(stack, "0.0.0.0", second)
        third = probed_port(77, 0, 0)
        assert third not in (first, second)
        with socket.socket() as mine:
            mine.bind(("0.0.0.0", third))
    assert probed_port(77, 0, 0) == first


def test_a_port_that_is_taken_in_ipv6_alone_is_passed_over() -> None:
    first = probed_port(78, 0, 0)
    with socket.socket(socket.AF_INET6) as taken:
        taken.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        taken.bind(("::1", first))
        taken.listen()
        assert probed_port(78, 0, 0) != first


def test_ephemeral_ports_are_for_others() -> None:
    first = slurm_port(77, 0, 0)
    assert probed_port(77, 0, 0, ephemeral=range(15000, 30000)) not in range(15000, 30000)
    assert probed_port(77, 0, 0, ephemeral=range(first, first + 100)) >= first + 100
    assert probed_port(77, 0, 0, ephemeral=range(1024, 65536)) >= first, "where there are no others"


def test_both_layouts_of_devices() -> None:
    assert [device_index(local, 4) for local in range(4)] == [0, 1, 2, 3], "each rank sees all"
    assert [device_index(local, 1) for local in range(4)] == [0, 0, 0, 0], "each rank sees its own"


def test_more_ranks_than_devices() -> None:
    with pytest.raises(UserError) as caught:
        device_index(2, 2, "0,1")
    text = str(caught.value)
    assert "CUDA_VISIBLE_DEVICES: is '0,1': 2 GPUs, none of them for local rank 2" in text
    assert "start at most 2 ranks on the node" in text


@pytest.mark.parametrize(("device", "local"), [(None, "3"), (0, "0")])
def test_deepspeed_is_told_the_device(device: int | None, local: str) -> None:
    """It takes LOCAL_RANK for the device's number, and wants Open MPI's to be the same."""
    with mock.patch.dict(os.environ, {"OMPI_COMM_WORLD_LOCAL_RANK": "3"}):
        Ranks(3, 4, 3, 4, "n1", 1234, "mpirun").export(device)
        assert (os.environ["RANK"], os.environ["LOCAL_RANK"], os.environ["LOCAL_WORLD_SIZE"]) == ("3", local, "4")
        assert os.environ["OMPI_COMM_WORLD_LOCAL_RANK"] == local
