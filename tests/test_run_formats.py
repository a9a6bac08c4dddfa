"""Every format through the real command line: a mixture of all as intermediate training, then each as a target."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from toy import TASKS as TOY_TASKS
from toy import Toy, read_jsonl
from toy_formats import SCRIPTS, TASKS, make_catalogue_files, make_formats

from xtrain.evaluation.benchmark.chunks import micro_f1


@pytest.fixture
def formats(toy: Toy) -> Toy:
    """The toy with data of every format beside its own."""
    toy.data = make_formats(Path(shutil.copytree(toy.data, toy.root / "data")))
    return toy


def scores_of(run: Path) -> dict[str, Any]:
    scores: dict[str, Any] = json.loads((run / "scores.json").read_text("utf-8"))
    return scores


def test_every_format_runs_through_all_phases(formats: Toy) -> None:
    """Two ranks; the mixture holds masked language modelling in three languages, and two tasks with one head."""
    recipe = {"max_steps": 4, "batch_size": 4, "max_length": 48, "eval_every": 2, "learning_rate": 1e-3}
    same = {**TOY_TASKS["toy"], "translated_from": "en", "train_languages": ["en"]}
    result = formats.run(
        "formats", "--ranks", "2",
        task={**TOY_TASKS, **TASKS, "same": same},
        intermediate=[{
            "name": "all",
            "tasks": ["toy", "same", "choose", "tags", "qa", "pairs", "text"],
            "languages": {"text": ["ru", "zh"]},
        }],
        target=[{"task": name} for name in ("tags", "qa", "pool", "bitext", "hidden")],
        recipe={"intermediate": {**recipe, "max_steps": 14, "temperature": 5.0}, "target": recipe},
        engine={"log_every": 1, "tokens_per_micro_batch": 256, "ds_config": "zero3"},
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-3000:]
    out = formats.out("formats")
    logged = read_jsonl(next(out.glob("intermediate/all-*/metrics.jsonl")))
    seen = {key for line in logged for key in line if key.endswith("/loss") and not key.startswith("dev/")}
    assert seen == {f"{task}/loss" for task in ("toy", "same", "choose", "tags", "qa", "pairs", "text")}
    assert all(line[key] == line["loss"] for line in logged for key in line if key in seen), "one task a step"
    dev = next(line for line in logged if "dev/score" in line)
    assert {"dev/tags/f1", "dev/qa/exact_match", "dev/pairs/map@20", "dev/text/accuracy", "dev/text/loss"} <= set(dev)
    heads = json.loads(next(out.glob("intermediate/all-*/encoder/heads.json")).read_text())
    assert heads["same"] == heads["toy"]
    assert "same and toy share a head" in result.stdout
    assert "machine-translated from en" in result.stdout
    check_scores(out, result.stdout)


def check_scores(out: Path, printed: str) -> None:
    runs = {path.name.split("-s0-")[0].removeprefix("all-"): path for path in (out / "evaluate").iterdir()}
    assert set(runs) == {"tags", "qa", "pool", "bitext", "hidden"}
    for task, metrics in {"tags": {"f1", "accuracy"}, "qa": {"f1", "exact_match"}, "pool": {"map@20"}}.items():
        entry = scores_of(runs[task])["tasks"][task]
        assert set(entry["languages"]) == set(SCRIPTS)
        assert metrics <= set(entry["average"])
    rows = read_jsonl(runs["tags"] / "predictions/tags/zh.jsonl")
    scores = scores_of(runs["tags"])["tasks"]["tags"]["languages"]["zh"]
    again = micro_f1([row["label"] for row in rows], [row["prediction"] for row in rows])
    assert scores["f1"] == pytest.approx(again["f1"], abs=1e-9)
    for row in read_jsonl(runs["qa"] / "predictions/qa/zh.jsonl"):
        assert row["prediction"]
        assert " " not in row["prediction"].strip() or row["prediction"], "cut out of the context as it stands"
    pool = scores_of(runs["pool"])["protocol"]["tasks"]["pool"]
    assert pool["candidates"] == 3 * 24, "one pool of all languages"
    mined = scores_of(runs["bitext"])["protocol"]["tasks"]["bitext"]
    assert "threshold" in json.dumps(mined)
    hidden = scores_of(runs["hidden"])
    assert hidden["tasks"]["hidden"] == {"languages": {}, "average": {}, "score": None}
    rows = read_jsonl(runs["hidden"] / "predictions/hidden/ru.jsonl")
    assert len(rows) == 12
    assert all(row["label"] is None and row["prediction"].startswith("class") for row in rows)
    assert "hidden: predicted but not scored" in printed
    assert "hidden: predicted but not scored" in (out / "report-toy.html").read_text("utf-8")


def test_tasks_of_the_catalogue_whose_data_are_not_free_or_large(toy: Toy) -> None:
    """CCGbank, SQuAD v2 and Mewsli-X, by the catalogue's own entries, on small files in the documented layouts."""
    recipe = {"max_steps": 3, "batch_size": 4, "max_length": 48, "eval_every": 3, "learning_rate": 1e-3}
    toy.data = make_catalogue_files(toy.root / "files")
    result = toy.run(
        "catalogue",
        task={},
        intermediate=[{"name": "both", "tasks": ["ccg", "squad_v2"]}],
        target=[{"task": "mewslix", "languages": ["de", "en"]}],
        recipe={"intermediate": {**recipe, "max_steps": 6}, "target": recipe},
        engine={"log_every": 1, "tokens_per_micro_batch": 256},
    )
    assert result.returncode == 0, result.stderr[-3000:]
    out = toy.out("catalogue")
    heads = json.loads(next(out.glob("intermediate/both-*/encoder/heads.json")).read_text())
    assert heads["ccg"]["labels"] == ["N", "NP/N"], "the tags of the training and dev sets"
    logged = read_jsonl(next(out.glob("intermediate/both-*/metrics.jsonl")))
    assert any("dev/squad_v2/no_answer_accuracy" in line for line in logged)
    (run,) = (out / "evaluate").iterdir()
    scores = scores_of(run)
    assert set(scores["tasks"]["mewslix"]["languages"]) == {"de", "en"}
    assert scores["protocol"]["tasks"]["mewslix"]["benchmark"] == "xtreme-r"
