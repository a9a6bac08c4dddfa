"""The form of scores.json, its averages, and that the protocol goes with it."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xtrain.data.account import Account
from xtrain.evaluation.scores import LanguageScore, TaskScores, build
from xtrain.tasks import Source, TaskSpec

XNLI = TaskSpec(name="xnli", format="classification", languages=("en", "de"), sources=(Source(),), labels=("a", "b"))


def language(code: str, accuracy: float, **more: object) -> LanguageScore:
    return LanguageScore(code, {"accuracy": accuracy, "f1": accuracy / 2}, 10, **more)  # type: ignore[arg-type]


def test_scores_have_the_form_of_the_design() -> None:
    task = TaskScores(XNLI, "test", [language("en", 90.0), language("de", 70.1)], protocol={"layer": 4})
    scores = build([task], base="starter", step=120, disclaimer="no benchmark", extra={"limit": 50})
    assert set(scores) == {"protocol", "tasks"}
    assert scores["tasks"] == {
        "xnli": {
            "languages": {"en": {"accuracy": 90.0, "f1": 45.0}, "de": {"accuracy": 70.1, "f1": 35.05}},
            "average": {"accuracy": pytest.approx(80.05), "f1": pytest.approx(40.025)},
            "score": pytest.approx(80.05),
        }
    }
    protocol = scores["protocol"]
    assert protocol["base"] == "starter"
    assert protocol["disclaimer"] == "no benchmark"
    assert (protocol["checkpoint"], protocol["step"], protocol["limit"]) == ("selected", 120, 50)
    assert protocol["tasks"]["xnli"]["split"] == "test"
    assert protocol["tasks"]["xnli"]["layer"] == 4
    assert protocol["tasks"]["xnli"]["examples"] == {"en": 10, "de": 10}
    assert json.loads(json.dumps(scores)) == scores


def test_truncated_and_dropped_rows_are_counted() -> None:
    languages = [
        language("en", 1.0, account=Account(truncated=3)),
        language("de", 2.0, account=Account(dropped={"no label": 7})),
    ]
    protocol = build([TaskScores(XNLI, "dev", languages)], base="b", step=0)["protocol"]["tasks"]["xnli"]
    assert protocol["truncated"] == {"en": 3}
    assert protocol["dropped"] == {"de": {"no label": 7}}


def test_there_is_no_disclaimer_where_none_is_due() -> None:
    scores = build([TaskScores(XNLI, "dev", [language("en", 1.0)])], base="b", step=0)
    assert "disclaimer" not in scores["protocol"]


@given(st.permutations([language(f"l{n}", 100 / (n + 3)) for n in range(9)]))
def test_the_average_is_the_plain_mean_whatever_the_order(languages: list[LanguageScore]) -> None:
    scores = build([TaskScores(XNLI, "dev", languages)], base="b", step=0)["tasks"]["xnli"]
    assert scores["score"] == scores["average"]["accuracy"]
    assert (
        scores["score"] == build([TaskScores(XNLI, "dev", languages[::-1])], base="b", step=0)["tasks"]["xnli"]["score"]
    )
    assert scores["score"] == pytest.approx(sum(100 / (n + 3) for n in range(9)) / 9)


def test_the_score_is_the_tasks_own_metric() -> None:
    spec = TaskSpec(name="t", format="classification", languages=("en",), sources=(Source(),), metric="f1")
    scores = build([TaskScores(spec, "dev", [language("en", 80.0)])], base="b", step=0)
    assert scores["tasks"]["t"]["score"] == 40.0


def test_a_language_scored_twice_is_our_mistake() -> None:
    with pytest.raises(AssertionError, match="twice"):
        build([TaskScores(XNLI, "dev", [language("en", 1.0), language("en", 2.0)])], base="b", step=0)


def test_a_task_without_languages_is_our_mistake() -> None:
    with pytest.raises(AssertionError, match="no language"):
        build([TaskScores(XNLI, "dev", [])], base="b", step=0)


def test_the_score_of_question_answering_is_the_mean_of_both_metrics() -> None:
    spec = TaskSpec(name="xquad", format="span_qa", languages=("en", "de"), sources=(Source(),), metric="f1")
    languages = [
        LanguageScore(code, {"f1": f1, "exact_match": f1 - 20}, 10) for code, f1 in (("en", 80.0), ("de", 60.0))
    ]
    scores = build([TaskScores(spec, "test", languages)], base="b", step=0)
    assert scores["tasks"]["xquad"]["score"] == pytest.approx((70 + 50) / 2)
    assert scores["protocol"]["tasks"]["xquad"]["score"] == "f1 and exact_match"


def test_a_language_without_labels_has_no_score() -> None:
    some = build([TaskScores(XNLI, "test", [language("en", 80.0), LanguageScore("de", {}, 10)])], base="b", step=0)
    assert some["tasks"]["xnli"]["score"] == 80.0
    assert some["protocol"]["tasks"]["xnli"]["without_labels"] == ["de"]
    none = build([TaskScores(XNLI, "test", [LanguageScore("de", {}, 10)])], base="b", step=0)
    assert none["tasks"]["xnli"] == {"languages": {}, "average": {}, "score": None}
