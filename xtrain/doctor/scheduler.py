"""SLURM's own settings, against what a study's jobs need to live through time limits and lost nodes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from xtrain.dispatch.cluster import KINDS, Profile, Resources
from xtrain.dispatch.site_limits import SACCTMGR, default_qos, submit_limit
from xtrain.dispatch.slurm import duration_seconds
from xtrain.doctor.commands import ask
from xtrain.doctor.findings import Finding, note, ok, problem, seconds
from xtrain.doctor.nodes import KIND
from xtrain.errors import counted, listed, nearest

LONG_SILENCE_SECONDS = 600
_IN_SERVICE = ("idle", "mixed", "allocated", "completing", "planned", "reserved", "blocked")
# What sinfo appends (NODE STATE CODES in its manual page): jobs still completing; asleep, waking, about to sleep or
# falling asleep, all of which SLURM wakes again; planned for a job; to be rebooted once idle, until when it takes jobs.
# Not: `*` does not respond, `$` reserved for a maintenance, `^` reboots now. To each of these SLURM gives no job.
_STILL_SERVES = "+~#!%-@"

Settings = Mapping[str, str]


@dataclass(frozen=True)
class Site:
    """What SLURM says of itself."""

    version: str
    config: Settings
    """``scontrol show config``."""
    partition: Settings
    """``scontrol show partition``, of the profile's or the default one; empty if there is none."""
    partitions: tuple[str, ...]
    nodes: tuple[SiteNode, ...]
    """Of the partition."""
    qos: QosRules | None = None
    """Of the jobs' quality of service, where that decides who preempts whom and sacctmgr tells."""


@dataclass(frozen=True)
class QosRules:
    """What a quality of service says of preemption."""

    name: str
    mode: str
    """``requeue``, ``cancel``..., or ``cluster`` for what slurm.conf has."""
    grace: str
    """As SLURM writes a time."""
    preempted_by: tuple[str, ...]


@dataclass(frozen=True)
class SiteNode:
    """A node, as sinfo has it."""

    name: str
    state: str
    """``idle``, ``down``, ``drained``... and perhaps a sign: ``mixed-`` is planned, ``idle*`` does not respond."""
    gpus: Mapping[str, int]
    """Type of GPU -> number; the type may be empty."""
    features: tuple[str, ...]
    reason: str
    cpus: int = 0
    memory_mib: int = 0

    @property
    def in_service(self) -> bool:
        """Whether jobs run on it, or may when it is free."""
        return self.state.rstrip(_STILL_SERVES).lower() in _IN_SERVICE


def ask_site(profile: Profile) -> Site | Finding:
    """Ask SLURM; a finding where it does not answer."""
    ping = ask(["scontrol", "ping"])
    config = ask(["scontrol", "show", "config"])
    if config.code:
        said = config.trouble or ping.trouble
        if "No such file" in said:
            to_do = "call it where SLURM's commands are: a login node, or after module load slurm"
        else:
            to_do = "is this a login node of the cluster (SLURM_CONF)? ask the site whether slurmctld is up (sdiag)"
        return problem("SLURM", said, to_do)
    settings = _settings(config.out)
    all_of_them = [_fields(text) for text in re.split(r"\n\s*\n", ask(["scontrol", "--all", "show", "partition"]).out)]
    partitions = {fields["PartitionName"]: fields for fields in all_of_them if "PartitionName" in fields}
    default = next((name for name, fields in partitions.items() if fields.get("Default") == "YES"), "")
    name = profile.resources(KIND).partition.split(",")[0] or default
    qos = _qos_rules(profile) if settings.get("PreemptType") == "preempt/qos" else None
    version = settings.get("SLURM_VERSION", "")
    return Site(version, settings, partitions.get(name, {}), tuple(partitions), _site_nodes(name), qos)


def _qos_rules(profile: Profile) -> QosRules | None:
    """The rules of the QOS that the jobs have: the profile's, or their association's default one."""
    name = profile.resources(KIND).qos or default_qos(profile, KIND)
    said = ask([*SACCTMGR, "qos", "format=Name,Preempt,PreemptMode,GraceTime"])
    rows = {line.split("|")[0]: line.split("|") for line in said.out.splitlines() if line.count("|") == 3}
    if name not in rows:
        return None
    others = tuple(other for other, row in rows.items() if name in row[1].split(","))
    return QosRules(name, rows[name][2], rows[name][3], others)


def _settings(text: str) -> dict[str, str]:
    """``Name = value`` lines."""
    pairs = (line.partition("=") for line in text.splitlines())
    return {name.strip(): value.strip() for name, equals, value in pairs if equals}


def _fields(text: str) -> dict[str, str]:
    """``Name=value`` words."""
    return dict(word.split("=", 1) for word in text.split() if "=" in word)


def _site_nodes(partition: str) -> tuple[SiteNode, ...]:
    if not partition:
        return ()
    # A partition that is named may be hidden; sinfo takes no --all with it.
    said = ask(["sinfo", "--noheader", "--Node", f"--partition={partition}", "--format=%N|%T|%G|%f|%c|%m|%E"])
    found = []
    for line in said.out.splitlines():
        name, state, gres, features, cpus, memory, reason = (part.strip() for part in line.split("|", 6))
        kinds, reasons = _gpus(gres), "" if reason == "none" else reason
        found.append(
            SiteNode(
                name, state, kinds, tuple(features.split(",")), reasons, leading_number(cpus), leading_number(memory)
            )
        )
    return tuple(found)


def _gpus(gres: str) -> dict[str, int]:
    """``gpu:h100:8(S:0-1),gpu:1g.10gb:7,gpu:2`` as types and numbers."""
    found: dict[str, int] = {}
    for kind, number in re.findall(r"(?:^|,)gpu:(?:([^:,()]+):)?(\d+)(?=[,(]|$)", gres):
        found[kind] = found.get(kind, 0) + int(number)
    return found


def check_site(site: Site, profile: Profile, nodes: int) -> Iterator[Finding]:
    """Everything that can be told without running a job."""
    asked = profile.resources(KIND)
    yield ok("SLURM", f"{site.version}, cluster {site.config.get('ClusterName', '')}")
    if not site.partition:
        remedy = nearest(asked.partition, site.partitions) or "set partition in [job] of the profile"
        found = f"there is none called {asked.partition!r}" if asked.partition else "there is no default partition"
        return (yield problem("partition", found, f"{remedy}; there are: {listed(site.partitions) or 'none'}"))
    yield check_partition(site.partition)
    yield from check_nodes(site, asked, nodes)
    yield from check_times(site, profile)
    yield check_accounting(site.config)
    yield check_queue_limit(profile)
    yield from check_requeue(site.config, profile)
    yield from check_rest(site.config)


def check_partition(partition: Settings) -> Finding:
    """Whether it takes jobs."""
    name, state = partition["PartitionName"], partition.get("State", "")
    if state != "UP":
        return problem("partition", f"{name} is {state}", "choose another one in [job] of the profile (sinfo -s)")
    return ok("partition", f"{name} is up, nodes: {partition.get('TotalNodes', '?')}")


def check_nodes(site: Site, asked: Resources, nodes: int) -> Iterator[Finding]:
    """Whether there are ``nodes`` nodes of the wanted kind; those out of service, with SLURM's reasons."""
    kind = f"of {site.partition['PartitionName']}"
    suited = [node for node in site.nodes if not _unsuited(node, asked)]
    alive = [node for node in suited if node.in_service]
    out = [node for node in site.nodes if not node.in_service]
    said = listed((f"{node.name} ({node.state}{f': {node.reason}' if node.reason else ''})" for node in out), 12)
    to_do = f"ask for fewer nodes in [job.{KIND}] of the profile"
    if len(alive) < nodes:
        why = {_unsuited(node, asked) for node in site.nodes} - {""}
        found = f"{nodes} are wanted, {len(alive)} {kind} can serve"
        found += f"; out of service: {said}" if out else ""
        found += f"; not suited: {listed(sorted(why), 6)}" if why else ""
        more = (
            "; ask the site about those out of service (sinfo -R)"
            if out
            else "; sinfo -N -o '%N %G %f %c %m' lists all"
        )
        return (yield problem("nodes", found, to_do + more))
    yield ok("nodes", f"{len(alive)} {kind} in service, {nodes} wanted")
    if out:
        yield note("nodes out of service", said, "ask the site if they are missed (sinfo -R)")


def num_usable(site: Site, profile: Profile) -> int:
    """Nodes of the partition that are in service and have what a job asks of each."""
    asked = profile.resources(KIND)
    if site.partition.get("State") != "UP":
        return 0
    return sum(node.in_service and not _unsuited(node, asked) for node in site.nodes)


def longest_minutes(site: Site) -> int | None:
    """The partition's MaxTime in minutes; None for none."""
    most = duration_seconds(site.partition.get("MaxTime", ""))
    return None if most is None else max(1, int(most) // 60)


def _unsuited(node: SiteNode, asked: Resources) -> str:
    """What a node lacks of what a job asks for, or nothing; combinations of features are left to SLURM."""
    gpus = node.gpus.get(asked.gpu_type, 0) if asked.gpu_type else sum(node.gpus.values())
    if gpus < asked.gpus_per_node:
        kind = f"{asked.gpu_type} " if asked.gpu_type else ""
        return f"{node.name} has {counted(gpus, f'{kind}GPU')}, not {asked.gpus_per_node}"
    cpus = asked.ranks_per_node * (asked.cpus_per_task or 1)
    if node.cpus < cpus:
        return f"{node.name} has {counted(node.cpus, 'CPU')}, not {cpus}"
    if asked.memory_gib and node.memory_mib < asked.memory_gib * 1024:
        return f"{node.name} has {node.memory_mib / 1024:.0f} GiB of memory, not {asked.memory_gib:g}"
    if re.fullmatch(r"[\w.-]+", asked.constraint) and asked.constraint not in node.features:
        return f"{node.name} is not {asked.constraint}"
    return ""


def check_times(site: Site, profile: Profile) -> Iterator[Finding]:
    """The time limit against the partition's, and against the time that a job takes to save before it."""
    asked = profile.resources(KIND)
    limit, lead = asked.time_limit_seconds, profile.lead_seconds(KIND)
    most = duration_seconds(site.partition.get("MaxTime", ""))
    name = site.partition["PartitionName"]
    if limit is None or lead is None:
        return
    if most is not None and limit > most:
        found = f"{seconds(limit)} are asked for, {name} allows {seconds(most)} (MaxTime)"
        refused = site.config.get("EnforcePartLimits", "NO") in ("ALL", "ANY", "YES")
        found += ": sbatch refuses the jobs" if refused else ": the jobs would wait for ever (PartitionTimeLimit)"
        to_do = f"set time_limit in [job.{KIND}] of the profile to {seconds(most)} or less, or choose another partition"
        yield problem("time limit", found, to_do)
    else:
        allowed = f", {name} allows {seconds(most)}" if most is not None else ""
        yield ok("time limit", f"{seconds(limit)}{allowed}; jobs save {lead} s before its end")
    if most is not None and most <= profile.preemption.lead_seconds:
        found = (
            f"{name} allows {seconds(most)}, and jobs are to save {profile.preemption.lead_seconds} s before the end"
        )
        to_do = "choose a partition that allows longer jobs, or a shorter preemption.lead_seconds in the profile"
        yield problem("lead time", found, to_do)
    elif lead < profile.preemption.lead_seconds:
        found = f"{lead} s, a quarter of the time limit, instead of {profile.preemption.lead_seconds} s"
        to_do = f"a time limit of {seconds(4 * profile.preemption.lead_seconds)} or more leaves the whole lead"
        yield note("lead time", found, to_do)


def check_accounting(config: Settings) -> Finding:
    """Whether sacct will answer."""
    kind = config.get("AccountingStorageType", "")
    if kind in ("", "(null)", "accounting_storage/none"):
        age = leading_number(config.get("MinJobAge", ""))
        found = f"off: xtrain goes by squeue, which forgets ended jobs after {seconds(age)}, and by the run directories"
        return note("accounting", found, "nothing; a job that died without a word is only known by its run directory")
    return ok("accounting", kind.partition("/")[2] or kind)


def check_queue_limit(profile: Profile) -> Finding:
    """``MaxSubmitJobs`` of the user's association or QOS, against ``limits.queued`` of the profile."""
    limit, queued = submit_limit(profile, KINDS), profile.limits.queued
    if limit is None:
        return ok("jobs in the queue", f"no limit that sacctmgr tells; at most {queued} of a study (limits.queued)")
    found = f"{limit}"
    if limit.most < queued:
        later = "the report's job submits what there is no room for, if nodes may call sbatch"
        return note("jobs in the queue", f"{found}; limits.queued = {queued}: {later}", "nothing, or ask for more")
    return ok("jobs in the queue", found)


def check_requeue(config: Settings, profile: Profile) -> Iterator[Finding]:
    """Whether jobs come back after a preemption, a lost node or their time limit."""
    if profile.resources(KIND).sbatch.get("no-requeue"):
        found = "no-requeue: when a job loses its first node, nothing of it is left to submit the one that would go on"
        to_do = "remove no-requeue from [job.sbatch] of the profile; or submit the study again after a lost node"
        return (yield note("requeue", found, to_do))
    how = "jobs put themselves back into the queue (scontrol requeue)"
    if not profile.preemption.requeue:
        how = "not by the jobs: each submits the next one (preemption.requeue = false)"
    asked = "; JobRequeue=0 is only the default" if config.get("JobRequeue") == "0" else ""
    yield ok("requeue", f"{how}; SLURM requeues those that it preempts or that lose a node (--requeue{asked})")


def check_rest(config: Settings) -> Iterator[Finding]:
    """Settings that change what a user sees, and seldom matter."""
    silence = leading_number(config.get("SlurmdTimeout", ""))
    if silence == 0 or silence > LONG_SILENCE_SECONDS:
        found = "never" if silence == 0 else f"after {seconds(silence)}"
        to_do = "nothing; the ranks notice by themselves after engine.stall_minutes, and the job goes on elsewhere"
        yield note("SlurmdTimeout", f"SLURM gives a silent node up {found}", to_do)
    if config.get("EnforcePartLimits", "NO") == "NO":
        found = "NO: a job that no node can serve waits for ever instead of being refused"
        yield note(
            "EnforcePartLimits", found, "squeue then shows the reason PartitionConfig, PartitionTimeLimit or the like"
        )
    if config.get("ProctrackType", "").endswith(("linuxproc", "pgid")):
        found = f"{config['ProctrackType']}: processes that leave their session outlive the job"
        yield note("ProctrackType", found, "nothing; xtrain's ranks stay in theirs")
    if config.get("DisableRootJobs", "").upper().startswith("YES"):
        yield note("DisableRootJobs", "root may not run jobs", "submit as a user")


def leading_number(text: str) -> int:
    """The number that a value like ``60 sec`` begins with; 0 where it begins with none."""
    match = re.match(r"\d+", text)
    return int(match.group()) if match else 0
