"""Figures: every language and row is drawn, colours are centred and legible, files repeat themselves."""

from __future__ import annotations

import numpy as np
import pytest
from made_up import estimate, random_results, result
from matplotlib.colors import to_rgb

from xtrain.languages import names
from xtrain.report.figures import (
    Curve,
    data_uri,
    difference_map,
    ink_on,
    png,
    score_map,
    smoothed,
    svg,
)
from xtrain.report.statistics import assemble


def labels(figure) -> list[str]:  # type: ignore[no-untyped-def]
    return [text.get_text() for axes in figure.axes[:-1] for text in axes.get_xticklabels()]


def in_cells(axes) -> list[str]:  # type: ignore[no-untyped-def]
    """The numbers of a heat map; above them stand the families."""
    texts = [text.get_text() for text in axes.texts]
    return [text for text in texts if text.lstrip("+\N{MINUS SIGN}").replace(".", "").isdigit()]


@pytest.mark.parametrize("count", [1, 15, 40, 90])
def test_every_language_has_a_column_and_every_row_a_line(count: int) -> None:
    languages = sorted(names())[:count]
    task = assemble(random_results(["none", "a", "b"], languages)).tasks[0]
    figure = score_map(task)
    assert sorted(labels(figure)) == sorted([*languages, "mean"])
    for axes in figure.axes[:-1]:
        assert [text.get_text() for text in axes.get_yticklabels()] == ["none", "a", "b"]
    numbers = [text for axes in figure.axes[:-1] for text in in_cells(axes)]
    assert len(numbers) == 3 * (count + 1)
    assert f"{task.cells['a', languages[0]].mean:.1f}" in numbers


def test_differences_are_centred_on_zero_and_the_base_row_is_left_out() -> None:
    task = assemble([result("none", {"en": 50.0, "de": 50.0}), result("a", {"en": 53.5, "de": 49.9})]).tasks[0]
    figure = difference_map(task)
    assert figure is not None
    ends = [text.get_text() for text in figure.axes[-1].get_xticklabels()]
    assert (ends[0], ends[-1]) == ("\N{MINUS SIGN}4.0", "+4.0")
    assert in_cells(figure.axes[0]) == ["+3.5", "\N{MINUS SIGN}0.1", "\N{MINUS SIGN}0.1"]


def test_a_difference_has_its_full_colour_only_where_its_interval_leaves_zero_out() -> None:
    grid = assemble([result("none", {"de": 50.0, "sw": 50.0}), result("a", {"de": 53.0, "sw": 53.0})])
    task = grid.with_estimates({"xnli": {("a", "de"): estimate(3.0, 0.3), ("a", "sw"): estimate(3.0, 3.0)}}).tasks[0]
    figure = difference_map(task)
    assert figure is not None
    found, hidden, mean = figure.axes[0].collections[0].get_array().reshape(-1, 4)
    assert found[2] > found[0] + 0.4, "a gain is blue"
    assert min(hidden[:3]) > 0.8, "the interval holds 0"
    assert min(mean[:3]) > 0.8, "no interval"
    assert "faded: the 95 % interval holds 0" in svg(figure)
    assert not [text for text in figure.axes[0].texts if text.get_fontweight() == "bold"]


def test_a_marked_score_is_faded() -> None:
    marks = {"xnli": {("none", "sw"): ("at chance",)}}
    figure = score_map(assemble([result("none", {"de": 90.0, "sw": 89.0})], marks).tasks[0])
    full, marked, _ = figure.axes[0].collections[0].get_array().reshape(-1, 4)
    assert min(full[:3]) < 0.7 < 0.8 < min(marked[:3])


def test_without_differences_there_is_no_map() -> None:
    assert difference_map(assemble([result("a", {"en": 50.0})]).tasks[0]) is None
    assert difference_map(assemble([result("none", {"en": 50.0})]).tasks[0]) is None


def test_missing_values_and_equal_values_are_drawn() -> None:
    task = assemble([result("none", {"en": 50.0}), result("a", {"en": 50.0, "de": 50.0})]).tasks[0]
    assert len(svg(score_map(task))) > 1000
    figure = difference_map(task)
    assert figure is not None
    assert "–" in [text.get_text() for text in figure.axes[0].texts]


@pytest.mark.parametrize("colour", ["white", "black", "#2b7bba", "#d6604d", "#7fcdbb", "#ffffd9", "#225ea8"])
def test_text_on_a_colour_has_enough_contrast(colour: str) -> None:
    def luminance(rgb: tuple[float, ...]) -> float:
        linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in rgb]
        return float(np.dot([0.2126, 0.7152, 0.0722], linear))

    ground, ink = luminance(to_rgb(colour)), luminance(to_rgb(ink_on(to_rgb(colour))))
    assert (max(ground, ink) + 0.05) / (min(ground, ink) + 0.05) >= 3.9


def test_curves_are_smoothed_within_their_own_range() -> None:
    values = np.array([3.0, 1.0, 2.0, np.nan, 4.0])
    assert smoothed(values) == pytest.approx([2.0, 2.0, 1.5, 3.0, 4.0])
    constant = np.full(100, 7.0)
    assert smoothed(constant) == pytest.approx(constant)


def test_a_curve_is_read_from_the_lines_of_metrics() -> None:
    lines = [
        {"step": 10, "loss": 2.5, "lr": 1.0},
        {"step": 10, "dev/accuracy": 50.0},
        {"step": 20, "loss": 2},
    ]
    assert Curve.of(lines, "seed 1") == Curve("seed 1", [10, 20], [2.5, 2.0])


def test_the_same_scores_give_the_same_file() -> None:
    task = assemble(random_results(["none", "a"], ["en", "de"])).tasks[0]
    assert data_uri(score_map(task)) == data_uri(score_map(task))
    assert data_uri(score_map(task)).startswith("data:image/svg+xml;base64,")
    assert png(score_map(task), dpi=50).startswith(b"\x89PNG")
