"""Submissions: from run directories to the leaderboard's files, and the check before they are called ready."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from benchmark_files import write_folders
from rich.console import Console

from xtrain.errors import UserError
from xtrain.evaluation.benchmark.checking import check_submission
from xtrain.evaluation.benchmark.layout import BENCHMARKS
from xtrain.evaluation.benchmark.scoring import score_folder
from xtrain.evaluation.benchmark.submission import run_submission, write_submission
from xtrain.run_directory import RunDirectory

ROWS: dict[str, list[dict[str, Any]]] = {
    "label": [{"id": str(n), "prediction": word} for n, word in enumerate(("neutral", "entailment"))],
    "choice": [{"id": "0", "label": 1, "prediction": 1}, {"id": "1", "label": 1, "prediction": 0}],
    "tags": [{"id": "0", "prediction": ["NOUN", "VERB"]}, {"id": "1", "prediction": ["ADJ"]}],
    "answers": [{"id": "q0", "prediction": "дом", "answers": ["дом"]}, {"id": "q1", "prediction": ""}],
    "pairs": [{"id": "de-1", "prediction": "en-9", "score": 1.2}],
    "ranking": [{"id": "q1", "label": ["a"], "prediction": ["b", "a"]}],
    "index": [
        {"id": str(n), "prediction": "0", "prediction_from_english": hit, "line": 2 - n} for n, hit in enumerate("120")
    ],
}


def evaluated(
    out: Path, task: str, *, row: str = "none", seed: int = 0, split: str = "test", parent: str = "target/x",
    rows: list[dict[str, Any]] | None = None, done: bool = True, hash_: str = "", limit: int | None = None,
) -> RunDirectory:  # fmt: skip
    """A run directory such as an evaluation phase leaves, with predictions in two languages."""
    run = RunDirectory(out / "evaluate" / f"{row}-{task}-s{seed}-{hash_}{split}").create()
    phase = {
        "kind": "evaluate",
        "name": f"{row}/{task}-s{seed}",
        "study": "s",
        "seed": seed,
        "tasks": [task],
        "parent": parent,
        "evaluation": {"split": split},
    }
    run.phase_file.write_text(tomli_w.dumps(phase))
    sample = {"how": "drawn", "seed": 0, "examples": {"de": limit}, "of": {"de": 600}} if limit else None
    run.scores.write_text(json.dumps({"protocol": {"tasks": {task: {"split": split, "sample": sample}}}, "tasks": {}}))
    known = BENCHMARKS["xtreme-r" if task in BENCHMARKS["xtreme-r"].tasks else "xtreme"].tasks[task]
    (run.predictions / task).mkdir(parents=True)
    for language in known.languages[:2]:
        lines = [json.dumps(one) for one in (rows or ROWS[known.kind])]
        (run.predictions / task / f"{language}.jsonl").write_text("\n".join(lines) + "\n")
    if done:
        run.mark_done({})
    return run


def refused(*parts: str, out: Path, benchmark: str = "xtreme", **choice: Any) -> None:
    with pytest.raises(UserError) as error:
        write_submission(out, benchmark, out / "new", **choice)
    for part in parts:
        assert part in str(error.value), f"{part!r} is not in:\n{error.value}"
    assert not (out / "new").exists(), "nothing is written where something is wrong"


def test_every_form_is_written_as_the_leaderboard_reads_it(tmp_path: Path) -> None:
    out = tmp_path / "out"
    for task in ("xnli", "udpos", "xquad", "bucc2018", "tatoeba", "xcopa", "mewslix"):
        evaluated(out, task)
    write_submission(out, "xtreme", tmp_path / "x")
    write_submission(out, "xtreme-r", tmp_path / "r")

    def read(name: str) -> str:
        return (tmp_path / name).read_text(encoding="utf-8")

    assert read("x/xnli/test-ar.tsv") == "neutral\nentailment\n"
    assert read("x/udpos/test-af.tsv") == "NOUN\nVERB\n\nADJ\n"
    assert read("x/bucc2018/test-de.tsv") == "de-1\ten-9\n"
    assert json.loads(read("x/xquad/test-ar.json")) == {"q0": "дом", "q1": ""}
    # the English sentences sorted: that of row 2, of row 1, of row 0, each with the row of its foreign hit
    assert read("x/tatoeba/test-af.tsv") == "0\n2\n1\n"
    assert read("r/xcopa/test-et.jsonl") == '{"label": 1}\n{"label": 0}\n'
    assert json.loads(read("r/mewslix/test-ar.json")) == {"q1": ["b", "a"]}
    assert not (tmp_path / "x" / "xcopa").exists()


def test_what_is_written_scores_what_it_should(tmp_path: Path) -> None:
    evaluated(tmp_path / "out", "udpos", rows=[{"id": "0", "prediction": ["NOUN", "VERB"]}] * 2)
    _, labels = write_folders(tmp_path, "xtreme", "udpos")
    write_submission(tmp_path / "out", "xtreme", tmp_path / "new")
    metrics = score_folder("xtreme", tmp_path / "new", labels)["tasks"]["udpos"]["languages"]["af"]
    assert metrics["accuracy"] == 50.0


def test_rows_and_seeds_must_be_chosen(tmp_path: Path) -> None:
    for row in ("none", "mnli"):
        for seed in (0, 1):
            evaluated(tmp_path, "xnli", row=row, seed=seed)
    refused("--row", "must be chosen", "mnli, none", out=tmp_path)
    refused("--row mnil", "did you mean 'mnli'?", out=tmp_path, row="mnil")
    refused("--seed", "must be chosen", "0, 1", out=tmp_path, row="none")
    refused("--seed 7", "is not there", out=tmp_path, row="none", seed=7)
    (chosen,) = write_submission(tmp_path, "xtreme", tmp_path / "new", row="mnli", seed=1)
    assert (chosen.row, chosen.seed, chosen.run.path.name) == ("mnli", 1, "mnli-xnli-s1-test")


def test_the_base_models_retrieval_serves_every_seed(tmp_path: Path) -> None:
    evaluated(tmp_path, "xnli", seed=0)
    evaluated(tmp_path, "xnli", seed=1)
    evaluated(tmp_path, "bucc2018", seed=0, parent="")
    chosen = write_submission(tmp_path, "xtreme", tmp_path / "new", seed=1)
    assert {(one.task, one.seed) for one in chosen} == {("xnli", 1), ("bucc2018", None)}


def test_dev_predictions_are_refused_unless_there_are_test_ones(tmp_path: Path) -> None:
    evaluated(tmp_path, "xnli", split="dev")
    evaluated(tmp_path, "udpos", limit=20)
    refused(
        "predictions of xnli's dev set",
        'evaluation.split = "test"',
        "only a sample of udpos was predicted: 20 of 600 examples",
        out=tmp_path,
    )
    evaluated(tmp_path, "xnli", split="test")
    evaluated(tmp_path, "udpos", hash_="all-")
    assert {one.split for one in write_submission(tmp_path, "xtreme", tmp_path / "new")} == {"test"}


def test_two_evaluations_of_the_same_are_listed(tmp_path: Path) -> None:
    evaluated(tmp_path, "xnli", hash_="aa")
    evaluated(tmp_path, "xnli", hash_="bb")
    refused("none-xnli-s0-aatest", "none-xnli-s0-bbtest", "one of 2 evaluations of xnli", out=tmp_path)


def test_nothing_finished(tmp_path: Path) -> None:
    evaluated(tmp_path, "xnli", done=False)
    evaluated(tmp_path, "xcopa")
    refused("no finished evaluation of a task of xtreme", out=tmp_path)


def test_a_folder_in_use_is_refused(tmp_path: Path) -> None:
    evaluated(tmp_path / "out", "xnli")
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "x").write_text("")
    with pytest.raises(UserError, match="is not empty"):
        write_submission(tmp_path / "out", "xtreme", tmp_path / "old")


def test_broken_predictions_are_named(tmp_path: Path) -> None:
    run = evaluated(tmp_path, "xnli", rows=[{"id": "0"}])
    (run.predictions / "xnli/bg.jsonl").write_text('{"id": "0", "prediction": "neutral"}\n{"id"')
    refused("ar.jsonl: a row has no 'prediction'", "bg.jsonl:2: not JSON", out=tmp_path)


def submit(out: Path, folder: Path, **more: Any) -> tuple[int, str]:
    console = Console(file=io.StringIO(), width=100)
    code = run_submission(out, "xtreme", folder, console=console, **more)
    assert isinstance(console.file, io.StringIO)
    return code, console.file.getvalue()


def test_not_ready_while_something_is_missing(tmp_path: Path) -> None:
    evaluated(tmp_path / "out", "udpos")
    code, text = submit(tmp_path / "out", tmp_path / "new")
    assert code == 2
    assert "missing: xnli: ar bg" in text
    assert "missing: udpos: bg" in text
    assert "written, but not ready" in text


def test_row_counts_of_the_benchmark_are_checked(tmp_path: Path) -> None:
    evaluated(tmp_path / "out", "xnli")
    with pytest.raises(UserError, match=r"test-ar.tsv: has 2 rows\n.*5,010"):
        submit(tmp_path / "out", tmp_path / "new")


def test_against_labels_every_mistake_is_found(tmp_path: Path) -> None:
    predictions, labels = write_folders(tmp_path, "xtreme")
    checked = check_submission(predictions, "xtreme", labels)
    assert checked.ready, checked.problems
    assert checked.files == 162
    (predictions / "xnli/test-de.tsv").write_text("neutral\n")
    (predictions / "pawsx/test-de.tsv").write_text("2\n1\n0\n1\n")
    (predictions / "tatoeba/test-de.tsv").unlink()
    checked = check_submission(predictions, "xtreme", labels)
    assert [problem.where for problem in checked.problems] == [
        str(predictions / "xnli/test-de.tsv"),
        f"{predictions / 'pawsx/test-de.tsv'}:1",
    ]
    assert [(entry.task, entry.languages) for entry in checked.missing] == [("tatoeba", ("de",))]
    assert not checked.ready


def test_without_labels_counts_labels_and_forms_are_checked(tmp_path: Path) -> None:
    predictions, _ = write_folders(tmp_path, "xtreme-r", "xnli", "mewslix", "udpos", "tatoeba", "xquad")
    (predictions / "xnli/test-de.tsv").write_text("neutral\n" * 5010)
    (predictions / "mewslix/test-de.json").write_text(json.dumps({"q": [f"e{n}" for n in range(21)]}))
    (predictions / "udpos/test-de.tsv").write_text("NOUN\nNomen\n")
    (predictions / "tatoeba/test-de.tsv").write_text("0\n" * 999 + "1000\n")
    found = {problem.where: str(problem) for problem in check_submission(predictions, "xtreme-r").problems}
    assert str(predictions / "xnli/test-de.tsv") not in found
    assert "5,010" in found[str(predictions / "xnli/test-ar.tsv")]
    assert "has 21 answers" in found[f"{predictions / 'mewslix/test-de.json'}: q"]
    assert "'Nomen' is no tag" in found[f"{predictions / 'udpos/test-de.tsv'}:2"]
    assert "0 to 999" in found[f"{predictions / 'tatoeba/test-de.tsv'}:1000"]
    assert "has 4 questions" in found[str(predictions / "xquad/test-ro.json")]


def test_ready_is_said_with_what_it_was_checked_against(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xtrain.evaluation.benchmark.submission.write_submission", lambda *a, **k: [])
    predictions, labels = write_folders(tmp_path, "xtreme")
    code, text = submit(tmp_path, predictions, labels=labels)
    assert code == 0
    assert "ready: " in text
    assert "checked against the labels" in text
