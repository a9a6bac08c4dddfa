"""Questions in a study's file: what is right, and what every mistake is told as."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from toy import study, write_study

from xtrain.errors import UserError
from xtrain.study import Study, load

ROWS: list[dict[str, Any]] = [
    {"name": "none"},
    {"name": "choose", "tasks": ["choose"], "factors": {"kind": "reasoning", "hours": 3}},
    {"name": "toy too", "tasks": ["toy"], "factors": {"kind": "labels", "hours": 7}},
]
GOOD = {
    "name": "kinds",
    "asks": "Does reasoning help?",
    "compare": ["reasoning"],
    "against": ["labels"],
    "factor": "kind",
}


def loaded(tmp_path: Path, *questions: dict[str, Any]) -> Study:
    path = write_study(tmp_path / "study.toml", study(tmp_path, intermediate=ROWS, question=list(questions)))
    return load(path)


def refused(tmp_path: Path, **question: Any) -> str:
    with pytest.raises(UserError) as error:
        loaded(tmp_path, {"name": "q", "asks": "?", **question})
    return str(error.value)


def test_factors_and_questions_are_read(tmp_path: Path) -> None:
    read = loaded(tmp_path, GOOD, {"name": "hours", "asks": "Do hours help?", "kind": "curve", "x": "hours"})
    assert read.question[0].against == ("labels",)
    assert read.intermediate[1].every_factor == {"n_tasks": 1.0, "n_steps": 1.0, "kind": "reasoning", "hours": 3}
    assert read.intermediate[0].every_factor == {"n_tasks": 0.0, "n_steps": 0.0}


@pytest.mark.parametrize(
    ("question", "words"),
    [
        ({"compare": ["chose"]}, "'chose' is no row"),
        ({"compare": ["chose"]}, "did you mean 'choose'?"),
        ({"compare": ["choose"], "against": ["choose"]}, "compared with itself"),
        ({"factor": "kinds"}, "no row has the factor 'kinds'"),
        ({"factor": "kind", "compare": ["label"]}, "'label' is no level of kind"),
        ({"targets": ["xnli"]}, "'xnli' is no target of the study"),
        ({"kind": "trend"}, "'trend' is not allowed"),
        ({"kind": "curve"}, "x: is missing"),
        ({"kind": "curve", "x": "kind"}, "'kind' is labels, reasoning in some rows"),
        ({"x": "n_tasks"}, "is not for a contrast"),
        ({"kind": "interaction"}, "needs one of covariate, groups and within, and has none"),
        ({"kind": "interaction", "covariate": "a", "within": "kind"}, "and has covariate, within"),
        ({"kind": "interaction", "groups": {"a": ["de"]}}, "groups: has 1"),
        ({"kind": "interaction", "covariate": "cc100"}, "covariate: 'cc100' is not known"),
        ({"covariate": "cc100_gib"}, "is not for a contrast"),
        ({"margin": -1.0}, "-1.0 is not allowed"),
        ({"each": "word"}, "'word' is not allowed"),
        ({"compares": ["choose"]}, "did you mean 'compare'?"),
    ],
)
def test_a_mistake_names_question_and_key(tmp_path: Path, question: dict[str, Any], words: str) -> None:
    said = refused(tmp_path, **question)
    assert words in said
    assert "question" in said


def test_a_name_is_given_once(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="question 'kinds': is there twice"):
        loaded(tmp_path, GOOD, GOOD)
