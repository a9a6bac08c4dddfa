"""Who am I among the ranks: read from whichever launcher started this process, and set for ranks of this machine."""

from __future__ import annotations

import errno
import os
import re
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from xtrain.errors import Problem, UserError, counted

_FIRST_PORT, _NUM_PORTS = 15000, 15000  # where the ports of SLURM jobs begin, and how many there are
_OPEN_MPI_LOCAL = "OMPI_COMM_WORLD_LOCAL_RANK"
STORE = "XTRAINSTORE"  # of ranks that we start: the listening socket that rank 0 inherits; of the others empty
_LAUNCHERS = re.compile(  # what torchrun, srun, MPIs and DeepSpeed's launcher tell each rank of its place
    r"((LOCAL|NODE|GROUP|ROLE|CROSS)_)?(RANK|WORLD_SIZE)|(LOCAL|CROSS)_SIZE|ROLE_NAME|MASTER_(ADDR|PORT)|NCCL_COMM_ID|"
    r"(TORCHELASTIC|PMI|PMIX|OMPI(?!_MCA)|MV2_COMM_WORLD|MPI_LOCAL|MPIRUN|HYDI|PALS|ALPS_APP)_?\w+|"
    r"SLURM_(PROCID|LOCALID|NODEID|GTIDS|STEPID|STEP_\w+|NTASKS|NPROCS|TASK_PID|TASKS_PER_NODE|LAUNCH_NODE_IPADDR|"
    rf"SRUN_COMM_\w+|PMI\w*)|{STORE}"
)
_EPHEMERAL = Path("/proc/sys/net/ipv4/ip_local_port_range")  # of these the kernel gives one to whoever asks for any


@dataclass(frozen=True)
class Ranks:
    """This process's place in the job."""

    rank: int
    world_size: int
    local_rank: int
    local_world_size: int
    master_address: str
    master_port: int
    launcher: str  # "none", "xtrain", "torchrun", "srun", "mpirun"
    store: int | None = None
    """The socket that rank 0 has inherited, at which the others of this machine knock already."""

    @property
    def is_first(self) -> bool:
        """Whether this is rank 0, the only one that talks."""
        return self.rank == 0

    def export(self, device: int | None = None) -> None:
        """Set the variables that torch.distributed and DeepSpeed read.

        To DeepSpeed, ``LOCAL_RANK`` is the number of the device to use; nothing else of it or of torch's process group
        reads it. ``device`` is that number, None where there is no choice of devices.
        """
        local = str(self.local_rank if device is None else device)
        os.environ.update(
            RANK=str(self.rank),
            WORLD_SIZE=str(self.world_size),
            LOCAL_RANK=local,
            LOCAL_WORLD_SIZE=str(self.local_world_size),
            MASTER_ADDR=self.master_address,
            MASTER_PORT=str(self.master_port),
        )
        if _OPEN_MPI_LOCAL in os.environ:  # DeepSpeed refuses to start where the two differ
            os.environ[_OPEN_MPI_LOCAL] = local


class LocalRanks:
    """The place where ranks of this machine meet, for whoever starts them; to be closed when all are started.

    Its port is held from here on: no other program can be given it before rank 0 has begun to listen, and ranks that
    are earlier than that wait in the socket's queue.
    """

    def __init__(self, num_ranks: int) -> None:
        self.num_ranks = num_ranks
        self.socket = socket.create_server(("127.0.0.1", 0), backlog=max(128, 2 * num_ranks))

    def __enter__(self) -> LocalRanks:
        return self

    def __exit__(self, *error: object) -> None:
        self.socket.close()

    def environment(self, rank: int, environment: Mapping[str, str] | None = None) -> dict[str, str]:
        """The variables of one rank: ``environment`` (ours by default) without what an outer launcher has set."""
        return {
            **without_launchers(os.environ if environment is None else environment),
            "RANK": str(rank),
            "WORLD_SIZE": str(self.num_ranks),
            "LOCAL_RANK": str(rank),
            "LOCAL_WORLD_SIZE": str(self.num_ranks),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(self.socket.getsockname()[1]),
            STORE: ",".join(map(str, self.inherited(rank))),
        }

    def inherited(self, rank: int) -> tuple[int, ...]:
        """The file descriptors that this rank must inherit."""
        return (self.socket.fileno(),) if rank == 0 else ()


def without_launchers(environment: Mapping[str, str]) -> dict[str, str]:
    """``environment`` less what launchers tell a rank of its place among others: ours is another place.

    We may run inside torchrun, in a step of srun, or in a shell that has inherited such variables.
    """
    return {name: value for name, value in environment.items() if not is_of_launcher(name)}


def is_of_launcher(name: str) -> bool:
    """Whether launchers tell a rank by this variable of its place among others."""
    return _LAUNCHERS.fullmatch(name) is not None


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
    return Ranks(0, 1, 0, 1, "127.0.0.1", 0, "none")


def _torchrun(env: Mapping[str, str]) -> Ranks:
    world_size = _number(env, "WORLD_SIZE")
    return Ranks(
        rank=_number(env, "RANK"),
        world_size=world_size,
        local_rank=_number(env, "LOCAL_RANK"),
        local_world_size=_number(env, "LOCAL_WORLD_SIZE", default=world_size),
        master_address=_text(env, "MASTER_ADDR"),
        master_port=_number(env, "MASTER_PORT"),
        launcher="xtrain" if STORE in env else "torchrun",
        store=_number(env, STORE) if env.get(STORE) else None,
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


def device_index(local_rank: int, num_visible: int, visible: str | None = None) -> int:
    """The number of this rank's GPU among the ``num_visible`` (at least one) that it sees.

    Clusters come in two layouts: every rank of a node sees all its GPUs, and takes the one of its local rank; or each
    sees its own alone, as number 0 whatever its local rank. ``visible`` is the value of ``CUDA_VISIBLE_DEVICES``, for
    the message. Raises a :class:`UserError` where a rank sees several GPUs, but none of its own.
    """
    assert num_visible > 0, num_visible
    if num_visible == 1:
        return 0
    if local_rank < num_visible:
        return local_rank
    is_set = "is not set" if visible is None else f"is {visible!r}"
    raise UserError(
        Problem(
            "environment: CUDA_VISIBLE_DEVICES",
            f"{is_set}: {counted(num_visible, 'GPU')}, none of them for local rank {local_rank}"
            f" on {socket.gethostname()}",
            "as many GPUs as ranks on the node, all visible to each of them; or one for each rank, its own",
            f"start at most {counted(num_visible, 'rank')} on the node, or ask for a GPU for each",
        )
    )


def slurm_port(job: int, restarts: int, step: int) -> int:
    """A port that all ranks compute alike, and that neighbouring jobs and restarts do not share."""
    return _FIRST_PORT + (job * 61 + restarts * 13 + step * 7) % _NUM_PORTS


def probed_port(job: int, restarts: int, step: int, ephemeral: range | None = None) -> int:
    """The first port from :func:`slurm_port` on that is free on all of this machine's interfaces now.

    None of the ``ephemeral`` ones, which any process may be given at any time, unless there is no other (those of
    this machine where None). Raises :class:`UserError` where no port is free at all.
    """
    avoided = _ephemeral_ports() if ephemeral is None else ephemeral
    ports = list(_ports_from(slurm_port(job, restarts, step)))
    for port in [*(port for port in ports if port not in avoided), *(port for port in ports if port in avoided)]:
        if _can_bind(port):
            return port
    remedy = "see which process holds them with: ss -tlnp"
    raise UserError(Problem("ports", f"none of 1024 to 65535 is free on {socket.gethostname()}", "", remedy))


def _ports_from(first: int) -> Iterator[int]:
    """The ports of SLURM jobs, beginning with ``first``; then the others that need no privilege, as a last resort."""
    window = range(_FIRST_PORT, _FIRST_PORT + _NUM_PORTS)
    yield from range(first, window.stop)
    yield from range(window.start, first)
    yield from range(window.stop, 65536)
    yield from range(1024, window.start)


def _ephemeral_ports() -> range:
    try:
        first, last = _EPHEMERAL.read_text("ascii").split()
        return range(int(first), int(last) + 1)
    except (OSError, ValueError):  # not Linux: the range that the internet's authority recommends
        return range(49152, 65536)


def _can_bind(port: int) -> bool:
    """Whether ``port`` is free for IPv4 and IPv6: the ranks' store listens on both."""
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            probe.bind(("::", port))
            return True
    except OSError as error:
        if error.errno in (errno.EADDRINUSE, errno.EACCES):
            return False
    with socket.socket() as probe:  # a machine without IPv6
        try:
            probe.bind(("0.0.0.0", port))
        except OSError:
            return False
    return True


def first_host(nodelist: str) -> str:
    """The first name of a SLURM node list: ``gpu[03-05,9],login`` gives ``gpu03``."""
    head = re.match(r"([^\[,]+)(?:\[([^\]]*)\])?([^,]*)", nodelist)
    assert head is not None, nodelist
    stem, numbers, tail = head.groups()
    return f"{stem}{re.split('[-,]', numbers)[0]}{tail}" if numbers else f"{stem}{tail}"


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
