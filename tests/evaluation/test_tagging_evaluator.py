"""Evaluation of tagging: from a file through the model to F1, accuracy and rows of tags."""

from __future__ import annotations

import json
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from seqeval.metrics import f1_score, precision_score, recall_score
from sklearn.metrics import accuracy_score
from tiny import sentences

from xtrain.data import Shard, collate, prepare
from xtrain.evaluation import evaluators
from xtrain.evaluation.evaluators import Gold, Setting
from xtrain.model import PhaseModel, build_head, load_encoder
from xtrain.tasks import Source, TaskSpec
from xtrain.tasks.formats import IGNORED

LABELS = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")
TAGGING = evaluators.get("tagging")
SPEC = TaskSpec(
    name="names",
    format="tagging",
    languages=("en",),
    metric="f1",
    labels=LABELS,
    sources=(Source(files={"test": "test-{lang}.tsv"}, reader="conll", columns={"tokens": 0, "tags": 1}),),
)


def gold_of(tags: list[list[str]]) -> Gold:
    """The gold of sentences whose words are a token each, between special tokens."""
    label = [n for words in tags for n in (IGNORED, *(LABELS.index(tag) for tag in words), IGNORED)]
    return Gold({"label": np.asarray(label, np.int32)}, [None] * len(tags), [str(n) for n in range(len(tags))], "en")


def predicted(tags: list[list[str]]) -> dict[str, np.ndarray]:
    found = np.empty(len(tags), dtype=object)
    for n, words in enumerate(tags):
        found[n] = np.asarray([LABELS.index(tag) for tag in words], np.int32)
    return {"prediction": found}


@settings(max_examples=60)
@given(data=st.data(), sizes=st.lists(st.integers(1, 8), min_size=1, max_size=12))
def test_it_agrees_with_seqeval_and_scikit_learn(data: st.DataObject, sizes: list[int]) -> None:
    tags = st.sampled_from(LABELS)
    right, found = ([data.draw(st.lists(tags, min_size=n, max_size=n)) for n in sizes] for _ in range(2))
    values = TAGGING.score(SPEC, predicted(found), gold_of(right))
    for name, function in (("f1", f1_score), ("precision", precision_score), ("recall", recall_score)):
        assert values[name] == pytest.approx(100 * function(right, found, zero_division=0), abs=1e-9)
    flat = [tag for words in right for tag in words]
    assert values["accuracy"] == pytest.approx(100 * accuracy_score(flat, [*chain(*found)]), abs=1e-9)
    assert values["majority"] == pytest.approx(100 * max(map(flat.count, LABELS)) / len(flat), abs=1e-9)
    most = max(dict.fromkeys(flat), key=flat.count)  # of equally frequent ones the first in the file
    constant = f1_score(right, [[most] * n for n in sizes], zero_division=0)
    assert values["majority_f1"] == pytest.approx(100 * constant, abs=1e-9)
    assert set(values) == set(TAGGING.definitions)
    assert TAGGING.rows(SPEC, predicted(found), gold_of(right)) == [
        {"id": str(n), "label": r, "prediction": f} for n, (r, f) in enumerate(zip(right, found, strict=True))
    ]


def test_a_perfect_prediction_and_a_lost_word() -> None:
    tags = [["B-PER", "I-PER", "O"], ["O"], ["B-LOC"]]
    values = TAGGING.score(SPEC, predicted(tags), gold_of(tags))
    assert [values[name] for name in ("f1", "precision", "recall", "accuracy", "majority")] == [100, 100, 100, 100, 40]
    with pytest.raises(AssertionError, match="words were tagged"):
        TAGGING.score(SPEC, predicted([["B-PER"], ["O"], ["B-LOC"]]), gold_of(tags))


@pytest.fixture(scope="module")
def shard(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Shard:
    """Sentences of which the longer ones are split."""
    root = tmp_path_factory.mktemp("names")
    text = ""
    for n, sentence in enumerate(sentences(30)):
        words = sentence.split()
        text += "".join(f"{word}\t{LABELS[(n + i) % 2]}\n" for i, word in enumerate(words)) + "\n"
    (root / "test-en.tsv").write_text(text, encoding="utf-8")
    made = prepare(SPEC, "test", "en", tiny_model, 16, root, root / "shards")
    assert 0 < made.manifest["split_examples"] < len(made)
    return made


@pytest.fixture(scope="module")
def model(tiny_model: Path, shard: Shard) -> PhaseModel:
    torch.manual_seed(0)
    encoder = load_encoder(tiny_model, torch.float32)[0]
    head = build_head("tagging", encoder.hidden_size, len(LABELS), 0.1)
    model = PhaseModel(encoder, {"names": head}).eval()
    with torch.no_grad():
        head.classifier.weight.normal_()
        # a random encoder's tokens are much alike: centred, predictions differ from word to word
        head.classifier.bias -= model(collate(shard, np.arange(len(shard)), "names"))[1].mean(0)
    return model


@pytest.mark.parametrize("tokens_per_batch", [1, 100, 10**6])
def test_from_the_file_to_the_scores(model: PhaseModel, shard: Shard, tokens_per_batch: int) -> None:
    setting = Setting(SPEC, model.encoder, model, "names", tokens_per_batch=tokens_per_batch)
    [found] = TAGGING.evaluate(setting, {"en": shard}).languages
    alone = []
    with torch.no_grad():
        for n in range(len(shard)):
            batch = collate(shard, [n], "names")
            [numbers] = model.head("names").predictions(model(batch)[1], batch)["prediction"]
            alone.append([LABELS[number] for number in numbers])
    assert [row["prediction"] for row in found.rows] == alone
    assert len({tag for words in alone for tag in words}) > 1, "a test that could not fail"
    for n, (row, sentence) in enumerate(zip(found.rows, sentences(30), strict=True)):
        assert row["label"] == [LABELS[(n + i) % 2] for i in range(len(sentence.split()))]
    assert found.num_examples == 30
    json.dumps(found.rows)
    right = [row["label"] for row in found.rows]
    assert found.metrics["f1"] == pytest.approx(100 * f1_score(right, alone, zero_division=0))
