"""Medians over seeds, spreads, means over languages, and differences to the base row."""

from __future__ import annotations

import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_up import result

from xtrain.report.statistics import Cell, ResultRow, assemble, result_rows


def test_a_cell_is_the_median_over_seeds_with_its_range() -> None:
    grid = assemble([result("none", {"en": value}, seed) for seed, value in enumerate((70.0, 90.0, 74.0))])
    assert grid.tasks[0].cell("none", "en") == Cell(78.0, 74.0, 70.0, 90.0, 3)
    assert grid.seeds == (0, 1, 2)


def test_the_mean_is_the_median_of_each_runs_mean_not_the_mean_of_medians() -> None:
    runs = [{"en": 90.0, "de": 10.0}, {"en": 10.0, "de": 80.0}, {"en": 50.0, "de": 50.0}]
    task = assemble([result("none", scores, seed) for seed, scores in enumerate(runs)]).tasks[0]
    assert [task.cells["none", one].median for one in ("en", "de")] == [50.0, 50.0]
    assert task.means["none"] == Cell(pytest.approx(145 / 3), 50.0, 45.0, 50.0, 3)


def test_differences_are_taken_to_the_row_without_intermediate_phase() -> None:
    task = assemble([result("mnli", {"en": 71.0, "de": 60.5}), result("none", {"en": 70.0, "de": 62.0})]).tasks[0]
    assert task.rows == ("none", "mnli")
    assert task.compared_rows == ("mnli",)
    assert task.difference("mnli", "en") == pytest.approx(1.0)
    assert task.difference("mnli", "de") == pytest.approx(-1.5)
    assert task.difference("mnli", None) == pytest.approx(-0.25)


def test_without_a_base_row_there_is_nothing_to_compare() -> None:
    task = assemble([result("mnli", {"en": 71.0}), result("siqa", {"en": 70.0})]).tasks[0]
    assert task.compared_rows == ()
    assert task.difference("mnli", "en") is None


def test_means_are_over_the_languages_that_every_run_has() -> None:
    task = assemble(
        [result("none", {"en": 80.0, "de": 60.0}), result("mnli", {"en": 81.0, "de": 62.0, "sw": 1.0})]
    ).tasks[0]
    assert task.languages == ("en", "de", "sw")
    assert task.mean_languages == ("en", "de")
    assert task.means["mnli"].median == 71.5
    assert task.cell("none", "sw") is None
    assert task.difference("mnli", "sw") is None


def test_the_last_checkpoint_stands_beside_the_selected_one() -> None:
    rows = [result("none", {"en": 80.0}), result("none", {"en": 78.0}, which="last")]
    task = assemble(rows).tasks[0]
    assert task.means["none"].median == 80.0
    assert task.last_means["none"].median == 78.0
    assert task.cell("none", "en") == Cell(80.0, 80.0, 80.0, 80.0, 1)


def test_a_difference_is_clear_when_no_seed_of_one_row_reaches_the_other() -> None:
    def task(ours: tuple[float, ...]):  # type: ignore[no-untyped-def]
        base = [result("none", {"en": value}, seed) for seed, value in enumerate((60.0, 61.0))]
        return assemble([*base, *(result("x", {"en": value}, seed) for seed, value in enumerate(ours))]).tasks[0]

    assert task((61.1, 63.0)).clear("x", "en")
    assert task((50.0, 59.9)).clear("x", "en")
    assert not task((60.9, 70.0)).clear("x", "en")
    assert not task((90.0,)).clear("x", "en"), "one seed shows nothing"


def test_the_baseline_and_other_metrics_are_kept_apart_from_the_score() -> None:
    scores = {
        "en": {"accuracy": 70.0, "f1": 60.0, "majority": 30.0},
        "de": {"accuracy": 60.0, "f1": 40.0, "majority": 20.0},
    }
    task = assemble([ResultRow("none", 0, "t", scores, "accuracy")]).tasks[0]
    assert set(task.others) == {"f1"}
    assert task.others["f1"]["none"].median == 50.0
    assert task.baseline == {"en": 30.0, "de": 20.0}
    assert task.baseline_mean == 25.0


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
def test_median_and_range_of_any_seeds(values: list[float]) -> None:
    cell = (
        assemble([result("none", {"en": value}, seed) for seed, value in enumerate(values)])
        .tasks[0]
        .cells["none", "en"]
    )
    assert cell == Cell(statistics.fmean(values), statistics.median(values), min(values), max(values), len(values))
