"""Answers on the page: what is filled, coloured and bold has a claim behind it; figures and words say the same."""

from __future__ import annotations

import dataclasses

import pytest
from made_up import comparison, estimate, paper_answers

from xtrain.questions.answer import Answer, Comparison, Point, Verdict
from xtrain.report.answer_figures import (
    TONES,
    _columns,
    _limits,
    _Line,
    answer_figure,
    decimals,
    details_figure,
    interval_text,
)
from xtrain.report.figures import svg
from xtrain.report.page_answers import AnswerView, p_text
from xtrain.statistics.estimate import Estimate

MINUS = "\N{MINUS SIGN}"
CONTRAST = Answer(
    "q", "What helps?", "contrast", "mnli does.", "accuracy, points", "none",
    (comparison("mnli", 2.0, Verdict.HIGHER), comparison("qqp", -0.3), comparison("ccg", -3.0, Verdict.LOWER)),
)  # fmt: skip


def texts(figure) -> list[str]:  # type: ignore[no-untyped-def]
    return [text.get_text() for axes in figure.axes for text in axes.texts]


def weights(figure) -> dict[str, str]:  # type: ignore[no-untyped-def]
    return {text.get_text(): text.get_fontweight() for axes in figure.axes for text in axes.texts}


def marks(figure) -> dict[str, tuple[float, ...]]:  # type: ignore[no-untyped-def]
    """Face colour of the marks -> where they are."""
    return {
        line.get_markerfacecolor(): tuple(line.get_xdata())
        for axes in figure.axes
        for line in axes.lines
        if line.get_marker() in ("o", "s", "D")
    }


def test_a_forest_plot_fills_what_is_claimed_and_nothing_else() -> None:
    figure = answer_figure(CONTRAST)
    assert figure is not None
    assert marks(figure) == {"white": (-0.3,), TONES[Verdict.HIGHER]: (2.0,), TONES[Verdict.LOWER]: (-3.0,)}
    weight = weights(figure)
    assert [weight[interval_text(one.estimate)] for one in CONTRAST.comparisons] == ["bold", "normal", "bold"]
    assert [one.label in weight for one in CONTRAST.comparisons] == [True] * 3
    assert weight["mnli"] == "normal", "names are not bold"


def test_groups_have_names_and_many_lines_stand_in_columns_of_one_scale() -> None:
    many = tuple(comparison(f"row {n}", 0.1 * n, group=f"task {n // 10}") for n in range(60))
    figure = answer_figure(dataclasses.replace(CONTRAST, comparisons=many))
    assert figure is not None
    assert len(figure.axes) == 3
    assert len({axes.get_xlim() for axes in figure.axes}) == 1
    shown = texts(figure)
    assert {f"task {n}" for n in range(6)} <= set(shown)
    assert {f"row {n}" for n in range(60)} <= set(shown)


@pytest.mark.parametrize("count", [1, 14, 15, 41, 99])
def test_no_column_ends_with_a_groups_name(count: int) -> None:
    lines = [line for n in range(count) for line in (_Line(f"g{n}"), _Line("x", estimate(1.0)))]
    columns = _columns(lines)
    assert [line for column in columns for line in column] == lines
    assert len(columns) <= 3
    assert all(column[-1].estimate for column in columns)


def test_one_huge_interval_does_not_take_the_room_from_the_others() -> None:
    usual = [estimate(0.2 * n, 0.3) for n in range(20)]
    low, high = _limits([*usual, estimate(1.0, 40.0)], None)
    assert low < 0 < 3.8 < high < 15
    figure = answer_figure(
        dataclasses.replace(CONTRAST, comparisons=tuple(Comparison("x", one) for one in [*usual, estimate(1.0, 40.0)]))
    )
    assert figure is not None
    arrows = [
        line for axes in figure.axes for line in axes.lines if line.get_marker() in "<>" and len(line.get_xdata())
    ]
    assert len(arrows) == 2


def test_without_an_interval_a_line_says_so() -> None:
    one = Comparison("one seed", Estimate(1.0, ()), verdict=Verdict.UNSUPPORTED)
    figure = answer_figure(dataclasses.replace(CONTRAST, comparisons=(one,)))
    assert figure is not None
    assert "+1.0 (no interval)" in texts(figure)
    assert marks(figure) == {"white": (1.0,)}


def test_a_curve_has_colour_where_its_trend_is_claimed() -> None:
    points = tuple(Point(x, estimate(y)) for x, y in ((1000.0, 0.1), (10000.0, 0.9), (100000.0, 1.8)))
    claimed = Answer(
        "q", "How much?", "curve", "More.", "points", "none", (comparison("per tenfold", 0.8, Verdict.HIGHER),),
        curve=points, x_name="examples",
    )  # fmt: skip
    figure = answer_figure(claimed)
    assert figure is not None
    assert set(marks(figure)) == {TONES[Verdict.HIGHER]}
    assert figure.axes[0].get_xscale() == "log"
    flat = dataclasses.replace(claimed, comparisons=(comparison("per tenfold", 0.1),))
    assert set(marks(answer_figure(flat))) == {"white"}
    assert AnswerView.of(flat).trend[0].startswith("per tenfold: +0.1")


def test_a_matrix_is_bold_and_full_where_claimed_and_pale_elsewhere() -> None:
    pair = (comparison("b", 2.0, Verdict.HIGHER, group="a"), comparison("c", -1.9, group="a"))
    answer = Answer("q", "Pairs?", "matrix", "", "points", "the better", pair, matrix=(("a", "b"), ("b", "c")))
    figure = answer_figure(answer)
    assert figure is not None
    weight = weights(figure)
    assert (weight["+2.0"], weight[f"{MINUS}1.9"]) == ("bold", "normal")
    full, pale, *missing = figure.axes[0].collections[0].get_array().reshape(-1, 4)
    assert full[2] > full[0] + 0.4
    assert min(pale[:3]) > 0.8
    assert texts(figure).count("–") == len(missing) == 2


def test_a_choice_is_ranked_and_marks_what_cannot_be_told_from_the_best() -> None:
    rows = (
        comparison("far", -4.0, Verdict.LOWER),
        comparison("near", -0.4),
        comparison("odd", -9.0, Verdict.UNSUPPORTED),
    )
    figure = answer_figure(Answer("q", "Which?", "choice", "", "points", "best", rows))
    assert figure is not None
    labels = [text for text in texts(figure) if text in ("best", "near", "far", "odd")]
    assert labels == ["best", "near", "far", "odd"]
    grounds = [patch for patch in figure.axes[0].patches if patch.get_height() == 1.0]
    assert sorted(patch.get_y() for patch in grounds) == [-0.5, 0.5], "the best and what is near it"


def test_an_equivalence_is_drawn_within_its_margin() -> None:
    answer = dataclasses.replace(CONTRAST, comparisons=(comparison("x", 0.1, Verdict.EQUIVALENT, 0.2),), margin=1.0)
    figure = answer_figure(answer)
    assert figure is not None
    assert [
        line.get_marker() for line in figure.axes[0].lines if line.get_markerfacecolor() == TONES[Verdict.EQUIVALENT]
    ]
    view = AnswerView.of(answer)
    assert view.groups[0][1][0].verdict == "equivalent within ±1"


def test_a_line_in_words() -> None:
    view = AnswerView.of(CONTRAST)
    mnli, qqp, _ = view.groups[0][1]
    assert mnli.estimate.startswith("+2.0 [+")
    assert (mnli.p, mnli.verdict, mnli.tone, mnli.detectable) == ("0.004", "higher", "higher", "")
    assert (qqp.verdict, qqp.tone, qqp.detectable) == ("open", "", "±1.4"), "what would have been found, beside a null"
    assert (view.counts, mnli.counts) == ("seeds / items / languages", "3 / 5,010 / 14")
    assert (mnli.scores, mnli.effect) == ("62.0, 60.0", "+0.04")
    assert view.tally == "1 higher, 1 lower, 1 open"


def test_small_numbers_have_more_digits() -> None:
    assert decimals([comparison("x", 1.0)]) == 1
    assert decimals([comparison("x", 0.2), comparison("x", 0.01)]) == 2
    assert decimals([comparison("x", 0.012)]) == 3


@pytest.mark.parametrize(
    ("p", "text"), [(None, "–"), (0.0002, "< 0.001"), (0.0123, "0.012"), (0.37, "0.37"), (1.0, "1.00")]
)
def test_p_values(p: float | None, text: str) -> None:
    assert p_text(p) == text


def test_every_kind_is_drawn_and_the_same_answer_gives_the_same_file() -> None:
    for answer in paper_answers():
        figure, again = answer_figure(answer), answer_figure(answer)
        assert figure is not None
        assert again is not None
        assert svg(figure) == svg(again)
        assert len(svg(figure)) < 200_000
    assert answer_figure(dataclasses.replace(CONTRAST, comparisons=())) is None


def test_details_are_never_claimed_in_colour() -> None:
    answer = dataclasses.replace(CONTRAST, details=(comparison("de", 3.0, Verdict.HIGHER), comparison("sw", 0.1)))
    figure = details_figure(answer)
    assert figure is not None
    assert marks(figure) == {"white": (3.0, 0.1)}
    assert set(weights(figure).values()) == {"normal"}
    view = AnswerView.of(answer)
    assert view.details is not None
    assert view.details[0] == "In detail: 2 lines; shown, not claimed"
