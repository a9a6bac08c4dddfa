"""metrics.jsonl and events.jsonl: whole lines, whatever is written and whatever breaks."""

from __future__ import annotations

import errno
import json
import math
import os
import re
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from xtrain.errors import UserError
from xtrain.run_directory import RunDirectory
from xtrain.tracking import Recorder, read_events, read_metrics


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    return RunDirectory(tmp_path / "run").create()


def test_each_line_is_json_with_time_and_step(run: RunDirectory) -> None:
    with Recorder(run) as record:
        record.metrics(1, {"loss": 0.5, "tokens": 12})
        record.metrics(2, {"loss": np.float32(0.25), "norm": torch.tensor(2.0), "ids": ["a", "b"]})
        record.event("save", step=2, folder=run.path)
    lines = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2]
    assert lines[1] | {"time": ""} == {"time": "", "step": 2, "loss": 0.25, "norm": 2.0, "ids": ["a", "b"]}
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", lines[0]["time"])
    assert read_events(run.events)[0] | {"time": ""} == {
        "time": "", "event": "save", "step": 2, "folder": str(run.path)
    }  # fmt: skip


def test_non_finite_numbers_are_texts_in_the_file_and_floats_when_read(run: RunDirectory) -> None:
    with Recorder(run) as record:
        record.metrics(1, {"a": math.nan, "b": math.inf, "c": -math.inf, "d": np.float64("nan"), "e": [math.nan]})

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    line = json.loads(run.metrics.read_text(), parse_constant=refuse)
    assert (line["a"], line["b"], line["c"], line["d"]) == ("NaN", "Infinity", "-Infinity", "NaN")
    read = read_metrics(run.metrics)[0]
    assert math.isnan(read["a"])
    assert math.isnan(read["d"])
    assert (read["b"], read["c"]) == (math.inf, -math.inf)


def test_other_ranks_write_nothing(run: RunDirectory) -> None:
    with Recorder(run, rank=1) as record:
        record.metrics(1, {"loss": 1.0})
        record.event("start")
        assert record.resume_at(0) == 0
    assert not run.metrics.exists()
    assert not run.events.exists()
    assert read_metrics(run.metrics) == []


def test_a_torn_last_line_is_passed_over_and_then_removed(run: RunDirectory) -> None:
    with Recorder(run) as record:
        record.metrics(1, {"loss": 1.0})
    with open(run.metrics, "a") as handle:
        handle.write('{"time": "2026-01-01T00:00:00Z", "step": 2, "lo')
    assert [line["step"] for line in read_metrics(run.metrics)] == [1]
    with Recorder(run) as record:
        record.metrics(2, {"loss": 0.5})
    assert [line["step"] for line in read_metrics(run.metrics)] == [1, 2]
    run.metrics.write_bytes(b'{"torn from the start')
    with Recorder(run) as record:
        record.metrics(7, {})
    assert [line["step"] for line in read_metrics(run.metrics)] == [7]


def test_a_broken_line_elsewhere_is_named(run: RunDirectory) -> None:
    run.metrics.write_text('{"step": 1}\nnonsense\n{"step": 3}\n')
    with pytest.raises(UserError, match=r"metrics\.jsonl:2: not a JSON object"):
        read_metrics(run.metrics)


def test_resume_drops_later_steps_and_goes_on(run: RunDirectory) -> None:
    with Recorder(run) as record:
        for step in range(1, 11):
            record.metrics(step, {"loss": 1 / step})
        record.metrics(6, {"dev/accuracy": 50.0})
        before = run.metrics.read_text().splitlines()
        assert record.resume_at(6) == 4
        record.metrics(7, {"loss": 0.0})
    lines = run.metrics.read_text().splitlines()
    assert lines[:7] == before[:6] + before[10:]
    assert [line["step"] for line in read_metrics(run.metrics)] == [1, 2, 3, 4, 5, 6, 6, 7]


def test_what_is_dropped_is_told_where_it_is_trained_again(run: RunDirectory) -> None:
    with Recorder(run) as record:
        for step in range(1, 11):
            record.metrics(step, {"loss": 1 / step})
        last = read_metrics(run.metrics)[-1]
        record.resume_at(6)
        record.resume_at(6)  # nothing more is lost
        record.resume_at(3, again=False)
    (event,) = read_events(run.events)
    assert event | {"time": ""} == {
        "time": "", "event": "steps_lost", "step": 6, "reached": 10, "seen": last["time"],
    }  # fmt: skip


def test_a_full_disk_is_the_user_s_to_mend(run: RunDirectory) -> None:
    run.metrics.symlink_to("/dev/full")
    run.events.symlink_to("/dev/full")
    with Recorder(run) as record:
        with pytest.raises(UserError, match="the disk is full"):
            record.metrics(1, {"loss": 1.0})
        with pytest.raises(UserError, match="the disk is full"):
            record.event("start")


def test_a_line_half_written_is_taken_back(run: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    real_write = os.write
    space = [70]

    def write(descriptor: int, data: memoryview) -> int:
        if space[0] == 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        written = real_write(descriptor, data[: space[0]])
        space[0] -= written
        return written

    with Recorder(run) as record:
        monkeypatch.setattr(os, "write", write)
        record.metrics(1, {"loss": 1.0})
        with pytest.raises(UserError, match="the disk is full"):
            record.metrics(2, {"loss": 1.0})
        assert run.metrics.read_bytes().endswith(b"}\n")
        space[0] = 10_000
        record.metrics(2, {"loss": 2.0})
    assert [line["step"] for line in read_metrics(run.metrics)] == [1, 2]


def test_threads_do_not_tear_each_other_s_lines(run: RunDirectory) -> None:
    with Recorder(run) as record:

        def write(thread: int) -> None:
            for n in range(200):
                record.event("tick", thread=thread, n=n, text="x" * n)

        threads = [threading.Thread(target=write, args=(n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    events = read_events(run.events)
    assert len(events) == 800
    assert [event["n"] for event in events if event["thread"] == 2] == list(range(200))
