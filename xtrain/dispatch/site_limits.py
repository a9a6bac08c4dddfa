"""How many more jobs the site lets this user have in the queue (``MaxSubmitJobs``), as far as its accounting says."""

from __future__ import annotations

import os
import pwd
from collections.abc import Iterable
from dataclasses import dataclass

from xtrain.dispatch import slurm
from xtrain.dispatch.cluster import Profile, Resources

SACCTMGR = ("sacctmgr", "--noheader", "--parsable2", "--readonly", "show")
PATIENCE_SECONDS = 10.0  # a command; where accounting is slow, sbatch will say the same


@dataclass(frozen=True)
class SubmitLimit:
    """One of the site's limits on a user's jobs in the queue, waiting and running together."""

    most: int
    name: str
    """For people: ``MaxSubmitJobs of account main``."""
    used: int = 0
    """Jobs of this user that count already, those of the study too."""

    @property
    def free(self) -> int:
        """How many more may be submitted."""
        return max(0, self.most - self.used)

    def __str__(self) -> str:
        return f"{self.name} = {self.most}, {self.used} in the queue"


def submit_limit(profile: Profile, kinds: Iterable[str]) -> SubmitLimit | None:
    """The limit that leaves the least room for jobs of these kinds; None where there is none, or none is to be learnt.

    Never fatal: a limit that is not seen here (a group's, one of the controller's) is one that sbatch names.
    """
    rows = _associations(profile)
    if not rows:
        return None
    limits: dict[str, tuple[int, str, str, str]] = {}  # name -> most; account, partition, QOS of the jobs that count
    partitions, names = set(), set()  # of all kinds: SLURM is asked about each once
    for asked in [profile.resources(kind) for kind in sorted(set(kinds))]:
        for row in _applying(rows, asked):
            where = f"account {row.account}" + (f" in partition {row.partition}" if row.partition else "")
            if row.most is not None:
                limits[f"MaxSubmitJobs of {where}"] = (row.most, row.account, row.partition, "")
            partitions.add(asked.partition)
            names.add(asked.qos or row.default_qos)
    names |= {_qos_of_partition(partition) for partition in partitions}
    for qos, most in _qos_limits(names - {""}).items():
        limits[f"MaxSubmitJobsPerUser of QOS {qos}"] = (most, "", "", qos)
    jobs = _own_jobs() if limits else None
    if jobs is None:
        return None
    known = [
        SubmitLimit(most, name, sum(_counts(job, account, partition, qos) for job in jobs))
        for name, (most, account, partition, qos) in limits.items()
    ]
    return min(known, key=lambda limit: limit.free)


def default_qos(profile: Profile, kind: str) -> str:
    """The QOS that jobs of ``kind`` get where the profile names none; an empty string if that is not to be learnt."""
    rows = _applying(_associations(profile), profile.resources(kind))
    return rows[0].default_qos if rows else ""


@dataclass(frozen=True)
class _Association:
    account: str
    partition: str  # empty: any
    most: int | None
    default_qos: str  # SLURM's own is "normal"
    is_default: bool


def _associations(profile: Profile) -> list[_Association]:
    """What sacctmgr has of this user on this cluster."""
    config = (line.partition("=") for line in ([] if profile.cluster else _lines(["scontrol", "show", "config"])))
    cluster = profile.cluster or next((value.strip() for name, _, value in config if name.strip() == "ClusterName"), "")
    user = pwd.getpwuid(os.getuid()).pw_name
    fields = "DefaultAccount,Cluster,Account,Partition,MaxSubmitJobs,DefaultQOS"
    said = _lines([*SACCTMGR, "user", user, "withassoc", f"format={fields}"])
    found = []
    for values in (line.split("|") for line in said):
        if len(values) == 6 and (not cluster or values[1] == cluster):
            default, _, account, partition, most, qos = values
            found.append(_Association(account, partition, _number(most), qos or "normal", account == default))
    return found


def _applying(rows: list[_Association], asked: Resources) -> list[_Association]:
    """The associations that a job goes by: of its account (the default one if none is named) and its partition."""
    account = asked.account or os.environ.get("SBATCH_ACCOUNT", "")
    mine = [row for row in rows if (row.account == account if account else row.is_default)]
    wanted = asked.partition.split(",")
    return [row for row in mine if row.partition in ("", *wanted)]


def _qos_of_partition(partition: str) -> str:
    """The QOS that a partition lays on its jobs; an empty string for none."""
    said = " ".join(_lines(["scontrol", "--oneliner", "show", "partition", partition])) if partition else ""
    names = [word.split("=", 1)[1] for word in said.split() if word.startswith("QoS=")]
    return names[0] if names and names[0] != "N/A" else ""


def _qos_limits(names: set[str]) -> dict[str, int]:
    if not names:
        return {}
    which = f"name={','.join(sorted(names))}"
    said = _lines([*SACCTMGR, "qos", which, "format=Name,MaxSubmitJobsPerUser"])
    pairs = [line.split("|") for line in said if line.count("|") == 1]
    return {name: most for name, text in pairs if (most := _number(text)) is not None}


def _own_jobs() -> list[tuple[str, str, str]] | None:
    """Account, partition and QOS of each job of this user that waits or runs; None where squeue does not answer."""
    command = [slurm.SQUEUE, "--noheader", "--all", "--array", f"--user={os.getuid()}",
               "--Format=Account:|,Partition:|,QOS:|"]  # fmt: skip
    reply, out = slurm.asked(command, PATIENCE_SECONDS)
    jobs = [line.split("|") for line in out.splitlines()]
    return [(one[0], one[1], one[2]) for one in jobs if len(one) >= 3] if reply.ok else None


def _counts(job: tuple[str, str, str], account: str, partition: str, qos: str) -> bool:
    """Whether a job counts against a limit of this account and partition, or of this QOS."""
    return all(not wanted or wanted == has for wanted, has in zip((account, partition, qos), job, strict=True))


def _lines(command: list[str]) -> list[str]:
    reply, out = slurm.asked(command, PATIENCE_SECONDS)
    return out.splitlines() if reply.ok else []


def _number(text: str) -> int | None:
    return int(text) if text.isdecimal() else None
