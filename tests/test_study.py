"""Studies: what is read, what is refused, and that one message lists every mistake."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from toy import write_study

from xtrain.errors import UserError
from xtrain.study import Recipe, load

KNOWN = ("mnli", "anli", "snli", "socialiqa", "xnli", "xcopa")


def minimal(**changes: Any) -> dict[str, Any]:
    return {"name": "s", "base": "starter", "target": [{"task": "xnli"}], **changes}


def problems(path: Path, mapping: dict[str, Any], **more: Any) -> list[str]:
    with pytest.raises(UserError) as caught:
        load(write_study(path, mapping), known_tasks=KNOWN, **more)
    return [str(problem) for problem in caught.value.problems]


def test_defaults(tmp_path: Path) -> None:
    study = load(write_study(tmp_path / "s.toml", minimal()), known_tasks=KNOWN)
    assert [row.name for row in study.intermediate] == ["none"]
    assert study.seeds == (0,)
    assert study.engine.precision == "bf16"
    assert study.tracking.mode == "auto"


def test_recipe_goes_from_catalogue_to_study_to_task(tmp_path: Path) -> None:
    recipe = {"target": {"epochs": 4, "batch_size": 64, "xnli": {"epochs": 5}}}
    study = load(write_study(tmp_path / "s.toml", minimal(recipe=recipe)), known_tasks=KNOWN)
    found = study.recipe_for("target", "xnli", {"epochs": 2, "learning_rate": 3e-6, "batch_size": 8})
    assert (found.epochs, found.batch_size, found.learning_rate) == (5, 64, 3e-6)
    assert study.recipe_for("intermediate", "mnli", {}) == Recipe()


def test_rows_in_sequence_and_as_mixtures(tmp_path: Path) -> None:
    rows = [
        {"name": "none"},
        {"name": "mix", "tasks": ["mnli", "anli"]},
        {"name": "then", "steps": [["mnli"], ["socialiqa"]]},
    ]
    study = load(write_study(tmp_path / "s.toml", minimal(intermediate=rows)), known_tasks=KNOWN)
    assert [row.phases for row in study.intermediate] == [(), (("mnli", "anli"),), (("mnli",), ("socialiqa",))]


def test_set_and_variant_override(tmp_path: Path) -> None:
    path = write_study(tmp_path / "s.toml", minimal(variants={"small": {"recipe": {"target": {"max_steps": 7}}}}))
    study = load(path, overrides=["recipe.target.learning_rate=0.5", "base=other"], variant="small", known_tasks=KNOWN)
    found = study.recipe_for("target", "xnli", {})
    assert (found.max_steps, found.learning_rate, study.base) == (7, 0.5, "other")


def test_every_mistake_is_listed_at_once(tmp_path: Path) -> None:
    mapping = minimal(
        seeeds=[1],
        seeds=[1, 1],
        engine={"precision": "bf17", "log_every": 0},
        intermediate=[{"name": "a", "tasks": ["mnlii"]}, {"name": "a"}],
        recipe={"target": {"learning_rate": -1, "epoch": 2}, "targets": {}},
    )
    found = problems(tmp_path / "s.toml", mapping)
    text = "\n".join(found)
    for part in (
        "s.toml: seeeds: unknown key",
        "did you mean 'seeds'?",
        "engine.precision: 'bf17' is not allowed",
        "bf16, fp16, fp32",
        "engine.log_every: 0 is not allowed",
        "recipe.target.learning_rate: -1",
        "recipe.target.epoch: unknown key",
        "did you mean 'epochs'?",
        "recipe.targets: unknown key",
        "'mnlii' is not a known task",
        "did you mean 'mnli'?",
        "'a' is there twice",
        "has no tasks",
        "seeds: [1, 1] is not allowed",
    ):
        assert part in text, part
    assert len(found) >= 9


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"target": []}, "target: there is none"),
        ({"name": "a/b"}, "'a/b' is not allowed"),
        ({"seeds": "0"}, "seeds: '0' is not allowed"),
        ({"intermediate": [{"name": "x", "tasks": ["mnli"], "steps": [["anli"]]}]}, "both tasks and steps"),
        ({"intermediate": [{"name": "none", "tasks": ["mnli"]}]}, "is the base row"),
        ({"evaluation": {"embedding_layer": "first"}}, "embedding_layer: 'first' is not allowed"),
        ({"engine": {"used_vocabulary": "yes"}}, "true or false"),
    ],
)
def test_single_mistakes(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    assert message in "\n".join(problems(tmp_path / "s.toml", minimal(**changes)))


def test_not_toml_names_the_line(tmp_path: Path) -> None:
    path = tmp_path / "s.toml"
    path.write_text('name = "x"\nbase = \n', encoding="utf-8")
    with pytest.raises(UserError, match="line 2"):
        load(path)


def test_unknown_variant_and_malformed_set(tmp_path: Path) -> None:
    assert "no such variant" in problems(tmp_path / "s.toml", minimal(variants={"slice": {}}), variant="slise")[0]
    assert "KEY=VALUE" in problems(tmp_path / "s.toml", minimal(), overrides=["epochs"])[0]
