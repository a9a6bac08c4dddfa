"""Items add up to the metric of their format, and scores at chance are told from others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from xtrain.evaluation.benchmark.answers import score_answers, score_squad_v2
from xtrain.evaluation.benchmark.bitext import pair_f1
from xtrain.evaluation.benchmark.chunks import micro_f1, token_accuracy
from xtrain.evaluation.benchmark.ranking import map_at_k
from xtrain.evaluation.evaluators.bitext_mining import prediction_rows
from xtrain.evaluation.metrics import classification
from xtrain.evaluation.outcomes import NoOutcomes, chance, outcomes
from xtrain.tasks import TaskSpec

TAGS = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]


def spec(format_: str, metric: str = "accuracy", **more: Any) -> TaskSpec:
    return TaskSpec("made", format_, ("de",), metric=metric, **more)


def tagged(count: int, right: float, seed: int = 0) -> list[dict[str, Any]]:
    """Sentences of 3 to 12 words, a share of whose tags is right."""
    rng = np.random.default_rng(seed)
    rows = []
    for number in range(count):
        gold = rng.choice(TAGS, rng.integers(3, 13)).tolist()
        found = [tag if rng.random() < right else str(rng.choice(TAGS)) for tag in gold]
        rows.append({"id": str(number), "label": gold, "prediction": found})
    return rows


def classified(count: int, right: float, seed: int = 0) -> list[dict[str, Any]]:
    rng, labels = np.random.default_rng(seed), ("a", "b", "c")
    gold = rng.choice(labels, count).tolist()
    found = [one if rng.random() < right else str(rng.choice(labels)) for one in gold]
    return [
        {"id": str(n), "label": one, "prediction": two} for n, (one, two) in enumerate(zip(gold, found, strict=True))
    ]


def answered(count: int, right: float, seed: int = 0) -> list[dict[str, Any]]:
    words = ["ein", "zwei", "drei", "vier", "fünf", "sechs", "sieben", "acht", "neun", "zehn"]
    rng = np.random.default_rng(seed)
    rows = []
    for number in range(count):
        gold = " ".join(rng.choice(words, rng.integers(1, 4)))
        other, wrong = (" ".join(rng.choice(words, 2)) for _ in range(2))
        rows.append(
            {"id": str(number), "answers": [gold, other], "prediction": gold if rng.random() < right else wrong}
        )
    return rows


def metric_of(rows: Sequence[Mapping[str, Any]], format_: str, metric: str, **options: Any) -> float:
    return outcomes(spec(format_, metric, options=options), metric, "de", rows).score


def test_classes() -> None:
    rows = classified(80, 0.5)
    names = {"a": 0, "b": 1, "c": 2}
    numbers = [np.array([names[row[key]] for row in rows]) for key in ("prediction", "label")]
    wanted = classification(*numbers)
    assert metric_of(rows, "classification", "accuracy") == pytest.approx(wanted["accuracy"])
    assert metric_of(rows, "classification", "f1") == pytest.approx(wanted["f1"])
    assert metric_of(rows, "multiple_choice", "accuracy") == pytest.approx(wanted["accuracy"])


def test_tags() -> None:
    rows = tagged(60, 0.7)
    gold, found = ([row[key] for row in rows] for key in ("label", "prediction"))
    assert metric_of(rows, "tagging", "f1") == pytest.approx(micro_f1(gold, found)["f1"])
    assert metric_of(rows, "tagging", "accuracy") == pytest.approx(token_accuracy(gold, found))


def test_answers() -> None:
    rows = answered(40, 0.5)
    wanted = score_answers(
        {row["id"]: row["prediction"] for row in rows}, {row["id"]: row["answers"] for row in rows}, "de"
    )
    for metric in ("f1", "exact_match"):
        assert metric_of(rows, "span_qa", metric) == pytest.approx(wanted[metric])
    rows += [{"id": "x", "answers": [], "prediction": ""}, {"id": "y", "answers": [], "prediction": "ein"}]
    both = [{row["id"]: row[key] for row in rows} for key in ("prediction", "answers")]
    assert metric_of(rows, "span_qa", "f1", no_answer=True) == pytest.approx(score_squad_v2(*both)["f1"])


def test_first_hits_of_the_side_that_asks() -> None:
    rows = [
        {"id": "a", "label": "a", "prediction": "a", "prediction_from_english": "b"},
        {"id": "b", "label": "b", "prediction": "a", "prediction_from_english": "b"},
        {"id": "c", "label": "c", "prediction": "b", "prediction_from_english": "c"},
    ]
    assert metric_of(rows, "sentence_retrieval", "accuracy", query="foreign") == pytest.approx(100 / 3)
    assert metric_of(rows, "sentence_retrieval", "accuracy", query="english") == pytest.approx(200 / 3)
    assert metric_of(rows, "sentence_retrieval", "accuracy") == pytest.approx(50.0)


def test_rankings() -> None:
    rows = [
        {"id": "q", "label": ["x", "y"], "prediction": ["x", "z", "y"]},
        {"id": "r", "label": ["x"], "prediction": ["y"]},
    ]
    wanted = map_at_k([row["prediction"] for row in rows], [row["label"] for row in rows])
    assert metric_of(rows, "answer_retrieval", "map@20") == pytest.approx(wanted)


def test_mined_pairs_and_the_missed_ones() -> None:
    gold = [("f1", "e1"), ("f2", "e2"), ("f3", "e3")]
    taken = [(("f1", "e1"), 1.2), (("f2", "e9"), 1.1), (("f7", "e7"), 1.05)]
    rows = prediction_rows(taken, gold)
    assert [row["id"] for row in rows] == ["f1", "f2", "f7", "f3"]
    assert rows[-1] == {"id": "f3", "prediction": None, "label": "e3"}
    assert metric_of(rows, "bitext_mining", "f1") == pytest.approx(pair_f1([pair for pair, _ in taken], gold)["f1"])
    unlabelled = prediction_rows(taken, None)
    with pytest.raises(NoOutcomes):
        outcomes(spec("bitext_mining", "f1"), "f1", "de", unlabelled)


def test_what_has_no_items_says_so() -> None:
    with pytest.raises(NoOutcomes):
        outcomes(spec("mlm", "perplexity"), "perplexity", "de", [{"id": "a"}])
    with pytest.raises(NoOutcomes):
        outcomes(spec("classification"), "accuracy", "de", [{"id": "a", "label": None, "prediction": "b"}])


@pytest.mark.parametrize(
    ("format_", "metric", "make"),
    [
        ("classification", "accuracy", classified),
        ("classification", "f1", classified),
        ("multiple_choice", "accuracy", classified),
        ("tagging", "f1", tagged),
        ("span_qa", "f1", answered),
    ],
)
def test_chance_is_told_from_more(format_: str, metric: str, make: Any) -> None:
    one = spec(format_, metric)
    for right, above in ((0.9, True), (0.0, False)):
        rows = make(150, right)
        found = chance(one, metric, "de", rows, outcomes(one, metric, "de", rows).score)
        assert found is not None
        assert (found.p <= 0.05) is above, (right, found)


def test_the_most_frequent_class_is_chance() -> None:
    rows = [{"id": str(n), "label": "a" if n < 80 else "b", "prediction": "a"} for n in range(100)]
    found = chance(spec("classification", labels=("a", "b")), "accuracy", "de", rows, 80.0)
    assert found is not None
    assert found.percent == 80.0
    assert found.p > 0.05
