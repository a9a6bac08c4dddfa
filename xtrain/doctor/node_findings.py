"""From the reports of the nodes to findings: what is wrong on which, and what is not the same on all."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from xtrain.dispatch.cluster import Profile, Resources
from xtrain.doctor.findings import OK, Finding, note, ok, problem, seconds, warning
from xtrain.doctor.folders import CHECKPOINT_BYTES, FolderReport, check_folder, disk_wanted
from xtrain.doctor.limits import check_address_space, check_locked_memory, check_open_files, check_processes
from xtrain.doctor.machine import check_memory
from xtrain.doctor.meeting import HERE
from xtrain.doctor.node import NodeReport
from xtrain.doctor.nodes import KIND
from xtrain.doctor.servers import HUB, WANDB
from xtrain.doctor.versions import check_differences
from xtrain.errors import listed
from xtrain.study import Engine

Reports = Mapping[str, NodeReport]

CLOCK_SECONDS = 5.0  # what confuses whoever reads logs of several nodes, and make-like tools
WRONG_CLOCK_SECONDS = 120.0  # a phase's own check of its nodes refuses more
SCRATCH_BYTES = 2**28  # of compilers' caches
SHARED_MEMORY_BYTES = 2**26
_OUT_REMEDY = "choose a folder on a file system that the nodes share with --out (not /tmp or a node's own disk)"


OUTSIDE, INSIDE = ", outside the image", ", in the image"
"""Where a process reports from, for a profile with a container: jobs start outside, their ranks run inside."""


def check_reports(
    reports: Reports, profile: Profile, out: Path, data: Path | None, place: str = ""
) -> Iterator[Finding]:
    """Everything that the reports of all nodes say together. ``reports`` is not empty.

    ``place`` is :data:`OUTSIDE` or :data:`INSIDE` of an image, or empty where there is none: SLURM's commands are
    called outside alone, and operators are compiled inside alone.
    """
    yield from check_differences({node: dict(report.versions) for node, report in reports.items()})
    yield check_same_folder(reports, out)
    yield check_locks(reports, out)
    yield from check_node_folders(reports)
    if data is not None:
        yield check_data(reports, data)
    yield from check_interfaces(reports, profile.network.interface)
    yield from check_reach(reports)
    yield check_clocks(reports)
    if place != OUTSIDE:
        yield check_tools(reports)
    if place != INSIDE:
        yield check_commands(reports, profile)
    yield from check_node_devices(reports, profile.resources(KIND))
    yield from _each("memory", reports, lambda report: check_memory(report.hardware))
    yield from _each("open files", reports, lambda report: check_open_files(report.hardware.open_files))
    yield from _each("locked memory", reports, lambda report: check_locked_memory(report.hardware))
    yield from _each("processes", reports, lambda report: check_processes(report.hardware))
    yield from _each("address space", reports, lambda report: check_address_space(report.hardware))
    yield from check_servers(reports)
    yield from check_speed(reports, profile)


def check_same_folder(reports: Reports, out: Path) -> Finding:
    """Whether all nodes, and this machine, mean the same folder by ``out``."""
    looked_at = "shared output folder"
    absent = [node for node, report in reports.items() if not report.folders["out"].exists]
    apart = [node for node, report in reports.items() if HERE in report.not_seen and node not in absent]
    said = [f"it does not exist on {listed(absent)}"] if absent else []
    if apart:
        said.append(f"{listed(apart)} and this machine do not see each other's files")
    for node, report in reports.items():
        unseen = [other for other in report.not_seen if other != HERE and other not in {*absent, *apart}]
        if unseen and node not in {*absent, *apart}:
            said.append(f"{node} does not see the files of {listed(unseen)}")
    if said:
        return problem(looked_at, f"{out} is not the same folder everywhere: {'; '.join(said)}", _OUT_REMEDY)
    return ok(looked_at, f"{out} is one folder on {_nodes(reports)} and here")


def check_locks(reports: Reports, out: Path) -> Finding:
    """Whether a file in the output folder that one machine has locked is locked for the others."""
    looked_at = "locks in the output folder"
    refused = {node: report.no_locks for node, report in reports.items() if report.no_locks}
    if refused:
        said = "; ".join(f"{node}: {reason}" for node, reason in refused.items())
        to_do = (
            "ask the site to mount it with locks (Lustre: -o flock; NFS: lockd and rpc.statd running); until then "
            "nothing keeps two commands in one folder apart: give one at a time"
        )
        return warning(looked_at, f"{out}: flock is refused on {said}", to_do)
    apart = {node: report.not_locked for node, report in reports.items() if report.not_locked}
    if apart:
        said = "; ".join(
            f"{node} does not see the lock of {listed('this machine' if name == HERE else name for name in names)}"
            for node, names in apart.items()
        )
        to_do = (
            "do not submit into one folder from two machines at once, nor run a study from two; or ask the site to "
            "mount it with locks for all nodes (Lustre: -o flock, not localflock; NFS: neither nolock nor local_lock)"
        )
        return warning(looked_at, f"{out}: locks do not reach from node to node: {said}", to_do)
    return ok(looked_at, f"{out}: held for {_nodes(reports)}")


def _nodes(names: Iterable[str]) -> str:
    """``node n1``, ``nodes n1, n2``."""
    several = list(names)
    return f"node{'s' * (len(several) > 1)} {listed(several, 8)}"


def check_node_folders(reports: Reports) -> Iterator[Finding]:
    """Output, cache, scratch and shared memory of every node."""
    yield from _folder("output folder", "out", reports, _OUT_REMEDY, disk_wanted(Engine().keep_checkpoints))
    yield from _folder("cache", "cache", reports, "choose another folder with storage.cache of the profile")
    remedy = "choose a folder of each node's own disk with storage.scratch of the profile"
    yield from _folder("scratch", "scratch", reports, remedy, least=SCRATCH_BYTES)
    far = [node for node, report in reports.items() if report.folders["scratch"].on_network]
    if far:
        report = reports[far[0]].folders["scratch"]
        found = f"{report.path} on {_nodes(far)}: a network file system ({report.kind}); compilers' caches lie there"
        yield warning("scratch", found, f"{remedy}, where ranks of other nodes are not in the way")
    remedy = "ask for a container or a node with a larger /dev/shm, or set engine.data_workers = 0"
    yield from _folder("shared memory", "shm", reports, remedy, least=SHARED_MEMORY_BYTES)


def _folder(
    looked_at: str, name: str, reports: Reports, remedy: str, wanted: int = 0, least: int | None = None
) -> Iterator[Finding]:
    """A folder on all nodes: one finding for those that are well, and one for each trouble that some have."""
    groups: dict[tuple[str, str], list[str]] = {}

    def check(report: FolderReport, where: str = "") -> Finding:
        more = {} if least is None else {"least": least}
        return check_folder(looked_at, report, remedy=remedy, wanted=wanted, where=where, **more)

    for node, report in reports.items():
        groups.setdefault((check(report.folders[name]).level, report.folders[name].refused), []).append(node)
    for nodes in groups.values():
        least_free = min((reports[node].folders[name] for node in nodes), key=lambda folder: folder.free)
        yield check(least_free, _nodes(nodes))


def check_data(reports: Reports, data: Path) -> Finding:
    """Whether every node can read the data folder."""
    without = {node: report.data for node, report in reports.items() if report.data}
    if without:
        said = "; ".join(f"{node}: {reason}" for node, reason in without.items())
        to_do = (
            f"put the data on a file system that {_nodes(without)} mount, under the same path, and name that with "
            "--data; or have the nodes drained if they should have it mounted"
        )
        return problem("data", f"{data}: {said}", to_do)
    return ok("data", f"{data} on {_nodes(reports)}")


def check_interfaces(reports: Reports, interface: str) -> Iterator[Finding]:
    """Whether the profile's network interface is there, or without one, what the nodes' names stand for."""
    looked_at = "network interface"
    wanted = [name for name in interface.split(",") if name]
    if wanted:
        without = {node: report for node, report in reports.items() if not {*wanted} & {*report.interfaces}}
        if not without:
            return (yield ok(looked_at, f"{interface} on {_nodes(reports)}"))
        there: dict[str, list[str]] = {}
        for node, report in without.items():
            there.setdefault(listed(report.interfaces) or "none", []).append(node)
        missing = [f"{interface} is not on {listed(nodes, 8)} (there: {names})" for names, nodes in there.items()]
        to_do = f"set network.interface of the profile to one that all nodes have: {_common(reports)}"
        return (yield problem(looked_at, "; ".join(missing), to_do))
    loops = {node: report.own_address for node, report in reports.items() if report.own_address.startswith("127.")}
    if loops and len(reports) > 1:
        said = "; ".join(f"{node} stands for {address} on itself" for node, address in loops.items())
        to_do = f"set network.interface of the profile to one that all nodes have: {_common(reports)}"
        return (yield problem(looked_at, f"{said}: Gloo would wait for the others there", to_do))
    yield ok(looked_at, "chosen by Gloo and NCCL themselves; network.interface of the profile names none")


def _common(reports: Reports) -> str:
    """The interfaces that all nodes have."""
    return listed(sorted(set.intersection(*({*report.interfaces} for report in reports.values())))) or "there is none"


def check_reach(reports: Reports) -> Iterator[Finding]:
    """Which node could not be reached by which; a node that no other reaches is named alone."""
    failed = {
        (node, other): seen.trouble
        for node, report in reports.items()
        for other, seen in report.met.items()
        if seen.trouble and other in reports  # one that has not reported is a finding of its own
    }
    if not failed:
        trips = [seen.round_trip for report in reports.values() for seen in report.met.values() if not seen.trouble]
        if trips:
            yield ok(
                "nodes reach each other",
                f"{len(reports)} nodes, round trip at most {1e3 * max(trips):.1f} ms",
            )
        return
    to_do = (
        "look at the firewall between the nodes (ports from 15000 to 30000), their names (getent hosts NODE on each) "
        "and at network.interface of the profile; have a node that no other reaches drained"
    )
    for other in sorted({other for _, other in failed}):
        from_nodes = [node for node, to in failed if to == other]
        reason = failed[from_nodes[0], other]
        yield problem(
            "nodes reach each other", f"{other} cannot be reached from {listed(from_nodes, 8)}: {reason}", to_do
        )


def check_clocks(reports: Reports) -> Finding:
    """How far the nodes' clocks are apart, from their answers to each other."""
    first = next(iter(reports))
    ahead = {
        other: seen.clock_ahead for other, seen in reports[first].met.items() if not seen.trouble and other in reports
    }
    far = {other: skew for other, skew in ahead.items() if abs(skew) > CLOCK_SECONDS}
    if far:
        said = "; ".join(
            f"{node} is {abs(skew):.0f} s {'ahead' if skew > 0 else 'behind'}" for node, skew in far.items()
        )
        kind = problem if max(map(abs, far.values())) > WRONG_CLOCK_SECONDS else warning
        return kind("clocks", f"{said} of {first}", "have the time service of these nodes mended (chronyc tracking)")
    apart = max(map(abs, ahead.values()), default=0.0)
    return ok("clocks", f"at most {apart:.2f} s apart" if ahead else "one node alone")


def check_tools(reports: Reports) -> Finding:
    """Whether DeepSpeed's ops can be compiled on every node; where one cannot, ranks agree on torch's AdamW."""
    lacking = {
        node: missing
        for node, report in reports.items()
        if (missing := [tool for tool in ("ninja", "c++") if tool not in report.hardware.tools])
    }
    if not lacking:
        return ok("ops that build", f"ninja and c++ on {_nodes(reports)}")
    said = "; ".join(f"{' and '.join(missing)} not found on {node}" for node, missing in lacking.items())
    found = f"{said}: where it has to compile DeepSpeed's FusedAdam, all ranks use torch's fused AdamW instead"
    to_do = (
        "pip install ninja into the environment of the profile's python and put its folder on PATH, load a compiler "
        "(modules, setup or variables in [environment]: all nodes get them); nothing fails without, a step only takes "
        "a little longer"
    )
    return warning("ops that build", found, to_do)


def check_commands(reports: Reports, profile: Profile) -> Finding:
    """Whether a job can call SLURM from inside: to start ranks, to ask for its end, to go back into the queue, and to
    submit the next one where the profile has chains."""
    looked_at, chains = "SLURM's commands in a job", not profile.preemption.requeue
    needed = ("srun", "scontrol", "squeue", *(["sbatch"] if chains else []))
    lacking = {
        node: missing
        for node, report in reports.items()
        if (missing := [tool for tool in needed if tool not in report.hardware.tools])
    }
    if lacking:
        said = "; ".join(f"{', '.join(missing)} not found on {node}" for node, missing in lacking.items())
        to_do = "put the folder of SLURM's commands on PATH (variables or setup in [environment] of the profile)"
        return problem(looked_at, said, to_do)
    refused = {node: report.sbatch for node, report in reports.items() if report.sbatch}
    if refused and chains:
        said = "; ".join(f"sbatch on {node}: {why}" for node, why in refused.items())
        to_do = "set preemption.requeue = true in the profile: a job that has to leave cannot submit the next one"
        return problem(looked_at, said, f"{to_do}; or ask the site to let nodes submit (AllocNodes of the partition)")
    return ok(looked_at, f"{listed(needed)} on {_nodes(reports)}")


def check_servers(reports: Reports) -> Iterator[Finding]:
    """Whether nodes reach the hub and W&B; many do not, and nothing fails where it is known beforehand."""
    to_do = {
        HUB: "submit from a machine that reaches it, with HF_HOME on a file system that all nodes share: bases and "
        "data sets of the hub are fetched then, and the job prepare finds them",
        WANDB: "nothing: runs are written offline, and wandb sync uploads them from elsewhere",
    }
    for server in dict.fromkeys(name for report in reports.values() for name in report.servers):
        away = {node: why for node, report in reports.items() if (why := report.servers.get(server))}
        if away:
            yield note(server, f"not reached from {_nodes(away)}: {next(iter(away.values()))}", to_do[server])
        else:
            yield ok(server, f"reached from {_nodes(reports)}")


def check_node_devices(reports: Reports, asked: Resources) -> Iterator[Finding]:
    """GPUs against what the profile asks for; models and drivers that differ."""
    troubled = {node: report.hardware.driver_trouble for node, report in reports.items()}
    for node, trouble in troubled.items():
        if trouble:
            yield problem("GPUs", f"{node}: {trouble}", f"have {node} drained, or exclude it ([job.sbatch] exclude)")
    fewer = {node: len(report.hardware.gpus) for node, report in reports.items() if not troubled[node]}
    fewer = {node: number for node, number in fewer.items() if number < asked.gpus_per_node}
    if fewer:
        said = "; ".join(f"{number} on {node}" for node, number in fewer.items())
        to_do = "nvidia-smi has to list them on the node: have it drained, or correct gpus_per_node of the profile"
        yield problem("GPUs", f"{asked.gpus_per_node} a node are asked for; seen by the driver: {said}", to_do)
    old = [node for node, report in reports.items() if not all(gpu.has_bf16 for gpu in report.hardware.gpus)]
    if old:
        to_do = 'set engine.precision = "fp16" with ds_config "zero2_fp16", or ask for newer GPUs (gpu_type)'
        yield warning("bf16", f"not in the hardware of the GPUs on {_nodes(old)}", to_do)
    kinds: dict[tuple[str, ...], list[str]] = {}
    for node, report in reports.items():
        gpus = sorted({f"{gpu.name}, driver {gpu.driver}" for gpu in report.hardware.gpus})
        kinds.setdefault(tuple(gpus), []).append(node)
    if len(kinds) > 1:
        said = "; ".join(f"{' and '.join(gpus) or 'none'} on {listed(nodes, 8)}" for gpus, nodes in kinds.items())
        to_do = "choose nodes of one kind with constraint or gpu_type in the profile: the slowest sets the pace"
        yield warning("GPUs", f"not the same on all nodes: {said}", to_do)
    elif not fewer and not any(troubled.values()):
        found = next(iter(reports.values())).hardware.gpus
        if found:
            yield ok("GPUs", f"{len(found)} x {found[0].name}, driver {found[0].driver}, on each node")
    processors = {report.hardware.processor for report in reports.values()}
    if len(processors) > 1:
        yield note("processors", f"not the same on all nodes: {listed(sorted(processors))}")


def check_speed(reports: Reports, profile: Profile) -> Iterator[Finding]:
    """How long a save of XLM-R Large takes at the measured speed, against the time that jobs leave for it."""
    speed = max(report.bytes_per_second for report in reports.values())
    if not speed:
        return
    needed = CHECKPOINT_BYTES / speed
    lead = profile.lead_seconds(KIND)
    found = f"{speed / 1e6:,.0f} MB/s into the output folder from one node: XLM-R Large's "
    found += f"{CHECKPOINT_BYTES / 1e9:.1f} GB in {seconds(needed)}"
    if lead is not None and needed > lead:
        to_do = (
            f"set preemption.lead_seconds to {2 * needed:.0f} or more and a time limit of at least four times as much, "
            "or use a faster file system; smaller models take less"
        )
        return (yield warning("saving", f"{found}, but jobs begin to save only {lead} s before their end", to_do))
    yield ok("saving", found if lead is None else f"{found}; jobs begin to save {lead} s before their end")


def _each(looked_at: str, reports: Reports, check: Callable[[NodeReport], Finding]) -> Iterator[Finding]:
    """A check of every node: the troubles with their nodes' names, and one finding for those that are well."""
    findings = {node: check(report) for node, report in reports.items()}
    groups: dict[str, list[str]] = {}
    for node, finding in findings.items():
        groups.setdefault(finding.level, []).append(node)
    for level, nodes in groups.items():
        first = findings[nodes[0]]
        if level == OK:
            yield ok(looked_at, f"{first.found} on {_nodes(nodes)}")
        else:
            yield dataclasses.replace(first, looked_at=looked_at, found=f"{_nodes(nodes)}: {first.found}")
