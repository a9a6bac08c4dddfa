"""Means over seeds, spreads, zero-shot means over languages, differences to the base row, and what may be claimed."""

from __future__ import annotations

import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_up import estimate, result

from xtrain.report.statistics import Cell, Estimates, ResultRow, TaskGrid, assemble, result_rows
from xtrain.statistics.estimate import Estimate

SMALL = [
    result("none", {"en": 80.0, "de": 60.0, "sw": 50.0}),
    result("a", {"en": 80.0, "de": 62.0, "sw": 52.0}),
    result("b", {"en": 80.0, "de": 50.0, "sw": 51.0}),
]


def small_grid(estimates: Estimates) -> TaskGrid:
    return assemble(SMALL).with_estimates({"xnli": estimates}).tasks[0]


def test_a_cell_is_the_mean_over_seeds_with_its_range() -> None:
    grid = assemble([result("none", {"en": value}, seed) for seed, value in enumerate((70.0, 90.0, 74.0))])
    assert grid.tasks[0].cell("none", "en") == Cell(78.0, 74.0, 70.0, 90.0, 3)
    assert grid.seeds == (0, 1, 2)


def test_the_mean_has_the_range_of_each_runs_mean_not_of_the_languages() -> None:
    runs = [{"sw": 90.0, "de": 10.0}, {"sw": 10.0, "de": 80.0}, {"sw": 50.0, "de": 50.0}]
    task = assemble([result("none", scores, seed) for seed, scores in enumerate(runs)]).tasks[0]
    assert [task.cells["none", one].median for one in ("sw", "de")] == [50.0, 50.0]
    assert task.means["none"] == Cell(pytest.approx(145 / 3), 50.0, 45.0, 50.0, 3)


def test_the_mean_is_without_english_unless_there_is_nothing_else() -> None:
    assert assemble(SMALL).tasks[0].mean_languages == ("de", "sw")
    alone = assemble([result("none", {"en": 70.0})]).tasks[0]
    assert (alone.mean_languages, alone.mean_name) == (("en",), "mean of 1")


def test_differences_are_taken_to_the_row_without_intermediate_phase() -> None:
    task = assemble([result("mnli", {"en": 71.0, "de": 60.5}), result("none", {"en": 70.0, "de": 62.0})]).tasks[0]
    assert task.rows == ("none", "mnli")
    assert task.compared_rows == ("mnli",)
    assert task.difference("mnli", "en") == pytest.approx(1.0)
    assert task.difference("mnli", "de") == pytest.approx(-1.5)
    assert task.difference("mnli", None) == pytest.approx(-1.5), "the mean is without English"


def test_without_a_base_row_there_is_nothing_to_compare() -> None:
    task = assemble([result("mnli", {"en": 71.0}), result("siqa", {"en": 70.0})]).tasks[0]
    assert task.compared_rows == ()
    assert task.difference("mnli", "en") is None


def test_means_are_over_the_languages_that_every_run_has() -> None:
    task = assemble(
        [result("none", {"en": 80.0, "de": 60.0}), result("mnli", {"en": 81.0, "de": 62.0, "sw": 1.0})]
    ).tasks[0]
    assert task.languages == ("en", "de", "sw")
    assert task.mean_languages == ("de",)
    assert task.means["mnli"].mean == 62.0
    assert task.cell("none", "sw") is None
    assert task.difference("mnli", "sw") is None


def test_the_last_checkpoint_stands_beside_the_selected_one() -> None:
    rows = [result("none", {"en": 80.0}), result("none", {"en": 78.0}, which="last")]
    task = assemble(rows).tasks[0]
    assert task.means["none"].mean == 80.0
    assert task.last_means["none"].mean == 78.0
    assert task.cell("none", "en") == Cell(80.0, 80.0, 80.0, 80.0, 1)


def test_a_difference_has_a_colour_only_where_its_interval_leaves_zero_out() -> None:
    task = small_grid(
        {("a", "de"): estimate(2.0, 0.4), ("a", "sw"): estimate(1.0, 0.4), ("b", "de"): estimate(-9.0, 0.4)}
    )
    assert task.found("a", "de")
    assert not task.found("a", "sw"), "half of the interval is 1.4"
    assert task.found("b", "de")
    assert not task.found("b", "sw"), "no interval"
    assert task.difference("a", "de") == 2.0, "the estimate's value"


def test_an_estimate_of_one_seed_claims_nothing() -> None:
    task = small_grid({("a", "de"): Estimate(50.0, ())})
    assert task.difference("a", "de") == 50.0
    assert not task.found("a", "de")


def test_a_marked_cell_has_no_colour() -> None:
    grid = assemble(SMALL, {"xnli": {("a", "de"): ("at chance",)}})
    task = grid.with_estimates({"xnli": {("a", "de"): estimate(9.0, 0.1)}}).tasks[0]
    assert not task.found("a", "de")
    assert task.mean_languages == ("de", "sw"), "at chance is still zero-shot"


def test_a_mean_is_bold_only_after_holms_correction_over_the_rows() -> None:
    alone = small_grid({("a", None): estimate(1.55, 0.4)})
    both = small_grid({("a", None): estimate(1.55, 0.4), ("b", None): estimate(0.1, 0.4)})
    assert alone.found_among_rows("a")
    assert both.found("a", None)
    assert not both.found_among_rows("a")
    assert not both.found_among_rows("b")
    assert not both.found_among_rows("none")


def test_what_a_row_was_trained_on_is_in_no_mean() -> None:
    marks = {"xnli": {("b", "de"): ("not zero-shot: de in the intermediate data",)}}
    task = assemble(SMALL, marks).tasks[0]
    assert task.mean_languages == ("sw",)
    assert task.means["a"].mean == 52.0
    assert task.mean_name == "zero-shot mean of 1"
    assert task.not_zero_shot("b", "de")
    assert not task.not_zero_shot("a", "de")
    assert task.subtotal("a", ("de", "sw")) == (52.0, 2.0)


def test_a_subtotal_is_over_the_languages_that_the_mean_is_over() -> None:
    task = small_grid({("a", "de"): estimate(4.0, 1.0)})
    assert task.subtotal("a", ("de", "sw")) == (57.0, 3.0)
    assert task.subtotal("none", ("sw",)) == (50.0, 0.0)
    assert task.subtotal("a", ("en",)) == (None, None)


def test_the_average_needs_all_tasks() -> None:
    grid = assemble([*SMALL, result("none", {"de": 40.0}, task="pawsx"), result("a", {"de": 41.0}, task="pawsx")])
    assert grid.average("a") == pytest.approx((57.0 + 41.0) / 2)
    assert grid.average_difference("a") == pytest.approx((2.0 + 1.0) / 2)
    assert grid.average("b") is None
    assert grid.average_difference("none") is None


def test_the_baseline_and_other_metrics_are_kept_apart_from_the_score() -> None:
    scores = {
        "en": {"accuracy": 70.0, "f1": 60.0, "majority": 30.0},
        "de": {"accuracy": 60.0, "f1": 40.0, "majority": 20.0},
    }
    task = assemble([ResultRow("none", 0, "t", scores, "accuracy")]).tasks[0]
    assert set(task.others) == {"f1"}
    assert task.others["f1"]["none"].mean == 40.0
    assert task.baseline == {"en": 30.0, "de": 20.0}
    assert task.baseline_mean == 20.0


def test_english_comes_first_then_languages_by_code() -> None:
    task = assemble([result("none", dict.fromkeys(("zh", "ar", "en", "en_GB"), 1.0))]).tasks[0]
    assert task.languages == ("en", "ar", "en_GB", "zh")


def test_rows_are_read_from_scores_json() -> None:
    scores = {
        "protocol": {"tasks": {"xnli": {"metric": "accuracy"}}},
        "tasks": {"xnli": {"languages": {"en": {"accuracy": 70.0}}, "average": {"accuracy": 70.0}, "score": 70.0}},
    }
    assert result_rows(scores, "mnli", 3, "last") == [result("mnli", {"en": 70.0}, 3, which="last")]


def test_a_run_that_is_there_twice_is_our_mistake() -> None:
    with pytest.raises(AssertionError, match="twice"):
        assemble([result("none", {"en": 1.0}), result("none", {"en": 2.0})])


@given(st.lists(st.floats(0, 100), min_size=1, max_size=7))
def test_mean_median_and_range_of_any_seeds(values: list[float]) -> None:
    cell = (
        assemble([result("none", {"en": value}, seed) for seed, value in enumerate(values)])
        .tasks[0]
        .cells["none", "en"]
    )
    assert cell == Cell(statistics.fmean(values), statistics.median(values), min(values), max(values), len(values))
