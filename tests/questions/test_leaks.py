"""What a row was trained on before: languages, the target's own task, and the very examples of a test set."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from toy import TASKS, study, write_study

from xtrain.questions.leaks import Ledger
from xtrain.runner import Job, open_study, write_phase

ROWS: list[dict[str, Any]] = [
    {"name": "none"}, {"name": "choose", "tasks": ["choose"]}, {"name": "again", "tasks": ["toy"]},
    {"name": "copies", "tasks": ["copies"]}, {"name": "first a choice", "steps": [["choose"], ["copies"]]},
]  # fmt: skip


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, toy_data: Path) -> Job:
    """All phases planned; ``copies`` trains on 24 of the 30 Russian rows of toy's test set, and calls them English."""
    folder = tmp_path_factory.mktemp("leaks")
    data = folder / "data"
    shutil.copytree(toy_data, data)
    rows = (data / "toy/test-ru.jsonl").read_text("utf-8").splitlines()
    (data / "toy/copies.jsonl").write_text("\n".join(rows[:24]) + "\n", "utf-8")
    files = {"train": "toy/copies.jsonl", "dev": "toy/dev-en.jsonl"}
    copies = {**TASKS["toy"], "languages": ["en"], "sources": [{**TASKS["toy"]["sources"][0], "files": files}]}
    whole = study(tiny_model, intermediate=ROWS, target=[{"task": "toy"}], task={**TASKS, "copies": copies})
    opened = open_study(write_study(folder / "study.toml", whole), data_root=data, out=folder / "out")
    for phase in opened.graph.phases.values():
        write_phase(opened, phase, Console(file=io.StringIO())).mark_done({})
    return opened


def test_examples_that_were_trained_on_are_counted_and_told(job: Job) -> None:
    seen = {}
    for cell in job.graph.cells:
        run = job.graph.phases[cell.evaluation].run_directory(job.out)
        seen[cell.row] = {one["language"]: one["seen"] for one in json.loads(run.data_file.read_text()) if one["seen"]}
    # toy's own training set was drawn by another seed than its test set; what little both have is chance
    russian = {row: of.get("ru", {}) for row, of in seen.items()}
    assert russian == {
        "none": {},
        "choose": {},
        "again": {},
        "copies": {"copies": 24},
        "first a choice": {"copies": 24},
    }
    ledger = Ledger.of(job.graph, job.out)
    told = "80 % of its examples are in copies, which was trained on"
    assert ledger.reason("copies", "toy", "ru") == ledger.reason("first a choice", "toy", "ru") == told
    for row in ("none", "choose", "again"):
        assert ledger.reason(row, "toy", "ru") == ""


def test_the_targets_own_task_is_told(job: Job) -> None:
    ledger = Ledger.of(job.graph, job.out)
    assert {row["name"] for row in ROWS if ledger.same_task(row["name"], "toy")} == {"again"}
    assert ledger.same_task("again", "toy") == "toy is trained on toy itself"


def test_a_few_examples_are_chance(job: Job) -> None:
    cell = next(cell for cell in job.graph.cells if cell.row == "choose")
    run = job.graph.phases[cell.evaluation].run_directory(job.out)
    before = run.data_file.read_bytes()
    accounts = json.loads(before)
    for one in accounts:
        one["seen"], one["examples"] = {"choose": 9}, 901
    run.write_json(run.data_file, accounts)
    assert Ledger.of(job.graph, job.out).reason("choose", "toy", "ar") == ""
    accounts[0]["examples"], accounts[0]["language"] = 900, "ar"
    run.write_json(run.data_file, accounts)
    assert "1 % of its examples" in Ledger.of(job.graph, job.out).reason("choose", "toy", "ar")
    run.data_file.write_bytes(before)
