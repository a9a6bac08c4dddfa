"""What a preempted job is told, and how long it has: by the partition's settings, or by those of its QOS."""

from __future__ import annotations

from collections.abc import Iterator

from xtrain.dispatch.cluster import Profile
from xtrain.dispatch.slurm import duration_seconds
from xtrain.doctor.findings import Finding, note, ok, seconds, warning
from xtrain.doctor.nodes import KIND
from xtrain.doctor.scheduler import Site, leading_number

SAVE_SECONDS = 30  # XLM-R Large's 6.7 GB at a little over 200 MB/s, as a measure for settings


def check_preemption(site: Site, profile: Profile) -> Iterator[Finding]:
    """What a preempted job is told, and how long it has; 0 steps are lost where it can save in that time."""
    config = site.config
    if not site.partition:  # that has been said
        return
    name, mode, grace = _rules(site)
    wait = leading_number(config.get("KillWait", ""))
    if config.get("PreemptType", "preempt/none") == "preempt/none" or mode in ("OFF", "DISABLED"):
        yield ok("preemption", f"off in {name}")
        return (yield _kill_wait(wait, profile, preempted=False))
    if mode == "SUSPEND":
        to_do = "ask for a partition that requeues: suspended ranks keep their memory, and their connections time out"
        return (yield warning("preemption", f"{name} suspends jobs", to_do))
    signal = profile.preemption.signal
    kept = "submit again after a preemption that left no time to save: finished phases and checkpoints are kept; or "
    if mode == "CANCEL":
        found = f"{name} cancels preempted jobs and does not requeue them"
        yield warning("preemption", found, f"{kept}choose another partition")
    elif profile.resources(KIND).sbatch.get("no-requeue"):
        found = f"{name} requeues preempted jobs, but cancels those with no-requeue ([job.sbatch] of the profile)"
        yield warning("preemption", found, f"{kept}remove no-requeue")
    else:
        yield ok("preemption", f"{name}: {mode.lower()}")
    yield check_signal(site, signal, grace, wait)
    yield check_grace(name.partition(",")[0], grace, wait)
    if grace < SAVE_SECONDS:
        yield _kill_wait(wait, profile, preempted=True)


def _rules(site: Site) -> tuple[str, str, int]:
    """Who preempts the jobs, in words; how, in SLURM's; and the seconds that it leaves them."""
    config, partition, qos = site.config, site.partition, site.qos
    modes = partition.get("PreemptMode", config.get("PreemptMode", "OFF")).upper()
    name, grace = partition["PartitionName"], partition.get("GraceTime", "0")
    if qos is not None:  # preempt/qos: nothing of the partition counts
        own = qos.mode.upper() not in ("", "CLUSTER")
        modes = (qos.mode.upper() if own else config.get("PreemptMode", "OFF").upper()) if qos.preempted_by else "OFF"
        by = f", preempted by {', '.join(qos.preempted_by)}" if qos.preempted_by else ""
        name, grace = f"QOS {qos.name}{by}", qos.grace
    return name, next((word for word in modes.split(",") if word != "GANG"), "OFF"), parse_grace(grace)


def check_signal(site: Site, signal: str, grace: int, wait: int) -> Finding:
    """Whether a preempted job gets the signal of its ``--signal``: the parameter has moved in SLURM 23.02."""
    places = {"PreemptParameters": "send_user_signal", "SlurmctldParameters": "preempt_send_user_signal"}
    for key, word in places.items():
        if word in site.config.get(key, "").split(","):
            return ok("signal before preemption", f"{signal} ({key}={word})")
    major, minor = (site.version.split(".") + ["", ""])[:2]
    older = major.isdigit() and minor.isdigit() and (int(major), int(minor)) < (23, 2)
    key = "SlurmctldParameters" if older else "PreemptParameters"
    found = f"{places[key]} is not in {key}: a preempted job gets no {signal}, only SIGTERM"
    found += f", and {seconds(grace)} (GraceTime) + {seconds(wait)} (KillWait) until SIGKILL"
    to_do = (
        f"ask the site for {key}={places[key]} and a GraceTime; xtrain saves upon SIGTERM too, but has to be done in "
        f"{seconds(max(grace, wait))}: keep engine.checkpoint_every small"
    )
    return warning("signal before preemption", found, to_do)


def check_grace(partition: str, grace: int, wait: int) -> Finding:
    """GraceTime, with the arithmetic of a save."""
    looked_at = f"GraceTime of {partition}"
    if grace >= SAVE_SECONDS:
        return ok(looked_at, seconds(grace))
    found = f"{seconds(grace)}: with KillWait {seconds(wait)}, a preempted job has {seconds(grace + wait)} to save"
    found += f"; XLM-R Large takes about {SAVE_SECONDS} s (6.7 GB at 200 MB/s)"
    to_do = (
        f"ask the site for GraceTime={2 * SAVE_SECONDS} or more on {partition}; until then a preemption costs the "
        "steps since the last periodic checkpoint: engine.checkpoint_every sets how many"
    )
    return warning(looked_at, found, to_do)


def _kill_wait(wait: int, profile: Profile, *, preempted: bool) -> Finding:
    """The time between SIGTERM and SIGKILL."""
    if wait >= SAVE_SECONDS:
        return ok("KillWait", seconds(wait))
    when = "a preemption, a requeue by hand or scancel" if preempted else "a requeue by hand or scancel"
    found = f"{seconds(wait)} between SIGTERM and SIGKILL: {when} leaves less than a save of XLM-R Large takes"
    signal = profile.preemption.signal.removeprefix("SIG")
    to_do = f"before a requeue by hand, scancel --signal={signal} JOB lets it save first"
    return note("KillWait", found, to_do)


def parse_grace(text: str) -> int:
    """Seconds of a GraceTime: a number, or a time as SLURM writes it."""
    return int(duration_seconds(text) or leading_number(text))
