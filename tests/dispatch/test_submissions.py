"""The jobs of a run directory as they are written down, and the end of a phase that left no result."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import pytest

from xtrain.dispatch.submissions import Ended, JobFolder, Submission
from xtrain.run_directory import RunDirectory


@pytest.fixture
def folder(tmp_path: Path) -> JobFolder:
    return JobFolder(RunDirectory(tmp_path / "run"))


def test_nothing_yet(folder: JobFolder) -> None:
    assert folder.submissions() == []
    assert folder.ended() is None
    assert not folder.asked_to_stop()
    folder.reopen()
    assert not folder.path.exists()


def test_submissions_are_read_as_they_were_written(folder: JobFolder) -> None:
    first = Submission("12", "toy/mnli-s0/xnli", 1.5, "a100", 3, ("10", "11"), ("9",))
    second = Submission("local-77-1234", "toy/prepare", time.time(), "größer", chained=True, first_attempt=4)
    folder.add(first)
    folder.add(second)
    assert folder.submissions() == [first, second]
    folder.reopen()
    assert folder.submissions() == [first, second]


def test_an_end_and_a_new_beginning(folder: JobFolder) -> None:
    before = time.time()
    folder.end("given up", 1, "3 attempts\nmade no step", attempt=3, node="n2", job="12")
    ended = folder.ended()
    assert ended is not None
    assert before <= ended.time <= time.time()
    assert ended == Ended("given up", 1, "3 attempts\nmade no step", ended.time, 3, "n2", "12")
    folder.ask_to_stop()
    assert folder.asked_to_stop()
    folder.reopen()
    assert folder.ended() is None
    assert not folder.asked_to_stop()


@pytest.mark.parametrize("word", ["--user=me", "7\ntouch x", "7 8", "", "local-7;x"])
def test_what_is_no_jobs_id_is_passed_over(folder: JobFolder, word: str) -> None:
    """It would be an argument of scancel, or a line of the batch script of whatever waits for it."""
    good = Submission("12", "a", 1.0, "lab")
    for planted in (replace(good, job=word), replace(good, succeeded=(word,)), replace(good, ended=("3", word)), good):
        folder.add(planted)
    assert folder.submissions() == [good]
