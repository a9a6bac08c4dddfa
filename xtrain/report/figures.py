"""Figures: heat maps of languages x rows, and what all figures share; as SVG, PDF or PNG, drawn without a display."""

from __future__ import annotations

import base64
import io
import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, ListedColormap, Normalize
from matplotlib.figure import Figure

from xtrain.report.compact_svg import compact
from xtrain.report.language_groups import LanguageGroup, language_groups
from xtrain.report.statistics import TaskGrid
from xtrain.report.tables import signed

# Both are told apart by readers with any common colour blindness, and light where the value is low or zero;
# the darkest ends are cut off, where neighbouring values look alike.
SCORE_COLOURS = ("YlGnBu", 0.02, 0.80)
DIFFERENCE_COLOURS = ("RdBu", 0.10, 0.90)  # red: below the base row; blue: above
SERIES_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")  # Okabe and Ito
INK, SOFT, FAINT = "#1f2430", "#5b6472", "#9aa1ad"
PALE = (0.96, 0.965, 0.972)
FADED = 0.16  # of its colour that is left to a cell whose interval holds 0; the rest is PALE

WIDTH = 11.0  # inches of a heat map; one is 96 CSS pixels
NARROWEST_CELL, WIDEST_CELL = 0.47, 0.70
CELL_HEIGHT = 0.32
HEAD_HEIGHT = 0.25  # the language codes above a band
LETTER = 0.068  # width of one, of what stands beside the colour bar
FAMILY_HEIGHT = 0.2  # the families above the codes
BAND_GAP = 0.16
BAR_WIDTH, BAR_HEIGHT = 3.6, 0.62  # the colour bar below all bands
MOST_LETTERS = 26  # of a row's name

matplotlib.rcParams["svg.hashsalt"] = "xtrain"  # the same figure is the same file
matplotlib.rcParams["text.parse_math"] = False  # a dollar in a name is a dollar


@dataclass(frozen=True)
class Curve:
    """One line of a training curve."""

    label: str
    """The seed, as a rule."""
    steps: Sequence[int]
    values: Sequence[float]

    @classmethod
    def of(cls, metrics: Iterable[Mapping[str, Any]], label: str, name: str = "loss") -> Curve:
        """The curve of one metric from the lines of ``metrics.jsonl``; lines without it are passed over."""
        points = [(int(line["step"]), float(line[name])) for line in metrics if name in line]
        return cls(label, [step for step, _ in points], [value for _, value in points])


@dataclass(frozen=True)
class _Cells:
    """What a heat map shows: lines are rows of the study, columns languages and then the mean."""

    rows: Sequence[str]
    groups: Sequence[LanguageGroup]
    values: npt.NDArray[np.float64]
    """NaN where there is no value."""
    strong: npt.NDArray[np.bool_]
    """Where the colour is full."""
    bold: npt.NDArray[np.bool_]
    norm: Normalize
    colours: tuple[str, float, float]
    title: str
    legend: str = ""
    """What a faded colour means; empty where none is."""

    @property
    def differences(self) -> bool:
        """Whether the values are differences."""
        return self.colours == DIFFERENCE_COLOURS

    @property
    def columns(self) -> list[str]:
        """The languages, group after group, and the mean."""
        return [*(language for group in self.groups for language in group.languages), "mean"]

    def families(self, part: slice) -> Iterable[tuple[int, int, int, str]]:
        """The named groups within a band: first column, number of columns, how many its name has room for, name."""
        names = [*(group.name for group in self.groups for _ in group.languages), ""][part]
        for number, name in enumerate(names):
            if name and (number == 0 or names[number - 1] != name):
                end = number + names.count(name)
                free = next((n for n, other in enumerate(names[end:]) if other), len(names) - end)
                yield number, end - number, end - number + free, name


def score_map(task: TaskGrid) -> Figure:
    """Heat map of the scores, languages across in bands, a line a row of the study; what has a mark is faded."""
    groups = language_groups(task)
    values = _matrix(task, task.rows, groups, differences=False)
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    languages = [language for group in groups for language in group.languages]
    strong = np.array([[*(not task.marks.get((row, one)) for one in languages), True] for row in task.rows])
    return _heat_map(
        _Cells(
            task.rows,
            groups,
            values,
            strong,
            np.zeros_like(strong),
            Normalize(low, max(high, low + 1.0)),
            SCORE_COLOURS,
            f"{task.metric} in percent",
            "" if strong.all() else "faded: a mark below the table says what speaks against it",
        )
    )


def difference_map(task: TaskGrid) -> Figure | None:
    """Heat map of the points above the base row, centred on 0; ``None`` if there is nothing to compare.

    A colour is full where the difference's 95 % interval leaves 0 out, and faded elsewhere. The colours end at the 98th
    percentile of the sizes (at least one point), so that one odd language does not take the colour from all others; the
    numbers in the cells are never cut.
    """
    groups = language_groups(task)
    values = _matrix(task, task.compared_rows, groups, differences=True)
    if not task.compared_rows or np.isnan(values).all():
        return None
    limit = float(math.ceil(max(1.0, np.nanpercentile(np.abs(values), 98))))
    columns = [*(language for group in groups for language in group.languages), None]
    strong = np.array([[task.found(row, language) for language in columns] for row in task.compared_rows])
    bold = np.zeros_like(strong)
    bold[:, -1] = [task.found_among_rows(row) for row in task.compared_rows]
    return _heat_map(
        _Cells(
            task.compared_rows,
            groups,
            values,
            strong,
            bold,
            Normalize(-limit, limit),
            DIFFERENCE_COLOURS,
            f"{task.metric}, points against the row {task.base_row}",
            "faded: the 95 % interval holds 0" if task.intervals else "faded: no intervals are known",
        )
    )


def _matrix(
    task: TaskGrid, rows: Sequence[str], groups: Sequence[LanguageGroup], *, differences: bool
) -> npt.NDArray[np.float64]:
    """(rows, languages + 1), the mean last; NaN where there is no value."""
    columns = [*(language for group in groups for language in group.languages), None]
    matrix = np.full((len(rows), len(columns)), np.nan)
    for r, row in enumerate(rows):
        for c, language in enumerate(columns):
            cell = task.cell(row, language)
            value = task.difference(row, language) if differences else cell.mean if cell else None
            if value is not None:
                matrix[r, c] = value
    return matrix


def _heat_map(cells: _Cells) -> Figure:
    """Bands of as many languages as fit the width, of nearly equal length; the mean is the last cell."""
    names = [row if len(row) <= MOST_LETTERS else row[: MOST_LETTERS - 1] + "…" for row in cells.rows]
    gutter = 0.16 + 0.078 * max(map(len, names))
    most = int((WIDTH - gutter) // NARROWEST_CELL)
    num_bands = math.ceil(len(cells.columns) / most)
    per_band = math.ceil(len(cells.columns) / num_bands)
    cell_width = min(WIDEST_CELL, (WIDTH - gutter) / per_band)
    head = HEAD_HEIGHT + FAMILY_HEIGHT * any(group.name for group in cells.groups)
    band = head + CELL_HEIGHT * len(cells.rows)
    height = num_bands * (band + BAND_GAP) + BAR_HEIGHT
    width = max(gutter + cell_width * per_band, gutter + BAR_WIDTH + 0.3 + LETTER * len(cells.legend))
    figure = Figure(figsize=(width, height), facecolor="white")
    colour_map = shades(*cells.colours)
    for number in range(num_bands):
        part = slice(number * per_band, (number + 1) * per_band)
        top = height - number * (band + BAND_GAP) - head
        tall, wide = CELL_HEIGHT * len(names), cell_width * len(cells.columns[part])
        axes = figure.add_axes((gutter / width, (top - tall) / height, wide / width, tall / height))
        _band(axes, cells, part, names, colour_map)
    bar = figure.add_axes((gutter / width, 0.26 / height, BAR_WIDTH / width, 0.12 / height))
    _colour_bar(figure, bar, cells, ScalarMappable(cells.norm, colour_map))
    if cells.legend:
        figure.text((gutter + BAR_WIDTH + 0.3) / width, 0.28 / height, cells.legend, fontsize=8.5, color=SOFT)
    return figure


def _band(axes: Axes, cells: _Cells, part: slice, names: Sequence[str], colour_map: Colormap) -> None:
    columns, values, strong = cells.columns[part], cells.values[:, part], cells.strong[:, part]
    colours = colour_map(cells.norm(np.ma.masked_invalid(values)))
    colours[~strong, :3] = faded(colours[~strong, :3])
    axes.pcolormesh(colours, edgecolors="white", linewidth=1.2, clip_on=False)
    axes.set_xlim(0, len(columns))
    axes.set_ylim(len(names), 0)  # the first row on top
    axes.set_xticks(np.arange(len(columns)) + 0.5, columns, fontsize=8.5, color=INK)
    axes.set_yticks(np.arange(len(names)) + 0.5, names, fontsize=9.5, color=INK)
    axes.tick_params(length=0, pad=3, top=True, labeltop=True, bottom=False, labelbottom=False)
    for spine in axes.spines.values():
        spine.set_visible(False)
    for label, name in zip(axes.get_xticklabels(), columns, strict=True):
        if len(name) > 6:
            label.set_fontsize(7)
    for family in cells.families(part):
        _family(axes, *family)
    if columns[-1] == "mean":
        axes.axvline(len(columns) - 1, color="white", linewidth=5)
    for (r, c), value in np.ndenumerate(values):
        missing = np.isnan(value)
        axes.text(
            c + 0.5,
            r + 0.53,
            "–" if missing else signed(value) if cells.differences else f"{value:.1f}",  # noqa: RUF001
            ha="center",
            va="center",
            fontsize=8.5,
            color=FAINT if missing else ink_on(colours[r, c]) if strong[r, c] else SOFT,
            fontweight="bold" if cells.bold[:, part][r, c] else "normal",
        )


def _family(axes: Axes, first: int, count: int, room: int, name: str) -> None:
    """A family's name above its languages, as far as there is room, over a line."""
    y = -(HEAD_HEIGHT + 0.02) / CELL_HEIGHT
    axes.plot([first + 0.08, first + count - 0.08], [y, y], color=FAINT, linewidth=0.7, clip_on=False)
    letters = 7 * room - 1
    text = name if len(name) <= letters else name[: max(letters - 1, 3)].rstrip("- ") + "."
    axes.text(first + 0.1, y - 0.12, text, fontsize=7.5, color=SOFT, ha="left", va="bottom", clip_on=False)


def faded(colours: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """What is left of colours, (..., 3), where nothing is claimed."""
    return FADED * colours + (1 - FADED) * np.array(PALE)


def ink_on(colour: Sequence[float]) -> str:
    """Dark or white text, whichever has the greater contrast on ``colour`` (WCAG 2 relative luminance)."""
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in colour[:3]]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return INK if (luminance + 0.05) / (0.018 + 0.05) > 1.05 / (luminance + 0.05) else "white"


def shades(name: str, start: float, end: float) -> Colormap:
    """A part of one of matplotlib's colour maps; grey where there is no value."""
    colours = matplotlib.colormaps[name](np.linspace(start, end, 256))
    return ListedColormap(colours, name).with_extremes(bad="#f1f2f4")


def _colour_bar(figure: Figure, axes: Axes, cells: _Cells, mappable: ScalarMappable) -> None:
    """The legend; its ends are arrows where some values are cut to the last colour."""
    cut = cells.differences and bool(np.nanmax(np.abs(cells.values)) > cells.norm.vmax)
    bar = figure.colorbar(mappable, cax=axes, orientation="horizontal", extend="both" if cut else "neither")
    bar.outline.set_visible(False)
    ticks = np.linspace(*mappable.get_clim(), 5).tolist()
    labels = [signed(tick) if cells.differences else f"{tick:.0f}" for tick in ticks]
    bar.set_ticks(ticks, labels=labels)
    axes.tick_params(labelsize=7.5, length=2, color=FAINT, labelcolor=INK, pad=2)
    axes.set_title(cells.title, fontsize=8.5, color=INK, loc="left", pad=4)


def smoothed(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Mean over a centred window of a fifteenth of the points, shorter at both ends; NaN is left out."""
    half = max(1, len(values) // 30)
    known = np.isfinite(values)
    total = np.concatenate([[0.0], np.cumsum(np.where(known, values, 0.0))])
    count = np.concatenate([[0], np.cumsum(known)])
    start = np.maximum(np.arange(len(values)) - half, 0)
    end = np.minimum(np.arange(len(values)) + half + 1, len(values))
    with np.errstate(invalid="ignore"):
        mean: npt.NDArray[np.float64] = (total[end] - total[start]) / (count[end] - count[start])
    return mean


def svg(figure: Figure) -> str:
    """The figure as SVG without a ground: letters are text in the reader's font, placed by where they begin or end."""
    text = io.StringIO()
    with warnings.catch_warnings(), matplotlib.rc_context({"svg.fonttype": "none"}):
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")  # the reader's font may have it
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None}, transparent=True)
    return compact(text.getvalue())


def pdf(figure: Figure) -> bytes:
    """The figure as PDF, for documents; the same figure is the same file."""
    data = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(data, format="pdf", metadata={"CreationDate": None, "Creator": None, "Producer": None})
    return data.getvalue()


def png(figure: Figure, dpi: int = 200) -> bytes:
    """The figure as PNG, for W&B and for documents."""
    data = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(data, format="png", dpi=dpi)
    return data.getvalue()


def data_uri(figure: Figure) -> str:
    """The figure as the ``src`` of an ``<img>``: no request leaves the page, and no ids clash within it."""
    return "data:image/svg+xml;base64," + base64.b64encode(svg(figure).encode()).decode()
