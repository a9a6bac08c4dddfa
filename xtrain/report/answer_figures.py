"""Figures of answers: forest plots, curves, matrices, rankings; only what is claimed is filled and in colour."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from xtrain.questions.answer import Answer, Comparison, Verdict, by_group
from xtrain.report.figures import DIFFERENCE_COLOURS, FAINT, INK, SOFT, faded, ink_on, shades
from xtrain.report.tables import signed
from xtrain.statistics.estimate import Estimate

TONES = {Verdict.HIGHER: "#2166ac", Verdict.LOWER: "#b2182b", Verdict.EQUIVALENT: "#00806a"}
BAND, SET_BAND = "#d9f0ea", "#e4ecf7"  # the margin of equivalence; those that cannot be told from the best

WIDTH = 11.0  # inches; one is 96 CSS pixels
LINE = 0.235  # of a line of a forest plot
FOOT = 0.52  # the axis below
LETTER, DIGIT = 0.060, 0.068  # of a label; of the numbers at the right, which may be bold
WIDEST = 6.0  # of a plot between the two
COLUMNS = ((14, 1), (40, 2))  # at most so many lines in one column, in two; more in three
MOST_LINES = 240  # of one figure; the others are counted
MOST_LETTERS, FEWEST_LETTERS = 30, 20  # of a label: in one column, in several
MOST_TICKS = 8  # points of a curve that are named below it
CELL_WIDTH, CELL_HEIGHT = 0.86, 0.46  # of a matrix


def answer_figure(answer: Answer) -> Figure | None:
    """The answer's figure, by its kind; ``None`` where there is nothing to draw."""
    if answer.kind == "curve" and answer.curve:
        return curve(answer)
    if answer.kind == "matrix" and answer.matrix and answer.comparisons:
        return matrix(answer)
    if answer.kind == "choice" and answer.comparisons:
        return ranking(answer)
    return forest(answer, answer.comparisons) if answer.comparisons else None


def details_figure(answer: Answer) -> Figure | None:
    """A forest plot of what is shown and not claimed; ``None`` where there is none."""
    return forest(answer, [replace(one, verdict=Verdict.OPEN) for one in answer.details]) if answer.details else None


def forest(answer: Answer, comparisons: Sequence[Comparison]) -> Figure:
    """Estimates with their intervals, a line each, group after group, in one to three columns of one scale."""
    shown = comparisons[:MOST_LINES]
    lines: list[_Line] = []
    for group, members in by_group(shown).items():
        if group:
            lines.append(_Line(group))
        lines += [_Line(one.label, one.estimate, one.verdict if one.claimed else None) for one in members]
    return _forest(answer, lines, decimals(shown))


def ranking(answer: Answer) -> Figure:
    """The highest first; on a ground those that cannot be told from it.

    Comparisons are to the highest, ``against``, which stands among them at 0; what is ``LOWER`` is told from it.
    """
    ranked = sorted(answer.comparisons, key=lambda one: -one.estimate.value)
    lines = [
        _Line(
            one.label,
            one.estimate,
            one.verdict if one.claimed else None,
            one.verdict in (Verdict.OPEN, Verdict.EQUIVALENT),
        )
        for one in ranked
    ]
    if answer.against:
        place = sum(one.estimate.value > 0 for one in ranked)
        lines.insert(place, _Line(answer.against, Estimate(0.0, ()), None, together=place == 0, reference=True))
    return _forest(answer, lines, decimals(ranked))


@dataclass(frozen=True)
class _Line:
    """A line of a forest plot, or a group's name."""

    label: str
    estimate: Estimate | None = None
    claim: Verdict | None = None
    together: bool = False
    """Whether it has the ground of those that cannot be told from the best."""
    reference: bool = False
    """Whether it is what the others are compared to."""


def _forest(answer: Answer, lines: Sequence[_Line], digits: int) -> Figure:
    columns = _columns(lines)
    limit_low, limit_high = _limits([line.estimate for line in lines if line.estimate], answer.margin)
    letters = MOST_LETTERS if len(columns) == 1 else FEWEST_LETTERS
    texts = [_Texts.of(line, digits, letters) for line in lines]
    labels = 0.2 + LETTER * max(len(one.label) for one in texts)
    values = 0.16 + DIGIT * max(len(one.numbers) for one in texts)
    wide = min(WIDTH / len(columns) - labels - values, WIDEST)
    width, height = len(columns) * (labels + wide + values), LINE * max(map(len, columns)) + FOOT
    figure = Figure(figsize=(width, height), facecolor="white")
    for number, column in enumerate(columns):
        left = number * (labels + wide + values) + labels
        high = LINE * len(column)
        box = (left / width, (height - high - 0.02) / height, wide / width, high / height)
        axes = figure.add_axes(box)
        axes.set_xlim(limit_low, limit_high)
        axes.set_ylim(len(column) - 0.5, -0.5)
        _frame(axes, answer)
        _ground(axes, column)
        for y, line in enumerate(column):
            _write(axes, y, line, _Texts.of(line, digits, letters), (labels / wide, 0.1 / wide))
        _draw(axes, column, (limit_low, limit_high))
    return figure


def _columns(lines: Sequence[_Line]) -> list[list[_Line]]:
    """The lines in columns of about equal length; a group's name never ends one, and stands over its rest again."""
    wanted = next((columns for most, columns in COLUMNS if len(lines) <= most), 3)
    height = math.ceil(len(lines) / wanted)
    columns: list[list[_Line]] = []
    at = 0
    while at < len(lines):
        end = min(at + height, len(lines))
        if end < len(lines) and lines[end - 1].estimate is None and end - 1 > at:
            end -= 1
        names = [line for line in lines[:at] if line.estimate is None]
        again = names[-1:] if lines[at].estimate is not None else []
        columns.append([*again, *lines[at:end]])
        at = end
    if len(columns) > wanted:  # names that moved on have made one more
        columns[-2:] = [columns[-2] + columns[-1]]
    return columns


def _limits(estimates: Sequence[Estimate], margin: float | None) -> tuple[float, float]:
    """The scale: values, 0, and intervals as far as nine in ten of their ends reach: few seeds make some huge."""
    values = [0.0, *(one.value for one in estimates)]
    ends = [end for one in estimates if one.known for end in one.interval()]
    values += [-margin, margin] if margin else []
    low, high = min(values), max(values)
    if ends:
        usual = float(np.quantile(np.abs(ends), 0.9)) * 1.1
        low, high = min(low, max(min(ends), -usual)), max(high, min(max(ends), usual))
    room = 0.08 * max(high - low, 0.1)
    return low - room, high + room


def _frame(axes: Axes, answer: Answer) -> None:
    """Zero, the margin, and an axis below."""
    if answer.margin:
        axes.axvspan(-answer.margin, answer.margin, color=BAND, linewidth=0, zorder=0)
    axes.axvline(0.0, color=FAINT, linewidth=1.0, zorder=1)
    axes.tick_params(labelsize=8, length=2.5, color=FAINT, labelcolor=INK, left=False, labelleft=False)
    axes.xaxis.set_major_formatter(lambda value, _: signed(value, 0 if float(value).is_integer() else 1))
    axes.xaxis.set_major_locator(MaxNLocator(5 if axes.get_position().width > 0.2 else 4, steps=[1, 2, 4, 5, 10]))
    axes.set_xlabel(_scale_name(answer), fontsize=8, color=SOFT, labelpad=2)
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(FAINT)


def _scale_name(answer: Answer) -> str:
    against = f", against {_short(answer.against)}" if answer.against else ""
    return f"{answer.unit}{against}"


def _ground(axes: Axes, column: Sequence[_Line]) -> None:
    together = [y for y, line in enumerate(column) if line.together]
    for y in together:
        axes.axhspan(y - 0.5, y + 0.5, color=SET_BAND, linewidth=0, zorder=-1)


@dataclass(frozen=True)
class _Texts:
    """What is written at the left and at the right of a line."""

    label: str
    numbers: str

    @classmethod
    def of(cls, line: _Line, digits: int, letters: int) -> _Texts:
        numbers = "" if line.estimate is None else interval_text(line.estimate, digits)
        return cls(_short(line.label, letters), "compared to" if line.reference else numbers)


def _write(axes: Axes, y: int, line: _Line, texts: _Texts, widths: tuple[float, float]) -> None:
    """The label at the left, the numbers at the right; ``widths``, of labels and of a gap, are in those of the plot."""
    labels, gap = widths
    beside: dict[str, Any] = {"transform": axes.get_yaxis_transform(), "va": "center", "clip_on": False}
    ink = INK if line.claim or line.estimate is None else SOFT
    if line.estimate is None:
        axes.text(gap - labels, y + 0.1, texts.label, ha="left", fontsize=9.5, color=ink, **beside)
        return
    axes.text(-gap, y + 0.03, texts.label, ha="right", fontsize=8.5, color=ink, **beside)
    weight = "bold" if line.claim else "normal"
    axes.text(1 + gap, y + 0.03, texts.numbers, ha="left", fontsize=8.5, color=ink, fontweight=weight, **beside)


def _draw(axes: Axes, column: Sequence[_Line], limits: tuple[float, float]) -> None:
    """Intervals and marks, a tone at a time; an interval that leaves the plot ends in an arrow."""
    for claim in (None, *TONES):
        lines = [(y, line) for y, line in enumerate(column) if line.estimate and line.claim is claim]
        colour = TONES[claim] if claim else FAINT
        known = [(y, line.estimate.interval()) for y, line in lines if line.estimate and line.estimate.known]
        if known:
            low, high = np.clip([ends for _, ends in known], *limits).T
            axes.hlines([y for y, _ in known], low, high, color=colour, linewidth=1.5 if claim else 1.1, zorder=2)
            for side, marker in ((0, "<"), (1, ">")):
                cut = [y for y, ends in known if not limits[0] <= ends[side] <= limits[1]]
                axes.plot([limits[side]] * len(cut), cut, marker, color=colour, markersize=4, clip_on=False)
        for reference in (False, True):
            places = [(line.estimate.value, y) for y, line in lines if line.estimate and line.reference is reference]
            if places:
                axes.plot(
                    *zip(*places, strict=True),
                    linestyle="none",
                    marker="D" if reference else "s" if claim is Verdict.EQUIVALENT else "o",
                    markersize=5.5,
                    markerfacecolor=colour if claim else "white",
                    markeredgecolor=colour,
                    markeredgewidth=1.1,
                    zorder=3,
                    clip_on=False,
                )


def curve(answer: Answer) -> Figure:
    """Points with their intervals; joined and in colour where a trend is claimed."""
    points = sorted(answer.curve, key=lambda one: one.x)
    colour = next((TONES[one.verdict] for one in answer.claims), FAINT)
    figure = Figure(figsize=(7.2, 3.1), facecolor="white", layout="constrained")
    axes = figure.add_subplot()
    x = [one.x for one in points]
    axes.plot(x, [one.estimate.value for one in points], color=colour, linewidth=1.0, linestyle="--", zorder=1)
    known = [one for one in points if one.estimate.known]
    if known:
        low, high = zip(*(one.estimate.interval() for one in known), strict=True)
        axes.vlines([one.x for one in known], low, high, color=colour, linewidth=1.4, zorder=2)
    axes.plot(
        x,
        [one.estimate.value for one in points],
        linestyle="none",
        marker="o",
        markersize=6,
        markerfacecolor=colour if answer.claims else "white",
        markeredgecolor=colour,
        zorder=3,
    )
    for one in points:
        if one.label:
            place = (one.x, one.estimate.value)
            axes.annotate(one.label, place, (7, 4), textcoords="offset points", fontsize=8, color=SOFT)
    if x[0] > 0 and x[-1] > 30 * x[0]:
        axes.set_xscale("log")
    if axes.get_xscale() == "log" or len(x) <= MOST_TICKS:
        axes.set_xticks(x, [f"{value:,g}" for value in x])
        axes.minorticks_off()
    axes.margins(x=0.06)
    axes.set_xlabel(answer.x_name, fontsize=8.5, color=INK)
    axes.set_ylabel(_scale_name(answer), fontsize=8.5, color=INK)
    axes.tick_params(labelsize=8, length=2.5, color=FAINT, labelcolor=INK)
    axes.grid(True, axis="y", color="#e8eaee", linewidth=0.7)
    axes.set_axisbelow(True)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(FAINT)
    return figure


def matrix(answer: Answer) -> Figure:
    """A cell a comparison: its value, half its interval; full in colour and bold where claimed, pale elsewhere.

    Pairs stand above the diagonal; on and below it are the gains of tasks and pairs, where the answer has some.
    """
    assert answer.matrix is not None
    lines, columns = answer.matrix
    cells = {**answer.gains, **{(one.group, one.label): one for one in answer.comparisons}}
    digits = decimals(answer.comparisons)
    gutter = 0.3 + 0.078 * max(len(_short(name)) for name in lines)
    cell = min(CELL_WIDTH, (WIDTH - gutter) / len(columns))
    heads = [textwrap.fill(_short(name), max(6, int(cell / LETTER))) for name in columns]
    head = 0.12 + 0.15 * max(text.count("\n") + 1 for text in heads)
    width, height = gutter + cell * len(columns) + 0.1, head + CELL_HEIGHT * len(lines) + FOOT
    legend = f"{_scale_name(answer)}; pale: nothing is claimed"
    if answer.gains:
        legend = f"above the diagonal: {legend}; on and below it: {next(iter(answer.gains.values())).group}"
    width = max(width, gutter + 0.068 * len(legend) + 0.2)
    figure = Figure(figsize=(width, height), facecolor="white")
    tall = CELL_HEIGHT * len(lines)
    box = (gutter / width, (height - head - tall) / height, cell * len(columns) / width, tall / height)
    axes = figure.add_axes(box)
    limit = max([1e-9, *(abs(one.estimate.value) for one in answer.comparisons)])
    colours = shades(*DIFFERENCE_COLOURS)(
        Normalize(-limit, limit, clip=True)(
            np.array([[_value_of(cells.get((line, column))) for column in columns] for line in lines])
        )
    )
    for r, line in enumerate(lines):
        for c, column in enumerate(columns):
            one = cells.get((line, column))
            if one is None or not one.claimed:
                colours[r, c, :3] = faded(colours[r, c, :3])
            _matrix_cell(axes, r, c, one, ink_on(colours[r, c]), digits)
    axes.pcolormesh(colours, edgecolors="white", linewidth=1.5, clip_on=False)
    axes.set_xlim(0, len(columns))
    axes.set_ylim(len(lines), 0)
    axes.set_xticks(np.arange(len(columns)) + 0.5, heads, fontsize=8.5, color=INK)
    axes.set_yticks(np.arange(len(lines)) + 0.5, [_short(name) for name in lines], fontsize=8.5, color=INK)
    axes.tick_params(length=0, pad=4, top=True, labeltop=True, bottom=False, labelbottom=False)
    for spine in axes.spines.values():
        spine.set_visible(False)
    figure.text(gutter / width, 0.2 / height, legend, fontsize=8.5, color=SOFT)
    return figure


def _matrix_cell(axes: Axes, r: int, c: int, one: Comparison | None, ink: str, digits: int) -> None:
    centred: dict[str, Any] = {"ha": "center", "va": "center"}
    if one is None:
        axes.text(c + 0.5, r + 0.5, "–", fontsize=8.5, color=FAINT, **centred)  # noqa: RUF001
        return
    colour = ink if one.claimed else SOFT
    weight = "bold" if one.claimed else "normal"
    value = signed(one.estimate.value, digits)
    axes.text(c + 0.5, r + 0.37, value, fontsize=9, color=colour, fontweight=weight, **centred)
    half = f"±{half_width(one.estimate):.{digits}f}" if one.estimate.known else "no interval"
    axes.text(c + 0.5, r + 0.73, half, fontsize=7, color=colour, **centred)


def _value_of(one: Comparison | None) -> float:
    return one.estimate.value if one else 0.0


def decimals(comparisons: Sequence[Comparison]) -> int:
    """Digits after the point: one for points, more for what is small (points per unit of a covariate)."""
    largest = max((abs(one.estimate.value) for one in comparisons), default=1.0)
    return 1 if largest >= 0.5 or largest == 0.0 else 2 if largest >= 0.05 else 3


def half_width(estimate: Estimate) -> float:
    """Half of the 95 % interval."""
    low, high = estimate.interval()
    return (high - low) / 2


def interval_text(estimate: Estimate, digits: int = 1) -> str:
    """``+1.3 [+0.4, +2.2]``."""
    if not estimate.known:
        return f"{signed(estimate.value, digits)} (no interval)"
    low, high = (signed(end, digits) for end in estimate.interval())
    return f"{signed(estimate.value, digits)} [{low}, {high}]"


def _short(name: str, letters: int = MOST_LETTERS) -> str:
    return name if len(name) <= letters else name[: letters - 1] + "…"
