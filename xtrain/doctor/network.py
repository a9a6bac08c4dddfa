"""The all-reduce over all ranks of a job: who is where, how fast it is, and who keeps the others waiting."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from xtrain.doctor.allocation import Allocation, Step, run_step
from xtrain.doctor.findings import Finding, Section, Table, gib, ok, problem, warning
from xtrain.doctor.nodes import KIND, NodeJob
from xtrain.doctor.ranks import Timing
from xtrain.errors import listed

RANK_SECONDS = 120.0  # for importing PyTorch on all nodes at once, joining, and timing
JOIN_SECONDS = 45.0
SLOW_GBS = 1.0  # of bus bandwidth between nodes: below it, exchanging XLM-R Large's gradients takes over a second


def check_all_reduce(work: NodeJob, allocation: Allocation) -> Section:
    """Run it on all ranks that the profile asks for, and say what came of it."""
    num_ranks = work.profile.resources(KIND).num_ranks
    names = [f"rank{number}" for number in range(num_ranks)]
    arguments = ["xtrain.doctor.ranks", f"--timeout={JOIN_SECONDS:.0f}"]
    step = run_step(
        work.command(allocation.job, KIND, arguments),
        work.environment(allocation, 2),
        RANK_SECONDS,
        lambda step: _is_over(step, names),
    )
    places = {name: place for name in names if (place := step.last(name, "place")) is not None}
    result = step.last("rank0", "timings")
    timings = [Timing(*values) for values in result or ()]
    tables = [_rank_map(places, work.profile.network.interface)] if places else []
    findings = [*check_ranks(names, places, step), *check_devices_differ(places)]
    if timings:
        tables.append(bandwidth_table(timings))
        findings.append(_speed(timings, places, bool(step.last("rank0", "right"))))
    details = {"ranks": list(places.values()), "all_reduce": [_as_mapping(timing) for timing in timings]}
    return Section("all-reduce", findings, tables, details)


def _is_over(step: Step, names: Sequence[str]) -> bool:
    timed = step.last(names[0], "timings") is not None
    return timed or all(step.last(name, "trouble") is not None for name in names)


def check_ranks(names: Sequence[str], places: Mapping[str, Mapping[str, Any]], step: Step) -> list[Finding]:
    """Ranks that did not start, or did not join the others; nothing where all did."""
    looked_at = "ranks"
    absent = [name for name in names if name not in places]
    apart = [name for name in names if name in places and step.last(name, "at") != "joined"]
    said = [line for line in (*step.errors, *step.other) if "error" in line.lower()] or step.errors
    if absent:
        troubles = [trouble for name in absent if (trouble := step.last(name, "trouble"))]
        words = "; ".join(dict.fromkeys([*troubles, *said[-3:]])) or "no word"
        found = f"{len(absent)} of {len(names)} did not start ({listed(absent, 8)}): {words}"
        to_do = "the message is the node's own: mend [environment] of the profile, or the resources of [job]"
        return [problem(looked_at, found, to_do)]
    if apart:
        troubles = list(dict.fromkeys(step.last(name, "trouble") or "no word" for name in apart))
        nodes = sorted({str(places[name]["node"]) for name in apart})
        found = (
            f"all {len(names)} started, but {len(apart)} of them, on {listed(nodes, 8)}, could not join the others: "
        )
        found += "; ".join(troubles[:3])
        to_do = (
            "look at the findings about interfaces and reach above: set network.interface of the profile to what all "
            "nodes have in common, and have ports between the nodes opened"
        )
        return [problem(looked_at, found, to_do)]
    if step.last(names[0], "timings") is None:
        trouble = step.last(names[0], "trouble") or f"no result within {RANK_SECONDS:.0f} s"
        to_do = "run it again with NCCL_DEBUG=INFO (or TORCH_DISTRIBUTED_DEBUG=DETAIL) exported"
        return [problem(looked_at, f"all {len(names)} joined, and then: {trouble}", to_do)]
    num_nodes = len({place["node"] for place in places.values()})
    return [ok(looked_at, f"{len(names)} on {num_nodes} node{'s' * (num_nodes > 1)}")]


def check_devices_differ(places: Mapping[str, Mapping[str, Any]]) -> list[Finding]:
    """Whether two ranks share a GPU."""
    by_device: dict[tuple[str, str], list[int]] = {}
    for place in places.values():
        if place["uuid"]:
            by_device.setdefault((place["node"], place["uuid"]), []).append(place["rank"])
    shared = [f"ranks {listed(ranks)} on {node}" for (node, _), ranks in by_device.items() if len(ranks) > 1]
    if not shared:
        return []
    to_do = "leave tasks_per_node out (one rank a GPU), or change gpu_layout of the profile"
    return [problem("devices", f"one GPU is used by {'; '.join(shared)}", to_do)]


def _speed(timings: Sequence[Timing], places: Mapping[str, Mapping[str, Any]], right: bool) -> Finding:
    best = max(timings, key=lambda timing: timing.bus_gbs)
    backend = next(iter(places.values()))["backend"]
    found = f"{backend}: {best.bus_gbs:.3g} GB/s (bus) at {gib(best.num_bytes)}"
    if not right:
        to_do = "have the nodes and their network tested: sums came out wrong"
        return problem("all-reduce", f"{found}, but the result is wrong", to_do)
    nodes = {place["node"] for place in places.values()}
    if backend == "nccl" and len(nodes) > 1 and best.bus_gbs < SLOW_GBS:
        to_do = (
            "NCCL seems to use a slow network: set network.interface of the profile to the fast one, and see with "
            "NCCL_DEBUG=INFO whether it finds InfiniBand (NET/IB)"
        )
        return warning("all-reduce", found, to_do)
    return ok("all-reduce", found)


def _rank_map(places: Mapping[str, Mapping[str, Any]], interface: str) -> Table:
    columns = ("rank", "node", "local rank", "device", "visible GPUs", "address", "interface")
    rows = []
    for place in sorted(places.values(), key=lambda place: int(place["rank"])):
        name, address = _address(place["interfaces"], interface)
        visible = "-" if place["device"] == "cpu" else "all" if place["visible_gpus"] is None else place["visible_gpus"]
        values = (place["rank"], place["node"], place["local_rank"], place["device"], visible, address, name)
        rows.append(tuple(map(str, values)))
    return Table("rank map", columns, tuple(rows))


def _address(found: Mapping[str, str], interface: str) -> tuple[str, str]:
    """The interface that ranks talk over, as far as that is known here, and its address."""
    names = [name for name in interface.split(",") if name in found] or list(found)[:1]
    return (names[0], found[names[0]]) if names else ("", "")


def bandwidth_table(timings: Sequence[Timing]) -> Table:
    """Size, time, and algorithmic and bus bandwidth as nccl-tests define them."""
    rows = [
        (gib(t.num_bytes), f"{1e3 * t.seconds:.3g} ms", f"{t.algorithm_gbs:.3g}", f"{t.bus_gbs:.3g}") for t in timings
    ]
    return Table(
        f"all-reduce over {timings[0].ranks} ranks",
        ("size", "time", "algorithmic GB/s", "bus GB/s"),
        tuple(rows),
    )


def _as_mapping(timing: Timing) -> dict[str, float]:
    return {
        "bytes": timing.num_bytes,
        "seconds": timing.seconds,
        "algorithm_gbs": round(timing.algorithm_gbs, 6),
        "bus_gbs": round(timing.bus_gbs, 6),
        "ranks": timing.ranks,
    }
