"""Training curves: the loss of a phase's seeds, and above it the scores on dev with the step that was selected."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from xtrain.report.figures import FAINT, INK, SERIES_COLOURS, Curve, smoothed

MOST_POINTS = 300  # of a line: more cannot be told apart in a small figure
MEAN = "mean"  # the label of a mixture's mean over its tasks, by which its step is selected
_DASHES = ("-", "--", ":")  # of the second and third lines of one colour


@dataclass(frozen=True)
class Training:
    """What is drawn of one training."""

    label: str
    """The seed, as a rule."""
    loss: Sequence[Curve]
    """Of a mixture one a task, labelled with it; else one."""
    dev: Sequence[Curve] = ()
    """The scores on dev in percent: of a mixture one a task, and :data:`MEAN` last; else one, named as its metric."""
    selected_step: int | None = None

    @property
    def by_task(self) -> bool:
        """Whether lines are told apart by their task, and not by their seed."""
        return len(self.loss) > 1 or len(self.dev) > 1


def training_curves(trainings: Sequence[Training]) -> Figure:
    """The seeds of one phase: the loss against the optimizer step, a thin line as recorded and a thick one smoothed.

    Above it the scores on dev, where there are any, with a circle at the selected step.
    """
    dev = any(one.dev for one in trainings)
    figure = Figure(figsize=(3.5, 3.3 if dev else 2.1), facecolor="white", layout="constrained")
    panels = list(figure.subplots(2, 1, sharex=True, height_ratios=[1, 1.15])) if dev else [figure.subplots()]
    colours = _colours(trainings)
    if dev:
        _draw_dev(panels[0], trainings, colours)
    _draw_loss(panels[-1], trainings, colours)
    panels[-1].set_xlabel("optimizer step", fontsize=8, color=INK)
    for axes in panels:
        _plain(axes)
    if len(colours) > 1:
        handles, labels = panels[-1].get_legend_handles_labels()
        if any(curve.label == MEAN for one in trainings for curve in one.dev):
            handles, labels = [*handles, Line2D([], [], color=INK, linewidth=1.2)], [*labels, "mean on dev"]
        panels[-1].legend(handles, labels, fontsize=7, frameon=False, loc="upper right", handlelength=1.4,
                          labelcolor=INK, ncols=2 if len(labels) > 4 else 1)  # fmt: skip
    return figure


def thinned(curve: Curve, most: int = MOST_POINTS) -> Curve:
    """At most ``most`` points: each the mean of neighbours, at the step of the last of them."""
    size = -(-len(curve.steps) // most)
    if size <= 1:
        return curve
    starts = range(0, len(curve.steps), size)
    values = [float(np.mean(curve.values[at : at + size])) for at in starts]
    return Curve(curve.label, [curve.steps[min(at + size, len(curve.steps)) - 1] for at in starts], values)


def _colours(trainings: Sequence[Training]) -> dict[str, tuple[str, str]]:
    """Colour and dashes of each label: of the tasks in a mixture, else of the seeds."""
    labels = (
        [curve.label for one in trainings for curve in (*one.loss, *one.dev) if curve.label != MEAN]
        if any(one.by_task for one in trainings)
        else [one.label for one in trainings]
    )
    found = {}
    for number, label in enumerate(dict.fromkeys(labels)):
        turn, colour = divmod(number, len(SERIES_COLOURS))
        found[label] = (SERIES_COLOURS[colour], _DASHES[turn % len(_DASHES)])
    return found


def _style(one: Training, curve: Curve, colours: Mapping[str, tuple[str, str]]) -> tuple[str, str]:
    if curve.label == MEAN:
        return INK, "-"
    return colours[curve.label if curve.label in colours else one.label]


def _draw_loss(axes: Axes, trainings: Sequence[Training], colours: Mapping[str, tuple[str, str]]) -> None:
    shown: set[str] = set()
    for one in trainings:
        for curve in one.loss:
            colour, dashes = _style(one, curve, colours)
            label = curve.label if curve.label in colours else one.label
            smooth = thinned(Curve(label, curve.steps, list(smoothed(np.asarray(curve.values, dtype=float)))))
            raw = thinned(curve)
            if not one.by_task:
                axes.plot(raw.steps, raw.values, color=colour, linewidth=0.6, alpha=0.3)
            axes.plot(smooth.steps, smooth.values, dashes, color=colour, linewidth=1.5,
                      label=None if label in shown else label)  # fmt: skip
            shown.add(label)
        if one.dev and one.selected_step is not None and one.selected_step in one.dev[-1].steps:
            colour = INK if one.by_task else _style(one, one.loss[0], colours)[0]
            axes.axvline(one.selected_step, color=colour, linewidth=0.8, linestyle=(0, (1, 2)))
    axes.set_ylabel("loss", fontsize=8, color=INK)


def _draw_dev(axes: Axes, trainings: Sequence[Training], colours: Mapping[str, tuple[str, str]]) -> None:
    """A mixture's step is selected by the mean, so that has the circle."""
    for one in trainings:
        for curve in one.dev:
            colour, dashes = _style(one, curve, colours)
            few = len(curve.steps) <= 40
            axes.plot(curve.steps, curve.values, dashes, color=colour, linewidth=1.2, marker="." if few else None,
                      markersize=4)  # fmt: skip
        chosen = dict(zip(one.dev[-1].steps, one.dev[-1].values, strict=True)) if one.dev else {}
        if one.selected_step in chosen:
            colour, _ = _style(one, one.dev[-1], colours)
            axes.plot([one.selected_step], [chosen[one.selected_step]], "o", markersize=8, markerfacecolor="none",
                      markeredgecolor=colour, markeredgewidth=1.4, clip_on=False)  # fmt: skip
    names = dict.fromkeys(curve.label for one in trainings for curve in one.dev)
    name = next(iter(names)) if len(names) == 1 else "score"
    axes.set_ylabel(f"dev {name}", fontsize=8, color=INK)


def _plain(axes: Axes) -> None:
    axes.tick_params(labelsize=7.5, length=2.5, color=FAINT, labelcolor=INK)
    axes.grid(True, color="#e8eaee", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.margins(x=0.01)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(FAINT)
