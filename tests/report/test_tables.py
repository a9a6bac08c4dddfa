"""The terminal's tables: a small one in full, wide ones by what they must hold."""

from __future__ import annotations

import io

import pytest
from made_up import estimate, random_results, result
from rich.console import Console

from xtrain.languages import names
from xtrain.report.languages import language_name
from xtrain.report.statistics import Grid, assemble
from xtrain.report.tables import format_difference, print_tables

GOLDEN = """\

xnli: accuracy, 3 languages
language            | none | mnli | diff
--------------------+------+------+-----
en  English         | 70.0 | 71.3 | +1.3
de  German          | 62.0 | 61.6 | -0.4
xx                  | 50.0 | 50.0 |  0.0
--------------------+------+------+-----
zero-shot mean of 2 | 56.0 | 55.8 | -0.2
accuracy in percent, diff in points against the row none
one seed: two runs of one configuration can differ by as much as a difference shown here
no intervals are known, so no difference has a colour

no benchmark
"""


def printed(grid: Grid, width: int = 100, disclaimer: str = "", terminal: bool = False) -> str:
    text = io.StringIO()
    console = Console(file=text, width=width, force_terminal=terminal, color_system="standard" if terminal else None)
    print_tables(grid, console, disclaimer)
    return text.getvalue()


def test_a_small_table_in_full() -> None:
    grid = assemble(
        [
            result("none", {"en": 70.0, "de": 62.0, "xx": 50.0}),
            result("mnli", {"en": 71.3, "de": 61.6, "xx": 50.04}),
        ]
    )
    lines = [line.rstrip() for line in printed(grid, disclaimer="no benchmark").splitlines()]
    assert "\n".join(lines) + "\n" == GOLDEN


@pytest.mark.parametrize("width", [80, 100, 160])
def test_ninety_languages_are_all_there_and_no_line_is_too_long(width: int) -> None:
    languages = sorted(names())[:90]
    text = printed(assemble(random_results(["none", "socialiqa"], languages)), width)
    assert all(len(line) <= width for line in text.splitlines())
    assert "…" not in text
    for code in languages:
        assert sum(
            line.count(f"{code} ".ljust(5) + language_name(code).replace("å", "a")) for line in text.splitlines()
        )


def test_many_languages_stand_in_two_blocks_where_the_terminal_is_wide_enough() -> None:
    grid = assemble(random_results(["none", "x"], sorted(names())[:60]))
    assert len(printed(grid, 140).splitlines()) < 45 < 60 < len(printed(grid, 99).splitlines())


def test_rows_that_do_not_fit_come_in_further_tables_with_the_base_row_in_each() -> None:
    rows = ["none", *(f"intermediate {n}" for n in range(9))]
    text = printed(assemble(random_results(rows, ["en", "de"])), 80)
    heads = [line for line in text.splitlines() if line.startswith("language")]
    assert len(heads) > 1
    assert all("none" in head for head in heads)
    assert all(len(line) <= 80 for line in text.splitlines())
    assert "…" not in text


def test_seeds_are_summed_up_below_the_mean() -> None:
    runs = [result("none", {"en": value}, seed) for seed, value in enumerate((60.0, 62.0, 61.5))]
    text = printed(assemble([*runs, result("none", {"en": 59.0}, which="last")]))
    for line in ("mean of 1", "lowest seed", "highest seed", "last step", "means of 3 seeds"):
        assert line in text
    found = {line.split("|")[0].strip(): line.split("|")[1].strip() for line in text.splitlines() if "|" in line}
    assert (found["mean of 1"], found["lowest seed"], found["highest seed"]) == ("61.2", "60.0", "62.0")
    assert found["last step"] == "59.0"


def test_a_row_with_fewer_seeds_is_named() -> None:
    runs = [result("none", {"en": 60.0}, seed) for seed in range(3)] + [result("mnli", {"en": 61.0})]
    assert "fewer seeds: mnli 1" in printed(assemble(runs))


def test_a_baseline_that_differs_has_a_column_and_one_that_does_not_has_a_note() -> None:
    assert "| majority" in printed(assemble(random_results(["none"], ["en", "de"])))
    results = random_results(["none"], ["en"])
    text = printed(assemble(results))
    assert "| majority" not in text
    assert f"answering one class always would score {results[0].scores['en']['majority']:.1f}" in text


def test_missing_languages_are_shown_and_left_out_of_the_mean() -> None:
    text = printed(assemble([result("none", {"de": 80.0}), result("mnli", {"de": 81.0, "sw": 60.0})]))
    swahili = next(line for line in text.splitlines() if "Swahili" in line)
    assert [cell.strip() for cell in swahili.split("|")[1:]] == ["-", "60.0", "-"]
    assert "mean is over 1 language that every run has, zero-shot; 1 not in it" in text


def test_a_log_gets_plain_ascii_and_a_terminal_gets_colours_where_an_interval_allows() -> None:
    grid = assemble([result("none", {"nb": 60.0, "en": 50.0}), result("très bien", {"nb": 61.0, "en": 49.0})])
    assert "\x1b[32m" not in printed(grid, terminal=True), "no interval, no colour"
    known = {("très bien", "nb"): estimate(1.0, 0.2), ("très bien", "en"): estimate(-1.0, 0.2)}
    grid = grid.with_estimates({"xnli": known})
    assert printed(grid).isascii()
    coloured = printed(grid, terminal=True)
    assert "\x1b[32m+1.0" in coloured
    assert "\x1b[31m-1.0" in coloured
    assert "Norwegian Bokmål" in coloured
    open_ = grid.with_estimates({"xnli": {("très bien", "nb"): estimate(1.0, 0.5)}})
    assert "\x1b[32m" not in printed(open_, terminal=True), "the interval holds 0"


def test_a_mean_is_bold_after_correction_alone() -> None:
    rows = [result(row, {"de": 60.0}) for row in ("none", "a", "b")]
    found = {("a", None): estimate(9.0, 0.2), ("b", None): estimate(1.55, 0.4)}
    text = printed(assemble(rows).with_estimates({"xnli": found}), terminal=True)
    assert "\x1b[1;32m+9.0" in text
    assert "\x1b[32m+1.6" in text or "\x1b[1;32m+1.6" in text
    assert "\x1b[1m" not in next(line for line in text.splitlines() if "mean of" in line)


def test_marks_are_said_below_the_table() -> None:
    marks = {"xnli": {("a", "sw"): ("at chance",), ("a", "de"): ("at chance",), ("none", "sw"): ("at chance",)}}
    text = printed(assemble([result(row, {"sw": 33.0, "de": 34.0}) for row in ("none", "a")], marks))
    assert "at chance: a (de, sw), none (sw)" in text


def test_the_overview_has_every_row_and_task() -> None:
    grid = assemble(
        [
            *random_results(["none", "x"], ["en"], task="one"),
            *random_results(["none", "x"], ["en"], task="two"),
        ]
    )
    overview = printed(grid).split("Mean over languages, by task")[1]
    assert all(word in overview for word in ("one", "two", "none", "x", "average"))
    assert "+/-" not in overview
    grid = grid.with_estimates({"one": {("x", None): estimate(2.0, 0.25)}})
    assert "+2.0 +/-1.0" in printed(grid).split("Mean over languages, by task")[1]


@pytest.mark.parametrize(
    ("points", "text"), [(1.26, "+1.3"), (-0.44, "-0.4"), (0.04, "0.0"), (-0.04, "0.0"), (12, "+12.0")]
)
def test_differences_have_a_sign_unless_they_round_to_nothing(points: float, text: str) -> None:
    assert format_difference(points) == text


@pytest.mark.parametrize(
    ("code", "name"),
    [
        ("de", "German"),
        ("pt_BR", "Portuguese (Brazil)"),
        ("zh-Hans", "Chinese (simplified)"),
        ("xx", ""),
        ("xx_YY", ""),
    ],
)
def test_codes_have_names(code: str, name: str) -> None:
    assert language_name(code) == name
