"""Every planted effect is found, and nothing else is claimed; leaks and cells at chance support no claim."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from planted_study import (
    AGGLUTINATIVE,
    AT_CHANCE,
    LANGUAGES,
    LAST_LOSES,
    LAST_SCORED,
    OTHERS,
    ROWS,
    TARGETS,
    Planted,
    plant,
)

from xtrain.questions.answer import Answer, Verdict
from xtrain.questions.answering import answer_questions
from xtrain.questions.differences import differences, marks
from xtrain.questions.leaks import Ledger
from xtrain.questions.table import Evidence
from xtrain.runner import Job

EACH_TARGET = {"name": "gains", "asks": "Which intermediate tasks help, on which targets?", "each": "target"}
QUESTIONS: list[dict[str, Any]] = [
    EACH_TARGET,
    {"name": "equal", "asks": "Does noise leave the targets alone?", "compare": ["noise"], "margin": 2.0},
    {"name": "kinds", "asks": "Does reasoning help more than structure?", "factor": "kind", "compare": ["reasoning"],
     "against": ["structure"]},
    {"name": "shape", "asks": "Does shape help agglutinative languages more?", "kind": "interaction",
     "compare": ["shape", "logic", "noise"],
     "groups": {"agglutinative": list(AGGLUTINATIVE), "others": list(OTHERS)}},
    {"name": "pairs", "asks": "Which pairs have what neither task has?", "kind": "matrix"},
    {"name": "number", "asks": "Does each further task help?", "kind": "curve", "x": "n_tasks",
     "compare": ["logic", "noise", "qa", "logic + noise", "logic + qa", "three"]},
    {"name": "best", "asks": "Which row should one use?", "kind": "choice"},
    {"name": "leak", "asks": "Does leaky help German?", "compare": ["leaky"], "languages": ["de"]},
    {"name": "chance", "asks": "Does logic help Yoruba?", "compare": ["logic"], "targets": ["judge"],
     "languages": ["yo"]},
]  # fmt: skip


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Planted:
    return plant(tmp_path_factory.mktemp("planted"), tiny_model, QUESTIONS)


@pytest.fixture(scope="module")
def answers(planted: Planted) -> dict[str, Answer]:
    found = {one.name: one for one in answered(planted.job)}
    assert list(found) == [*(question["name"] for question in QUESTIONS), "selection"]
    return found


def answered(job: Job) -> list[Answer]:
    return answer_questions(job.graph, Evidence.of(job.graph, job.out), Ledger.of(job.graph, job.out))


def verdicts(answer: Answer) -> dict[tuple[str, str], Verdict]:
    return {(one.group, one.label): one.verdict for one in answer.comparisons}


def test_every_effect_is_found_and_no_other(answers: dict[str, Answer]) -> None:
    up = {(row, target) for row in ("logic", "logic + noise", "logic + qa", "three") for target in TARGETS}
    wanted = dict.fromkeys([*up, ("qa", "match")], Verdict.HIGHER)
    wanted |= {("tags", target): Verdict.LOWER for target in TARGETS}
    found = verdicts(answers["gains"])
    assert {key for key, verdict in found.items() if verdict is not Verdict.OPEN} == set(wanted)
    assert {key: found[key] for key in wanted} == wanted
    assert len(found) == (len(ROWS) - 1) * len(TARGETS)


def test_the_intervals_hold_what_was_planted(answers: dict[str, Answer]) -> None:
    (one,) = answers["equal"].comparisons
    assert one.verdict is Verdict.EQUIVALENT
    assert one.estimate.low < 0 < one.estimate.high
    logic = next(one for one in answers["gains"].comparisons if (one.group, one.label) == ("logic", "sort"))
    assert logic.estimate.low < 6.0 < logic.estimate.high
    assert logic.counts == {"seeds": 3, "items": 200, "languages": 29, "rows": 2}  # English is no zero-shot language


def test_levels_of_a_factor(answers: dict[str, Answer]) -> None:
    (one,) = answers["kinds"].comparisons
    assert one.verdict is Verdict.HIGHER
    assert one.counts["rows"] == 4


def test_an_interaction_is_told_from_a_gain(answers: dict[str, Answer]) -> None:
    found = {one.label: one for one in answers["shape"].comparisons}
    assert {label: one.verdict for label, one in found.items()} == {
        "shape": Verdict.HIGHER, "logic": Verdict.OPEN, "noise": Verdict.OPEN,
    }  # fmt: skip
    assert found["shape"].estimate.value == pytest.approx(7.5, abs=1.5)


def test_synergy_is_beyond_the_better_one(answers: dict[str, Answer]) -> None:
    found = verdicts(answers["pairs"])
    assert found == {("logic", "noise"): Verdict.OPEN, ("logic", "qa"): Verdict.HIGHER}
    gains = {place: one.estimate.value for place, one in answers["pairs"].gains.items()}
    assert gains["qa", "logic"] == pytest.approx(8.5, abs=1.5), "the pair against none"
    assert gains["logic", "logic"] == pytest.approx(6.0, abs=1.5), "one task alone"


def test_the_trend_over_the_number_of_tasks(answers: dict[str, Answer]) -> None:
    answer = answers["number"]
    assert [point.x for point in answer.curve] == [1.0, 2.0, 3.0]
    (trend,) = answer.comparisons
    assert trend.estimate.value > 0
    assert any(source.name == "rows" for source in trend.estimate.sources)


def test_the_best_row_and_those_beside_it(answers: dict[str, Answer]) -> None:
    answer = answers["best"]
    assert answer.sentence.startswith("logic + qa")
    found = {one.label: one.verdict for one in answer.comparisons}
    assert found["none"] is found["tags"] is found["noise"] is Verdict.LOWER


def test_what_is_not_zero_shot_supports_no_claim_unless_it_is_asked_for(
    planted: Planted, answers: dict[str, Answer]
) -> None:
    (asked,) = answers["leak"].comparisons
    assert asked.verdict is Verdict.HIGHER
    assert any("not zero-shot" in remark for remark in asked.remarks)
    whole = planted.asked({"name": "all", "asks": "?", "compare": ["leaky"]})
    one, *_ = answered(whole)
    assert one.comparisons[0].verdict is Verdict.OPEN
    assert one.comparisons[0].counts["languages"] == 28
    assert any("leaky has it in its training data" in limit for limit in one.limits)
    (german,) = (detail for detail in one.details if detail.label == "de")
    assert german.verdict is Verdict.UNSUPPORTED
    assert any("leaky has it in its training data" in remark for remark in german.remarks)


def test_a_row_of_the_targets_own_task_shows_no_transfer_unless_the_target_is_named(planted: Planted) -> None:
    asked = {"name": "logic", "asks": "?", "compare": ["logic"]}
    job = planted.asked(asked, {**asked, "name": "named", "targets": list(TARGETS)},
                        {**asked, "name": "alone", "targets": ["match"]},
                        {**asked, "name": "others", "targets": [name for name in TARGETS if name != "match"]},
                        {"name": "qa", "asks": "?", "compare": ["qa"]})  # fmt: skip
    evidence = Evidence.of(job.graph, job.out)
    why = "match is trained on logic itself"
    same = Ledger({}, {("logic", "match"): why})
    whole, named, alone, others, qa = answer_questions(job.graph, evidence, same)[:5]
    assert whole.comparisons[0].estimate.value == pytest.approx(others.comparisons[0].estimate.value)
    assert f"no transfer from another task, and in no mean of theirs: match after logic ({why})" in whole.limits
    counted = f"no transfer from another task, and counted since the question names it: match after logic ({why})"
    for one in (named, alone):
        assert counted in one.limits
        assert f"same task: {why}" in one.comparisons[0].remarks
        assert one.comparisons[0].verdict is Verdict.HIGHER
    assert not any("another task" in limit for limit in qa.limits)
    assert marks(evidence, same, "match")["logic", "de"] == (f"same task: {why}",)
    assert ("qa", "de") not in marks(evidence, same, "match")


def test_a_cell_at_chance_supports_no_claim(answers: dict[str, Answer]) -> None:
    (one,) = answers["chance"].comparisons
    assert one.verdict is Verdict.UNSUPPORTED
    assert "no score is above chance" in answers["chance"].sentence
    assert any(AT_CHANCE[1] in remark for remark in one.remarks)


def test_every_claim_has_its_interval_p_and_n(answers: dict[str, Answer]) -> None:
    for answer in answers.values():
        for one in answer.claims:
            assert one.estimate.known
            assert one.p_corrected is not None
            assert one.counts["seeds"] == 3
        if answer.claims:
            assert "95 % interval" in answer.sentence


def test_what_varies_is_told_apart(answers: dict[str, Answer]) -> None:
    found = answers["equal"].components
    assert found["runs"] == pytest.approx(0.5, abs=0.4)  # points that a run differs from another of its row
    assert found["languages"] > found["rows by languages"]
    assert found["the rest"] < 0.5  # the items' own errors are taken out


def test_choosing_by_english_dev_is_told_honestly(answers: dict[str, Answer]) -> None:
    answer = answers["selection"]
    (one,) = answer.comparisons
    assert (one.group, one.verdict) == (LAST_SCORED, Verdict.LOWER)
    assert one.estimate.low < -100 * LAST_LOSES * 0.63 < one.estimate.high
    regret = {detail.label: detail.estimate.value for detail in answer.details}
    assert regret["last step"] < regret["their mean"] < regret["selected"] <= 0


def test_tables_have_the_same_estimates(planted: Planted, answers: dict[str, Answer]) -> None:
    evidence = Evidence.of(planted.job.graph, planted.job.out)
    ledger = Ledger.of(planted.job.graph, planted.job.out)
    found = differences(evidence, ledger, "match")
    alone = next(one for one in answers["gains"].comparisons if (one.group, one.label) == ("logic", "match"))
    assert found["logic", None].value == pytest.approx(alone.estimate.value, abs=0.5)  # here without German as well
    assert {language for row, language in found if row == "logic"} == {None, *LANGUAGES}
    said = marks(evidence, ledger, "judge")
    assert said["leaky", "de"] == ("not zero-shot: leaky has it in its training data",)
    assert {row for row, language in said if language == "yo"} == set(ROWS)
