"""Progress: a line now and then in a log, a bar on a terminal."""

from __future__ import annotations

import io

import pytest

from xtrain.tracking.progress import Progress, duration, shown


class Clock:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_lines_in_a_log() -> None:
    clock, file = Clock(), io.StringIO()
    with Progress("train socialiqa-s0", 400, "step", every_seconds=10, file=file, clock=clock) as progress:
        for _ in range(400):
            clock.now += 0.5
            progress.advance(1, loss=0.8124, lr=4.1e-5, tokens=1605)
    lines = file.getvalue().splitlines()
    # The first step, then every 10 seconds of the 200, and the end.
    assert lines[0] == "train socialiqa-s0  step 1/400  loss 0.812  lr 4.1e-05  3,210 tokens/s  eta 3m20s"
    assert [line.split("  ")[1] for line in lines[1:3]] == ["step 21/400", "step 41/400"]
    assert lines[-1] == "train socialiqa-s0  step 400/400  loss 0.812  lr 4.1e-05  3,210 tokens/s"
    assert len(lines) == 1 + 19 + 1


def test_what_was_done_before_does_not_count_as_speed() -> None:
    clock, file = Clock(), io.StringIO()
    with Progress("train x", 200, done=100, file=file, clock=clock) as progress:
        clock.now += 2
        progress.advance(1, learning_rate=0.001, tokens_per_second=512.4)
    assert file.getvalue() == "train x  step 101/200  lr 1.0e-03  512 tokens/s  eta 3m18s\n"


def test_tokens_per_second_is_that_of_the_last_while() -> None:
    clock, file = Clock(), io.StringIO()
    with Progress("evaluate", 100_000, "tokens", every_seconds=1000, file=file, clock=clock) as progress:
        for _ in range(60):
            clock.now += 1
            progress.advance(1000)
        for _ in range(60):
            clock.now += 1
            progress.advance(10)
    assert "  10 tokens/s" in file.getvalue().splitlines()[-1]


def test_nothing_done_says_nothing_and_an_error_says_where_it_stood() -> None:
    file = io.StringIO()
    with Progress("idle", 10, file=file) as progress:
        progress.advance(0)
    assert file.getvalue() == ""

    def fail() -> None:
        with Progress("work", None, "row", every_seconds=1e9, file=file) as progress:
            progress.advance(1)
            progress.advance(4)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert file.getvalue().splitlines() == ["work  row 1", "work  row 5"]


def test_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.delenv("NO_COLOR", raising=False)
    clock, file = Clock(), Terminal()
    with Progress("train x", 20, file=file, clock=clock) as progress:
        for _ in range(20):
            clock.now += 1
            progress.advance(1, loss=0.5)
    text = file.getvalue()
    assert "━" in text
    assert "step 20/20" in text
    assert "loss 0.500" in text


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("loss", 0.81249, "0.812"), ("loss", 0.0, "0.000"), ("loss", float("nan"), "nan"), ("lr", 3e-5, "3.0e-05"),
        ("norm", 1e-7, "1.0e-07"), ("accuracy", 99.99, "99.990"), ("x", 1234.5, "1,234.5"), ("rows", 12345, "12,345"),
    ],
)  # fmt: skip
def test_numbers(name: str, value: float, text: str) -> None:
    assert shown(name, value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (59.4, "59s"), (59.6, "1m00s"), (130, "2m10s"), (3599.9, "1h00m"), (93784, "1d02h")],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text
