"""What a profile's keys allow one by one but not together, with SLURM's options and secrets in the wrong places."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from xtrain.dispatch.cluster import LOCAL, SINGLE, TRAINING, Profile, Resources
from xtrain.errors import Problem, counted, listed, nearest

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
    "mem": "memory_gib", "mem-per-cpu": "memory_gib_per_cpu", "mem-per-gpu": "memory_gib", "time": "time_limit",
    "exclusive": "exclusive", "signal": "[preemption] signal and lead_seconds", "requeue": "[preemption] requeue",
    "job-name": "the phase's name", "dependency": "the study's graph",
    "clusters": "cluster, beside scheduler", "cluster": "cluster, beside scheduler",
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
_SECRET_VALUE = re.compile(  # as whole words: a digest of 64 digits, or a folder like hf_hub_cache_of_us, is none
    r"(?<!\w)(hf_[A-Za-z0-9]{16,}|gh[pousr]_\w{20,}|sk-(?=[\w-]*\d)[\w-]{16,}|AKIA[0-9A-Z]{16}|wandb_v\d_\w{16,}"
    r"|[0-9a-f]{40})(?!\w)|-----BEGIN "
)
_ASSIGNMENT = re.compile(r"(?<![\w$.-])([A-Za-z_]\w*)=[\"']?([^\s\"';&,]*)")
_SECRET_REMEDY = (
    "remove it here, and change it where it came from if the file was shared; export it in your shell, or use "
    "~/.netrc: sbatch passes your environment on, and no script holds it (a commit can be named by fewer digits)"
)


def check(profile: Profile, resources: Mapping[str, Resources], where: str, problems: list[Problem]) -> None:
    """Append what is wrong with ``profile`` as a whole; ``resources`` is empty where a kind's could not be read."""
    secrets = _secrets(profile, where)
    found: list[Problem] = []
    for kind, asked in resources.items():
        job = _Job(kind, asked, profile, where)
        job.check()
        found += [problem for problem in job.problems if problem not in found]  # of [job] itself: once
    if profile.scheduler == LOCAL:
        _check_local(profile, where, found)
    elif not re.fullmatch(r"[\w.-]*", profile.cluster):
        what = f"{profile.cluster!r} is not allowed"
        found.append(Problem(f"{where}: cluster", what, "one name, as sacctmgr show clusters has it"))
    _check_environment(profile, where, found)
    _check_rest(profile, where, found)
    hidden = {secret.where for secret in secrets}  # what else is said of a key shows what stands there
    problems += [*secrets, *(problem for problem in found if problem.where not in hidden)]


@dataclass
class _Job:
    """One kind of job, checked."""

    kind: str
    asked: Resources
    profile: Profile
    file: str
    problems: list[Problem] = field(default_factory=list)

    def check(self) -> None:
        self._check_ranks()
        self._check_sbatch()
        if self.asked.memory_gib is not None and self.asked.memory_gib_per_cpu is not None:
            self._add("memory_gib_per_cpu", "is not allowed beside memory_gib", remedy="leave one of the two out")
        if "\n" in self.asked.comment:
            self._add("comment", "has more than one line", "text in one line")
        if self.profile.scheduler == LOCAL:
            self._check_local()
        else:
            self._check_time()
            self._check_gpus()

    def _add(self, key: str, what: str, allowed: str = "", remedy: str = "") -> None:
        own: Any = self.profile.job.get(self.kind, {})
        name = key.partition(".")[0]
        own = name in own and (key == name or key.partition(".")[2] in own[name])
        self.problems.append(Problem(f"{self.file}: job.{f'{self.kind}.' * own}{key}", what, allowed, remedy))

    def _check_ranks(self) -> None:
        gpus, tasks = self.asked.gpus_per_node, self.asked.ranks_per_node
        if self.kind in SINGLE:
            for key, number in (("nodes", self.asked.nodes), ("tasks_per_node", self.asked.tasks_per_node or 1)):
                if number > 1:
                    remedy = "it is one process: remove the key, and give it cpus_per_task"
                    self._add(key, f"{number} is not allowed for {self.kind}", "1", remedy)
        elif gpus and tasks != gpus:
            remedy = "leave tasks_per_node out, or change gpus_per_node"
            self._add(
                "tasks_per_node",
                f"{counted(tasks, 'task')} on {counted(gpus, 'GPU')}",
                f"{gpus}: one task a GPU",
                remedy,
            )

    def _check_time(self) -> None:
        limit, lead = self.asked.time_limit_seconds, self.profile.preemption.lead_seconds
        if limit is None:
            self._add("time_limit", "missing", remedy='add time_limit = "04:00:00"; sinfo -s has the most there is')
        elif self.kind in TRAINING and lead >= limit:
            what = f"{limit} s, but training begins to save {lead} s before a job's end"
            self._add("time_limit", what, f"more than {lead} s", "a longer time limit, or less preemption.lead_seconds")

    def _check_gpus(self) -> None:
        if self.asked.gpus_per_node and self.asked.gpu_option == "gres" and self.asked.gpu_layout == "one":
            what = '"one" takes srun --gpus-per-task, which a site that knows only gres lacks'
            remedy = "leave gpu_layout out: training takes either; or gpu_option, if sbatch --gpus-per-node=1 is taken"
            self._add("gpu_layout", what, '"all" with gpu_option = "gres"', remedy)

    def _check_sbatch(self) -> None:
        for option, value in self.asked.sbatch.items():
            key = f"sbatch.{option}"
            name = option.lstrip("-").replace("_", "-")
            if name in TAKEN:
                self._add(key, "is set already", remedy=f"by {TAKEN[name]}; remove it here")
            elif not _OPTION.fullmatch(option):
                allowed = "a long option of sbatch without its dashes, in small letters: mail-type"
                self._add(key, "is no option", allowed, nearest(name, TAKEN))
            elif isinstance(value, str) and ("\n" in value or not value):
                self._add(key, "is empty" if not value else "has more than one line", "text in one line, or true")

    def _check_local(self) -> None:
        for key in ("partition", "account", "qos", "constraint", "reservation", "gpu_type", "exclusive", "sbatch"):
            if value := getattr(self.asked, key):
                remedy = 'remove it, or set scheduler = "slurm"'
                what = "" if key == "sbatch" else f"{value!r} "
                self._add(key, f"{what}is not allowed", "nothing: a local profile has no queue", remedy)
        if self.asked.nodes > 1:
            self._add("nodes", f"{self.asked.nodes} is not allowed", "1: this machine")


def _check_local(profile: Profile, where: str, problems: list[Problem]) -> None:
    given = {
        "cluster": profile.cluster,
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
        elif "\n" in str(value):
            problems.append(Problem(here, "has more than one line", "text in one line"))
    for number, module in enumerate(profile.environment.modules):
        if not re.fullmatch(r"[\w./+@:=-]+", module):
            here = f"{where}: environment.modules[{number}]"
            problems.append(Problem(here, f"{module!r} is no name of a module", "as in `module avail`: cuda/12.8"))


def _secrets(profile: Profile, where: str) -> list[Problem]:
    """What looks like a secret: batch scripts and job.json hold every text of a profile."""
    found = []
    for key, text in _texts({**profile.to_mapping(), "name": "", "file": ""}, ""):
        named = [name for name, value in _ASSIGNMENT.findall(text) if value and not value.startswith(("$", "`"))]
        if key.startswith("environment.variables."):
            named.append(key.rpartition(".")[2])
        if _SECRET_VALUE.search(text) or any(map(_SECRET_NAME.search, named)):
            what = "looks like a secret, which no file may hold"
            found.append(Problem(f"{where}: {key}", what, remedy=_SECRET_REMEDY))
    return found


def _texts(value: Any, key: str) -> Iterator[tuple[str, str]]:
    """Every text in a profile, with its key."""
    if isinstance(value, Mapping):
        for name, item in value.items():
            yield from _texts(item, f"{key}.{name}" if key else str(name))
    elif isinstance(value, (list, tuple)):
        for number, item in enumerate(value):
            yield from _texts(item, f"{key}[{number}]")
    elif not isinstance(value, bool):
        yield key, str(value)


def _check_rest(profile: Profile, where: str, problems: list[Problem]) -> None:
    if profile.limits.running > profile.limits.queued:
        what = f"{profile.limits.running} jobs cannot run of {profile.limits.queued} in the queue"
        problems.append(Problem(f"{where}: limits.running", what, f"at most limits.queued, {profile.limits.queued}"))
    interface = profile.network.interface
    if interface and not _INTERFACES.fullmatch(interface):
        remedy = "for patterns set NCCL_SOCKET_IFNAME in [environment] variables instead; Gloo takes names alone"
        allowed = "names of interfaces as `ip -br addr` shows them, with commas between"
        problems.append(Problem(f"{where}: network.interface", f"{interface!r} is not allowed", allowed, remedy))
    for base, rate in profile.rates.tokens_per_second.items():
        if not 0 < rate < float("inf"):
            here = f"{where}: rates.tokens_per_second.{base}"
            problems.append(Problem(here, f"{rate!r} is not allowed", "a number > 0"))
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
