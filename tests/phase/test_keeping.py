"""Which encoders stay, and what is said where one is needed that did not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from xtrain.dispatch.job_graph import JobGraph, JobNode
from xtrain.model.export import ENCODER_FILES
from xtrain.phase.keeping import drop_evaluated, lost_encoder, lost_last, missing_file
from xtrain.run_directory import RunDirectory

FIRST = JobNode("i", "intermediate", "mnli-s0", "toy/mnli-s0", "intermediate/i")
TARGET = JobNode("t", "target", "mnli/xnli-s0", "toy/mnli-s0/xnli", "target/t", ("i",))
EVALUATED = JobNode("e", "evaluate", "mnli/xnli-s0", "toy/mnli-s0/xnli/evaluate", "evaluate/e", ("t",))
NEXT = JobNode("n", "target", "mnli/copa-s0", "toy/mnli-s0/copa", "target/n", ("t",))  # of another study
REPORT = JobNode("r", "report", "report", "toy/report", "report/r", ("i", "t", "e"))


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """A study of which all but the report is done."""
    JobGraph("toy", (FIRST, TARGET, EVALUATED, REPORT)).write(tmp_path)
    for node in (FIRST, TARGET, EVALUATED):
        run = node.run(tmp_path).create()
        if node is not EVALUATED:
            for folder in (run.encoder, run.encoder_last):
                folder.mkdir()
                for name in ENCODER_FILES:
                    (folder / name).write_text("{}")
        run.mark_done({"steps": 100, "selected_step": 80})
    return tmp_path


def there(out: Path) -> list[str]:
    return sorted(str(path.relative_to(out)) for path in out.glob("*/*/encoder*"))


@pytest.mark.parametrize(
    ("keep", "left"),
    [("all", ["target/t/encoder", "target/t/encoder-last"]), ("selected", ["target/t/encoder"]), ("none", [])],
)
def test_what_is_kept_once_it_is_evaluated(out: Path, keep: str, left: list[str]) -> None:
    lost = drop_evaluated(out, keep)
    assert there(out) == ["intermediate/i/encoder", "intermediate/i/encoder-last", *left]
    assert [run.path for run in lost] == ([] if keep == "all" else [out / TARGET.folder])
    assert drop_evaluated(out, keep) == []


def test_as_long_as_anything_is_to_start_from_it(out: Path) -> None:
    JobGraph("other", (FIRST, TARGET, NEXT)).write(out)
    before = there(out)
    assert drop_evaluated(out, "none") == []
    assert there(out) == before
    NEXT.run(out).create().mark_done({})
    assert [run.path for run in drop_evaluated(out, "none")] == [out / TARGET.folder]


def test_what_was_interrupted_is_ended(out: Path) -> None:
    target = TARGET.run(out)
    target.encoder_last.rename(target.path / "encoder-last.dropped")
    drop_evaluated(out, "none")
    assert there(out) == ["intermediate/i/encoder", "intermediate/i/encoder-last"]


def test_what_is_said_where_it_is_needed(out: Path) -> None:
    target = TARGET.run(out)
    assert lost_encoder(target, "late") is None
    assert not lost_last(target)
    drop_evaluated(out, "none")
    problem = lost_encoder(target, "late")
    assert problem is not None
    assert "phase late starts from it" in problem.what
    assert "give xtrain run or slurm/submit.py again" in problem.remedy
    assert lost_last(target)
    assert lost_encoder(RunDirectory(out / "target/never"), "late") is None, "it is still to be trained"
    target.done_marker.write_text(json.dumps({"steps": 100, "selected_step": 100}))
    assert not lost_last(target)


@pytest.mark.parametrize("name", ENCODER_FILES)
def test_a_site_purges_single_files(out: Path, name: str) -> None:
    target = TARGET.run(out)
    assert missing_file(target) is None
    (target.encoder / name).unlink()
    assert missing_file(target) == target.encoder / name
    target.done_marker.unlink()
    assert missing_file(target) is None, "it is still to be trained"
