"""Ranks on this machine: ended together, and the first to blame is named."""

from __future__ import annotations

import time
from pathlib import Path

from xtrain.dispatch.local import python, run_ranks

PRINTS = "import os; print('rank', os.environ['RANK'], 'of', os.environ['WORLD_SIZE'])"
FAILS = "import os, sys, time; print('no good'); sys.stdout.flush(); r = int(os.environ['RANK']);"


def test_all_end_well(tmp_path: Path) -> None:
    assert run_ranks(python("-c", PRINTS), 3, tmp_path) is None
    assert (tmp_path / "rank-2.log").read_text() == "rank 2 of 3\n"


def test_a_failing_rank_ends_the_others(tmp_path: Path) -> None:
    started = time.monotonic()
    failure = run_ranks(python("-c", FAILS + "time.sleep(60 if r != 1 else 0.2); sys.exit(3)"), 3, tmp_path)
    assert failure is not None
    assert (failure.rank, failure.code) == (1, 3)
    assert "no good" in failure.last_lines()
    assert time.monotonic() - started < 50, "the others were waited for"


def test_the_users_mistake_comes_first(tmp_path: Path) -> None:
    failure = run_ranks(python("-c", FAILS + "sys.exit(2 if r == 1 else 1)"), 2, tmp_path)
    assert failure is not None
    assert (failure.rank, failure.code) == (1, 2)
