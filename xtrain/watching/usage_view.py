"""How usage is shown: a table a study and what it comes to for people, JSON for programs."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from xtrain.dispatch.job_graph import JobGraph
from xtrain.errors import counted
from xtrain.tracking.progress import duration
from xtrain.watching.starts import StartUsage
from xtrain.watching.table import STYLES, Column, common_head, fitting, ordered, say
from xtrain.watching.usage import PhaseUsage, Total, Usage, total

_KWH = 3.6e6  # joules
_GIB = 2**30


def show_usage(graphs: Sequence[JobGraph], found: Usage, console: Console) -> None:
    """A table a study with what it comes to, then what all come to, and what is not known."""
    by_name = {graph.study: graph for graph in graphs}
    for number, (study, phases) in enumerate(found.studies.items()):
        if number:
            console.print()
        console.print(_table(study, by_name.get(study) or _graph(study, phases), phases, console.width))
        for line in _lines(total(phases)):
            say(console, line)
    if len(found.studies) > 1:
        console.print()
        say(console, "all of them, each phase once")
        for line in _lines(total(found.distinct)):
            say(console, line)
    for line in _unknown(total(found.distinct)):
        say(console, line)
    for source, why in found.silent.items():
        say(console, f"{source} did not answer: {why}")


def _graph(study: str, phases: Sequence[PhaseUsage]) -> JobGraph:
    return JobGraph(study, tuple(phase.state.node for phase in phases))


def _table(study: str, graph: JobGraph, phases: Sequence[PhaseUsage], width: int) -> Table:
    by_hash = {phase.state.node.hash: phase for phase in phases}
    head = common_head(graph)
    rows = [(by_hash[node.hash], "  " * depth + node.job_name.removeprefix(head)) for node, depth in ordered(graph)]
    sums = [total([phase]) for phase, _ in rows]
    pairs = list(zip([phase for phase, _ in rows], sums, strict=True))
    columns = fitting(
        [
            Column("phase", [name for _, name in rows], 99, right=False),
            Column("state", [phase.state.state for phase, _ in rows], 98, right=False),
            Column("starts", [str(one.starts or "") for one in sums], 5),
            Column("time", [_time(one) for one in sums], 4),
            Column("GPU-hours", [_used(one, one.gpu_hours) for one in sums], 10),
            Column("rank-hours", [_used(one, one.rank_hours) for one in sums], 7),
            Column("redone", [_redone(one) for one in sums], 9),
            Column("queued", [_wait(phase, one) for phase, one in pairs], 8),
            Column("of it held", [duration(one.held) if one.held >= 1 else "" for one in sums], 2),
            Column("of the limit", [_limit(one.fullest) for one in sums], 6),
            Column("GPU use", ["" if one.gpu_percent is None else f"{one.gpu_percent:.0f}%" for one in sums], 3),
            Column("memory", ["" if one.memory_share is None else _share(one.memory_share) for one in sums], 1),
            Column("kWh", ["" if one.joules is None else hours(one.joules / _KWH) for one in sums], 0),
        ],
        width + 2,  # nothing stands behind the last one
    )
    table = Table(title=study, title_justify="left", title_style="bold", box=None, pad_edge=False,
                  padding=(0, 2, 0, 0), header_style="bright_black")  # fmt: skip
    for column in columns:
        table.add_column(column.head, justify="right" if column.right else "left", no_wrap=True, overflow="ellipsis")
    for row, (phase, _) in enumerate(rows):
        style = STYLES[phase.state.state]
        table.add_row(*(Text(column.cells[row], style if column.head == "state" else "") for column in columns))
    return table


def hours(value: float) -> str:
    """A number of hours, or of anything, to three digits or more."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.1f}" if value >= 100 else f"{value:.3g}"


def _time(one: Total) -> str:
    return f"{_least(one)}{duration(one.seconds)}" if one.starts else ""


def _used(one: Total, value: float) -> str:
    return f"{_least(one)}{hours(value)}" if value else ""


def _least(one: Total) -> str:
    return "≥ " if one.no_end or one.no_devices else ""


def _redone(one: Total) -> str:
    spent = one.redone_gpu_hours + one.redone_rank_hours
    parts = [f"{one.redone_steps:,} steps" if one.redone_steps else "", f"{hours(spent)} h" if spent else ""]
    return ", ".join(filter(None, parts))


def _wait(phase: PhaseUsage, one: Total) -> str:
    if not one.waited:
        return "?" if one.wait_unknown else ""
    return f"{'≥ ' if one.wait_unknown or phase.waiting is not None else ''}{duration(one.wait)}"


def _share(value: float) -> str:
    return f"{value:.0%}" if value >= 0.01 else "under 1%"


def _limit(start: StartUsage | None) -> str:
    """Of the start that came nearest to it."""
    if start is None or not start.time_limit:
        return ""
    return f"{'≥ ' if start.at_least or start.running else ''}{start.limit_share:.0%} of {duration(start.time_limit)}"


def _lines(one: Total) -> list[str]:
    """What phases come to, in words."""
    spent = _both(one.gpu_hours, one.rank_hours)
    running = f", {one.running} of them running and counted until now" if one.running else ""
    lines = [f"{counted(one.starts, 'start')}{running}: {_least(one)}{spent}"]
    if one.redone_steps or one.redone_gpu_hours or one.redone_rank_hours:
        least = "≥ " if one.redone_unknown else ""
        share = (one.redone_gpu_hours + one.redone_rank_hours) / max(one.gpu_hours + one.rank_hours, 1e-9)
        redone = _both(one.redone_gpu_hours, one.redone_rank_hours)
        lines.append(f"redone after kills: {counted(one.redone_steps, 'step')}, {least}{redone} ({share:.1%})")
    if one.waited:
        mean = f", {duration(one.wait / one.waited)} a time" if one.waited > 1 else ""
        held = f"; {duration(one.held)} of it behind other jobs" if one.held >= 1 else ""
        lines.append(f"waited in the queue: {duration(one.wait)}{mean}{held}")
    if one.limit_share is not None:
        lines.append(f"starts that are over used {one.limit_share:.0%} of their time limits")
    accounting = [
        f"{hours(one.allocated_gpu_hours)} GPU-hours allocated" if one.allocated_gpu_hours else "",
        "" if one.gpu_percent is None else f"GPUs {one.gpu_percent:.0f}% in use",
        "" if one.memory_share is None else f"{_share(one.memory_share)} of the memory that was asked for at most",
        "" if one.joules is None else f"{hours(one.joules / _KWH)} kWh",
    ]
    if any(accounting):
        lines.append("SLURM's accounting: " + ", ".join(filter(None, accounting)))
    return lines


def _both(gpu: float, rank: float) -> str:
    parts = [
        f"{hours(gpu)} GPU-hours" if gpu or not rank else "",
        f"{hours(rank)} rank-hours without a GPU" if rank else "",
    ]
    return " and ".join(filter(None, parts))


def _unknown(one: Total) -> list[str]:
    """What is not known, a line each."""
    found = []
    if one.no_end:
        found.append(f"{counted(one.no_end, 'start')} without a known end: counted until the last line of the record")
    if one.no_devices:
        found.append(
            f"{counted(one.no_devices, 'start')} whose number of devices is not on record: no hours are counted"
        )
    if one.wait_unknown:
        found.append(f"{counted(one.wait_unknown, 'start')} of which it is not known how long they waited: a start "
                     "before them was killed, and nobody wrote when")  # fmt: skip
    return found


def usage_json(out: Path, found: Usage, now: float) -> dict[str, Any]:
    """What :func:`show_usage` shows and more, for a program; hours are device-hours, times seconds."""
    return {
        "out": str(out),
        "time": round(now, 1),
        "silent": dict(found.silent),
        "totals": _total_fields(total(found.distinct)),
        "studies": [
            {"study": study, "totals": _total_fields(total(phases)), "phases": [_fields(phase) for phase in phases]}
            for study, phases in found.studies.items()
        ],
    }


def _fields(phase: PhaseUsage) -> dict[str, Any]:
    node = phase.state.node
    return {
        "name": node.name, "job_name": node.job_name, "kind": node.kind, "hash": node.hash, "folder": node.folder,
        "state": phase.state.state, "waiting_seconds": _rounded(phase.waiting), "totals": _total_fields(total([phase])),
        "attempts": [_start_fields(start) for start in phase.starts],
        "accounting": [dataclasses.asdict(job) for job in phase.accounted],
    }  # fmt: skip


def _start_fields(start: StartUsage) -> dict[str, Any]:
    return {
        "number": start.number, "job": start.job, "began": start.began, "how": start.how,
        "running": start.running, "end_known": not start.at_least and not start.running,
        "seconds": _rounded(start.seconds), "ranks": start.ranks or None, "gpus": start.gpus,
        "time_limit_seconds": start.time_limit, "wait_seconds": _rounded(start.wait),
        "held_seconds": _rounded(start.held), "redone_steps": start.lost_steps,
        "redone_seconds": _rounded(start.lost_seconds),
    }  # fmt: skip


def _total_fields(one: Total) -> dict[str, Any]:
    """The numbers of a total; of the start that came nearest to its limit, its share."""
    values = {key: value for key, value in vars(one).items() if key != "fullest"}
    return {**values, "fullest_limit_share": one.fullest.limit_share if one.fullest else None}


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 1)
