"""Rows of a study that are patterns: over lists, over subsets, over orders; with a base, a recipe, nested seeds."""

from __future__ import annotations

from collections import Counter
from itertools import combinations
from math import comb
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy import write_study

from xtrain.errors import UserError
from xtrain.study import Study, load
from xtrain.study_rows import balanced

KNOWN = ("mnli", "qqp", "squad", "snli", "anli", "panx", "xnli")


def read(folder: Path, *rows: dict[str, Any], **changes: Any) -> Study:
    whole = {"name": "s", "base": "starter", "target": [{"task": "xnli"}], "intermediate": list(rows), **changes}
    return load(write_study(folder / "s.toml", whole), known_tasks=KNOWN)


def problems(folder: Path, *rows: dict[str, Any], **changes: Any) -> list[str]:
    with pytest.raises(UserError) as caught:
        read(folder, *rows, **changes)
    return [str(problem) for problem in caught.value.problems]


def test_a_row_for_every_combination_of_values(tmp_path: Path) -> None:
    study = read(
        tmp_path,
        {"name": "none"},
        {
            "name": "{task} in {language}, {rate}",
            "each": {"task": ["mnli", "panx"], "language": ["de", "sw"], "rate": [1e-5, 3e-5]},
            "tasks": ["{task}"],
            "languages": {"{task}": ["{language}"]},
            "recipe": {"intermediate": {"learning_rate": "{rate}"}, "target": {"{task}": {"epochs": 2}}},
            "factors": {"family": "of {language}"},
        },
    )
    assert [row.name for row in study.intermediate][:3] == ["none", "mnli in de, 1e-05", "mnli in de, 3e-05"]
    assert len(study.intermediate) == 9
    last = study.intermediate[-1]
    assert (last.name, last.tasks, last.languages) == ("panx in sw, 3e-05", ("panx",), {"panx": ("sw",)})
    assert study.recipe_for("intermediate", "panx", {}, last).learning_rate == 3e-5
    assert study.recipe_for("target", "panx", {"epochs": 5}, last).epochs == 2
    assert study.recipe_for("target", "xnli", {"epochs": 5}, last).epochs == 5
    factors = study.factors["panx in sw, 3e-05"]
    assert factors == {"base": "starter", "n_tasks": 1.0, "n_steps": 1.0, "task": "panx", "language": "sw",
                       "rate": 3e-5, "family": "of sw"}  # fmt: skip


def test_a_row_for_every_subset_and_every_order(tmp_path: Path) -> None:
    tasks = ["mnli", "qqp", "squad", "snli"]
    study = read(tmp_path, {"name": "{tasks}", "subsets": {"of": tasks, "sizes": [1, 2], "most": 4}})
    named = {row.name: row.tasks for row in study.intermediate}
    assert len(named) == 8
    assert named["mnli"] == ("mnli",)
    pairs = [row.tasks for row in study.intermediate if len(row.tasks) == 2]
    assert Counter(task for pair in pairs for task in pair) == dict.fromkeys(tasks, 2), "each task equally often"
    assert named[" + ".join(pairs[0])] == pairs[0]
    again = read(tmp_path, {"name": "{tasks}", "subsets": {"of": tasks, "sizes": [1, 2], "most": 4}})
    assert again.intermediate == study.intermediate, "the same sample each time"
    orders = read(tmp_path, {"name": "{tasks}", "orders": ["mnli", "anli", "snli"]}).intermediate
    assert len(orders) == 6
    assert orders[0].name == "mnli, then anli, then snli"
    assert orders[0].phases == (("mnli",), ("anli",), ("snli",))
    assert len({row.phases for row in orders}) == 6


@settings(max_examples=40)
@given(st.integers(2, 9), st.data())
def test_a_sample_of_subsets_is_balanced(count: int, data: st.DataObject) -> None:
    size = data.draw(st.integers(1, count))
    most = data.draw(st.integers(1, min(comb(count, size), 40)))
    names = [f"t{number}" for number in range(count)]
    found = balanced(names, size, most, seed=data.draw(st.integers(0, 3)))
    assert len(set(found)) == len(found) == most
    assert set(found) <= set(combinations(names, size))
    taken = Counter(name for subset in found for name in subset)
    numbers = [taken[name] for name in names]
    assert max(numbers) - min(numbers) <= 1


def test_bases_and_recipes_make_rows_of_their_own(tmp_path: Path) -> None:
    study = read(
        tmp_path,
        {"name": "none"},
        {"name": "other base", "base": "org/other", "revision": "v2"},
        {"name": "slow", "recipe": {"target": {"learning_rate": 1e-6}}},
        revision="main",
    )
    assert [str(base) for base in study.bases] == ["starter", "org/other (v2)"]
    assert [row.phases for row in study.intermediate] == [(), (), ()]
    assert study.factors["other base"]["base"] == "org/other"


def test_nested_seeds_hold_the_runs_of_a_plain_list(tmp_path: Path) -> None:
    plain, nested = read(tmp_path), read(tmp_path, seeds={"intermediate": [0, 1, 2], "target": [0, 1]})
    assert plain.runs == ((0, 0),)
    assert nested.runs == ((0, 0), (0, 1000), (1, 1), (1, 1001), (2, 2), (2, 1002))
    assert nested.outer_seeds[1001] == 1
    assert nested.seeds_in_words == "3 x 2 (0, 1, 2; in each 0, 1)"


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"name": "{tsk}", "each": {"task": ["mnli"]}, "tasks": ["{task}"]}, "{tsk} has no value"),
        ({"name": "a", "each": {"task": ["mnli", "qqp"]}, "tasks": ["{task}"]}, "'a' is there twice"),
        ({"name": "{x}", "each": {"x": []}, "tasks": ["mnli"]}, "each.x: [] is not allowed"),
        ({"name": "{tasks}", "subsets": {"of": ["mnli", "qqp"], "sizes": [3]}}, "sizes: 3 is not allowed"),
        ({"name": "{tasks}", "subsets": {"of": ["mnli", "mnli"], "sizes": [1]}}, "names a task twice"),
        ({"name": "{tasks}", "orders": ["mnli", "qqp"], "tasks": ["snli"]}, "says the row's tasks"),
        ({"name": "{tasks}", "orders": ["mnli", "nope"]}, "'nope' is not a known task"),
        ({"name": "b", "base": "x/y", "recipe": {"targt": {"epochs": 1}}}, "'b': recipe.targt: unknown key"),
        ({"name": "b", "recipe": {"target": {"epochs": -1}}}, "'b': recipe.target.epochs: -1"),
        ({"name": "b", "recipe": {"target": {"xnil": {"epochs": 1}}}}, "'xnil' is not a known task"),
        ({"name": "b"}, "has no tasks"),
        ({"name": "{tasks}", "subsets": {"of": [*KNOWN], "sizes": [1]}, "orders": ["mnli"]}, "both subsets and orders"),
    ],
)
def test_a_wrong_row_is_named(tmp_path: Path, row: dict[str, Any], said: str) -> None:
    assert any(said in problem for problem in problems(tmp_path, {"name": "none"}, row)), problems(tmp_path, row)


def test_wrong_seeds(tmp_path: Path) -> None:
    assert "seeds.target: [0, 0]" in problems(tmp_path, seeds={"target": [0, 0]})[0]
    assert "seeds.intermediate: [1000]" in problems(tmp_path, seeds={"intermediate": [1000]})[0]


def test_too_many_rows(tmp_path: Path) -> None:
    row = {"name": "{a} {b}", "each": {"a": list(range(100)), "b": list(range(100))}, "tasks": ["mnli"]}
    assert "stands for 10,000 rows" in problems(tmp_path, row)[0]


def test_a_setting_has_a_label_of_its_own(tmp_path: Path) -> None:
    path = write_study(tmp_path / "s.toml", {"name": "a b", "base": "starter", "target": [{"task": "xnli"}],
                                             "variants": {"small": {"seeds": [1]}}})  # fmt: skip
    plain = load(path, overrides=["engine.log_every=3"])
    small = load(path, variant="small", overrides=["recipe.target.epochs=2", "tracking.mode=off"])
    assert (plain.title, plain.label) == ("a b", "a-b")
    assert (small.title, small.label) == ("a b (small, recipe.target.epochs=2)", "a-b-small-recipe.target.epochs-2")
    longer = load(path, overrides=[f"recipe.target.{key}=2" for key in ("epochs", "max_steps", "batch_size")])
    assert len(longer.label) < 90


def test_several_bases_are_crossed_with_all_rows(tmp_path: Path) -> None:
    bases = [
        {"name": "text", "model": "starter", "factors": {"images": "no"}},
        {"name": "altclip", "model": "BAAI/AltCLIP", "revision": "v1", "factors": {"images": "yes"}},
    ]
    rows = [{"name": "none", "factors": {"trained": "nothing"}}, {"name": "mnli", "tasks": ["mnli"]}]
    study = read(tmp_path, *rows, base=bases)
    assert [row.name for row in study.intermediate] == ["none", "mnli", "none, altclip", "mnli, altclip"]
    assert [str(base) for base in study.bases] == ["starter", "BAAI/AltCLIP (v1)"]
    factors = {"base": "altclip", "images": "yes", "n_tasks": 0.0, "n_steps": 0.0, "trained": "nothing"}
    assert study.factors["none, altclip"] == factors
    assert study.factors["mnli"]["base"] == "text"
    assert "'text' is there twice" in problems(tmp_path, *rows, base=[bases[0], bases[0]])[0]
    one = load(write_study(tmp_path / "s.toml", {"name": "s", "base": bases, "target": [{"task": "xnli"}]}),
               overrides=["base=starter"], known_tasks=KNOWN)  # fmt: skip
    assert [row.name for row in one.intermediate] == ["none"]


def test_what_is_left_out_is_in_no_row_column_and_question(tmp_path: Path) -> None:
    rows = [
        {"name": "none"},
        {"name": "{set}", "each": {"set": ["mnli", "qqp"]}, "tasks": ["{set}"], "factors": {"kind": "pairs"}},
        {"name": "both", "tasks": ["mnli", "squad"], "factors": {"kind": "several"}},
    ]
    questions = [
        {"name": "rows", "asks": "?", "compare": ["mnli", "qqp"], "targets": ["xnli", "panx"]},
        {"name": "kinds", "asks": "?", "factor": "kind", "compare": ["pairs", "several"]},
        {"name": "gone", "asks": "?", "factor": "kind", "compare": ["several"]},
        {"name": "no target", "asks": "?", "targets": ["panx"]},
    ]
    targets = [{"task": "xnli"}, {"task": "panx"}]
    study = read(tmp_path, *rows, question=questions, target=targets, leave_out=["mnli", "panx"])
    assert [row.name for row in study.intermediate] == ["none", "qqp"]
    assert [column.task for column in study.target] == ["xnli"]
    assert [(one.name, one.compare, one.targets) for one in study.question] == [
        ("rows", ("qqp",), ("xnli",)), ("kinds", ("pairs",), ()),
    ]  # fmt: skip
    assert "leave_out: 'qpq' is not there" in problems(tmp_path, *rows, leave_out=["qpq"])[0]
    assert "leaves no target" in problems(tmp_path, *rows, leave_out=["xnli"])[0]
