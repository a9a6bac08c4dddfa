"""Training curves: seeds or tasks told apart, dev above the loss, the selected step marked, few points."""

from __future__ import annotations

import numpy as np
import pytest

from xtrain.report import training
from xtrain.report.compute import PhaseCompute
from xtrain.report.curves import MEAN, MOST_POINTS, Training, thinned, training_curves
from xtrain.report.figures import Curve, svg
from xtrain.report.training import PhaseSummary, TrainingSection, curve_groups, training_figures

LOSS = Curve("seed 0", [10, 20, 30], [3.0, 2.0, 1.0])
DEV = Curve("accuracy", [10, 20, 30], [40.0, 55.0, 50.0])


def test_curves_name_their_seeds() -> None:
    figure = training_curves(
        [Training(f"seed {n}", [Curve(f"seed {n}", [1, 2, 3], [3.0, 2.0, 1.0])]) for n in range(3)]
    )
    (axes,) = figure.axes
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["seed 0", "seed 1", "seed 2"]
    assert axes.get_ylabel() == "loss"


def test_dev_stands_above_the_loss_and_the_selected_step_has_a_circle() -> None:
    figure = training_curves([Training("seed 0", [LOSS], [DEV], 20)])
    above, below = figure.axes
    assert (above.get_ylabel(), below.get_ylabel()) == ("dev accuracy", "loss")
    circles = [line for line in above.lines if line.get_marker() == "o"]
    assert [(list(line.get_xdata()), list(line.get_ydata())) for line in circles] == [([20], [55.0])]
    assert below.get_legend() is None, "one seed needs no name"
    assert [list(line.get_xdata()) for line in below.lines][-1] == [20, 20]


@pytest.mark.parametrize("step", [None, 25])
def test_a_step_that_was_not_evaluated_has_no_circle(step: int | None) -> None:
    figure = training_curves([Training("seed 0", [LOSS], [DEV], step)])
    assert not [line for line in figure.axes[0].lines if line.get_marker() == "o"]


def test_a_mixture_is_drawn_by_task_with_the_mean_that_its_step_is_selected_by() -> None:
    loss = [Curve(task, [10, 20, 30], [3.0, 2.0, 1.0]) for task in ("mnli", "qqp")]
    dev = [Curve(task, [10, 20], [40.0, value]) for task, value in (("mnli", 50.0), ("qqp", 60.0))]
    runs = [Training(f"seed {n}", loss, [*dev, Curve(MEAN, [10, 20], [40.0, 55.0])], 20) for n in range(2)]
    figure = training_curves(runs)
    above, below = figure.axes
    assert [text.get_text() for text in below.get_legend().get_texts()] == ["mnli", "qqp", "mean on dev"]
    circles = [line for line in above.lines if line.get_marker() == "o"]
    assert [list(line.get_ydata()) for line in circles] == [[55.0], [55.0]]
    assert above.get_ylabel() == "dev score"
    colours = {line.get_color() for line in below.lines if len(line.get_xdata()) == 3}
    assert len(colours) == 2


def test_a_long_curve_is_thinned_to_means_of_neighbours() -> None:
    curve = Curve("x", list(range(1, 1001)), [float(n) for n in range(1, 1001)])
    short = thinned(curve)
    assert len(short.steps) <= MOST_POINTS
    assert (short.steps[0], short.values[0]) == (4, 2.5)
    assert short.steps[-1] == 1000
    assert thinned(LOSS) is LOSS


def test_a_loss_that_is_no_number_is_left_out_of_the_line() -> None:
    figure = training_curves([Training("seed 0", [Curve("seed 0", [1, 2, 3], [1.0, np.nan, 2.0])])])
    assert len(svg(figure)) > 1000


def phases(number: int) -> list[PhaseSummary]:
    return [PhaseSummary(f"row/task{n}", "target", 0, curve=LOSS, dev=[DEV], selected_step=20) for n in range(number)]


def test_the_page_says_how_many_are_left_out_and_the_export_has_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "MOST_DRAWN", 4)
    many = [*phases(10), PhaseSummary("last", "target", 0, status="collapsed", curve=LOSS),
            PhaseSummary("mnli", "intermediate", 0, curve=LOSS), PhaseSummary("none", "evaluate", 0)]  # fmt: skip
    section = TrainingSection.of(many, None)
    drawn = [name for name, _ in section.curves]
    assert len(drawn) == 4
    assert section.left_out == 8
    assert drawn[-2:] == ["last", "mnli"], "what failed and intermediate phases come first, in the study's order"
    assert len(training_figures(many, None)) == 12
    assert (section.time_line, section.open_table) == ("", True)
    assert not TrainingSection.of(phases(41), None).open_table


def test_seeds_of_one_name_are_one_figure_and_a_single_point_is_none() -> None:
    two = [PhaseSummary("mnli", "intermediate", seed, curve=LOSS) for seed in (0, 1)]
    point = PhaseSummary(
        "short", "target", 0, curve=Curve("seed 0", [1], [2.0]), compute=PhaseCompute("short", "target")
    )
    groups = curve_groups([*two, point])
    assert {name: len(group) for name, group in groups.items()} == {"mnli": 2}


def test_curves_are_the_same_file_again() -> None:
    runs = [Training("seed 0", [LOSS], [DEV], 20), Training("seed 1", [LOSS], [DEV], 10)]
    assert svg(training_curves(runs)) == svg(training_curves(runs))
