"""SLURM's words for why a job waits or ended, in plain ones, with what can be done."""

from __future__ import annotations

import re

_AGAIN = "in the profile, cancel it (python -m xtrain cancel), and submit again"
_MINE = "sacctmgr show assoc user=$USER format=account,partition,qos lists what is the user's"
_LIMITS = "sacctmgr show qos (or assoc) lists the limits"

# Reason -> what it means, and what to do; the last is empty where only waiting helps.
_WAITS: dict[str, tuple[str, str]] = {
    "None": ("the scheduler has not looked at it yet", ""),
    "Priority": ("jobs of a higher priority come first", ""),
    "Resources": ("next in line: waits until enough nodes are free", ""),
    "Dependency": ("waits for another job", ""),
    "DependencyNeverSatisfied": ("the job that it needs has failed: SLURM will cancel it", "submit the study again"),
    "BeginTime": ("may not start before a time; after a requeue SLURM waits a while (two minutes, mostly)", ""),
    "JobHeldUser": ("held by the user", "scontrol release {job}"),
    "JobHeldAdmin": ("held by an administrator, who alone can release it", "ask the site why"),
    "JobArrayTaskLimit": ("its job array runs as many tasks at once as it may", ""),
    "ReqNodeNotAvail": ("nodes that it needs are down, drained, or reserved for a maintenance that it would run into",
                        "sinfo -R says why; a shorter time limit may fit in before a maintenance"),
    "Reservation": ("its reservation has not begun", "scontrol show reservation says when it does"),
    "ReservationDeleted": ("its reservation is gone: it never starts", f"change reservation {_AGAIN}"),
    "Licenses": ("waits until others return licences", "scontrol show licenses lists them"),
    "PartitionDown": ("its partition is closed", "sinfo shows the others; change the partition in the profile"),
    "PartitionInactive": ("its partition is closed", "sinfo shows the others; change the partition in the profile"),
    "PartitionNodeLimit": ("asks for more or fewer nodes than its partition allows, or nodes of it are down",
                           f"scontrol show partition has MinNodes and MaxNodes; change nodes or partition {_AGAIN}"),
    "PartitionTimeLimit": ("asks for more time than its partition allows: it never starts",
                           f"lower time_limit {_AGAIN}"),
    "PartitionConfig": ("asks for what its partition does not have or allow, so many nodes or so long a time: it never "
                        "starts", f"compare scontrol show partition; change nodes, time_limit or partition {_AGAIN}"),
    "BadConstraints": ("no node can ever meet what it asks for: it never starts",
                       f"change constraint, GPUs or memory {_AGAIN}"),
    "MaxMemPerLimit": ("asks for more memory than a node or a CPU may give: it never starts",
                       f"lower memory_gib {_AGAIN}"),
    "NodeDown": ("a node that it needs is down", "sinfo -R says why"),
    "InvalidAccount": ("the account does not exist, or is not the user's: it never starts",
                       f"{_MINE}; change account {_AGAIN}"),
    "InvalidQOS": ("the QOS does not exist, or is not the user's: it never starts", f"{_MINE}; change qos {_AGAIN}"),
    "AccountNotAllowed": ("its partition does not take jobs of the account: it never starts",
                          f"scontrol show partition has AllowAccounts; change account or partition {_AGAIN}"),
    "QOSNotAllowed": ("its partition or account does not take jobs of the QOS: it never starts",
                      f"scontrol show partition has AllowQos; {_MINE}; change qos, account or partition {_AGAIN}"),
    "QOSUsageThreshold": ("the account has used more than the QOS lets it: its share has to recover",
                          f"sshare shows it; wait, or change qos {_AGAIN}"),
    "AccountingPolicy": ("a limit of the account or the QOS", _LIMITS),
    "JobLaunchFailure": ("starting it failed on the node", "the log of slurmd on the node says why"),
    "launch failed requeued held": ("starting it failed, and SLURM holds it", "scontrol release {job}"),
    "JobHoldMaxRequeue": ("was requeued as often as the site allows", "scontrol release {job}"),
    "Prolog": ("the site's prologue is running on its nodes", ""),
    "Cleaning": ("its last start is being cleared away", ""),
    "FrontEndDown": ("no front end is up", ""),
    "BurstBufferResources": ("waits for burst buffer space", ""),
    "SystemFailure": ("SLURM failed", "ask the site"),
}  # fmt: skip

_FEWER = f"lower limits.running in the profile; {_LIMITS}"
_SMALLER = f"{_LIMITS}; lower nodes, GPUs, CPUs, memory_gib or time_limit {_AGAIN}, or ask for another account or QOS"
# Limits of an account or a QOS ({whose}), of which there are over a hundred; the first that fits counts. What a single
# job asks for does not become less by waiting, nor does what all jobs have used so far.
_LIMIT_KINDS: tuple[tuple[str, str, str], ...] = (
    (r"Grp\w*RunMinutes", "the running jobs of the {whose} have as much time before them as they may have in all: it "
                          "starts when that is less", f"wait, or {_FEWER}"),
    (r"Grp(\w*Minutes|Wall)", "the hours of the {whose} are used up: it starts when there are new ones, or never",
                              f"sshare and the site's own pages show what is left; change account or qos {_AGAIN}"),
    (r"Min", "asks for less than the {whose} demands of every job: it never starts",
             f"{_LIMITS}; ask for more, or for another QOS, {_AGAIN}"),
    (r"MaxWallDurationPerJob", "asks for more time than the {whose} allows a job: it never starts",
                               f"lower time_limit {_AGAIN}; {_LIMITS}"),
    (r"Max\w*Per(Job|Node)", "asks for more than the {whose} allows a single job or node: it never starts", _SMALLER),
    (r"", "a limit of the {whose} on all jobs together is reached; it starts when others under that limit end",
          f"wait, or {_FEWER}; if it is the only one, it asks for more than all may have: make it smaller"),
)  # fmt: skip
# MaxJobsPerAccount and the like are limits of the QOS, for each account.
_LIMIT = re.compile(r"(?P<whose>QOS|Assoc(?:iation)?)(?P<kind>[A-Z]\w*)|(?P<each>Max\w+PerAccount)")


def explain(reason: str, job: str = "") -> tuple[str, str]:
    """What a waiting job's reason means, and what to do; the second is empty where only waiting helps.

    ``ReqNodeNotAvail, UnavailableNodes:n1`` is looked up by its first word.
    """
    word = re.split(r"[,:(]", reason.strip("()"))[0].strip()
    if word == "" and not reason:
        word = "None"
    if word in _WAITS:
        means, remedy = _WAITS[word]
        return means, remedy.format(job=job)
    limit = _LIMIT.fullmatch(word)
    if limit:
        whose = "account" if (limit["whose"] or "").startswith("Assoc") else "QOS"
        for pattern, means, remedy in _LIMIT_KINDS:
            if re.match(pattern, limit["kind"] or limit["each"]):
                return means.format(whose=whose), remedy
    return "SLURM's own word; see JOB REASON CODES in man squeue", ""
