"""SLURM's words for why a job waits or ended, in plain ones, with what can be done."""

from __future__ import annotations

import re

# Reason -> what it means, and what to do; the last is empty where only waiting helps.
_WAITS: dict[str, tuple[str, str]] = {
    "None": ("the scheduler has not looked at it yet", ""),
    "Priority": ("jobs of a higher priority come first", ""),
    "Resources": ("next in line: waits until enough nodes are free", ""),
    "Dependency": ("waits for another job", ""),
    "DependencyNeverSatisfied": ("the job that it needs has failed: SLURM will cancel it", "submit the study again"),
    "BeginTime": ("may not start before a time; after a requeue SLURM waits a while (two minutes, mostly)", ""),
    "JobHeldUser": ("held by the user", "scontrol release {job}"),
    "JobHeldAdmin": ("held by an administrator", "ask the site why"),
    "JobArrayTaskLimit": ("its job array runs as many tasks at once as it may", ""),
    "ReqNodeNotAvail": ("nodes that it needs are down, drained, or reserved for a maintenance that it would run into",
                        "sinfo -R says why; a shorter time limit may fit in before a maintenance"),
    "Reservation": ("its reservation has not begun", ""),
    "Licenses": ("waits for licences", ""),
    "PartitionDown": ("its partition is closed", "sinfo shows the others; change the partition in the profile"),
    "PartitionInactive": ("its partition is closed", "sinfo shows the others; change the partition in the profile"),
    "PartitionNodeLimit": ("asks for more nodes than the partition has or allows", "change nodes or partition in the "
                           "profile, and submit again"),
    "PartitionTimeLimit": ("asks for more time than the partition allows", "lower the time limit in the profile, and "
                           "submit again"),
    "BadConstraints": ("no node can ever meet what it asks for", "change constraint or resources in the profile, and "
                       "submit again"),
    "NodeDown": ("a node that it needs is down", "sinfo -R says why"),
    "InvalidAccount": ("the account does not exist or is not the user's", "sacctmgr show assoc user=$USER format="
                       "account,partition,qos"),
    "InvalidQOS": ("the QOS does not exist or is not the user's", "sacctmgr show assoc user=$USER format=account,qos"),
    "launch failed requeued held": ("starting it failed, and SLURM holds it", "scontrol release {job}"),
    "JobLaunchFailure": ("starting it failed on the node", "the log of slurmd on the node says why"),
    "Prolog": ("the site's prologue is running on its nodes", ""),
    "Cleaning": ("its last start is being cleared away", ""),
    "FrontEndDown": ("no front end is up", ""),
    "BurstBufferResources": ("waits for burst buffer space", ""),
    "SystemFailure": ("SLURM failed", "ask the site"),
    "JobHoldMaxRequeue": ("was requeued as often as the site allows", "scontrol release {job}"),
}  # fmt: skip
_LIMIT = re.compile(r"^(QOS|Assoc|Account)(Grp|Max)?(.*)$")


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
    limit = _LIMIT.match(word)
    if limit:
        whose = {"QOS": "QOS", "Assoc": "account", "Account": "account"}[limit[1]]
        return f"a limit of the {whose} is reached; it starts when jobs under that limit end", (
            "wait, or lower limits.running in the profile; sacctmgr show qos (or assoc) lists the limits"
        )
    return "SLURM's own word; see JOB REASON CODES in man squeue", ""
