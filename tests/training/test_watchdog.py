"""Ranks that no launcher watches: whatever befalls one, all leave, and each says what befell whom."""

from __future__ import annotations

import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import watchdog_worker

from xtrain.dispatch.rendezvous import free_port
from xtrain.errors import EXIT_OURS, EXIT_USER
from xtrain.training.watchdog import Standing, duration, lost_peer, standings_text

WORKER = Path(watchdog_worker.__file__)
PROJECT = WORKER.parent.parent.parent
LONG = 300.0  # a limit that no test reaches: what ends the ranks before it is something else
HANG_SECONDS = 60.0  # all would have hung for ever; any bound shows that they did not


@dataclass
class Ended:
    """How a rank ended; ``code`` is None for one that had to be killed by the test."""

    code: int | None
    stderr: str


@pytest.fixture(autouse=True, scope="module")
def _import_once() -> Iterator[None]:
    """Ranks are forked from a process that has imported torch."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", f"{PROJECT}:{WORKER.parent}")
        patch.setenv("OMP_NUM_THREADS", "1")
        multiprocessing.get_context("forkserver").set_forkserver_preload(["watchdog_worker"])
        yield


def run(
    case: str, folder: Path, num_ranks: int = 2, stall: float = LONG, silent: float = LONG, paused: float = 0.0
) -> list[Ended]:
    """Run the worker on each rank without a launcher, until all have ended.

    For ``paused`` seconds, once they work, all of them stand still.
    """
    start = multiprocessing.get_context("forkserver")
    common = [case, str(folder), str(stall), str(silent), str(free_port())]
    processes = [
        start.Process(target=watchdog_worker.start, args=[*common, str(rank), str(num_ranks)])
        for rank in range(num_ranks)
    ]
    for process in processes:
        process.start()
    try:
        if paused:
            time.sleep(1.5)
            for number in (signal.SIGSTOP, signal.SIGCONT):
                for process in processes:
                    os.kill(process.pid or 0, number)
                time.sleep(paused if number == signal.SIGSTOP else 0)
        deadline = time.monotonic() + HANG_SECONDS
        for process in processes:
            process.join(max(0.0, deadline - time.monotonic()))
        codes = [process.exitcode for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.join()
    texts = [(folder / f"stderr-{rank}.txt").read_text("utf-8", errors="replace") for rank in range(num_ranks)]
    return [Ended(code, text) for code, text in zip(codes, texts, strict=True)]


def without_a_timeout(text: str) -> bool:
    return not re.search(r"gloo|nccl|timed out|Connection closed|Traceback", text, re.IGNORECASE)


def test_the_error_of_a_rank_is_printed_by_all(tmp_path: Path) -> None:
    first, second = run("error-1", tmp_path)
    assert (first.code, second.code) == (EXIT_OURS, EXIT_OURS)
    assert re.match(r"error: rank 1 on \S+ failed: ValueError: the number of this rank is unlucky\n", first.stderr)
    assert without_a_timeout(first.stderr), first.stderr
    assert "in raise_an_error" in second.stderr, "the rank itself prints its traceback"
    assert (tmp_path / "ending-0.txt").read_text() == "failed of rank 1"


def test_the_users_mistake_stays_one_on_all_ranks(tmp_path: Path) -> None:
    for ended in run("mistake-2", tmp_path, num_ranks=3):
        assert ended.code == EXIT_USER
        assert "toy.jsonl:3: has no label" in ended.stderr
        assert without_a_timeout(ended.stderr), ended.stderr


def test_a_mistake_that_all_find_is_printed_once_by_each(tmp_path: Path) -> None:
    for ended in run("mistakes", tmp_path):
        assert ended.code == EXIT_USER
        assert ended.stderr.count("has no label") == 1, ended.stderr


def test_an_interrupt_of_one_rank(tmp_path: Path) -> None:
    first, _ = run("interrupted-1", tmp_path)
    assert first.code == EXIT_OURS
    assert re.fullmatch(r"error: rank 1 on \S+ was interrupted \(Ctrl-C\)\n", first.stderr)


def test_an_error_of_rank_0(tmp_path: Path) -> None:
    first, second = run("error-0", tmp_path)
    assert (first.code, second.code) == (EXIT_OURS, EXIT_OURS)
    assert "rank 0 on" in second.stderr
    assert "unlucky" in second.stderr
    assert without_a_timeout(second.stderr), second.stderr


@pytest.mark.parametrize("case", ["killed-1", "killed-0", "killed_parent-1", "crash-1", "exits-0"])
def test_a_dead_rank_takes_the_others_down(case: str, tmp_path: Path) -> None:
    dead = int(case[-1])
    ranks = run(case, tmp_path, num_ranks=3)
    codes = {"killed": -signal.SIGKILL, "killed_parent": -signal.SIGKILL, "crash": -signal.SIGSEGV, "exits": 7}
    assert ranks[dead].code == codes[case[:-2]]
    for rank, ended in enumerate(ranks):
        if rank != dead:
            assert ended.code == EXIT_OURS
            assert re.match(rf"error: rank {dead} on \S+ died( \(last: '.*'\))?: its process \d+ is gone", ended.stderr)
            assert without_a_timeout(ended.stderr), ended.stderr
    if case.startswith("crash"):
        assert "in crash" in ranks[dead].stderr, "a crash in native code shows where"


def test_a_rank_that_sleeps_for_ever(tmp_path: Path) -> None:
    ranks = run("asleep-1", tmp_path, stall=2.0)
    for rank, ended in enumerate(ranks):
        assert ended.code == EXIT_OURS
        assert re.match(r"error: rank \d on \S+ has made no progress for [23] s since", ended.stderr)
        assert "rank 0 in 'the collective that never ends'" in ended.stderr
        assert "rank 1 in 'step 2'" in ended.stderr
        assert f"stack-rank-{rank}.txt" in ended.stderr
        assert without_a_timeout(ended.stderr), ended.stderr
    assert "in sleep_for_ever" in (tmp_path / "stack-rank-1.txt").read_text()
    assert "in all_reduce" in (tmp_path / "stack-rank-0.txt").read_text()


def test_a_stopped_rank(tmp_path: Path) -> None:
    ranks = run("stopped-2", tmp_path, num_ranks=3, silent=3.0)
    assert ranks[2].code == -signal.SIGKILL, "whoever is on its machine ends it"
    for ended in ranks[:2]:
        assert ended.code == EXIT_OURS
        assert re.match(
            r"error: rank 2 on \S+ has not been heard of for [34] s \(last: '.*'\): it was stopped", ended.stderr
        )


def test_a_stopped_rank_0(tmp_path: Path) -> None:
    first, second = run("stopped-0", tmp_path, silent=3.0)
    assert (first.code, second.code) == (-signal.SIGKILL, EXIT_OURS)
    assert re.match(r"error: rank 0 on \S+ has not been heard of for", second.stderr)


def test_native_code_that_holds_the_interpreter(tmp_path: Path) -> None:
    first, second = run("holds-1", tmp_path, silent=3.0)
    assert (first.code, second.code) == (EXIT_OURS, -signal.SIGKILL)
    assert "rank 1 on" in first.stderr
    assert "in hold_the_interpreter" in (tmp_path / "stack-rank-1.txt").read_text()


@pytest.mark.parametrize("who", [0, 1])
def test_a_long_call_that_was_announced(who: int, tmp_path: Path) -> None:
    """Neither the rank, whose thread cannot run meanwhile, nor the one that waits for it is taken for stalled."""
    assert run(f"allowed-{who}", tmp_path, stall=2.0, silent=2.0) == [Ended(0, ""), Ended(0, "")]


@pytest.mark.parametrize("who", [0, 1])
def test_an_orderly_end_prints_nothing(who: int, tmp_path: Path) -> None:
    assert run(f"later-{who}", tmp_path) == [Ended(0, ""), Ended(0, "")]
    assert not list(tmp_path.glob("stack-*")), "an empty file of stacks is left"


def test_a_job_that_stood_still_as_a_whole_goes_on(tmp_path: Path) -> None:
    """Ctrl-Z, or a scheduler that suspends: the time passed for all, and says nothing about any."""
    assert run("later-1", tmp_path, stall=4.0, silent=3.0, paused=5.0) == [Ended(0, ""), Ended(0, "")]


def test_an_orderly_end_of_whole_programs(tmp_path: Path) -> None:
    """The interpreter's own way out, too, is not held up by a thread."""
    common = [sys.executable, str(WORKER), "none", str(tmp_path), str(LONG), str(LONG), str(free_port())]
    processes = [subprocess.Popen([*common, str(rank), "2"], stderr=subprocess.PIPE) for rank in range(2)]
    assert [process.communicate(timeout=HANG_SECONDS)[1] for process in processes] == [b"", b""]
    assert [process.returncode for process in processes] == [0, 0]


def test_a_world_of_one(tmp_path: Path) -> None:
    assert run("none", tmp_path, num_ranks=1) == [Ended(0, "")]
    (error,) = run("error-0", tmp_path, num_ranks=1)
    assert error.code == EXIT_OURS
    assert "unlucky" in error.stderr
    (asleep,) = run("asleep-0", tmp_path, num_ranks=1, stall=1.0)
    assert asleep.code == EXIT_OURS
    assert "has made no progress for" in asleep.stderr
    assert "in sleep_for_ever" in (tmp_path / "stack-rank-0.txt").read_text()
    (held,) = run("holds-0", tmp_path, num_ranks=1, stall=1.0, silent=1.0)
    assert held.code == EXIT_OURS
    assert "in hold_the_interpreter" in held.stderr


def test_which_errors_wait_for_another_cause() -> None:
    assert lost_peer(RuntimeError("[gloo/transport/tcp/pair.cc:547] Connection closed by peer"))
    assert not lost_peer(RuntimeError("shapes do not match"))
    error = ValueError("while reducing")
    error.__cause__ = ConnectionResetError()
    assert lost_peer(error)


def test_who_stands_where_names_the_odd_one_first() -> None:
    standings = {rank: Standing("step 3" if rank != 5 else "reading", 1.0, 10.0, 10.0) for rank in range(12)}
    text = standings_text(standings)
    assert text.startswith("rank 5 in 'reading'; ranks 0, 1, 2")
    assert text.endswith("and 3 more in 'step 3'")
    assert duration(1800) == "30 minutes"
