"""Where ranks meet: one store, one process group, made here alone; and what is said where they do not.

A rendezvous of torch's own waits half an hour, deaf to Ctrl-C, for a store that nobody opens. Here ranks look first: at
the interfaces, the address and the port that they were told, then for one another. What is wrong is one message with
the name of the variable.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from xtrain.dispatch.rank_process import check_is_rank
from xtrain.dispatch.rendezvous import Ranks
from xtrain.errors import Problem, UserError, listed

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

T = TypeVar("T")
AGENT = "TORCHELASTIC_USE_AGENT_STORE"  # torchrun's agent has opened the store before it starts ranks
GLOO, NCCL = "GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"
POLL_SECONDS = 0.02
STOP_SECONDS = 5.0  # a signal that comes earlier waits for the others, and is acted upon together with them
NAME_SECONDS, SILENT_SECONDS, AGENT_SECONDS = 10.0, 15.0, 10.0  # for a name to resolve, an address to answer at all
OPEN_SECONDS, COME_SECONDS = 30.0, 45.0  # for rank 0 to open the store, for all to come to it
GROUP_SECONDS = 60.0  # for all to connect to each other
LONG_SECONDS = 1800.0  # where a launcher watches the ranks, and ends all when one has ended
JOB_SECONDS = 300.0  # in a job of ours: Python starts slowly from a network file system that is cold on one node


class NotMet(UserError):
    """The ranks could not meet. ``said`` is whether another rank on the same terminal says why."""

    def __init__(self, *problems: Problem, said: bool = False) -> None:
        super().__init__(*problems)
        self.said = said


class StoppedWaiting(Exception):
    """A signal came while a rank waited for the others: there is nothing to be saved."""

    def __init__(self, signal_name: str) -> None:
        super().__init__(f"{signal_name}: stopped before the ranks had met; nothing of this start was to be saved")


@dataclass
class Waiting:
    """How long a rank waits, and for what it stops to."""

    stop: Callable[[], str] = str
    """The name of the signal that asks this process to end; empty where there was none."""
    began: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        """Since this rank began to look for the others."""
        return time.monotonic() - self.began

    def pause(self) -> None:
        """A moment; raises :class:`StoppedWaiting` upon a signal."""
        time.sleep(POLL_SECONDS)
        if self.seconds > STOP_SECONDS and self.stop():
            raise StoppedWaiting(self.stop())

    def call(self, function: Callable[[], T], seconds: float) -> T:
        """``function``, which may be deaf to signals and to its own time limit; raises :class:`TimeoutError`."""
        results: list[T] = []
        errors: list[BaseException] = []

        def run() -> None:
            try:
                results.append(function())
            except BaseException as error:
                errors.append(error)

        thread = threading.Thread(target=run, name="meeting the other ranks", daemon=True)
        thread.start()
        end = time.monotonic() + seconds
        while thread.is_alive():
            thread.join(POLL_SECONDS)
            if self.seconds > STOP_SECONDS and self.stop():
                raise StoppedWaiting(self.stop())
            if time.monotonic() > end:
                raise TimeoutError(f"no end after {seconds:.0f} s")
        if errors:
            raise errors[0]
        return results[0]


def join(
    ranks: Ranks,
    backend: str = "gloo",
    *,
    stop: Callable[[], str] = str,
    patience: float | None = None,
    collective_seconds: float | None = None,
    gpu: str = "",
) -> None:
    """Meet the other ranks and form the default process group; only inside of :func:`run_rank`.

    ``patience`` is how many seconds others may take to come, by default as long as is right for the launcher, and
    ``collective_seconds`` how long a collective of this group, or of one made later, may take (torch's by default).
    ``gpu`` is what no other GPU is called, where this rank has one: no other rank may have it.
    Raises :class:`NotMet` where the ranks do not meet, and :class:`StoppedWaiting` upon a signal that comes meanwhile.
    """
    check_is_rank()
    import torch
    import torch.distributed as dist
    from torch._C._distributed_c10d import HashStore

    waiting = Waiting(stop)
    problem = _wrong_interface(GLOO) or (_wrong_interface(NCCL) if backend == "nccl" else None)
    if ranks.world_size == 1:
        if problem:
            raise NotMet(problem)
        store: Store = HashStore()
    else:
        store = _open(ranks, waiting, patience)
        problem = problem or _taken(store, gpu)
        _come(store, ranks, waiting, problem, patience or _patience(ranks, COME_SECONDS))

    def form() -> None:
        dist.init_process_group(  # noqa: TID251 - the one place
            backend,
            store=store,
            rank=ranks.rank,
            world_size=ranks.world_size,
            timeout=timedelta(seconds=GROUP_SECONDS + ranks.world_size / 4),
        )

    try:
        waiting.call(form, 2 * GROUP_SECONDS + ranks.world_size / 4)
        if backend == "nccl":
            device = torch.cuda.current_device()
            waiting.call(lambda: _connect_gpus(device), GROUP_SECONDS + ranks.world_size / 4)
    except (RuntimeError, ValueError, TimeoutError) as error:
        raise NotMet(_apart(NCCL if dist.is_initialized() else GLOO, error)) from error
    groups = dist.distributed_c10d
    limit = groups._get_default_timeout(dist.Backend(backend))
    if collective_seconds is not None:
        limit = timedelta(seconds=collective_seconds)
        vars(groups).update(
            default_pg_timeout=limit, default_pg_nccl_timeout=limit
        )  # of groups to come, DeepSpeed's too
    groups._set_pg_timeout(limit, dist.group.WORLD)
    store.set_timeout(limit)


def _connect_gpus(device: int) -> None:
    """NCCL connects with the first collective: let it be this one, whose failure can be explained."""
    import torch
    import torch.distributed as dist

    torch.cuda.set_device(device)  # each thread has its own
    dist.all_reduce(torch.zeros(1, device="cuda"))
    torch.cuda.synchronize()


def _patience(ranks: Ranks, seconds: float) -> float:
    """How long others may take; longer where this rank has itself taken long to get here."""
    if ranks.launcher == "xtrain" or (ranks.launcher == "torchrun" and _agent()):
        return LONG_SECONDS
    if "XTRAIN_ATTEMPT" in os.environ:
        return JOB_SECONDS
    return max(seconds, 2 * _age())


def _agent() -> bool:
    return os.environ.get(AGENT) == "True"


def _age() -> float:
    """Seconds since this process began; 0 where Linux does not tell."""
    try:
        ticks = int(Path("/proc/self/stat").read_text("utf-8").rpartition(")")[2].split()[19])
        return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError, AttributeError):
        return 0.0


def _open(ranks: Ranks, waiting: Waiting, patience: float | None) -> Store:
    """The store at which all ranks meet, open and answering."""
    from torch._C._distributed_c10d import PrefixStore, TCPStore

    if not 0 < ranks.master_port < 2**16:
        raise NotMet(Problem("environment: MASTER_PORT", f"{ranks.master_port} is not allowed", "1 to 65535"))
    agent = ranks.launcher == "torchrun" and _agent()
    opens = ranks.is_first and not agent
    listener, host = ranks.store, ranks.master_address
    if opens and listener is None:
        listener = _listen(ranks)
        _knock(ranks, waiting, 0.0)
        host = "127.0.0.1"
    elif listener is None and ranks.launcher != "xtrain":
        _knock(ranks, waiting, AGENT_SECONDS if agent else patience or _patience(ranks, OPEN_SECONDS))

    limit = LONG_SECONDS if ranks.launcher == "xtrain" else SILENT_SECONDS

    def make(host: str, opens: bool) -> TCPStore:
        fd = listener if opens else None
        timeout = timedelta(seconds=limit)
        return TCPStore(host, ranks.master_port, None, opens, timeout, wait_for_workers=False, master_listen_fd=fd)

    try:
        with _without_stacks() if ranks.launcher != "xtrain" else contextlib.nullcontext():
            store = waiting.call(lambda: make(host, opens), limit + SILENT_SECONDS)
            if host != ranks.master_address and not _is_local(ranks.master_address):
                store.set("opened by", token := secrets.token_hex(8))  # is it really we whom the others find there?
                seen = waiting.call(lambda: make(ranks.master_address, False).get("opened by"), limit + SILENT_SECONDS)
                if seen.decode() != token:
                    raise ValueError("another store")
    except (RuntimeError, ValueError, TimeoutError) as error:
        what = "another program answers there" + ("" if opens else ", or rank 0 has ended")
        raise NotMet(_nobody(ranks, what)) from error
    return PrefixStore(f"xtrain/{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0) if agent else 0}", store)


def _is_local(name: str) -> bool:
    """Whether ``name`` is an address of this machine."""
    for family, kind, _, _, address in socket.getaddrinfo(name, 0, type=socket.SOCK_STREAM):
        with contextlib.suppress(OSError), socket.socket(family, kind) as probe:
            probe.bind(address)
            return True
    return False


@contextlib.contextmanager
def _without_stacks() -> Iterator[None]:
    """Keep back what C++ prints on standard error, and drop it where an error is raised that says it in words."""
    with tempfile.TemporaryFile() as file:
        kept = os.dup(2)
        os.dup2(file.fileno(), 2)
        try:
            yield
        except BaseException:
            file.truncate(0)
            raise
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            file.seek(0)
            with contextlib.suppress(OSError):
                os.write(2, file.read())


def _listen(ranks: Ranks) -> int:
    """The listening socket of rank 0, as torch's own is: for IPv4 and IPv6 on all interfaces."""
    port, dual = ranks.master_port, socket.has_dualstack_ipv6()
    try:
        family = socket.AF_INET6 if dual else socket.AF_INET
        return socket.create_server(("", port), family=family, backlog=2048, dualstack_ipv6=dual).detach()
    except OSError as error:
        what = f"{port} is taken by another program" if error.errno == errno.EADDRINUSE else f"{port}: {error.strerror}"
        remedy = f"set another one on all ranks, or see who holds it: ss -tlnp | grep :{port}"
        raise NotMet(Problem("environment: MASTER_PORT", f"{what} on {socket.gethostname()}", "", remedy)) from error


def _knock(ranks: Ranks, waiting: Waiting, patience: float) -> None:
    """Return when somebody listens where the store is to be; ``patience`` is for its being opened at all."""
    address = (ranks.master_address, ranks.master_port)
    began = time.monotonic()
    while True:
        try:
            with socket.create_connection(address, timeout=3.0):
                return
        except socket.gaierror as error:
            words, limit = f"the name does not resolve: {error.strerror}", NAME_SECONDS
        except ConnectionRefusedError:
            words, limit = f"nobody listens on port {ranks.master_port}", patience
        except (OSError, UnicodeError) as error:  # a name with an empty part is no name to Python
            words, limit = f"no answer: {getattr(error, 'strerror', None) or error}", SILENT_SECONDS
        if time.monotonic() - began > limit:
            raise NotMet(_nobody(ranks, words))
        waiting.pause()
        time.sleep(0.2)


def _nobody(ranks: Ranks, words: str) -> Problem:
    """Why the store was not found, with the variables that say where it is."""
    where = f"{ranks.master_address!r} (MASTER_PORT {ranks.master_port}), where rank 0 of {ranks.world_size} is to be"
    remedy = "set MASTER_ADDR and MASTER_PORT on all ranks to rank 0's machine and a free port of it, and start rank 0"
    if ranks.launcher == "torchrun" and _agent():
        where = f"{ranks.master_address!r} (MASTER_PORT {ranks.master_port}), where torchrun's agent is to be ({AGENT})"
        remedy = f"start the ranks by torchrun; without it, unset {AGENT}, RANK and WORLD_SIZE"
    elif ranks.launcher == "srun" and "MASTER_ADDR" not in os.environ:
        remedy = "export MASTER_ADDR, a name of the first node's that the others can reach, and MASTER_PORT"
    who = f"rank {ranks.rank} on {socket.gethostname()}"
    return Problem("environment: MASTER_ADDR", f"{where}: {words} (seen by {who})", "", remedy)


def _come(store: Store, ranks: Ranks, waiting: Waiting, problem: Problem | None, patience: float) -> None:
    """Wait until all have come to the store, each with the problem that it has; raises the first of these on all."""
    if problem is not None:
        store.set(f"trouble of {ranks.rank}", "")
        if store.add("troubles", 1) == 1:
            store.set(
                "trouble", "\n".join([str(ranks.rank), problem.where, problem.what, problem.allowed, problem.remedy])
            )
    store.set(f"here {ranks.rank}", "")
    store.add("here", 1)
    said = False
    while True:
        if store.check(["trouble"]):
            _refuse(store, ranks, waiting)
        if store.add("here", 0) >= ranks.world_size and store.add("troubles", 0) == 0:
            return
        late = [
            str(rank) for rank in range(ranks.world_size) if waiting.seconds > patience and not _is_here(store, rank)
        ]
        if late:
            raise NotMet(_late(ranks, late, waiting))
        if ranks.is_first and not said and waiting.seconds > SILENT_SECONDS:
            said = True
            missing = listed([rank for rank in range(ranks.world_size) if not _is_here(store, rank)], 8)
            print(f"rank 0: waiting for ranks {missing} of {ranks.world_size} to come", file=sys.stderr, flush=True)
        waiting.pause()


def _is_here(store: Store, rank: int) -> bool:
    return bool(store.check([f"here {rank}"]))


def _late(ranks: Ranks, late: list[str], waiting: Waiting) -> Problem:
    variables = {"srun": "SLURM_PROCID and SLURM_NTASKS", "mpirun": "the launcher's variables"}
    told = variables.get(ranks.launcher, "RANK and WORLD_SIZE")
    what = f"rank {ranks.rank} of {ranks.world_size}, by {told}: rank {listed(late, 8)} did not come in"
    remedy = f"start all {ranks.world_size} ranks, with one MASTER_ADDR and MASTER_PORT; for one alone, unset {told}"
    return Problem("environment: WORLD_SIZE", f"{what} {waiting.seconds:.0f} s", "", remedy)


def _refuse(store: Store, ranks: Ranks, waiting: Waiting) -> None:
    """Raise the problem of some rank. Rank 0 stays until all have read it: the store may end with it."""
    who, where, what, allowed, remedy = store.get("trouble").decode().split("\n")
    store.add("told", 1)
    end = time.monotonic() + 3.0
    while ranks.is_first and store.add("told", 0) < ranks.world_size and time.monotonic() < end:
        waiting.pause()
    said = ranks.launcher in ("torchrun", "mpirun") and ranks.rank != int(who)  # one terminal for all
    if said:  # the launcher ends the others when the first has ended: let it be the one that says why
        time.sleep(2.0)
    raise NotMet(Problem(where, what, allowed, remedy), said=said)


def _taken(store: Store, gpu: str) -> Problem | None:
    """That another rank has this one's GPU, which NCCL would refuse in its own words, or each slow down the other."""
    if not gpu or store.add(f"ranks on GPU {gpu}", 1) == 1:
        return None
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    is_set = "is not set" if visible is None else f"is {visible!r}"
    return Problem(
        "environment: CUDA_VISIBLE_DEVICES",
        f"{is_set} on {socket.gethostname()}: several ranks see the same GPU ({gpu}) and no other",
        "a GPU for each rank, its own; or as many GPUs as ranks on the node, all visible to each of them",
        "start one rank a GPU, or ask for more GPUs",
    )


def _wrong_interface(variable: str) -> Problem | None:
    """What is wrong with the interfaces that Gloo or NCCL is told to use; None where nothing is."""
    value = os.environ.get(variable, "")
    if not value:
        return None
    known = [name for _, name in socket.if_nameindex()]
    names = [name.strip() for name in value.lstrip("^=").split(",") if name.strip()]
    if variable == GLOO:
        missing = [name for name in value.split(",") if name not in known]
        wrong = bool(missing)
    else:  # "^": none of these, "=": just so, else all that begin so; a port may follow
        names = [name.partition(":")[0] for name in names]
        exact = value.lstrip("^").startswith("=")
        wrong = not value.startswith("^") and not any(
            one == name or (one.startswith(name) and not exact) for name in names for one in known
        )
    if not wrong:
        return None
    what = f"{value!r}: no such network interface on {socket.gethostname()}"
    remedy = f"set {variable} to an interface that all nodes have in common, or unset it"
    return Problem(f"environment: {variable}", what, listed(known), remedy)


def _apart(variable: str, error: BaseException) -> Problem:
    """All have come to the store, but no connections were made between them."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    words = lines[0].rpartition("] ")[2] if lines else type(error).__name__
    value = os.environ.get(variable)
    is_set = "is not set" if value is None else f"is {value!r}"
    what = f"{is_set}, and the ranks, which met at the store, cannot connect to each other from {socket.gethostname()}"
    remedy = f"set {variable} to the network interface that all nodes share (here: {listed(_names())}), or unset it"
    return Problem(f"environment: {variable}", f"{what}: {words}", "", remedy)


def _names() -> list[str]:
    return [name for _, name in socket.if_nameindex()]
