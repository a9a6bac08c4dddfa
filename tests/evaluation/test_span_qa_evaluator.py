"""Span question answering from logits to scores and rows: exact texts in every script, no answer, n-best."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import sentences

from xtrain.data import Shard, collate, prepare
from xtrain.evaluation import evaluators, scores
from xtrain.evaluation.evaluators import Gold, Setting
from xtrain.evaluation.evaluators.span_qa import SpanQA, candidates
from xtrain.model import PhaseModel, build_head, load_encoder
from xtrain.tasks import Source, TaskSpec

# context and answer, the answer of whole words or letters: scripts without white space among them
TEXTS = [
    ("天地人山水火木金土日月年大小上下", "山水火"),
    ("中国学生大小。山水，天地！", "天地"),
    ("กขคง จฉชซ ณญฎฏ", "จฉชซ"),
    ("あいうえおかきくけこさしすせそ", "おかき"),
    ("اب تث جح در", "تث جح"),
    ("one  two\nthree\u00a0four, five.", "two\nthree\u00a0four"),
]
EVALUATOR = evaluators.get("span_qa")


def spec(**options: Any) -> TaskSpec:
    columns = {name: name for name in ("id", "question", "context", "answers", "answer_starts")}
    source = Source(files={"test": "{lang}.jsonl"}, columns=columns)
    return TaskSpec("qa", "span_qa", ("en", "zh", "de"), (source,), metric="f1", options=options)


def shard_of(
    task: TaskSpec, rows: list[tuple[str, str | None]], model: Path, folder: Path, language: str = "en"
) -> Shard:
    """A question for each (context, answer); None for no answer."""
    lines = [
        {
            "id": f"q{n}",
            "question": "?",
            "context": context,
            "answers": [] if answer is None else [answer],
            "answer_starts": [] if answer is None else [context.index(answer)],
        }
        for n, (context, answer) in enumerate(rows)
    ]
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    (folder / f"{language}.jsonl").write_text(text, encoding="utf-8")
    return prepare(task, "test", language, model, 48, folder, folder / "shards")


def perfect(shard: Shard, task: TaskSpec) -> tuple[dict[str, Any], Gold]:
    """What the head makes of logits that point at the gold tokens, and at <s> in windows without the answer."""
    batch = collate(shard, np.arange(len(shard)), "qa")
    logits = torch.zeros(batch.num_tokens, 2)
    for side, name in enumerate(("start", "end")):
        logits[batch.cu_seqlens[:-1].long() + batch.fields[name], side] = 9.0
    head = build_head("span_qa", 8, 0, 0.0, options=task.options)
    return head.predictions(logits, batch), Gold.of(shard)


def test_perfect_logits_give_the_very_answers(tiny_model: Path, tmp_path: Path) -> None:
    task = spec()
    found, gold = perfect(shard_of(task, TEXTS, tiny_model, tmp_path), task)
    rows = EVALUATOR.rows(task, found, gold)
    for row, (context, answer) in zip(rows, TEXTS, strict=True):
        assert answer in row["prediction"]
        best = row["nbest"][0]
        assert context[best["start"] : best["end"]] == row["prediction"] == best["text"]
    exact = [row["prediction"] == answer for row, (_, answer) in zip(rows, TEXTS, strict=True)]
    assert sum(exact) >= 4  # the others stand in a token together with their neighbours
    assert exact[0]
    assert exact[1]  # unsegmented Chinese


def test_long_contexts_are_answered_from_the_window_that_has_the_answer(tiny_model: Path, tmp_path: Path) -> None:
    task = spec(doc_stride=12)
    context = " ".join(sentences(14))
    word = context.split()[-9]
    place = context.rindex(f" {word} ")
    rows = [(context[: place + 1] + "天地人 " + context[place + 1 :], "天地人"), ("one two", "two")]
    shard = shard_of(task, rows, tiny_model, tmp_path)
    assert int(shard.example_offsets[1]) > 3
    found, gold = perfect(shard, task)
    assert [row["prediction"] for row in EVALUATOR.rows(task, found, gold)] == ["天地人", "two"]
    assert EVALUATOR.score(task, found, gold) == {"f1": 100.0, "exact_match": 100.0}


def made_up(texts: dict[str, list[tuple[float, str]]], nulls: list[float]) -> tuple[dict[str, Any], list[Any]]:
    """Predictions that find ``texts`` with these scores in a context that is made of them."""
    spans, span_scores, contexts = (np.empty(len(texts), dtype=object) for _ in range(3))
    for number, some in enumerate(texts.values()):
        context, places = "", []
        for _, text in some:
            places.append((len(context), len(context) + len(text)))
            context += text + " | "
        contexts[number] = context
        spans[number] = np.array(places, dtype=np.int64).reshape(-1, 2)
        span_scores[number] = np.array([score for score, _ in some], dtype=np.float32)
    arrays = {"spans": spans, "span_scores": span_scores, "no_answer_score": np.array(nulls, dtype=np.float32)}
    return arrays, contexts.tolist()


def gold_of(contexts: list[str], answers: list[list[str]], language: str = "en") -> Gold:
    notes = [{"context": context, "answers": some} for context, some in zip(contexts, answers, strict=True)]
    return Gold({}, notes, [f"q{n}" for n in range(len(notes))], language)


def test_questions_without_an_answer() -> None:
    arrays, contexts = made_up(
        {"a": [(5.0, "right")], "b": [(5.0, "right")], "c": [(2.0, "wrong")], "d": [(6.0, "wrong")], "e": []},
        [1.0, 7.0, 3.0, 4.0, 0.0],
    )
    gold = gold_of(contexts, [["right"], ["right"], [], [], []])
    task = spec(no_answer=True)
    found = EVALUATOR.score(task, arrays, gold)
    # right, silent though there is an answer, silent, wrong, nothing to say
    assert found["exact_match"] == found["f1"] == pytest.approx(60.0)
    assert (found["has_answer_f1"], found["has_answer_exact_match"]) == (50.0, 50.0)
    assert found["no_answer_accuracy"] == pytest.approx(200 / 3)
    assert found["best_f1"] == pytest.approx(80.0)  # all but "b", if only "a" is answered
    assert found["f1_threshold"] == -4.0
    rows = EVALUATOR.rows(task, arrays, gold)
    assert [row["prediction"] for row in rows] == ["right", "", "", "wrong", ""]
    assert [row["no_answer_score"] for row in rows] == [-4.0, 2.0, 1.0, -2.0, 0.0]
    assert [row["score"] for row in rows] == [5.0, 7.0, 3.0, 6.0, None]
    assert [one["text"] for one in rows[1]["nbest"]] == ["", "right"]
    assert rows[1]["nbest"][0] | {"probability": 0} == {
        "text": "",
        "score": 7.0,
        "probability": 0,
        "start": -1,
        "end": -1,
    }
    assert all(sum(one["probability"] for one in row["nbest"]) == pytest.approx(1.0) for row in rows)
    json.dumps(rows, allow_nan=False)


def test_a_question_that_has_to_be_answered_is_answered() -> None:
    arrays, contexts = made_up({"a": [(-5.0, "right")]}, [9.0])
    (row,) = EVALUATOR.rows(spec(), arrays, gold_of(contexts, [["right"]]))
    assert (row["prediction"], row["answers"], "no_answer_score" in row) == ("right", ["right"], False)


@pytest.mark.parametrize(("rules", "language", "exact"), [("squad", "de", 0.0), ("mlqa", "de", 100.0)])
def test_the_tasks_own_normalisation(rules: str, language: str, exact: float) -> None:
    arrays, contexts = made_up({"a": [(1.0, "„der Hund“")]}, [0.0])
    found = EVALUATOR.score(spec(normalisation=rules), arrays, gold_of(contexts, [["Hund"]], language))
    assert found["exact_match"] == exact


def test_candidates_are_different_texts_without_white_space_around() -> None:
    context = "ab  cd ab 天地"
    spans = np.array([[2, 4], [2, 6], [4, 6], [0, 2], [7, 9], [10, 11], [10, 12]])
    values = np.array([9, 8, 7, 6, 5, 4, 3], dtype=np.float32)
    found = candidates(context, spans, values, 3)
    assert [(one.text, one.score, one.start, one.end) for one in found] == [
        ("cd", 8.0, 4, 6),
        ("ab", 6.0, 0, 2),
        ("天", 4.0, 10, 11),
    ]
    assert len(candidates(context, spans, values, 10)) == 4
    assert candidates("", np.empty((0, 2), dtype=np.int64), np.empty(0, dtype=np.float32), 3) == []


def test_from_the_model_to_scores(tiny_model: Path, tmp_path: Path) -> None:
    task = spec(no_answer=True, num_best=5)
    encoder, _ = load_encoder(tiny_model, torch.float32)
    torch.manual_seed(0)
    model = PhaseModel(encoder, {"qa": build_head("span_qa", 32, 0, 0.0, options=task.options)}).eval()
    rows: dict[str, list[tuple[str, str | None]]] = {
        "en": [*TEXTS[:3], (" ".join(sentences(20)), None)],
        "zh": [(context, answer) for context, answer in TEXTS[:2]],
    }
    shards = {lang: shard_of(task, some, tiny_model, tmp_path, lang) for lang, some in rows.items()}
    setting = Setting(task, encoder, model, "qa", tokens_per_batch=128)
    found = EVALUATOR.evaluate(setting, shards)
    assert [one.language for one in found.languages] == ["en", "zh"]
    for one, count in zip(found.languages, (4, 2), strict=True):
        assert one.num_examples == len(one.rows) == count
        # only English has a question without an answer: no mean over the languages could be taken of it
        assert one.metrics.keys() == SpanQA.definitions.keys() - {"no_answer_accuracy"}
        assert one.protocol.keys() == {"best_f1_threshold", "best_exact_match_threshold"}
        assert all(len(row["nbest"]) <= 6 for row in one.rows)
    assert found.protocol["no_answer_threshold"] == 0.0
    built = scores.build(
        [
            scores.TaskScores(
                task, "test", [scores.LanguageScore(one.language, one.metrics, 2) for one in found.languages]
            )
        ],
        base="tiny",
        step=1,
    )
    json.dumps(built, allow_nan=False)
    alone = EVALUATOR.evaluate(Setting(task, encoder, model, "qa", tokens_per_batch=4096), shards)
    for one, other in zip(found.languages, alone.languages, strict=True):
        assert [row["prediction"] for row in one.rows] == [row["prediction"] for row in other.rows]


def test_a_few_questions_are_learnt_by_heart(tiny_model: Path, tmp_path: Path) -> None:
    task = spec(doc_stride=8)
    texts = [(sentence, sentence.split()[n % 4 + 1]) for n, sentence in enumerate(sentences(12, shortest=8))]
    rows = [(text, answer) for text, answer in texts if text.count(answer) == 1]
    shard = shard_of(task, rows, tiny_model, tmp_path)
    encoder, _ = load_encoder(tiny_model, torch.float32, dropout=0.0)
    torch.manual_seed(0)
    model = PhaseModel(encoder.requires_grad_(True), {"qa": build_head("span_qa", 32, 0, 0.0)}).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    batch = collate(shard, np.arange(len(shard)), "qa")
    for _ in range(60):
        optimizer.zero_grad()
        loss, _ = model(batch)
        loss.backward()
        optimizer.step()
    (found,) = EVALUATOR.evaluate(Setting(task, encoder, model, "qa"), {"en": shard}).languages
    assert found.metrics["exact_match"] >= 90.0
    assert found.loss is not None
    assert found.loss < 0.1
