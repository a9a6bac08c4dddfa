"""A report of a study in which trainings collapsed: what is counted, what the tables are over, and what is left."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from rich.console import Console
from toy import Toy, study, write_study

from xtrain.errors import UserError
from xtrain.graph import EVALUATE
from xtrain.report.study_report import report_study
from xtrain.runner import Job, open_study

SEEDS = (0, 1, 2)


@pytest.fixture
def job(toy: Toy) -> Job:
    """Two rows, one target and three seeds, of which nothing is run."""
    path = write_study(toy.root / "study.toml", study(toy.base, seeds=list(SEEDS), target=[{"task": "toy"}]))
    return open_study(path, data_root=toy.data, out=toy.root / "out")


def finish(job: Job, spared: set[str], **summaries: dict[str, Any]) -> None:
    """Every phase as done, but for ``spared`` names."""
    for phase in job.graph.phases.values():
        if phase.name in spared:
            continue
        run = phase.run_directory(job.out).create()
        if phase.kind == EVALUATE:
            languages = {"en": {"accuracy": 50.0 + phase.seed}}
            protocol = {"tasks": {"toy": {"metric": "accuracy"}}}
            run.scores.write_text(json.dumps({"tasks": {"toy": {"languages": languages}}, "protocol": protocol}))
        run.mark_done(summaries.get(phase.name.replace("-", "_"), {}))


def named(job: Job, kind: str, row: str, seed: int) -> str:
    """The name of the phase of a kind, of a row: "choose" or "none"."""
    (name,) = [
        phase.name
        for phase in job.graph.phases.values()
        if (phase.kind, phase.seed, "choose" in phase.name) == (kind, seed, row == "choose")
    ]
    return name


def collapsed(job: Job, name: str, steps: list[int], failed: bool) -> None:
    (phase,) = [phase for phase in job.graph.phases.values() if phase.name == name and phase.kind != EVALUATE]
    run = phase.run_directory(job.out).create()
    lines = [{"attempt": n, "seed": 100 + n, "collapsed_at": step, "reason": "why"} for n, step in enumerate(steps)]
    run.attempts.write_text(json.dumps(lines))
    if failed:
        run.mark_failed("training collapsed: all inputs look alike", steps[-1])


def written(job: Job) -> tuple[str, str]:
    """What is printed, and the page."""
    printed = io.StringIO()
    path = report_study(job.graph, job.out, Console(file=printed, width=160))
    return printed.getvalue(), path.read_text("utf-8")


def test_nothing_is_said_where_all_went_well(job: Job) -> None:
    finish(job, set())
    for text in written(job):
        assert "collapses in all" not in text
        assert "trainings failed" not in text


def test_failed_and_reseeded_trainings_are_counted_and_the_rest_is_compared(job: Job) -> None:
    failing, reseeded = named(job, "target", "choose", 1), named(job, "target", "none", 2)
    evaluation = named(job, EVALUATE, "choose", 1)
    skipping = named(job, "target", "none", 0).replace("-", "_")
    collapsed(job, failing, [300, 320, 280], failed=True)
    collapsed(job, reseeded, [250], failed=False)
    finish(job, {failing, evaluation}, **{skipping: {"skipped_steps": 4}})
    printed, page = written(job)
    for text in (printed, page):
        assert "1 of 9 trainings failed, 1 were begun anew with another seed; 4 collapses in all" in text
        assert f"{failing} collapsed 3 times (seed 100 at step 300, seed 101 at step 320, seed 102 at step 280)" in text
        assert f"{reseeded} collapsed once (seed 100 at step 250), then went well" in text
        assert "choose / toy: over 2 of 3 seeds (seed 1 failed)" in text
        assert "toy-s0: 4 steps skipped" in text
        assert "not evaluated yet" not in text
        assert "means of 3 seeds" in text.replace("Means", "means")
        assert "ewer seeds: choose 2" in text
    assert "1 phase collapsed, 1 phase left out of 15" in page
    assert "finished, begun anew once after a collapse" in page


def test_a_failed_intermediate_training_leaves_out_what_starts_from_it(job: Job) -> None:
    spared = set()
    for seed in SEEDS:
        name = named(job, "intermediate", "choose", seed)
        collapsed(job, name, [90], failed=True)
        spared |= {name, named(job, "target", "choose", seed), named(job, EVALUATE, "choose", seed)}
    finish(job, spared)
    printed, page = written(job)
    assert "3 of 9 trainings failed" in printed
    assert "choose / toy: no result (seed 0, 1, 2 failed)" in printed
    assert "3 phases collapsed, 6 phases left out of 15" in page
    assert "it starts from choose-s0, which failed" in page


def test_where_all_failed_the_error_says_so(job: Job) -> None:
    for row in ("none", "choose"):
        for seed in SEEDS:
            collapsed(job, named(job, "target", row, seed), [90], failed=True)
    with pytest.raises(UserError, match="6 of 9 trainings failed"):
        written(job)
