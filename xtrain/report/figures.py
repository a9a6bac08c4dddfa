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

from xtrain.report.statistics import TaskGrid
from xtrain.report.tables import format_difference

# Both are told apart by readers with any common colour blindness, and light where the value is low or zero;
# the darkest ends are cut off, where neighbouring values look alike.
SCORE_COLOURS = ("YlGnBu", 0.02, 0.80)
DIFFERENCE_COLOURS = ("RdBu", 0.10, 0.90)  # red: below the base row; blue: above
SERIES_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")  # Okabe and Ito
INK, FAINT = "#1f2430", "#9aa1ad"

WIDTH = 11.0  # inches of a heat map; one is 96 CSS pixels
NARROWEST_CELL, WIDEST_CELL = 0.47, 0.70
CELL_HEIGHT = 0.32
HEAD_HEIGHT = 0.25  # the language codes above a band
BAND_GAP = 0.16
BAR_WIDTH, BAR_HEIGHT = 3.6, 0.62  # the colour bar below all bands
MOST_LETTERS = 26  # of a row's name

matplotlib.rcParams["svg.hashsalt"] = "xtrain"  # the same figure is the same file


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


def score_map(task: TaskGrid) -> Figure:
    """Heat map of the scores, languages across in bands, a line a row of the study."""
    values = _matrix(task, task.rows, differences=False)
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    norm = Normalize(low, max(high, low + 1.0))
    return _heat_map(task.rows, task.languages, values, SCORE_COLOURS, norm, f"{task.metric} in percent")


def difference_map(task: TaskGrid) -> Figure | None:
    """Heat map of the points above the base row, centred on 0; ``None`` if there is nothing to compare.

    The colours end at the 98th percentile of the sizes (at least one point), so that one odd language does
    not take the colour from all others; the numbers in the cells are never cut.
    """
    if not task.compared_rows:
        return None
    values = _matrix(task, task.compared_rows, differences=True)
    if np.isnan(values).all():
        return None
    limit = float(math.ceil(max(1.0, np.nanpercentile(np.abs(values), 98))))
    title = f"{task.metric}, points against the row {task.base_row}"
    norm = Normalize(-limit, limit)
    return _heat_map(task.compared_rows, task.languages, values, DIFFERENCE_COLOURS, norm, title)


def _matrix(task: TaskGrid, rows: Sequence[str], *, differences: bool) -> npt.NDArray[np.float64]:
    """(rows, languages + 1), the mean last; NaN where there is no value."""
    matrix = np.full((len(rows), len(task.languages) + 1), np.nan)
    for r, row in enumerate(rows):
        for c, language in enumerate([*task.languages, None]):
            cell = task.cell(row, language)
            value = task.difference(row, language) if differences else cell.median if cell else None
            if value is not None:
                matrix[r, c] = value
    return matrix


def _heat_map(
    rows: Sequence[str],
    languages: Sequence[str],
    values: npt.NDArray[np.float64],
    colours: tuple[str, float, float],
    norm: Normalize,
    title: str,
) -> Figure:
    """Bands of as many languages as fit the width, of nearly equal length; the mean is the last cell."""
    columns = [*languages, "mean"]
    names = [row if len(row) <= MOST_LETTERS else row[: MOST_LETTERS - 1] + "…" for row in rows]
    gutter = 0.16 + 0.078 * max(map(len, names))
    most = int((WIDTH - gutter) // NARROWEST_CELL)
    num_bands = math.ceil(len(columns) / most)
    per_band = math.ceil(len(columns) / num_bands)
    cell_width = min(WIDEST_CELL, (WIDTH - gutter) / per_band)
    band = HEAD_HEIGHT + CELL_HEIGHT * len(rows)
    height = num_bands * (band + BAND_GAP) + BAR_HEIGHT
    width = max(gutter + cell_width * per_band, gutter + BAR_WIDTH + 0.2)
    figure = Figure(figsize=(width, height), facecolor="white")
    colour_map = _colour_map(*colours)
    signed = colours == DIFFERENCE_COLOURS
    for number in range(num_bands):
        part = slice(number * per_band, (number + 1) * per_band)
        shown = columns[part]
        top = height - number * (band + BAND_GAP) - HEAD_HEIGHT
        box = (gutter, top - CELL_HEIGHT * len(rows), cell_width * len(shown), CELL_HEIGHT * len(rows))
        axes = figure.add_axes((box[0] / width, box[1] / height, box[2] / width, box[3] / height))
        _band(axes, names, shown, values[:, part], colour_map, norm, signed=signed)
    cut = signed and bool(np.nanmax(np.abs(values)) > norm.vmax)
    bar = figure.add_axes((gutter / width, 0.26 / height, BAR_WIDTH / width, 0.12 / height))
    _colour_bar(figure, bar, ScalarMappable(norm, colour_map), title, signed=signed, cut=cut)
    return figure


def _band(
    axes: Axes,
    rows: Sequence[str],
    columns: Sequence[str],
    values: npt.NDArray[np.float64],
    colour_map: Colormap,
    norm: Normalize,
    *,
    signed: bool,
) -> None:
    axes.pcolormesh(np.ma.masked_invalid(values), cmap=colour_map, norm=norm, edgecolors="white", linewidth=1.2)
    axes.set_xlim(0, len(columns))
    axes.set_ylim(len(rows), 0)  # the first row on top
    axes.set_xticks(np.arange(len(columns)) + 0.5, columns, fontsize=8.5, color=INK)
    axes.set_yticks(np.arange(len(rows)) + 0.5, rows, fontsize=9.5, color=INK)
    axes.tick_params(length=0, pad=3, top=True, labeltop=True, bottom=False, labelbottom=False)
    for spine in axes.spines.values():
        spine.set_visible(False)
    for label, name in zip(axes.get_xticklabels(), columns, strict=True):
        if name == "mean":
            label.set_fontweight("bold")
        if len(name) > 6:
            label.set_fontsize(7)
    for r, line in enumerate(values):
        for c, value in enumerate(line):
            if np.isnan(value):
                axes.text(c + 0.5, r + 0.5, "–", ha="center", va="center", fontsize=8.5, color=FAINT)  # noqa: RUF001
                continue
            text = format_difference(value).replace("-", "\N{MINUS SIGN}") if signed else f"{value:.1f}"
            weight = "bold" if columns[c] == "mean" else "normal"
            colour = _ink_on(colour_map(norm(value)))
            axes.text(
                c + 0.5,
                r + 0.53,
                text,
                ha="center",
                va="center",
                fontsize=8.5,
                color=colour,
                fontweight=weight,
            )


def _ink_on(colour: Sequence[float]) -> str:
    """Dark or white text, whichever has the greater contrast on ``colour`` (WCAG 2 relative luminance)."""
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in colour[:3]]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return INK if (luminance + 0.05) / (0.018 + 0.05) > 1.05 / (luminance + 0.05) else "white"


def _colour_map(name: str, start: float, end: float) -> Colormap:
    colours = matplotlib.colormaps[name](np.linspace(start, end, 256))
    return ListedColormap(colours, name).with_extremes(bad="#f1f2f4")


def _colour_bar(figure: Figure, axes: Axes, mappable: ScalarMappable, title: str, *, signed: bool, cut: bool) -> None:
    """The legend; its ends are arrows where some values are ``cut`` to the last colour."""
    bar = figure.colorbar(mappable, cax=axes, orientation="horizontal", extend="both" if cut else "neither")
    bar.outline.set_visible(False)
    ticks = np.linspace(*mappable.get_clim(), 5).tolist()
    labels = [format_difference(tick).replace("-", "\N{MINUS SIGN}") if signed else f"{tick:.0f}" for tick in ticks]
    bar.set_ticks(ticks, labels=labels)
    axes.tick_params(labelsize=7.5, length=2, color=FAINT, labelcolor=INK, pad=2)
    axes.set_title(title, fontsize=8.5, color=INK, loc="left", pad=4)


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
    """The figure as SVG text; letters are outlines, so that it looks the same everywhere."""
    text = io.StringIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")  # a box is drawn instead
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    return text.getvalue()


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
