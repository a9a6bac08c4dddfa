"""How a plan is shown: by kind of phase first, then phase by phase where there are few, then what was assumed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.table import Table

from xtrain.dispatch.cluster import Profile
from xtrain.errors import Problem, counted, listed
from xtrain.graph import EVALUATE, Graph, Phase
from xtrain.planning.cost import KINDS, Cost, PhaseCost, Work
from xtrain.planning.disk import DiskPlan
from xtrain.planning.sizes import ASSUMED, ASSUMED_TOKENS, FILE, PUBLISHED, Sizes
from xtrain.report.compute import hours_text
from xtrain.study import Base
from xtrain.training.budget import size_in_words
from xtrain.watching.table import Column, fitting, say

FEW = 40
"""Phases that are listed without being asked for."""


@dataclass(frozen=True)
class StudyPlan:
    """All that ``xtrain plan`` says."""

    graph: Graph
    cost: Cost
    disk: DiskPlan
    sizes: Sizes
    folders: Mapping[str, str]
    """Hash -> run directory."""
    states: Mapping[str, str]
    """Hash -> ``done``, ``begun``, ``again`` or ``to do``."""
    again: Mapping[str, str]
    """Hash -> why a finished phase is made again."""
    no_base: Mapping[Base, Problem] = field(default_factory=dict)
    profile: Profile | None = None

    def stays(self, phases: Sequence[PhaseCost]) -> int:
        """Bytes that phases leave, at most."""
        return sum(self.disk.needs[one.phase.hash].stays for one in phases)


def show_plan(plan: StudyPlan, console: Console, *, every: bool) -> None:
    """Tables and lines; ``every`` phase has a row, or only the kinds where there are more than FEW."""
    console.print(_table(f"plan of {plan.graph.study.title}", _kind_columns(plan), console.width))
    if every or len(plan.cost.phases) <= FEW:
        console.print()
        console.print(_table("phases", _phase_columns(plan), console.width))
    else:
        say(console, f"--phases lists the {counted(len(plan.cost.phases), 'phase')}")
    for key, why in plan.again.items():
        say(console, f"{plan.graph.phases[key].name}: {why}")
    lines = [*_cost_lines(plan), *plan.disk.lines(plan.graph.study.engine.keep_encoders)]
    lines += [f"assumed: {line}" for line in assumptions(plan)]
    for line in [*lines, *_lacking(plan)]:  # in a log a line stays one, to be searched
        console.print(line, highlight=False, markup=False, soft_wrap=not console.is_terminal)


def _table(title: str, columns: Sequence[Column], width: int) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False,
                  padding=(0, 2, 0, 0), header_style="bright_black")  # fmt: skip
    fit = fitting(columns, width + 2)  # nothing stands behind the last one
    for column in fit:
        table.add_column(column.head, justify="right" if column.right else "left", overflow="fold")
    for row in range(len(fit[0].cells)):
        table.add_row(*(column.cells[row] for column in fit), style="bold" if fit[0].cells[row] == "all" else None)
    return table


def _kind_columns(plan: StudyPlan) -> list[Column]:
    groups = [(kind, some) for kind in KINDS if (some := plan.cost.of_kind(kind))]
    groups.append(("all", list(plan.cost.phases.values())))
    to_do = [[one for one in some if not one.done] for _, some in groups]
    work = [sum((one.work for one in some), Work()) for some in to_do]
    return [
        Column("kind", [kind for kind, _ in groups], 99, right=False),
        Column("phases", [f"{len(some):,}" for _, some in groups], 98),
        Column("done", [f"{sum(one.done for one in some):,}" for _, some in groups], 6),
        Column("steps to do", [f"{one.steps:,}" if one.steps else "" for one in work], 5),
        Column("tokens to do", [amount(one.tokens) for one in work], 4),
        Column("device-hours", [hours_text(sum(one.device_hours for one in some)) for some in to_do], 8),
        Column("disk", [size_in_words(plan.stays(some)) for _, some in groups], 7),
    ]


def _phase_columns(plan: StudyPlan) -> list[Column]:
    every = list(plan.cost.phases.values())
    phases = [one.phase for one in every]
    return [
        Column("state", [plan.states[one.hash] for one in phases], 99, right=False),
        Column("phase", [f"{one.kind} {one.name}" for one in phases], 98, right=False),
        Column("starts from", [_parent(plan.graph, one) for one in phases], 3, right=False),
        Column("steps", [f"{one.work.steps:,}" if one.work.steps else "" for one in every], 5),
        Column("tokens", [amount(one.work.tokens) for one in every], 4),
        Column("device-hours", [hours_text(one.device_hours) for one in every], 8),
        Column("disk", [plan.disk.of(one.hash) for one in phases], 6),
        Column("run directory", [plan.folders[one.hash] for one in phases], 2, right=False),
    ]


def _parent(graph: Graph, phase: Phase) -> str:
    return graph.phases[phase.parent].name if phase.parent else str(phase.base)


def amount(number: float) -> str:
    """``12.3 G``, ``4.56 M``, ``789``: a number to three digits."""
    for unit, name in ((1e12, " T"), (1e9, " G"), (1e6, " M"), (1e3, " k")):
        if number >= unit:
            return f"{number / unit:.3g}{name}"
    return f"{number:.0f}"


def _cost_lines(plan: StudyPlan) -> Iterator[str]:
    cost, prices = plan.cost, plan.profile.cost if plan.profile else None
    money = ""
    if plan.profile is not None and prices is not None:
        gpus = sum(one.device_hours for one in cost.to_do if plan.profile.resources(one.phase.kind).gpus_per_node)
        spent = gpus * prices.gpu_hour
        money = f", {spent:,.2f} {prices.currency}".rstrip() if spent else ""
    sources = "; ".join(dict.fromkeys(rate.source for rate in cost.rates.values()))
    yield f"cost: {hours_text(cost.device_hours)} device-hours{money}; {sources}"
    if cost.chain:
        each = f"on the devices that {plan.profile.name} gives each" if plan.profile else "on one device each"
        names = " > ".join(f"{one.phase.kind} {one.phase.name}" for one in cost.chain)
        yield (
            f"longest chain: {counted(len(cost.chain), 'phase')}, {hours_text(cost.chain_hours)} h {each}: the least "
            f"that it takes, however many nodes there are ({names})"
        )


def assumptions(plan: StudyPlan) -> Iterator[str]:
    """What the reckoning takes for granted, a line each."""
    if plan.no_base:
        names = listed(map(str, plan.no_base))
        yield (
            f"the sizes of {names}, by name: not at hand, so that no phase that starts there has its own hash yet and "
            "what is done cannot be told"
        )
    every = [one for phase in plan.graph.phases.values() for one in phase.readings]
    readings = {(one.member, one.role, one.split, one.language): one for one in every}.values()
    trained: dict[str, dict[str, float]] = {PUBLISHED: {}, ASSUMED: {}}
    formats, evaluated = set(), set()
    for reading in readings:
        size, format_ = plan.sizes.of(reading), plan.graph.specs[reading.member].format
        if size.tokens_by == ASSUMED:
            formats.add(format_)
        if size.by in trained and reading.role == "train":
            trained[size.by].setdefault(reading.member, 0.0)
            trained[size.by][reading.member] += size.examples
        elif size.by == ASSUMED and reading.role == EVALUATE:
            evaluated.add(reading.member)
    for by, words in ((PUBLISHED, "as published"), (ASSUMED, "a guess: no number is known")):
        if trained[by]:
            sets = listed([f"{task} {round(number):,}" for task, number in sorted(trained[by].items())])
            yield f"examples of training sets that are not at hand, {words}: {sets}"
    if evaluated:
        yield f"1,000 examples a language in test sets of unknown size: {listed(sorted(evaluated))}"
    if formats:
        lengths = listed(f"{name} {ASSUMED_TOKENS[name]}" for name in sorted(formats))
        yield f"tokens a sequence where no data are at hand, by format: {lengths}"
    if any(plan.sizes.of(one).by == FILE for one in readings):
        yield "a token for every 4 bytes of a file that is not prepared yet (plan --write prepares)"
    yield "no phase stops early; heads, start-up, queues and restarts are not counted; devices share work evenly"


def _lacking(plan: StudyPlan) -> Iterator[str]:
    """Whose data cannot be had here, why, and how to do without."""
    groups: dict[str, list[str]] = {}
    for task, problem in plan.graph.lacking.items():
        groups.setdefault(problem.what, []).append(task)
    for what, tasks in groups.items():
        yield f"not to be had here: {listed(sorted(tasks))}: {what}"
    study, lacking = plan.graph.study, set(plan.graph.lacking)
    members = {name: {name, *plan.graph.specs[name].members} for name in study.tasks}
    rows = [row.name for row in study.intermediate if any(members[t] & lacking for some in row.phases for t in some)]
    columns = [column.task for column in study.target if column.task in lacking]
    if rows or columns:
        needs = [f"rows {listed(rows)}"] if rows else []
        needs += [f"targets {listed(columns)}"] if columns else []
        out = ", ".join(f'"{task}"' for task in sorted(lacking))
        yield (
            f"needed by {' and '.join(needs)}. plan --check-data says what to do about each; to do without them: "
            f"--set 'leave_out=[{out}]'"
        )


def plan_json(plan: StudyPlan) -> dict[str, Any]:
    """What :func:`show_plan` shows, and more, for a program. Tokens, bytes, hours and device-hours are numbers."""
    cost, disk = plan.cost, plan.disk
    return {
        "study": plan.graph.study.name,
        "rates": [{"base": str(base), "kind": rate.kind, "source": rate.source,
                   "tokens_per_second": rate.tokens_per_second, "flops": rate.flops}
                  for base, rate in cost.rates.items()],
        "device_hours": cost.device_hours,
        "chain": {"phases": [one.phase.name for one in cost.chain], "hours": cost.chain_hours},
        "disk": {"stays_at_most": disk.stays, "stays_at_least": disk.stays - disk.fewer, "peak": disk.peak,
                 "there": disk.there, "shards": disk.shards},
        "assumed": list(assumptions(plan)),
        "lacking": {task: problem.what for task, problem in plan.graph.lacking.items()},
        "phases": [
            {"name": one.phase.name, "kind": one.phase.kind, "hash": key, "state": plan.states[key],
             "parent": one.phase.parent, "folder": plan.folders[key], "steps": one.work.steps,
             "trained_tokens": round(one.work.trained), "forward_tokens": round(one.work.forward),
             "flops": one.work.flops, "device_hours": one.device_hours, "devices": one.devices, "hours": one.hours,
             "disk_stays": disk.needs[key].stays, "disk_peak": disk.needs[key].peak}
            for key, one in cost.phases.items()
        ],
    }  # fmt: skip
