"""Who am I among the ranks: read from whichever launcher started this process."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass

from xtrain.errors import Problem, UserError


@dataclass(frozen=True)
class Ranks:
    """This process's place in the job."""

    rank: int
    world_size: int
    local_rank: int
    local_world_size: int
    master_address: str
    master_port: int
    launcher: str  # "none", "torchrun", "srun", "mpirun"

    @property
    def is_first(self) -> bool:
        """Whether this is rank 0, the only one that talks."""
        return self.rank == 0

    def export(self) -> None:
        """Set the five variables that torch.distributed and DeepSpeed read."""
        os.environ.update(
            RANK=str(self.rank),
            WORLD_SIZE=str(self.world_size),
            LOCAL_RANK=str(self.local_rank),
            LOCAL_WORLD_SIZE=str(self.local_world_size),
            MASTER_ADDR=self.master_address,
            MASTER_PORT=str(self.master_port),
        )


def from_environment(environment: Mapping[str, str] | None = None) -> Ranks:
    """The ranks as torchrun, srun, an mpirun-style launcher or nobody set them.

    torchrun's variables win, since a launcher below srun or mpirun is nearer to us. Raises a
    :class:`UserError` that names the variable if a launcher's set is incomplete or contradicts itself.
    """
    env = os.environ if environment is None else environment
    if "RANK" in env or "WORLD_SIZE" in env:
        return _checked(_torchrun(env))
    if "SLURM_STEP_ID" in env and "SLURM_PROCID" in env:  # in a step, that is: below srun; sbatch alone sets no step
        return _checked(_srun(env))
    for prefix in ("OMPI_COMM_WORLD_", "PMI_", "MV2_COMM_WORLD_"):
        if f"{prefix}RANK" in env:
            return _checked(_mpirun(env, prefix))
    return Ranks(0, 1, 0, 1, "127.0.0.1", free_port(), "none")


def _torchrun(env: Mapping[str, str]) -> Ranks:
    world_size = _number(env, "WORLD_SIZE")
    return Ranks(
        rank=_number(env, "RANK"),
        world_size=world_size,
        local_rank=_number(env, "LOCAL_RANK"),
        local_world_size=_number(env, "LOCAL_WORLD_SIZE", default=world_size),
        master_address=_text(env, "MASTER_ADDR"),
        master_port=_number(env, "MASTER_PORT"),
        launcher="torchrun",
    )


def _srun(env: Mapping[str, str]) -> Ranks:
    world_size = _number(env, "SLURM_NTASKS") if "SLURM_NTASKS" in env else _number(env, "SLURM_NPROCS")
    per_node = re.match(r"\d+", env.get("SLURM_STEP_TASKS_PER_NODE", env.get("SLURM_TASKS_PER_NODE", "")))
    nodes = first_host(
        _text(env, "SLURM_STEP_NODELIST") if "SLURM_STEP_NODELIST" in env else _text(env, "SLURM_NODELIST")
    )
    job = _number(env, "SLURM_JOB_ID")
    restarts = _number(env, "SLURM_RESTART_COUNT", default=0)
    step = _number(env, "SLURM_STEP_ID", default=0)
    return Ranks(
        rank=_number(env, "SLURM_PROCID"),
        world_size=world_size,
        local_rank=_number(env, "SLURM_LOCALID"),
        local_world_size=int(per_node.group()) if per_node else world_size,
        master_address=env.get("MASTER_ADDR", nodes),
        master_port=_number(env, "MASTER_PORT", default=slurm_port(job, restarts, step)),
        launcher="srun",
    )


def _mpirun(env: Mapping[str, str], prefix: str) -> Ranks:
    world_size = _number(env, f"{prefix}SIZE")
    local = {"PMI_": "MPI_LOCALRANKID"}.get(prefix, f"{prefix}LOCAL_RANK")
    local_size = {"PMI_": "MPI_LOCALNRANKS"}.get(prefix, f"{prefix}LOCAL_SIZE")
    return Ranks(
        rank=_number(env, f"{prefix}RANK"),
        world_size=world_size,
        local_rank=_number(env, local),
        local_world_size=_number(env, local_size, default=world_size),
        master_address=_text(env, "MASTER_ADDR"),
        master_port=_number(env, "MASTER_PORT"),
        launcher="mpirun",
    )


def slurm_port(job: int, restarts: int, step: int) -> int:
    """A port that all ranks compute alike, and that neighbouring jobs and restarts do not share."""
    return 15000 + (job * 61 + restarts * 13 + step * 7) % 15000


def first_host(nodelist: str) -> str:
    """The first name of a SLURM node list: ``gpu[03-05,9],login`` gives ``gpu03``."""
    head = re.match(r"([^\[,]+)(?:\[([^\]]*)\])?([^,]*)", nodelist)
    assert head is not None, nodelist
    stem, numbers, tail = head.groups()
    return f"{stem}{re.split('[-,]', numbers)[0]}{tail}" if numbers else f"{stem}{tail}"


def free_port() -> int:
    """A TCP port that is free on this machine now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _text(env: Mapping[str, str], name: str) -> str:
    if not env.get(name):
        raise UserError(
            Problem(
                f"environment: {name}",
                "is not set though another variable of the launcher is",
                remedy="start all ranks with one launcher: torchrun, srun, mpirun with MASTER_ADDR and "
                "MASTER_PORT exported, or none",
            )
        )
    return env[name]


def _number(env: Mapping[str, str], name: str, default: int | None = None) -> int:
    if default is not None and name not in env:
        return default
    text = _text(env, name)
    if not re.fullmatch(r"\d+", text):
        raise UserError(Problem(f"environment: {name}", f"{text!r} is not allowed", "a whole number >= 0"))
    return int(text)


def _checked(ranks: Ranks) -> Ranks:
    if not 0 <= ranks.rank < ranks.world_size:
        raise UserError(
            Problem(
                "environment: RANK",
                f"{ranks.rank} of a world of {ranks.world_size}",
                "0 <= rank < world size",
            )
        )
    return ranks
