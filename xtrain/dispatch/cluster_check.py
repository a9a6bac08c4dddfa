"""What a profile's keys allow one by one but not together, with SLURM's options and secrets in the wrong places."""

from __future__ import annotations

import re
from collections.abc import Mapping

from xtrain.dispatch.cluster import LOCAL, SINGLE, TRAINING, Profile, Resources
from xtrain.errors import Problem, listed, nearest

_OPTION = re.compile(r"[a-z][a-z-]+")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_INTERFACES = re.compile(r"[\w.:@-]+(,[\w.:@-]+)*")

TAKEN: Mapping[str, str] = {
    # sbatch option -> the key that sets it, or why none does
    "partition": "partition", "account": "account", "qos": "qos", "constraint": "constraint",
    "reservation": "reservation", "nodes": "nodes", "ntasks": "nodes and tasks_per_node",
    "ntasks-per-node": "tasks_per_node", "ntasks-per-gpu": "tasks_per_node", "gpus": "gpus_per_node",
    "gpus-per-node": "gpus_per_node", "gpus-per-task": "gpus_per_node and gpu_layout",
    "gpus-per-socket": "gpus_per_node", "gres": 'gpus_per_node, gpu_type and gpu_option = "gres"',
    "gpu-bind": "gpu_layout", "cpus-per-task": "cpus_per_task", "cpus-per-gpu": "cpus_per_task",
    "mem": "memory_gib", "mem-per-cpu": "memory_gib", "mem-per-gpu": "memory_gib", "time": "time_limit",
    "exclusive": "exclusive", "signal": "[preemption] signal and lead_seconds", "requeue": "[preemption] requeue",
    "no-requeue": "[preemption] requeue", "job-name": "the phase's name", "dependency": "the study's graph",
    "kill-on-invalid-dep": "the study's graph", "array": "the study's graph", "output": "the run directory",
    "error": "the run directory", "input": "the run directory", "open-mode": "the run directory",
    "chdir": "the run directory", "comment": "the study", "wrap": "the batch script", "wait": "the submission",
    "hold": "the submission", "begin": "the submission", "test-only": "the submission", "parsable": "the submission",
    "quiet": "the submission",
}  # fmt: skip

OURS = (
    "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "CUDA_VISIBLE_DEVICES",
    "XTRAIN_ATTEMPT", "SUBMITIT_EXECUTOR",
)  # fmt: skip

_SECRET_NAME = re.compile(
    r"(^|_)(API_?KEY|ACCESS_?KEY|KEY|TOKEN|SECRET|PASSWORD|PASSWD|PASS|CREDENTIALS?)(_ID|_V?\d+)?$", re.IGNORECASE
)
_SECRET_VALUE = re.compile(
    r"hf_\w{16,}|gh[pousr]_\w{20,}|sk-[\w-]{16,}|AKIA[0-9A-Z]{16}|wandb_v\d_\w{16,}|[0-9a-f]{40}|-----BEGIN .*"
)
_SECRET_REMEDY = (
    "remove it here, and change it where it came from if the file was shared; export it in your shell, or use "
    "~/.netrc: sbatch passes your environment on, and no script holds it"
)


def check(profile: Profile, resources: Mapping[str, Resources], where: str, problems: list[Problem]) -> None:
    """Append what is wrong with ``profile`` as a whole; ``resources`` is empty where a kind's could not be read."""
    for kind, asked in resources.items():
        _check_ranks(kind, asked, f"{where}: job.{kind}", problems)
        _check_sbatch(asked, f"{where}: job.{kind}.sbatch", problems)
        if profile.scheduler == LOCAL:
            _check_local_kind(asked, f"{where}: job.{kind}", problems)
        else:
            _check_time(profile, kind, asked, where, problems)
    if profile.scheduler == LOCAL:
        _check_local(profile, where, problems)
    _check_environment(profile, where, problems)
    _check_rest(profile, where, problems)


def _check_ranks(kind: str, asked: Resources, where: str, problems: list[Problem]) -> None:
    if kind in SINGLE:
        if asked.num_ranks > 1 and (asked.nodes > 1 or asked.tasks_per_node):
            what = f"asks for {asked.nodes} x {asked.ranks_per_node} tasks"
            problems.append(Problem(where, what, "one task on one node", "it is one process; give it cpus_per_task"))
    elif asked.gpus_per_node and asked.ranks_per_node != asked.gpus_per_node:
        problems.append(
            Problem(
                f"{where}.tasks_per_node",
                f"{asked.ranks_per_node} tasks on {asked.gpus_per_node} GPUs of a node",
                f"{asked.gpus_per_node}: one task a GPU",
                "leave tasks_per_node out, or change gpus_per_node",
            )
        )


def _check_time(profile: Profile, kind: str, asked: Resources, where: str, problems: list[Problem]) -> None:
    limit = asked.time_limit_seconds
    if limit is None:
        remedy = 'add time_limit = "04:00:00" to [job]; sinfo shows what the partition allows'
        problems.append(Problem(f"{where}: job.{kind}.time_limit", "missing", remedy=remedy))
    elif kind in TRAINING and profile.preemption.lead_seconds >= limit:
        problems.append(
            Problem(
                f"{where}: preemption.lead_seconds",
                f"{profile.preemption.lead_seconds} s are not less than the time limit of {kind} jobs, {limit} s",
                f"less than {limit}",
                f"a longer job.{kind}.time_limit, or a shorter lead",
            )
        )


def _check_sbatch(asked: Resources, where: str, problems: list[Problem]) -> None:
    for option, value in asked.sbatch.items():
        name = option.lstrip("-").replace("_", "-")
        if name in TAKEN:
            problems.append(Problem(f"{where}.{option}", "is set already", remedy=f"by {TAKEN[name]}; remove it here"))
        elif not _OPTION.fullmatch(option):
            allowed = "a long option of sbatch without its dashes, in small letters: mail-type"
            problems.append(Problem(f"{where}.{option}", "is no option", allowed, nearest(name, TAKEN)))
        elif isinstance(value, str) and ("\n" in value or not value):
            problems.append(Problem(f"{where}.{option}", f"{value!r} is not allowed", "text in one line, or true"))


def _check_local_kind(asked: Resources, where: str, problems: list[Problem]) -> None:
    for key in ("partition", "account", "qos", "constraint", "reservation", "gpu_type", "exclusive", "sbatch"):
        if getattr(asked, key):
            what = f"{getattr(asked, key)!r} is not allowed"
            remedy = 'remove it, or set scheduler = "slurm"'
            problems.append(Problem(f"{where}.{key}", what, "nothing: a local profile has no queue", remedy))
    if asked.nodes > 1:
        problems.append(Problem(f"{where}.nodes", f"{asked.nodes} is not allowed", "1: this machine"))


def _check_local(profile: Profile, where: str, problems: list[Problem]) -> None:
    given = {
        "environment.modules": profile.environment.modules,
        "environment.setup": profile.environment.setup,
        "container.image": profile.container.image,
    }
    for key, value in given.items():
        if value:
            remedy = "prepare your shell instead, and submit from it"
            problems.append(Problem(f"{where}: {key}", "is not allowed in a local profile", remedy=remedy))


def _check_environment(profile: Profile, where: str, problems: list[Problem]) -> None:
    for name, value in profile.environment.variables.items():
        here = f"{where}: environment.variables.{name}"
        if not _NAME.fullmatch(name):
            problems.append(Problem(here, "is no name of a variable", "letters, digits and _"))
        elif name in OURS or name.startswith("SLURM_"):
            problems.append(Problem(here, "is set for each rank", remedy="remove it"))
        elif _SECRET_NAME.search(name) or _SECRET_VALUE.fullmatch(str(value)):
            problems.append(Problem(here, "looks like a secret, which no file may hold", remedy=_SECRET_REMEDY))
        elif "\n" in str(value):
            problems.append(Problem(here, "has more than one line", "text in one line"))
    for number, line in enumerate(profile.environment.setup):
        here = f"{where}: environment.setup[{number}]"
        for name, value in re.findall(r"(?:^|[\s;&])([A-Za-z_]\w*)=[\"']?([^\s\"';&]*)", line):
            plain = value and not value.startswith("$")
            if plain and (_SECRET_NAME.search(name) or _SECRET_VALUE.fullmatch(value)):
                problems.append(Problem(here, f"{name} looks like a secret", remedy=_SECRET_REMEDY))
    for number, module in enumerate(profile.environment.modules):
        if not re.fullmatch(r"[\w./+@:=-]+", module):
            here = f"{where}: environment.modules[{number}]"
            problems.append(Problem(here, f"{module!r} is no name of a module", "as in `module avail`: cuda/12.8"))


def _check_rest(profile: Profile, where: str, problems: list[Problem]) -> None:
    if profile.limits.running > profile.limits.queued:
        what = f"{profile.limits.running} jobs cannot run of {profile.limits.queued} in the queue"
        problems.append(Problem(f"{where}: limits.running", what, f"at most limits.queued, {profile.limits.queued}"))
    interface = profile.network.interface
    if interface and not _INTERFACES.fullmatch(interface):
        remedy = "for patterns set NCCL_SOCKET_IFNAME in [environment] variables instead; Gloo takes names alone"
        allowed = "names of interfaces as `ip -br addr` shows them, with commas between"
        problems.append(Problem(f"{where}: network.interface", f"{interface!r} is not allowed", allowed, remedy))
    container = profile.container
    if not container.image and container.mounts:
        problems.append(Problem(f"{where}: container.image", "missing", remedy="name the image, or remove mounts"))
    for number, mount in enumerate(container.mounts):
        parts = mount.split(":")
        if "," in mount or len(parts) > 3 or not all(part.startswith("/") for part in parts[:2]):
            here = f"{where}: container.mounts[{number}]"
            problems.append(Problem(here, f"{mount!r} is not allowed", "/folder, /host:/inside or /host:/inside:ro"))
    for key, folder in (("scratch", profile.storage.scratch), ("cache", profile.storage.cache)):
        if not re.match(r"[/~$]", folder):
            allowed = listed(["/absolute/path", "~/path", "$VARIABLE/path"])
            problems.append(Problem(f"{where}: storage.{key}", f"{folder!r} is not allowed", allowed))
