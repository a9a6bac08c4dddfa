"""The newest lines of a record are read from its end, however long it is."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from by_hand import Run, graph

from xtrain.run_directory import RunDirectory
from xtrain.tracking import Progress, Recorder
from xtrain.watching.record_end import end_of, log_progress, newest_event, newest_first, pace_of


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(graph(("none-s0",), ("xnli",)).nodes[1], tmp_path)


def test_a_long_record_is_read_from_its_end(run: Run) -> None:
    with open(run.run.metrics, "wb") as handle:  # 100 MB that are no JSON: nobody is to look at them
        handle.truncate(100 * 2**20)
        handle.seek(0, 2)
        handle.write(b"\n")
    with Recorder(run.run) as record:
        record.event("begin", step=0, planned_steps=500)
        record.metrics(400, {"loss": 0.5, "tokens_per_second": 10.0, "seconds": 1.0})
        record.metrics(410, {"loss": 0.25, "tokens_per_second": 11.0, "seconds": 5.0})
        record.metrics(410, {"dev/score": 70.0})
    pace = pace_of(run.run)
    assert (pace.step, pace.planned_steps, pace.loss, pace.tokens_per_second) == (410, 500, 0.25, 11.0)
    assert pace.steps_per_second == 2.0  # by the seconds that the lines count: their times lie too close
    assert len(end_of(run.run.metrics, 2**14)) < 2**14


def test_the_beginning_is_found_behind_many_events(run: Run) -> None:
    with Recorder(run.run) as record:
        record.event("resume", step=70, planned_steps=5000, checkpoint="step-70")
        for step in range(71, 2000):
            record.event("save", step=step, folders=["step", "best"], bytes=123456789, seconds=1.5)
    assert run.run.events.stat().st_size > 2**17
    assert (pace_of(run.run).step, pace_of(run.run).planned_steps) == (1999, 5000)
    assert newest_event(run.run)["step"] == 1999


def test_lines_of_an_earlier_start_do_not_count_for_the_rate(run: Run) -> None:
    run.train(100, 200, seconds_a_step=1.0, ago=5000)
    assert pace_of(run.run).steps_per_second == pytest.approx(1.0, rel=0.05)
    with Recorder(run.run) as record:
        record.event("resume", step=100, planned_steps=200)
    pace = pace_of(run.run)
    assert pace.step == 100
    assert pace.steps_per_second is None
    assert pace.eta_seconds(0.0) is None


def test_a_save_between_two_lines_of_metrics_counts(run: Run) -> None:
    """85 steps are done where the last line of metrics is of step 80, since they come every 10."""
    run.train(80, 240)
    with Recorder(run.run) as record:
        record.event("preempted", step=85, saved_step=85, signal="SIGTERM", seconds=0.1)
    pace = pace_of(run.run)
    assert (pace.step, pace.loss) == (85, 2 / 80)
    with Recorder(run.run) as record:
        record.event("resume", step=85, planned_steps=240)
    assert pace_of(run.run).step == 85
    with Recorder(run.run) as record:
        record.metrics(90, {"loss": 0.1})
        record.event("save", step=88)  # one beside training is committed later
    assert pace_of(run.run).step == 90
    with Recorder(run.run) as record:
        record.event("begin", step=0, planned_steps=240)
        record.resume_at(0)
    assert pace_of(run.run).step == 0, "begun anew, it is at the beginning"


def test_torn_and_broken_lines_are_passed_over(run: Run) -> None:
    assert list(newest_first(b'{"a": 1}\nnonsense\n[2]\n{"b": 2}\n{"torn": ')) == [{"b": 2}, {"a": 1}]
    assert list(newest_first(b"")) == []
    assert end_of(run.run.path / "nothing", 10) == b""


def test_news_that_tell_nothing_are_left_out(run: Run) -> None:
    with Recorder(run.run) as record:
        record.event("best", step=5, score=71.0)
        record.event("tracking_finished", uploaded=None)
    assert newest_event(run.run)["event"] == "best"


def test_progress_is_read_as_it_is_printed(run: Run) -> None:
    assert log_progress(RunDirectory(run.run.path).logs / "rank-0.log") is None
    clock = iter(range(0, 10_000, 20))
    printed = io.StringIO()
    with Progress("evaluate none-s0/xnli", 80_000, "tokens", file=printed, clock=lambda: float(next(clock))) as bar:
        for _ in range(3):
            bar.advance(10_000)
        path = run.print("something else\n" + printed.getvalue() + "and more\n")
        found = log_progress(path)
    assert found is not None
    assert (found.done, found.total, found.unit) == (30_000, 80_000, "tokens")
    assert found.tokens_per_second
    assert found.eta_seconds
