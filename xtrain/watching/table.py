"""How the status is shown: a table a study for people, JSON for programs."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from xtrain.dispatch.job_graph import PREPARE, JobGraph, JobNode
from xtrain.errors import counted, listed
from xtrain.tracking.progress import duration
from xtrain.watching import state as words
from xtrain.watching.state import PhaseState, totals
from xtrain.watching.studies import Observed

STYLES = {
    words.DONE: "green",
    words.RUNNING: "bold cyan",
    words.RESTARTING: "magenta",
    words.WAITING: "yellow",
    words.HELD: "bright_black",
    words.TO_DO: "bright_black",
    words.STOPPED: "yellow",
    words.UNKNOWN: "yellow",
    words.LOST: "bold red",
    words.FAILED: "bold red",
    words.CANCELLED: "red",
}
_NEWS_SHARE = 4  # of the width, what is left for the news at least before a column gives way: one part of four


@dataclass(frozen=True)
class Column:
    """A column of a table of phases: a cell a row."""

    head: str
    cells: list[str]
    keep: int  # the smaller, the sooner it gives way on a narrow terminal
    right: bool = True

    @property
    def width(self) -> int:
        """Of its widest cell, or its head."""
        return max(len(self.head), *(len(cell) for cell in self.cells))


def fitting(columns: Sequence[Column], width: int) -> list[Column]:
    """The columns that have anything to say and fit ``width`` together; the first two stay in any case."""
    found = [column for column in columns if any(column.cells)]
    while len(found) > 2 and sum(column.width + 2 for column in found) > width:
        found.remove(min(found, key=lambda column: column.keep))
    return found


def show(observed: Sequence[Observed], console: Console) -> None:
    """A table a study, what it comes to, and who did not answer."""
    for number, one in enumerate(observed):
        if number:
            console.print()
        console.print(study_table(one, console.width))
        say(console, _totals(one))
        _bad(one, console)
    for source, why in (observed[0].answer.silent if observed else {}).items():
        if any(one.of(node).queue is None and one.of(node).job for one in observed for node in one.graph.nodes):
            say(console, f"{source} did not answer: {why}")
            break


def study_table(one: Observed, width: int) -> Table:
    """The table of a study, in the order of its graph; fits ``width`` columns."""
    rows = list(ordered(one.graph))
    head = common_head(one.graph)
    states = [one.of(node) for node, _ in rows]
    names = ["  " * depth + node.job_name.removeprefix(head) for node, depth in rows]
    columns = [
        Column("phase", names, 99, right=False),
        Column("state", [state.state for state in states], 98, right=False),
        Column("job", [state.job for state in states], 5),
        Column("nodes", [_nodes(state.nodes) for state in states], 2, right=False),
        Column("tries", [str(state.attempts or "") for state in states], 3),
        Column("step", [_step(state) for state in states], 7),
        Column("loss", [_number(state.loss) for state in states], 6),
        Column("tokens/s", [_count(state.tokens_per_second) for state in states], 1),
        Column("ETA", ["" if s.eta_seconds is None else duration(s.eta_seconds) for s in states], 8),
    ]
    columns = fitting(columns, width - width // _NEWS_SHARE)
    table = Table(title=f"{one.graph.study}", title_justify="left", title_style="bold", box=None, pad_edge=False,
                  padding=(0, 2, 0, 0), header_style="bright_black", width=width)  # fmt: skip
    for column in columns:
        table.add_column(column.head, justify="right" if column.right else "left", no_wrap=True)
    table.add_column("news", no_wrap=True, overflow="ellipsis", ratio=1)
    for row, state in enumerate(states):
        cells = [Text(column.cells[row], STYLES[state.state] if column.head == "state" else "") for column in columns]
        table.add_row(*cells, Text(_news(state, head)))
    return table


def as_json(out: Path, observed: Sequence[Observed]) -> dict[str, Any]:
    """What :func:`show` shows and more, for a program."""
    return {
        "out": str(out),
        "time": round(time.time(), 1),
        "silent": dict(observed[0].answer.silent) if observed else {},
        "studies": [
            {
                "study": one.graph.study,
                "totals": totals(one.states),
                "phases": [_fields(s, one.graph) for s in one.states],
            }
            for one in observed
        ],
    }


def _fields(state: PhaseState, graph: JobGraph) -> dict[str, Any]:
    node, queue = state.node, state.queue
    return {
        "name": node.name, "job_name": node.job_name, "kind": node.kind, "hash": node.hash, "folder": node.folder,
        "parents": [graph.by_hash[parent].job_name for parent in node.parents if parent in graph.by_hash],
        "state": state.state, "detail": state.detail, "job": state.job, "nodes": state.nodes,
        "attempts": state.attempts, "step": state.step, "planned_steps": state.planned_steps, "unit": state.unit,
        "loss": _finite(state.loss), "score": _finite(state.score), "tokens_per_second": state.tokens_per_second,
        "eta_seconds": None if state.eta_seconds is None else round(state.eta_seconds),
        "event": state.event or None, "event_age_seconds": state.event_age,
        "queue": None if queue is None else {
            "state": queue.state, "reason": queue.reason, "restarts": queue.restarts, "start": queue.start,
            "end": queue.end, "time_limit_seconds": queue.time_limit, "dependency": queue.dependency,
            "source": queue.source,
        },
    }  # fmt: skip


def _finite(value: float | None) -> float | str | None:
    """JSON knows no NaN: as in ``metrics.jsonl``, a text."""
    if value is None or abs(value) < float("inf"):
        return value
    return "NaN" if value != value else "Infinity" if value > 0 else "-Infinity"


def common_head(graph: JobGraph) -> str:
    """The study's part of its jobs' names: ``phang2020/``; empty where they have none in common."""
    heads = {node.job_name.partition("/")[0] for node in graph.nodes if "/" in node.job_name}
    return f"{heads.pop()}/" if len(heads) == 1 else ""


def ordered(graph: JobGraph) -> Iterator[tuple[JobNode, int]]:
    """The jobs with what starts from each behind it, and how deep that is; the report, which waits for all, last."""
    children: dict[str, list[JobNode]] = {}
    roots: list[JobNode] = []
    for node in graph.nodes:
        own = (
            [parent for parent in node.parents if graph.by_hash[parent].kind != PREPARE]
            if len(node.parents) < 2
            else []
        )
        (children.setdefault(own[0], []) if own else roots).append(node)
    pending = [(node, 0) for node in reversed(roots)]
    while pending:
        node, depth = pending.pop()
        yield node, depth
        pending += [(child, depth + 1) for child in reversed(children.get(node.hash, []))]


def _news(state: PhaseState, head: str) -> str:
    """What is to be said of the phase in a line; where it names other jobs, without ``head`` as in their own lines."""
    age = "" if state.event_age is None else f"{duration(state.event_age)} ago"
    event = _line(state.event) + (f", {age}" if state.event and age else "")
    if state.state == words.DONE:
        score = "" if state.score is None else f"score {state.score:.4g}, "
        return f"{score}done {age}".rstrip()
    if state.state == words.RUNNING:
        return event or state.detail
    detail = _line(state.detail)
    if head and state.state in (words.HELD, words.CANCELLED):
        detail = re.sub(rf"(?<!\S){re.escape(head)}", "", detail)
    return detail or event


def _totals(one: Observed) -> str:
    parts = [f"{count} {word}" for word, count in totals(one.states).items()]
    rate = sum(state.tokens_per_second or 0 for state in one.states if state.state == words.RUNNING)
    speed = f"; {rate:,.0f} tokens/s" if rate else ""
    last = max((state.eta_seconds or 0 for state in one.states), default=0)
    ready = f"; those that run end within {duration(last)}" if last else ""
    return f"{counted(len(one.states), 'job')}: {', '.join(parts)}{speed}{ready}"


def _bad(one: Observed, console: Console) -> None:
    """Where to look first: phases that failed, or are lost."""
    bad = [state.node.job_name for state in one.states if state.state in (words.FAILED, words.LOST)]
    if bad:
        say(
            console,
            f"to see why: python -m xtrain why {bad[0]}" + (f", or {listed(bad[1:], most=4)}" if bad[1:] else ""),
        )


def say(console: Console, text: str) -> None:
    """A line as it is, without markup and without being broken."""
    console.print(text, highlight=False, markup=False, soft_wrap=True)


def _step(state: PhaseState) -> str:
    if state.step is None:
        return ""
    if state.unit != "steps":  # tokens of an evaluation: as a share
        return f"{100 * state.step / state.planned_steps:.0f}%" if state.planned_steps else f"{state.step:,}"
    return f"{state.step:,}" + (f"/{state.planned_steps:,}" if state.planned_steps else "")


def _nodes(text: str) -> str:
    return text if len(text) <= 16 else f"{text[:15]}…"


def _line(text: str) -> str:
    return text.strip().partition("\n")[0]


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.3f}" if value == 0 or 1e-3 <= abs(value) < 1e4 else f"{value:.1e}"


def _count(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}"
