"""What `xtrain report` writes for other programs and for papers: which files, where, and from real run directories."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import pytest
from made_up_runs import INTERRUPTED_HOURS, MadeRun, interrupted
from made_up_study import content
from rich.console import Console
from toy import Toy, study, write_study

from xtrain.cli import main
from xtrain.errors import EXIT_USER, UserError
from xtrain.files import write_json
from xtrain.graph import EVALUATE, INTERMEDIATE
from xtrain.report.export.content import Export
from xtrain.report.export.figure_files import figure_files, page_figures
from xtrain.report.export.writing import write_export
from xtrain.report.study_report import report_study
from xtrain.runner import Job, open_study


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_every_figure_of_the_page_is_written_twice_and_is_the_same_file_again() -> None:
    made = content(languages=("en", "de"))
    files = dict(figure_files(made))
    assert sorted(files) == sorted(
        f"{name}.{kind}"
        for name in ("answer-helps", "answer-helps-details", "answer-size", "xnli-differences",
                     "xnli-scores", "message_retrieval-differences", "message_retrieval-scores",
                     "training-mnli", "training-mnli-xnli", "time-line")
        for kind in ("svg", "pdf")
    )  # fmt: skip
    assert all((b"%PDF-" if name.endswith("pdf") else b"<svg ") in data[:500] for name, data in files.items())
    again = dict(figure_files(content(languages=("en", "de"))))
    assert files == again
    assert len(page_figures(made)) == 10


def test_only_what_was_asked_for_is_written(tmp_path: Path) -> None:
    made = content(languages=("en", "de"))
    said = write_export(Export(tmp_path / "a", figures=False), made)
    assert names(tmp_path / "a") == ["csv", "latex"]
    assert said == f"exported into {tmp_path / 'a'}: 8 CSV files, 5 LaTeX files (preview.tex has all)"
    assert (tmp_path / "a/latex/table.tex").read_text("utf-8").startswith(r"\begin{table}")
    assert (tmp_path / "a/csv/scores.csv").read_bytes().startswith(b"row,seed,task,language,metric,checkpoint,value\n")


def test_a_folder_that_is_a_file_is_the_users_mistake(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", "utf-8")
    with pytest.raises(UserError, match="file"):
        write_export(Export(tmp_path / "file", latex=False, figures=False), content())


@pytest.fixture
def job(toy: Toy) -> Job:
    """Two rows, of which one has an intermediate phase that two targets share; nothing is run."""
    path = write_study(toy.root / "study.toml", study(toy.base))
    return open_study(path, data_root=toy.data, out=toy.root / "out")


def finish(job: Job) -> float:
    """Every phase is done: the shared one in three attempts on GPUs, others in one of 900 s on two ranks; returns the
    hours of the latter."""
    hours = 0.0
    for phase in job.graph.phases.values():
        run = phase.run_directory(job.out)
        if phase.kind == INTERMEDIATE:
            made = interrupted(run)
            made.logged(8050, 300, **{"dev/accuracy": 61.0}).logged(8060, 400, **{"dev/accuracy": 60.0})
            continue
        made = MadeRun(run).began(9000, ranks=2, nodes=("n9",)).ended(9900, "done")
        hours += 2 * 900 / 3600
        if phase.kind == EVALUATE:
            task = phase.tasks[0]
            scores = {"tasks": {task: {"languages": {"en": {"accuracy": 50.0 + len(phase.name)}}}},
                      "protocol": {"tasks": {task: {"metric": "accuracy"}}}}  # fmt: skip
            write_json(run.scores, scores)
        made.done(steps=12, selected_step=8)
    return hours


def read(path: Path) -> list[dict[str, Any]]:
    return list(csv.DictReader(io.StringIO(path.read_text("utf-8"))))


def test_a_report_has_the_sum_over_all_attempts_and_exports_it(job: Job) -> None:
    hours = finish(job)
    printed = io.StringIO()
    page = report_study(job.graph, job.out, Console(file=printed, width=160), Export(job.out / "x")).read_text("utf-8")
    number = len(job.graph.phases)
    assert sum(phase.kind == INTERMEDIATE for phase in job.graph.phases.values()) == 1
    headline = f"≥ 11.5 H200-hours and {hours:g} CPU rank-hours in {number + 2} attempts of {number} phases"
    assert page.count(f"{headline}; 1.52 H200-hours lost to restarts") == 2, "in the summary and in the section"
    assert "When the phases ran" in page
    assert f"exported into {job.out / 'x'}" in printed.getvalue()
    assert names(job.out / "x") == ["csv", "figures", "latex"]
    lines = {(one["phase"], one["kind"]): one for one in read(job.out / "x/csv/phases.csv")}
    shared = lines["choose", "intermediate"]
    assert float(shared["device_hours"]) == pytest.approx(INTERRUPTED_HOURS)
    assert (shared["attempts"], shared["seconds"], shared["selected_step"]) == ("3", "5720.0", "300")
    assert {"training-choose.svg", "time-line.pdf", "toy-scores.svg"} <= set(names(job.out / "x/figures"))
    assert sum(float(one["device_hours"]) for one in read(job.out / "x/csv/compute.csv")) == pytest.approx(
        INTERRUPTED_HOURS + hours
    )


def test_the_command_writes_into_the_folder_that_it_is_given(job: Job, toy: Toy, capsys: Any) -> None:
    finish(job)
    command = ["report", str(toy.root / "study.toml"), "--data", str(toy.data), "--out", str(job.out)]
    assert main([*command, "--csv", "--latex"]) == 0
    assert names(job.out / "export-toy") == ["csv", "latex"]
    assert main([*command, "--csv", "--export", str(toy.root / "mine")]) == 0
    assert names(toy.root / "mine") == ["csv"]
    assert "exported into" in capsys.readouterr().out
    (toy.root / "file").write_text("", "utf-8")
    assert main([*command, "--csv", "--export", str(toy.root / "file")]) == EXIT_USER
    assert main(command) == 0
    assert not (job.out / "csv").exists()
