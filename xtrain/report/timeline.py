"""The time line of a study: a bar for each attempt, a line for each phase, and where and why phases began again.

With more phases than fit, those that began again keep a line of their own, and the others of a kind share lanes. Times
in which nothing ran are cut short, so that a study of two evenings a month apart can be read.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from xtrain.dispatch import attempts as ways
from xtrain.errors import counted
from xtrain.report.compute import HOUR, PhaseCompute, in_order
from xtrain.report.figures import FAINT, INK, WIDTH
from xtrain.watching.starts import StartUsage
from xtrain.watching.state import UNKNOWN

MOST_LINES = 40  # phases that have a line each, if they are no more
MOST_NAMED = 30  # of more: those that began again, the ones that lost most first
GUTTER, NOTES = 2.7, 3.0  # inches for the names on the left, and for what there is to say on the right
LINE, LANE = 0.21, 0.11  # inches
MOST_LETTERS, MOST_NOTE = 38, 50
LONG_GAP, SHOWN_GAP, MOST_GAPS = 0.08, 0.03, 8  # of the time in which something ran
KIND_COLOURS = {"intermediate": "#0072B2", "target": "#009E73", "evaluate": "#b58900"}
_OTHER_COLOUR = "#7a828e"
_FIRM, _SOFT = "#D55E00", "#1f2430"
# How an attempt ended that was not the last -> its mark. What was saved before is black; what was not, red.
MARKS = {
    ways.PREEMPTED: ("|", _SOFT), ways.TIME_LIMIT: ("d", _SOFT), ways.KILLED: ("X", _FIRM), ways.FAILED: ("v", _FIRM),
    ways.USER: ("s", _FIRM), ways.COLLAPSED: ("*", _FIRM), ways.FENCED: ("P", _FIRM), ways.GIVEN_UP: ("D", _FIRM),
    ways.CANCELLED: ("s", _SOFT), UNKNOWN: ("o", _FIRM),
}  # fmt: skip


@dataclass(frozen=True)
class Line:
    """One line of the figure: a phase, or a lane of several."""

    label: str
    phases: tuple[PhaseCompute, ...]
    note: str = ""
    lane: bool = False

    @property
    def kind(self) -> str:
        """That of all its phases."""
        return self.phases[0].kind


def time_line(phases: Sequence[PhaseCompute]) -> Figure | None:
    """The figure; None where no attempt is on record."""
    lines = layout([phase for phase in phases if phase.starts])
    if not lines:
        return None
    clock = Clock([start for line in lines for phase in line.phases for start in phase.starts])
    heights = [LANE if line.lane else LINE for line in lines]
    marks = {start.how for line in lines for phase in line.phases for start in phase.interrupted}
    height = sum(heights) + 0.55 + 0.28
    figure = Figure(figsize=(WIDTH, height), facecolor="white")
    inside = (GUTTER / WIDTH, 0.55 / height, (WIDTH - GUTTER - NOTES) / WIDTH, sum(heights) / height)
    axes = figure.add_axes(inside)
    axes.set_xlim(-0.005 * clock.end, 1.005 * clock.end)
    axes.set_ylim(sum(heights), 0)
    top = 0.0
    for line, size in zip(lines, heights, strict=True):
        _draw_line(axes, line, top, size, clock)
        top += size
    _finish(axes, clock)
    kinds = list(dict.fromkeys(line.kind for line in lines))
    handles = [Line2D([], [], color=_colour(kind), linewidth=5, label=kind) for kind in kinds]
    for how, (mark, colour) in MARKS.items():
        if how in marks:
            handles.append(Line2D([], [], color=colour, marker=mark, linestyle="", markersize=6, label=how))
    figure.legend(handles=handles, loc="upper left", bbox_to_anchor=(0.0, 1.0), ncols=len(handles), fontsize=8,
                  frameon=False, handlelength=1.2, columnspacing=1.4, labelcolor=INK, borderaxespad=0.1)  # fmt: skip
    return figure


def layout(phases: Sequence[PhaseCompute]) -> list[Line]:
    """The lines by kind, then by when their phases began."""
    kinds = in_order({phase.kind for phase in phases})
    ordered = sorted(phases, key=lambda phase: (kinds.index(phase.kind), phase.starts[0].began, phase.name))
    if len(ordered) <= MOST_LINES:
        return [Line(_name(phase), (phase,), note(phase)) for phase in ordered]
    worst = sorted((one for one in ordered if one.interrupted), key=lambda one: (-one.lost_hours, -len(one.starts)))
    named = {id(one) for one in worst[:MOST_NAMED]}
    lines = []
    for kind in kinds:
        mine = [phase for phase in ordered if phase.kind == kind]
        own = [phase for phase in mine if id(phase) in named]
        lines += [Line(_name(phase), (phase,), note(phase)) for phase in own]
        lines += list(_lanes([phase for phase in mine if id(phase) not in named], bool(own)))
    return lines


def _lanes(phases: Sequence[PhaseCompute], others: bool) -> Iterator[Line]:
    """Phases in as few lanes as keep them apart; the first lane says what they are."""
    lanes: list[list[PhaseCompute]] = []
    for phase in sorted(phases, key=lambda one: one.starts[0].began):
        free = next((lane for lane in lanes if _end(lane[-1]) <= phase.starts[0].began), None)
        if free is None:
            lanes.append([phase])
        else:
            free.append(phase)
    for number, lane in enumerate(lanes):
        label = text = ""
        if not number:
            what = f"{'other ' if others else ''}{phases[0].kind} phase"
            label = counted(len(phases), what)
            again = sum(bool(phase.interrupted) for phase in phases)
            text = f"{again} of them began again" if again else ""
        yield Line(label, tuple(lane), text, lane=True)


def _end(phase: PhaseCompute) -> float:
    return max(start.until for start in phase.starts)


def _name(phase: PhaseCompute) -> str:
    seed = f", seed {phase.seed}" if phase.seed is not None else ""
    return _cut(phase.name, MOST_LETTERS - len(seed)) + seed


def note(phase: PhaseCompute) -> str:
    """How its attempts ended that were not the last, and where it ran: ``killed, preempted; n1, n2, then n3``."""
    counts = Counter(start.how for start in phase.interrupted)
    ends = ", ".join(how if number == 1 else f"{how} {number} times" for how, number in counts.items())
    places: list[str] = []
    for start in phase.starts:
        where = ", ".join(start.nodes) if len(start.nodes) <= 3 else f"{start.nodes[0]} and {len(start.nodes) - 1} more"
        if where and (not places or places[-1] != where):
            places.append(where)
    return _cut("; ".join(filter(None, [ends, ", then ".join(places)])), MOST_NOTE)


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1].rstrip() + "…"


def _colour(kind: str) -> str:
    return KIND_COLOURS.get(kind, _OTHER_COLOUR)


def _draw_line(axes: Axes, line: Line, top: float, size: float, clock: Clock) -> None:
    middle, thick = top + size / 2, size * (0.72 if line.lane else 0.56)
    least = 0.002 * clock.end  # seen, however short
    bars = [
        (clock(start.began), max(least, clock(start.until) - clock(start.began)))
        for phase in line.phases
        for start in phase.starts
    ]
    place = (middle - thick / 2, thick)
    axes.broken_barh(bars, place, facecolors=_colour(line.kind), edgecolors="white", linewidth=0.4)
    for phase in line.phases:
        for start in phase.interrupted:
            mark, colour = MARKS.get(start.how, MARKS[UNKNOWN])
            axes.plot([clock(start.until)], [middle], mark, color=colour, markersize=4 if line.lane else 6,
                      markeredgewidth=1.6 if mark == "|" else 0.4, clip_on=False, zorder=3)  # fmt: skip
    edges: dict[str, Any] = {"va": "center", "fontsize": 8, "color": INK, "clip_on": False}
    axes.text(-0.012, middle, line.label, ha="right", transform=axes.get_yaxis_transform(), **edges)
    axes.text(1.012, middle, line.note, ha="left", transform=axes.get_yaxis_transform(), **{**edges, "fontsize": 7.5})


def _finish(axes: Axes, clock: Clock) -> None:
    axes.set_yticks([])
    ticks = clock.ticks()
    axes.set_xticks([x for x, _ in ticks], [text for _, text in ticks], fontsize=8, color=INK)
    axes.tick_params(length=2.5, color=FAINT)
    axes.grid(True, axis="x", color="#e8eaee", linewidth=0.7)
    axes.set_axisbelow(True)
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(FAINT)
    for x, _ in clock.cuts:
        axes.axvline(x, color=FAINT, linewidth=1.0, linestyle=(0, (2, 2)))
    began = datetime.fromtimestamp(clock.began, UTC).strftime("%Y-%m-%d %H:%M")
    idle = ", ".join(_span(seconds) for _, seconds in clock.cuts)
    cut = f"; dashed: {idle} without any attempt" if idle else ""
    axes.set_xlabel(f"{clock.unit}s since {began} UTC{cut}", fontsize=8, color=INK)


class Clock:
    """Seconds since 1970 to places on the axis, in seconds since the first attempt without what is cut out."""

    def __init__(self, starts: Sequence[StartUsage]) -> None:
        self.began = min(start.began for start in starts)
        busy: list[list[float]] = []
        for start in sorted(starts, key=lambda one: one.began):
            if busy and start.began <= busy[-1][1]:
                busy[-1][1] = max(busy[-1][1], start.until)
            else:
                busy.append([start.began, start.until])
        total = max(1.0, sum(until - since for since, until in busy))
        gaps = [(later[0] - sooner[1], sooner[1]) for sooner, later in pairwise(busy)]
        longest = sorted((gap for gap in gaps if gap[0] > LONG_GAP * total), key=lambda gap: -gap[0])[:MOST_GAPS]
        self._gaps = sorted((since, length) for length, since in longest)
        self._shown = SHOWN_GAP * total
        self.last = busy[-1][1]
        self.end = max(self(self.last), 1.0)
        spans = [(60.0, "minute"), (HOUR, "hour"), (24 * HOUR, "day")]
        self._unit_seconds, self.unit = next(
            ((size, unit) for size, unit in reversed(spans) if total >= 3 * size), spans[0]
        )

    def __call__(self, when: float) -> float:
        """The place of a time."""
        place = when - self.began
        for since, length in self._gaps:
            if when >= since + length:
                place -= length - self._shown
            elif when > since:
                place -= (when - since) * (1.0 - self._shown / length)
        return place

    @property
    def cuts(self) -> list[tuple[float, float]]:
        """Where something is cut out, and how many seconds."""
        return [(self(since + length / 2), length) for since, length in self._gaps]

    def ticks(self) -> list[tuple[float, str]]:
        """Places and what is written there: the time since the beginning, in :attr:`unit`."""
        step = _round_step(self.end / self._unit_seconds / 7)
        found: list[tuple[float, str]] = []
        number = 0
        while (when := self.began + number * step * self._unit_seconds) <= self.last:
            inside = any(since < when < since + length for since, length in self._gaps)
            if not inside and (not found or self(when) - found[-1][0] > self.end / 16):
                found.append((self(when), f"{number * step:g}"))
            number = self._next(when, number, step)
        return found

    def _next(self, when: float, number: int, step: float) -> int:
        """The next multiple of ``step``; beyond a gap at once."""
        for since, length in self._gaps:
            if since < when < since + length:
                return max(number + 1, math.ceil((since + length - self.began) / (step * self._unit_seconds)))
        return number + 1


def _round_step(least: float) -> float:
    """The next larger of 1, 2, 5, 10, 20..., and of their tenths and so on."""
    power = 10.0 ** math.floor(math.log10(max(least, 1e-9)))
    return next(factor * power for factor in (1.0, 2.0, 5.0, 10.0) if factor * power >= least * (1 - 1e-9))


def _span(seconds: float) -> str:
    """``40 min``, ``9 h``, ``12 d``."""
    if seconds < 1.5 * HOUR:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / HOUR:.0f} h" if seconds < 48 * HOUR else f"{seconds / HOUR / 24:.0f} d"
