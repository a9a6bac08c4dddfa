"""Work that is spread over processes: all of it is done, whoever dies is named, and nothing is left behind."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from xtrain.data.pool import Died, over
from xtrain.files import write_text


def test_all_is_done_the_largest_first(tmp_path: Path) -> None:
    def work(number: int) -> tuple[int, int]:
        write_text(tmp_path / str(number), str(os.getpid()))
        return number * number, os.getpid()

    found = dict(over(list(range(20)), work, workers=3))
    assert {number: square for number, (square, _) in found.items()} == {n: n * n for n in range(20)}
    assert os.getpid() not in {pid for _, pid in found.values()}
    assert [n for n, _ in over([5, 6, 7], work, workers=1, sizes=[1, 9, 5])] == [1, 2, 0]


def test_no_more_at_a_time_than_there_is_room_for(tmp_path: Path) -> None:
    def work(name: str) -> int:
        write_text(tmp_path / name, "")
        count = len(list(tmp_path.iterdir()))
        time.sleep(0.05)
        (tmp_path / name).unlink()
        return count

    found = dict(over(list("abcd"), work, workers=4, sizes=[10, 10, 10, 10], room=5))
    assert set(found.values()) == {1}


def test_a_process_that_is_killed_is_named_and_the_others_are_ended(tmp_path: Path) -> None:
    def work(name: str) -> None:
        write_text(tmp_path / name, str(os.getpid()))
        if name == "b":
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(60)

    with pytest.raises(Died, match="SIGKILL") as caught:
        list(over(list("abc"), work, workers=3))
    assert caught.value.index == 1
    for path in tmp_path.iterdir():
        with pytest.raises(ProcessLookupError):
            os.kill(int(path.read_text()), 0)


def test_what_is_raised_comes_with_its_place() -> None:
    def work(number: int) -> int:
        return 1 // number

    with pytest.raises(RuntimeError, match="ZeroDivisionError"):
        list(over([1, 0], work, workers=2))
