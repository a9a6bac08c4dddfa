"""What the user writes of a cluster: a profile's TOML file as frozen dataclasses, every mistake in one message."""

from __future__ import annotations

import dataclasses
import math
import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from xtrain.config import build, limits, merged, read_toml
from xtrain.errors import Problem, UserError, listed, nearest, raise_if_any
from xtrain.starting import PROJECT

KINDS = ("prepare", "intermediate", "target", "evaluate", "report")
TRAINING = ("intermediate", "target")  # the kinds that save upon a signal and go on from there
SINGLE = ("prepare", "report")  # the kinds of one process: no ranks
NOT_INHERITED = ("nodes", "tasks_per_node", "gpus_per_node", "exclusive")  # by them, from [job]
SIGNALS = ("SIGUSR2", "SIGUSR1", "SIGTERM")
SLURM, LOCAL = "slurm", "local"


@dataclass(frozen=True)
class Resources:
    """What one job asks for: ``[job]`` with ``[job.KIND]`` laid on it."""

    partition: str = ""
    """As ``sinfo`` names it; the site's default if empty."""
    account: str = ""
    """Whom the hours are charged to (``sacctmgr show associations user=$USER``)."""
    qos: str = ""
    """Quality of service; the account's default if empty."""
    constraint: str = ""
    """Features that the nodes must have (``sinfo -o '%N %f'``)."""
    reservation: str = ""
    """One that the site has made for you."""
    nodes: int = field(default=1, metadata=limits(minimum=1))
    """So many for each job."""
    gpus_per_node: int = field(default=0, metadata=limits(minimum=0))
    """GPUs of each node; one rank runs on each of them."""
    gpu_type: str = ""
    """SLURM's name of the GPU (``h100`` of ``gpu:h100:8`` in ``sinfo -o '%N %G'``); any if empty."""
    gpu_option: str = field(default="gpus-per-node", metadata=limits(choices=("gpus-per-node", "gres")))
    """The sbatch option that asks for GPUs: ``gres`` where the site knows only that; it goes with ``gpu_layout =
    "all"`` alone."""
    gpu_layout: str = field(default="all", metadata=limits(choices=("all", "one")))
    """``"one"``: each rank sees its own GPU alone. Training takes either; with ``"all"``, GPUs of a node reach each
    other by peer-to-peer wherever the driver allows it."""
    tasks_per_node: int | None = field(default=None, metadata=limits(minimum=1))
    """Ranks of a node, to be given only where there are no GPUs: one a GPU by default, or one."""
    examples_per_rank: int = field(default=0, metadata=limits(minimum=0))
    """So many examples of a batch for each rank at least: a phase of smaller batches asks for fewer GPUs (or tasks) and
    nodes, with as much of a node's memory. XLM-R Large launches about 1,000 kernels a micro-batch: with one or two
    examples a GPU mostly waits for them, and phases side by side on a GPU each are done sooner. ``--dry-run`` says
    where that is so. 0: as many ranks as there may be, whatever is left to each."""
    cpus_per_task: int | None = field(default=None, metadata=limits(minimum=1))
    """CPUs of a rank, its data workers included; also its ``OMP_NUM_THREADS``. Left out: SLURM gives one, or all with
    ``exclusive``, and ranks share them."""
    memory_gib: float | None = field(default=None, metadata=limits(minimum=0))
    """Host memory of a node; 0 for all of it. Left out, no ``--mem`` is written: some sites allow none."""
    memory_gib_per_cpu: float | None = field(default=None, metadata=limits(above=0))
    """Host memory of each CPU, where a site wants it so; instead of ``memory_gib``."""
    comment: str = ""
    """What a site wants to stand before ours in a job's comment. Ours is how a job is found whose id never reached us;
    the site may put words around it."""
    time_limit: str | int = ""
    """``"HH:MM:SS"``, ``"D-HH:MM:SS"``, or minutes as a number; whole minutes for SLURM."""
    exclusive: bool = False
    """Nodes that no other job runs on."""
    sbatch: Mapping[str, str | int | bool] = field(default_factory=dict)
    """Further options of sbatch, without dashes: ``mail-type = "FAIL"``, ``spread-job = true``; false drops an
    inherited one. What another key sets is refused. ``exclude`` is joined with the nodes that failed their check;
    ``wckey`` is written only if it is here."""

    @property
    def ranks_per_node(self) -> int:
        """Tasks that srun starts on each node."""
        return self.tasks_per_node or max(1, self.gpus_per_node)

    @property
    def num_ranks(self) -> int:
        """Tasks that srun starts in all."""
        return self.nodes * self.ranks_per_node

    def for_batch(self, batch: int) -> Resources:
        """What a phase whose global batches have ``batch`` examples asks for; 0 where there are none.

        Whole nodes, or some of the GPUs (or tasks) of one, with as much of its memory.
        """
        ranks = max(1, batch // (self.examples_per_rank or 1))
        if not batch or not self.examples_per_rank or ranks >= self.num_ranks:
            return self
        here = min(ranks, self.ranks_per_node)
        memory = self.memory_gib and self.memory_gib * here / self.ranks_per_node
        return dataclasses.replace(
            self,
            nodes=ranks // here,
            gpus_per_node=min(self.gpus_per_node, here),
            tasks_per_node=None if self.tasks_per_node is None else here,
            memory_gib=memory,
        )

    @property
    def time_limit_seconds(self) -> int | None:
        """The time limit, rounded up to whole minutes as SLURM does; None for none."""
        return None if self.time_limit == "" else math.ceil(parse_time(self.time_limit) / 60) * 60

    @property
    def time_limit_minutes(self) -> int | None:
        """The same in minutes."""
        return None if self.time_limit_seconds is None else self.time_limit_seconds // 60

    @property
    def hours(self) -> float:
        """The time limit in hours; 0 for none."""
        return (self.time_limit_seconds or 0) / 3600

    @property
    def gpu_hours(self) -> float:
        """GPU-hours of a job that uses its whole time."""
        return self.hours * self.nodes * self.gpus_per_node

    @property
    def cpu_hours(self) -> float:
        """CPU-hours of a job that uses its whole time; of an exclusive node, those of its tasks alone."""
        return self.hours * self.num_ranks * (self.cpus_per_task or 1)


@dataclass(frozen=True)
class Preemption:
    """``[preemption]``: how a job is told to leave, and how it comes back."""

    signal: str = field(default="SIGUSR2", metadata=limits(choices=SIGNALS))
    """What asks the ranks to save and leave: before the time limit, and by SLURM upon preemption where the site has
    ``preempt_send_user_signal``."""
    lead_seconds: int = field(default=120, metadata=limits(minimum=5, maximum=65535))
    """So long before its time limit a job begins to save, at most a quarter of the limit."""
    requeue: bool = True
    """A job goes back into the queue by ``scontrol requeue``. false: it submits the next of a chain before it leaves.
    SLURM requeues a job that lost a node or was preempted in both cases, unless ``[job.sbatch] no-requeue = true``:
    then a job whose first node is lost is over, and the study must be submitted again."""
    idle_attempts: int = field(default=3, metadata=limits(minimum=1))
    """Starts in a row without a new step after which the phase is given up."""
    check_nodes: bool = True
    """Every node is looked at before the ranks start; one that fails is excluded next time."""

    @property
    def warning(self) -> str:
        """The signal that the supervisor has srun forward to every task; of a SIGTERM srun would end them itself."""
        return "SIGUSR2" if self.signal == "SIGTERM" else self.signal


@dataclass(frozen=True)
class Environment:
    """``[environment]``: what the batch script sets up."""

    purge_modules: bool = False
    """``module purge`` first: without it a job begins with the modules of the shell that submitted."""
    modules: tuple[str, ...] = ()
    """For ``module load``, in order; one that is missing ends the job."""
    setup: tuple[str, ...] = ()
    """Lines of bash on the job's first node, after modules and variables; what they export reaches every rank. A line
    that must not fail ends in ``|| exit 1``."""
    variables: Mapping[str, str | int] = field(default_factory=dict)
    """Environment variables of every process of the job. No secrets: they would stand in the scripts."""
    python: str = ""
    """The interpreter on the nodes; the one that submits by default."""


@dataclass(frozen=True)
class Storage:
    """``[storage]``: folders beside the output folder."""

    scratch: str = "${SLURM_TMPDIR:-/tmp}"
    """On each node's own disk; compilers' caches of a job lie in a folder of its own there. ``$NAME`` and
    ``${NAME:-default}`` are the job's variables."""
    cache: str = "${XTRAIN_CACHE:-~/.cache/xtrain}"
    """A folder that all nodes share: operators that are built once per type of node."""


@dataclass(frozen=True)
class Network:
    """``[network]``."""

    interface: str = ""
    """What the nodes talk over (``ip -br addr``): ``ib0``, or ``ib0,ib1``, which become ``GLOO_SOCKET_IFNAME`` and
    ``NCCL_SOCKET_IFNAME``; found by itself if empty. InfiniBand itself is NCCL's to find (``NCCL_IB_HCA`` in
    ``variables``). Ranks meet at the first node's address on it, whatever network its name stands for."""


@dataclass(frozen=True)
class Container:
    """``[container]``: an image that the ranks run in."""

    image: str = ""
    """A ``.sqsh`` or ``.sif`` file, or a registry's name for it; no container if empty. The batch script itself runs
    outside."""
    runtime: str = field(default="pyxis", metadata=limits(choices=("pyxis", "apptainer", "singularity")))
    """What starts the ranks in it: ``srun --container-image`` (Pyxis), ``apptainer exec`` or ``singularity exec``. What
    we set for ranks goes before the image's own variables (Pyxis: ``--container-env``, where srun has it)."""
    mounts: tuple[str, ...] = ()
    """Further folders, ``/data`` or ``/host:/inside[:ro]``; output, data, project, cache and scratch folders, the base
    model's and ``HF_HOME`` are mounted under their own names."""
    python: str = "python3"
    """The interpreter in the image; xtrain's dependencies must be installed for it."""


@dataclass(frozen=True)
class Limits:
    """``[limits]``: how much of the queue one study takes."""

    running: int = field(default=16, metadata=limits(minimum=1))
    """Jobs of one study that run at a time. What few lanes cost in a queue where age counts: docs/slurm.md."""
    queued: int = field(default=1000, metadata=limits(minimum=1))
    """Jobs of one study in the queue at a time; fewer where the site's ``MaxSubmitJobs`` is less."""


@dataclass(frozen=True)
class Cost:
    """``[cost]``: what ``--dry-run`` multiplies the hours by."""

    gpu_hour: float = field(default=0.0, metadata=limits(minimum=0))
    """Price of a GPU for an hour."""
    cpu_hour: float = field(default=0.0, metadata=limits(minimum=0))
    """Price of a CPU for an hour, for jobs without GPUs."""
    currency: str = ""
    """What the prices are in."""


@dataclass(frozen=True)
class Rates:
    """``[rates]``: how fast a device of this cluster trains, for ``xtrain plan --cluster``."""

    tokens_per_second: Mapping[str, float] = field(default_factory=dict)
    """Base, as studies name it -> tokens a second that one device trains of it; goes before ``tflops``. A finished
    phase has it in ``DONE``, over all of its devices."""
    tflops: float | None = field(default=None, metadata=limits(above=0))
    """TFLOP/s that one device reaches in training, by 6 FLOPs a token and parameter of a matrix, and attention's."""


@dataclass(frozen=True)
class Profile:
    """A cluster."""

    scheduler: str = field(metadata=limits(choices=(SLURM, LOCAL)))
    """Whether there is SLURM; ``local`` runs the same jobs on this machine."""
    name: str = ""
    """The file's name without ``.toml``."""
    file: str = ""
    """Where it was read from."""
    description: str = ""
    """For people."""
    cluster: str = ""
    """SLURM's name of the cluster (``sacctmgr show clusters``), where the machine that submits reaches several, or
    belongs to another one: all of SLURM's commands then get ``--clusters=NAME``, but not in the jobs themselves. The
    machine's own if empty."""
    job: Mapping[str, Any] = field(default_factory=dict)
    """``[job]`` with its ``[job.KIND]`` as written; :meth:`resources` lays them on one another."""
    preemption: Preemption = Preemption()
    """How a job is told to leave, and how it comes back."""
    environment: Environment = Environment()
    """What the batch script sets up."""
    storage: Storage = Storage()
    """Folders beside the output folder."""
    network: Network = Network()
    """What the nodes talk over."""
    container: Container = Container()
    """An image that the ranks run in."""
    limits: Limits = Limits()
    """How much of the queue one study takes."""
    cost: Cost = Cost()
    """What hours cost: for ``--dry-run`` and ``xtrain plan --cluster``."""
    rates: Rates = Rates()
    """How fast a device trains: for ``xtrain plan --cluster``."""

    @property
    def is_local(self) -> bool:
        """Whether there is no SLURM."""
        return self.scheduler == LOCAL

    @property
    def python(self) -> str:
        """The interpreter of the batch script; empty for the one that submits."""
        return self.environment.python

    @property
    def rank_python(self) -> str:
        """The interpreter of the ranks, in their container where there is one; asked in a job."""
        return self.container.python if self.container.image else self.python or sys.executable

    def resources(self, kind: str, batch: int = 0) -> Resources:
        """What a job of ``kind`` (one of :data:`KINDS`) asks for; of a phase that trains, with its batch size."""
        return Resources(**_resource_keys(self.job, kind)).for_batch(batch)

    def lead_seconds(self, kind: str) -> int | None:
        """How long before its time limit a job of ``kind`` begins to save; None where it has no limit."""
        limit = self.resources(kind).time_limit_seconds
        return None if limit is None else lead_for(limit, self.preemption.lead_seconds)

    def to_mapping(self) -> dict[str, Any]:
        """As plain values for JSON; :meth:`from_mapping` reads them."""
        return dataclasses.asdict(self)

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any], where: str = "profile") -> Profile:
        """A profile of plain values; every mistake in them is in one :class:`UserError` that names ``where``."""
        from xtrain.dispatch.cluster_check import check  # it needs these classes

        problems: list[Problem] = []
        profile = build(cls, mapping, where, problems)
        resources = _build_resources(mapping.get("job", {}), where, problems)
        if profile is not None:
            check(profile, resources, where, problems)
        raise_if_any(problems)
        assert profile is not None
        return profile


SITE_WIDE = Path("/etc/xtrain/clusters")


def profile_folders() -> list[Path]:
    """Where profiles are looked for, in order: ``XTRAIN_CLUSTERS`` (several with colons), the site's, the project's."""
    own = [Path(one).expanduser() for one in os.environ.get("XTRAIN_CLUSTERS", "").split(os.pathsep) if one]
    return [*own, SITE_WIDE, PROJECT / "slurm" / "clusters"]


def load_profile(name_or_path: str, *folders: Path) -> Profile:
    """Read and check a profile: ``NAME.toml`` of the first of ``folders`` (by default :func:`profile_folders`) that has
    one, or a path (it ends in ``.toml`` or has a slash).

    Raises one :class:`UserError` that lists every mistake, or the names there are.
    """
    path = Path(name_or_path).expanduser()
    if not name_or_path.endswith(".toml") and "/" not in name_or_path:
        looked_in = folders or tuple(profile_folders())
        known = {file.stem: file for folder in reversed(looked_in) for file in folder.glob("*.toml")}
        if name_or_path not in known:
            where = listed([str(folder) for folder in looked_in if folder.is_dir()])
            remedy = nearest(name_or_path, known) or f"name one of {where}, or a file of your own: ./mine.toml"
            what = "there is no such profile"
            raise UserError(Problem(f"--cluster {name_or_path}", what, listed(sorted(known)), remedy))
        path = known[name_or_path]
    mapping = read_toml(path)
    own = [
        Problem(f"{path}: {key}", "unknown key", remedy="remove it: the file's name is the profile's")
        for key in ("name", "file")
        if key in mapping
    ]
    raise_if_any(own)
    return Profile.from_mapping({**_with_homes(mapping), "name": path.stem, "file": str(path)}, str(path))


def _with_homes(mapping: Mapping[str, Any]) -> dict[str, Any]:
    """``mapping`` with ``~`` put in where a path is meant that nothing else expands; what is no text stays as it is."""
    found = dict(mapping)
    for table, key in (("environment", "python"), ("container", "image"), ("container", "mounts")):
        inner = found.get(table)
        if not isinstance(inner, Mapping) or key not in inner:
            continue
        value = inner[key]
        if isinstance(value, str):
            value = os.path.expanduser(value)
        elif isinstance(value, list):
            value = [os.path.expanduser(one) if isinstance(one, str) else one for one in value]
        found[table] = {**inner, key: value}
    return found


def _resource_keys(job: Mapping[str, Any], kind: str) -> dict[str, Any]:
    assert kind in KINDS, kind
    common = {key: value for key, value in job.items() if key not in KINDS}
    if kind in SINGLE:
        common = {key: value for key, value in common.items() if key not in NOT_INHERITED}
        common["tasks_per_node"] = 1  # whatever GPUs it may have
    own = job.get(kind, {})
    return merged(common, own) if isinstance(own, Mapping) else common


def _build_resources(job: Any, where: str, problems: list[Problem]) -> dict[str, Resources]:
    """The resources of every kind, once each table's keys are right by themselves."""
    if not isinstance(job, Mapping):
        return {}  # named by build
    before = len(problems)
    names = [item.name for item in dataclasses.fields(Resources)]
    for key, value in job.items():
        if isinstance(value, Mapping) and key not in KINDS and key not in names:
            remedy = nearest(key, KINDS) or "tables of [job] are kinds of jobs"
            problems.append(Problem(f"{where}: job.{key}", "unknown key", listed(KINDS), remedy))
        elif key in KINDS and isinstance(value, Mapping):
            build(Resources, value, where, problems, f"job.{key}")
        elif key in KINDS:
            problems.append(Problem(f"{where}: job.{key}", f"{value!r} is not allowed", "a table of keys and values"))
    flat = {key: value for key, value in job.items() if key not in KINDS and (key in names or not _table(value))}
    build(Resources, flat, where, problems, "job")
    _check_times(job, where, problems)
    if len(problems) > before:
        return {}
    return {kind: Resources(**_resource_keys(job, kind)) for kind in KINDS}


def _table(value: Any) -> bool:
    return isinstance(value, Mapping)


def _check_times(job: Mapping[str, Any], where: str, problems: list[Problem]) -> None:
    tables = [("job", job), *((f"job.{kind}", job[kind]) for kind in KINDS if _table(job.get(kind)))]
    for key, table in tables:
        value = table.get("time_limit", "")
        if value == "" or isinstance(value, bool) or not isinstance(value, (str, int)):
            continue
        try:
            parse_time(value)
        except ValueError:
            problems.append(
                Problem(
                    f"{where}: {key}.time_limit",
                    f"{value!r} is not allowed",
                    '"HH:MM:SS", "D-HH:MM:SS", or minutes as a number, more than 0',
                )
            )


_TIME = re.compile(r"(?:(?P<days>\d+)-)?(?P<hours>\d+):(?P<minutes>[0-5]?\d):(?P<seconds>[0-5]?\d)")


def parse_time(value: str | int) -> int:
    """Seconds of ``"HH:MM:SS"``, ``"D-HH:MM:SS"`` or minutes; raises :class:`ValueError` for anything else, and 0."""
    if isinstance(value, int):
        seconds = value * 60
    else:
        match = _TIME.fullmatch(value.strip())
        if match is None:
            raise ValueError(value)
        days, hours, minutes, rest = (int(part or 0) for part in match.group("days", "hours", "minutes", "seconds"))
        seconds = ((days * 24 + hours) * 60 + minutes) * 60 + rest
    if seconds <= 0:
        raise ValueError(value)
    return seconds


def lead_for(time_limit_seconds: int, lead_seconds: int) -> int:
    """How many seconds before its end a job begins to save: ``lead_seconds``, but at most a quarter of its time.

    A fixed lead would take a short job's whole time: it would load the model, save, and come back to do the same.
    With a quarter, at least three quarters of every job go to work, however short it is; saving is no slower in a short
    job, so that one whose quarter is too little loses the steps since its last periodic checkpoint, not the others.
    """
    return max(1, min(lead_seconds, time_limit_seconds // 4))
