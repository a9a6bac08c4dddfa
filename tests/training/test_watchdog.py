"""Ranks that no launcher watches: whatever befalls one, all leave, and each says what befell whom."""

from __future__ import annotations

import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import watchdog_worker

from xtrain.dispatch.rendezvous import LocalRanks
from xtrain.errors import EXIT_OURS, EXIT_USER
from xtrain.training.watchdog import Standing, duration, lost_peer, standings_text

pytestmark = pytest.mark.usefixtures("forkserver")
WORKER = Path(watchdog_worker.__file__)
PROJECT = WORKER.parent.parent.parent
LONG = 300.0  # a limit that no test reaches: what ends the ranks before it is something else
HANG_SECONDS = 60.0  # all would have hung for ever; any bound shows that they did not


@dataclass
class Ended:
    """How a rank ended; ``code`` is None for one that had to be killed by the test."""

    code: int | None
    stderr: str


class Running:
    """The worker on each rank, without a launcher."""

    def __init__(self, case: str, folder: Path, ranks: int = 2, stall: float = LONG, silent: float = LONG) -> None:
        self.folder = folder
        folder.mkdir(exist_ok=True)
        context = multiprocessing.get_context("forkserver")  # see conftest.py
        common = [case, str(folder), str(stall), str(silent)]
        self.processes = []
        with LocalRanks(ranks) as place:
            for rank in range(ranks):
                arguments = [place.environment(rank), place.socket if rank == 0 else None, *common]
                self.processes.append(context.Process(target=watchdog_worker.start, args=arguments))
                self.processes[-1].start()

    def send(self, number: int) -> None:
        for process in self.processes:
            os.kill(process.pid or 0, number)

    def end(self) -> list[Ended]:
        """Wait until all have ended."""
        deadline = time.monotonic() + HANG_SECONDS
        for process in self.processes:
            process.join(max(0.0, deadline - time.monotonic()))
        codes = [process.exitcode for process in self.processes]
        self.kill()
        files = [self.folder / f"stderr-{rank}.txt" for rank in range(len(codes))]
        texts = [file.read_text("utf-8", errors="replace") for file in files]
        return [Ended(code, text) for code, text in zip(codes, texts, strict=True)]

    def kill(self) -> None:
        for process in self.processes:
            process.kill()
            process.join()


def run(case: str, folder: Path, ranks: int = 2) -> list[Ended]:
    """The worker on each rank until all have ended; no limit of time plays a part."""
    return Running(case, folder, ranks).end()


# Cases that wait for a limit or a sleep: (ranks, stall, silent). They wait side by side, beside the programs.
SLOW = {
    "asleep-1": (2, 2.0, LONG),
    "stopped-2": (3, LONG, 3.0),
    "stopped-0": (2, LONG, 3.0),
    "holds-1": (2, LONG, 3.0),
    "allowed-0": (2, 2.0, 3.0),
    "allowed-1": (2, 2.0, 3.0),
    "later-0": (2, LONG, LONG),
    "later-1": (2, LONG, LONG),
    "asleep-0": (1, 1.0, LONG),
    "holds-0": (1, 1.0, 2.0),
}


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sequence[subprocess.Popen[bytes]]]:
    """Two ranks in interpreters of their own."""
    folder = tmp_path_factory.mktemp("programs")
    command = [sys.executable, str(WORKER), "none", str(folder), str(LONG), str(LONG)]
    with LocalRanks(2) as place:
        started = [
            subprocess.Popen(
                command,
                env={**place.environment(rank), "PYTHONPATH": str(PROJECT)},
                pass_fds=place.inherited(rank),
                stderr=subprocess.PIPE,
            )
            for rank in range(2)
        ]
    yield started
    for program in started:
        program.kill()
        program.wait()


@pytest.fixture(scope="module")
def slow(programs: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapping[str, Running]]:
    folder = tmp_path_factory.mktemp("slow")
    running = {case: Running(case, folder / case, *limits) for case, limits in SLOW.items()}
    yield running
    for one in running.values():
        one.kill()


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
    for ended in run("mistake-2", tmp_path, ranks=3):
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
    ranks = run(case, tmp_path, ranks=3)
    codes = {"killed": -signal.SIGKILL, "killed_parent": -signal.SIGKILL, "crash": -signal.SIGSEGV, "exits": 7}
    assert ranks[dead].code == codes[case[:-2]]
    for rank, ended in enumerate(ranks):
        if rank != dead:
            assert ended.code == EXIT_OURS
            assert re.match(rf"error: rank {dead} on \S+ died \(last: '.*'\): its process \d+ is gone", ended.stderr)
            assert without_a_timeout(ended.stderr), ended.stderr
    if case.startswith("crash"):
        assert "in crash" in ranks[dead].stderr, "a crash in native code shows where"


def test_a_job_that_stood_still_as_a_whole_goes_on(tmp_path: Path, slow: Mapping[str, Running]) -> None:
    """Ctrl-Z, or a scheduler that suspends: the time passed for all, and says nothing about any."""
    running = Running("paused", tmp_path, stall=4.0, silent=3.0)
    try:
        deadline = time.monotonic() + HANG_SECONDS
        while len(list(tmp_path.glob("ready-*"))) < 2 and time.monotonic() < deadline:
            time.sleep(0.05)
        running.send(signal.SIGSTOP)
        time.sleep(5.0)
        running.send(signal.SIGCONT)
        assert running.end() == [Ended(0, ""), Ended(0, "")]
    finally:
        running.kill()


def test_a_rank_that_sleeps_for_ever(slow: Mapping[str, Running]) -> None:
    ranks, folder = slow["asleep-1"].end(), slow["asleep-1"].folder
    for rank, ended in enumerate(ranks):
        assert ended.code == EXIT_OURS
        assert re.match(r"error: rank \d on \S+ has made no progress for [23] s since", ended.stderr)
        assert "rank 0 in 'the collective that never ends'" in ended.stderr
        assert "rank 1 in 'step 2'" in ended.stderr
        assert f"stack-rank-{rank}.txt" in ended.stderr
        assert without_a_timeout(ended.stderr), ended.stderr
    assert "in sleep_for_ever" in (folder / "stack-rank-1.txt").read_text()
    assert "in all_reduce" in (folder / "stack-rank-0.txt").read_text()


def test_a_stopped_rank(slow: Mapping[str, Running]) -> None:
    ranks = slow["stopped-2"].end()
    assert ranks[2].code == -signal.SIGKILL, "whoever is on its machine ends it"
    for ended in ranks[:2]:
        assert ended.code == EXIT_OURS
        assert re.match(
            r"error: rank 2 on \S+ has not been heard of for [34] s \(last: '.*'\): it was stopped", ended.stderr
        )


def test_a_stopped_rank_0(slow: Mapping[str, Running]) -> None:
    first, second = slow["stopped-0"].end()
    assert (first.code, second.code) == (-signal.SIGKILL, EXIT_OURS)
    assert re.match(r"error: rank 0 on \S+ has not been heard of for", second.stderr)


def test_native_code_that_holds_the_interpreter(slow: Mapping[str, Running]) -> None:
    first, second = slow["holds-1"].end()
    assert (first.code, second.code) == (EXIT_OURS, -signal.SIGKILL)
    assert "rank 1 on" in first.stderr
    assert "in hold_the_interpreter" in (slow["holds-1"].folder / "stack-rank-1.txt").read_text()


@pytest.mark.parametrize("who", [0, 1])
def test_a_long_call_that_was_announced(who: int, slow: Mapping[str, Running]) -> None:
    """Neither the rank, whose thread cannot run meanwhile, nor the one that waits for it is taken for stalled."""
    assert slow[f"allowed-{who}"].end() == [Ended(0, ""), Ended(0, "")]


@pytest.mark.parametrize("who", [0, 1])
def test_an_orderly_end_prints_nothing(who: int, slow: Mapping[str, Running]) -> None:
    assert slow[f"later-{who}"].end() == [Ended(0, ""), Ended(0, "")]
    assert not list(slow[f"later-{who}"].folder.glob("stack-*")), "an empty file of stacks is left"


def test_an_orderly_end_of_whole_programs(programs: Sequence[subprocess.Popen[bytes]]) -> None:
    """The interpreter's own way out, too, is not held up by a thread."""
    assert [program.communicate(timeout=HANG_SECONDS)[1] for program in programs] == [b"", b""]
    assert [program.returncode for program in programs] == [0, 0]


def test_a_world_of_one(tmp_path: Path, slow: Mapping[str, Running]) -> None:
    assert run("none", tmp_path, ranks=1) == [Ended(0, "")]
    (error,) = run("error-0", tmp_path, ranks=1)
    assert error.code == EXIT_OURS
    assert "unlucky" in error.stderr
    (asleep,) = slow["asleep-0"].end()
    assert asleep.code == EXIT_OURS
    assert "has made no progress for" in asleep.stderr
    assert "in sleep_for_ever" in (slow["asleep-0"].folder / "stack-rank-0.txt").read_text()
    (held,) = slow["holds-0"].end()
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
