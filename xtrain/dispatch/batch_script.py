"""From a profile to SLURM: what submitit gets for a job, the srun line of its ranks, and their environment."""

from __future__ import annotations

import getpass
import os
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from xtrain.dispatch.cluster import LOCAL, Profile, Resources
from xtrain.dispatch.container import hub_home, mounts_of, pyxis_options
from xtrain.dispatch.rendezvous import is_of_launcher
from xtrain.dispatch.slurm import is_here
from xtrain.errors import Problem, UserError
from xtrain.starting import PROJECT as PROJECT

LEAVING_SECONDS = 300
_OF_A_JOB = ("TMPDIR", "CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "GPU_DEVICE_ORDINAL")
_VARIABLE = re.compile(r"\$(?:(\w+)|\{(\w+)(?::?-([^}]*))?\})")


def submitit_parameters(
    profile: Profile,
    kind: str,
    batch: int = 0,
    *,
    job_name: str,
    logs: Path | None = None,
    dependency: str = "",
    exclude: Sequence[str] = (),
    comment: str = "",
) -> dict[str, Any]:
    """The parameters of submitit's executor for a job of ``kind``, which prints into the folder ``logs``.

    ``batch`` is the size of its global batches, where it trains.
    ``dependency`` is as sbatch has it (``afterok:7:8,afterany:9``): where it cannot be fulfilled any more, SLURM
    cancels the job instead of keeping it for ever. ``exclude`` are nodes that the job is not to get.
    """
    for text in (job_name, str(logs), dependency, *exclude, comment):
        if set("\n\r\0") & set(text):  # what follows the end of an #SBATCH line, bash would run
            raise UserError(Problem(f"job {job_name!r}", f"{text!r} cannot stand in a batch script", "one line"))
    asked = profile.resources(kind, batch)
    if profile.scheduler == LOCAL:
        minutes = asked.time_limit_minutes or 60 * 24 * 365
        return {"timeout_min": minutes, "tasks_per_node": 1, "gpus_per_node": asked.gpus_per_node}
    assert asked.time_limit_minutes is not None, kind
    more = {name: value for name, value in asked.sbatch.items() if value is not False}
    wckey = more.pop("wckey", None)
    nodes = ",".join(filter(None, [str(more.pop("exclude", "")), *exclude]))
    return {
        "job_name": job_name,
        "partition": asked.partition or None,
        "account": asked.account or None,
        "qos": asked.qos or None,
        "constraint": asked.constraint or None,
        "time": asked.time_limit_minutes,
        "nodes": asked.nodes,
        "ntasks_per_node": asked.ranks_per_node,
        "cpus_per_task": asked.cpus_per_task,
        "mem": None if asked.memory_gib is None else _memory(asked.memory_gib),
        "exclusive": asked.exclusive or None,
        "exclude": nodes or None,
        "comment": " ".join(filter(None, [asked.comment, comment])) or None,
        "dependency": dependency or None,
        "wckey": wckey,  # submitit's own would be refused where keys are enforced
        "setup": setup_lines(profile),
        "stderr_to_stdout": True,
        "use_srun": False,
        "additional_parameters": {
            **({} if is_here(profile.cluster) else {"clusters": profile.cluster}),
            **({"reservation": asked.reservation} if asked.reservation else {}),
            **dict(option.split("=", 1) for option in _gpus(asked)),
            **({"mem-per-cpu": _memory(asked.memory_gib_per_cpu)} if asked.memory_gib_per_cpu else {}),
            **({"kill-on-invalid-dep": "yes"} if dependency else {}),
            **({} if more.get("no-requeue") else {"requeue": True}),
            # Not submitit's signal_delay_s: that comes with a signal that only its environment can change.
            "signal": f"{profile.preemption.signal.removeprefix('SIG')}@{warning_seconds(profile, kind)}",
            **({"output": str(logs.absolute() / "%j_0_log.out")} if logs is not None else {}),
            **more,
        },
    }


_SITE = ("account", "partition", "qos", "constraint", "reservation")


def overruling_variables(profile: Profile, kind: str, environment: Mapping[str, str]) -> list[str]:
    """The variables of a shell to be hidden from sbatch: to it they go before what stands in the script.

    ``SLURM_*`` are those of a job that we may be in, ``RANK`` and its like those of a torchrun. Of the user's own
    ``SBATCH_*``, those stay that say what the profile leaves open: ``SBATCH_ACCOUNT``.
    """
    asked = profile.resources(kind)
    open_ones = {f"SBATCH_{key.upper()}" for key in _SITE if not getattr(asked, key)}
    ours = [name for name in environment if name.startswith(("SLURM_", "SBATCH_"))]
    ours += [name for name in environment if name not in ours and is_of_launcher(name)]  # the job's ranks are others
    if "SLURM_JOB_ID" in environment:  # the folders and devices of that job are not the new one's
        ours += [name for name in environment if name.startswith("SUBMITIT_") or name in _OF_A_JOB]
    return [name for name in ours if name != "SLURM_CONF" and name not in open_ones]


def _memory(gib: float) -> str:
    return f"{gib:.0f}{'G' * (gib > 0)}" if gib == int(gib) else f"{gib * 1024:.0f}M"  # both are binary units


def _gpus(asked: Resources) -> list[str]:
    """``gpus-per-node=h100:8``, or the same in the older words; nothing where there are none."""
    if not asked.gpus_per_node:
        return []
    count = f"{asked.gpu_type}:{asked.gpus_per_node}" if asked.gpu_type else str(asked.gpus_per_node)
    return [f"gres=gpu:{count}" if asked.gpu_option == "gres" else f"gpus-per-node={count}"]


EARLY_SECONDS = 60  # slurmctld looks every 30 s and then sends what is due in the next 30 s, or in a little more


def warning_seconds(profile: Profile, kind: str) -> int:
    """The TIME of ``--signal=SIGNAL@TIME``: the lead less what SLURM may be early by, and 0 for short jobs.

    The supervisor sends the signal to the second when the lead begins, so that SLURM's own comes after it, as a second
    chance. Were the lead itself asked for, SLURM's would come up to a minute before it, at once in a job of a minute
    or two. With 0, SLURM sends none at the time limit, and still sends it upon preemption.
    """
    return max(0, (profile.lead_seconds(kind) or 0) - EARLY_SECONDS)


def setup_lines(profile: Profile) -> list[str]:
    """The lines of the batch script before its command: modules, variables, the profile's own lines."""
    environment = profile.environment
    lines = []
    if environment.modules or environment.purge_modules:
        lines.append("type module >/dev/null 2>&1 || . /etc/profile  # batch shells do not read it")
    if environment.purge_modules:
        lines.append("module purge")
    for module in environment.modules:
        said = shlex.quote(f"module load {module} failed")
        lines.append(f"module load {shlex.quote(module)} || {{ echo {said} on $(hostname) >&2; exit 1; }}")
    lines += [f"export {name}={shlex.quote(str(value))}" for name, value in environment.variables.items()]
    lines.append(f"export PYTHONPATH={shlex.quote(str(PROJECT))}${{PYTHONPATH:+:$PYTHONPATH}}")
    return lines + list(environment.setup)


def srun_command(
    profile: Profile,
    kind: str,
    run_dir: Path,
    mounts: Sequence[Path] = (),
    batch: int = 0,
    environment: Mapping[str, str] | None = None,
    exported: Sequence[str] = (),
) -> list[str]:
    """The srun line that starts the ranks, up to the command that each of them runs (``profile.rank_python`` ...).

    Every rank prints into ``RUN_DIR/logs/rank-N.log``. ``mounts`` are the folders that a container must see beside
    those of the profile, under their own names: the output folder, the data. ``exported`` are the variables that mean
    the same in the container, whatever its image sets.
    """
    asked = profile.resources(kind, batch)
    return [
        "srun",
        f"--nodes={asked.nodes}",
        f"--ntasks={asked.num_ranks}",
        f"--ntasks-per-node={asked.ranks_per_node}",
        "--distribution=block",  # ranks of a node are neighbours, whatever the site's default
        *_step_cpus(asked, os.environ if environment is None else environment),
        *_step_gpus(asked),
        "--export=ALL",  # under sbatch --export=NONE a step would get nothing
        "--mpi=none",  # ranks meet by torch.distributed; PMIx would only be one more thing to fail
        "--input=none",
        # Ranks that saved leave one after the other with exit code 75. With 1, SLURM would kill the last of them within
        # KillWait, and srun's own exit code would be that signal's.
        "--kill-on-bad-exit=0",
        # What the others get once a rank has ended: for last files, or to find that it is gone. The site's WaitTime,
        # which this replaces, may be too short; without an end, a rank that waits for a dead one would hold the nodes.
        f"--wait={LEAVING_SECONDS}",
        f"--output={_pattern(run_dir / 'logs')}/rank-%t.log",
        "--open-mode=append",
        *_container(profile, asked, mounts, exported),
    ]


def _step_cpus(asked: Resources, env: Mapping[str, str]) -> list[str]:
    """srun does not take it from sbatch (since 22.05): without it a rank would be bound to a single CPU.

    Where the profile leaves it to SLURM, ranks share what the job has been given on a node, and are not bound.
    """
    if asked.cpus_per_task:
        return [f"--cpus-per-task={asked.cpus_per_task}"]
    given = env.get("SLURM_CPUS_ON_NODE", "").isdigit()
    return [*([f"--cpus-per-task={_share_of_node(asked, env)}"] if given else []), "--cpu-bind=none"]


def helper_command(num_nodes: int) -> list[str]:
    """The srun line of what runs once on each node of a job, beside or between its ranks."""
    tasks = [f"--ntasks={num_nodes}", "--ntasks-per-node=1", "--cpus-per-task=1"]
    return ["srun", "--export=ALL", *tasks, "--overlap", "--mpi=none", "--input=none", "--quiet"]


def _step_gpus(asked: Resources) -> list[str]:
    options = [f"--{option}" for option in _gpus(asked)]
    if options and asked.gpu_layout == "one":
        one = f"{asked.gpu_type}:1" if asked.gpu_type else "1"
        options += [f"--gpus-per-task={one}", "--gpu-bind=single:1"]
    return options


def _pattern(folder: Path) -> str:
    """A folder in srun's ``--output``, where % has a meaning."""
    return str(folder.absolute()).replace("%", "%%")


def _container(profile: Profile, asked: Resources, mounts: Sequence[Path], exported: Sequence[str]) -> list[str]:
    container = profile.container
    if not container.image:
        return []
    bound = mounts_of(profile, [PROJECT, *mounts, cache_folder(profile), scratch_root(profile)])
    if container.runtime == "pyxis":
        return pyxis_options(profile, bound, exported)
    cuda = ["--nv"] if asked.gpus_per_node else []
    return [container.runtime, "exec", *cuda, "--bind", ",".join(bound), container.image]


def rank_environment(
    profile: Profile, kind: str, job_id: str, environment: Mapping[str, str] | None = None, batch: int = 0
) -> dict[str, str]:
    """What every rank gets beside what the batch script has, whose variables are ``environment`` (ours by default).

    Compilers' caches lie on each node's own disk, in a folder of this job: on a shared disk, locks and half-written
    files of other nodes are in the way. What the profile sets goes before all this.
    """
    env = os.environ if environment is None else environment
    asked = profile.resources(kind, batch)
    scratch = job_scratch(profile, job_id, env)
    result = {
        "OMP_NUM_THREADS": str(asked.cpus_per_task or _share_of_node(asked, env)),
        "XTRAIN_CACHE": str(cache_folder(profile, env)),
        "XTRAIN_SCRATCH": str(scratch),
        "TRITON_CACHE_DIR": str(scratch / "triton"),
        "TORCHINDUCTOR_CACHE_DIR": str(scratch / "inductor"),
        "TORCH_EXTENSIONS_DIR": str(scratch / "extensions"),  # our own ops are in XTRAIN_CACHE
    }
    if profile.container.image:
        result["HF_HOME"] = str(hub_home(profile, env))
    if profile.network.interface:
        names = profile.network.interface.split(",")
        result["GLOO_SOCKET_IFNAME"] = ",".join(names)
        result["NCCL_SOCKET_IFNAME"] = "=" + ",".join(names)  # "=": these names, not all that begin so
    return {**result, **{name: str(value) for name, value in profile.environment.variables.items()}}


def _share_of_node(asked: Resources, env: Mapping[str, str]) -> int:
    cpus = env.get("SLURM_CPUS_ON_NODE", "")
    return max(1, (int(cpus) if cpus.isdigit() else os.cpu_count() or 1) // asked.ranks_per_node)


def cache_folder(profile: Profile, environment: Mapping[str, str] | None = None) -> Path:
    """``storage.cache`` with its variables filled in."""
    return _expand(profile, "cache", profile.storage.cache, environment)


def scratch_root(profile: Profile, environment: Mapping[str, str] | None = None) -> Path:
    """``storage.scratch`` with its variables filled in."""
    return _expand(profile, "scratch", profile.storage.scratch, environment)


def job_scratch(profile: Profile, job_id: str, environment: Mapping[str, str] | None = None) -> Path:
    """The folder of one job on each node's own disk: made when the node is checked, removed after the ranks."""
    return scratch_root(profile, environment) / f"xtrain-{os.getuid()}-{job_id}"


def _expand(profile: Profile, key: str, text: str, environment: Mapping[str, str] | None) -> Path:
    env = os.environ if environment is None else environment

    def value(match: re.Match[str]) -> str:
        name, default = match[1] or match[2], match[3]
        known = env.get(name) or (getpass.getuser() if name == "USER" else "")  # cron and containers do not set it
        if known or default is not None:
            return known or default
        raise UserError(
            Problem(
                f"{profile.file or profile.name}: storage.{key}",
                f"{text!r}: {name} is not set in the job",
                remedy=f"write ${{{name}:-/tmp}}, or a folder that every node has",
            )
        )

    return Path(_VARIABLE.sub(value, text)).expanduser()


def in_place_of_bash(command: str) -> str:
    """``command`` for the end of a batch script: bash has no use for signals, and dies of them.

    A SIGTERM of SLURM's goes to this one process alone where it tracks processes by cgroups.
    """
    return f"exec {command}"


def script_text(profile: Profile, kind: str, command: str, **parameters: Any) -> str:
    """The batch script of a job that runs ``command``, as submitit writes it; ``parameters`` are those of
    :func:`submitit_parameters`. Of a local profile there is none: an empty text."""
    if profile.scheduler == LOCAL:
        return ""
    from submitit.slurm.slurm import _make_sbatch_string

    more = submitit_parameters(profile, kind, **parameters)
    text: str = _make_sbatch_string(in_place_of_bash(command), "", **more)
    return text
