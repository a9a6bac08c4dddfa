"""Ranks on this machine: ended together, the first to blame is named, signals are passed on and waited for."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from toy import PROJECT

from xtrain.dispatch import local
from xtrain.dispatch.local import Outcome, RankFailure, RanksPreempted, python, run_ranks
from xtrain.errors import EXIT_FAILED, EXIT_OURS, EXIT_PREEMPTED

PRINTS = "import os; print('rank', os.environ['RANK'], 'of', os.environ['WORLD_SIZE'])"
FAILS = "import os, sys, time; print('no good'); sys.stdout.flush(); r = int(os.environ['RANK']);"
LOST = "raise RuntimeError('[gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:1234')"
RANK = """
import os, signal, sys, time
from pathlib import Path
rank, folder = int(os.environ["RANK"]), Path(sys.argv[1])
noted = []
def note(number, frame):
    noted.append(number)
    (folder / f"signals-{rank}").write_text(str(noted))
if rank not in DEAF:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, note)
(folder / f"pid-{rank}").write_text(str(os.getpid()))
def wait(reason, seconds=60.0):
    end = time.monotonic() + seconds
    while not reason() and time.monotonic() < end:
        time.sleep(0.02)
"""
LAUNCHER = """
import signal, sys
from pathlib import Path
from xtrain.dispatch.local import python, run_ranks
signal.signal(signal.SIGINT, signal.default_int_handler)  # as at a terminal, however the tests were started
signal.signal(signal.SIGHUP, signal.SIG_DFL)
folder = Path(sys.argv[1])
try:
    print(run_ranks(python(str(folder / "rank.py"), str(folder)), 2, folder))
except KeyboardInterrupt:
    print("interrupted")
"""


@pytest.fixture(autouse=True)
def in_haste(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The others are ended sooner than in earnest, except where that is what is tested."""
    if request.function is not test_a_failing_rank_ends_the_others:
        monkeypatch.setattr(local, "DYING_SECONDS", 1.0)


def fails(*bodies: str) -> list[str]:
    """A command whose rank N runs the N-th body; they begin together, once all have started."""
    cases = "\n".join(f"if r == {rank}:\n{textwrap.indent(body, '    ')}" for rank, body in enumerate(bodies))
    return python("-c", f"import os, signal, sys, time\nr = int(os.environ['RANK'])\n{cases}")


def failure_of(outcome: Outcome) -> RankFailure:
    assert isinstance(outcome, RankFailure), outcome
    return outcome


def test_all_end_well(tmp_path: Path) -> None:
    assert run_ranks(python("-c", PRINTS), 3, tmp_path) is None
    assert (tmp_path / "rank-2.log").read_text() == "rank 2 of 3\n"


def test_a_failing_rank_ends_the_others(tmp_path: Path) -> None:
    started = time.monotonic()
    failure = failure_of(run_ranks(python("-c", FAILS + "time.sleep(60 if r != 1 else 0.2); sys.exit(1)"), 3, tmp_path))
    assert (failure.rank, failure.code) == (1, 1)
    assert "no good" in failure.last_lines()
    assert time.monotonic() - started < 50, "the others were waited for"


def test_the_users_mistake_comes_first(tmp_path: Path) -> None:
    failure = failure_of(run_ranks(python("-c", FAILS + "sys.exit(2 if r == 1 else 1)"), 2, tmp_path))
    assert (failure.rank, failure.code) == (1, 2)


def test_only_the_log_of_this_run_is_shown(tmp_path: Path) -> None:
    (tmp_path / "rank-1.log").write_text("yesterday's error\n")
    failure = failure_of(run_ranks(python("-c", FAILS + "sys.exit(r)"), 2, tmp_path))
    assert failure.last_lines() == "no good"


SLEEP = "time.sleep(60)"
CASES: dict[str, tuple[tuple[str, ...], int, int, str]] = {
    # The bodies of the ranks, then who is to blame, with which code, and in which words.
    "its own error, not a lost connection": (
        (LOST, "time.sleep(0.2); raise ValueError('the cause')"), 1, EXIT_OURS, "rank 1 ended with exit code 1; "
        "after it rank 0 lost the connection",
    ),
    "rank 0's own error": (("time.sleep(0.2); raise ValueError('the cause')", LOST), 0, EXIT_OURS, "rank 0 ended"),
    "a warning of a lost peer below its own error": (
        ("raise ValueError('the cause')", "time.sleep(0.3)\ntry:\n    1 / 0\nexcept ZeroDivisionError:\n"
         "    import traceback; traceback.print_exc(); print('[W] recvValue failed: Broken pipe'); os._exit(1)"),
        0, EXIT_OURS, "after it rank 1 ended with exit code 1",
    ),
    "killed": (
        (f"time.sleep(0.3); {LOST}", "os.kill(os.getpid(), signal.SIGKILL)"), 1, -9,
        "killed (signal 9): SIGKILL, out of memory",
    ),
    "crashed": ((SLEEP, "os.kill(os.getpid(), signal.SIGSEGV)"), 1, -11, "rank 1 was killed (signal 11): SIGSEGV"),
    "collapsed": (("time.sleep(0.2); sys.exit(3)", LOST), 0, EXIT_FAILED, "rank 0 ended with exit code 3"),
    "only some saved": (("sys.exit(75)", "time.sleep(0.2); sys.exit(1)"), 1, EXIT_OURS, "rank 1 ended"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_who_is_to_blame(tmp_path: Path, case: str) -> None:
    bodies, rank, code, words = CASES[case]
    failure = failure_of(run_ranks(fails(*bodies), len(bodies), tmp_path))
    assert (failure.rank, failure.code) == (rank, code)
    assert words in str(failure)
    if rank:
        assert ("the cause" in bodies[rank]) == ("the cause" in failure.last_lines())


def test_all_saved_is_no_failure(tmp_path: Path) -> None:
    assert run_ranks(python("-c", "import sys; sys.exit(75)"), 2, tmp_path) == RanksPreempted("")


def test_what_rank_0_says_is_on_the_screen_and_in_its_log(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run_ranks(fails("print('to the screen'); print('an error', file=sys.stderr)"), 1, tmp_path)
    screen = capfd.readouterr()
    assert (screen.out, screen.err) == ("to the screen\n", "an error\n")
    assert (tmp_path / "rank-0.log").read_text() == "an error\n"


class Launcher:
    """A process that runs two ranks, and what it came to."""

    def __init__(self, folder: Path, body: str, deaf: tuple[int, ...] = ()) -> None:
        self.folder = folder
        (folder / "rank.py").write_text(RANK.replace("DEAF", repr(deaf)) + body)
        self.process = subprocess.Popen(
            [sys.executable, "-c", LAUNCHER, str(folder)], env={**os.environ, "PYTHONPATH": str(PROJECT)},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
        )  # fmt: skip
        self.wait_for(lambda: all((folder / f"pid-{rank}").exists() for rank in (0, 1)))
        time.sleep(0.1)
        self.pids = [int((folder / f"pid-{rank}").read_text()) for rank in (0, 1)]

    def wait_for(self, reason: Callable[[], bool]) -> None:
        end = time.monotonic() + 60
        while not reason():
            assert time.monotonic() < end, "it did not happen"
            time.sleep(0.02)

    def noted(self, rank: int) -> str:
        path = self.folder / f"signals-{rank}"
        return path.read_text() if path.exists() else ""

    def finish(self) -> str:
        return self.process.communicate(timeout=60)[0]

    def gone(self) -> bool:
        return not any(Path(f"/proc/{pid}/cmdline").is_file() and running(pid) for pid in self.pids)


def running(pid: int) -> bool:
    """Whether the process is more than an entry that nobody has read yet."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    return False


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Callable[..., Launcher]]:
    started: list[Launcher] = []

    def start(body: str, deaf: tuple[int, ...] = ()) -> Launcher:
        started.append(Launcher(tmp_path, body, deaf))
        return started[-1]

    yield start
    for launcher in started:
        launcher.process.kill()
        launcher.process.communicate()


SAVES = f"wait(lambda: noted); time.sleep(0.5); sys.exit({EXIT_PREEMPTED})"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP, signal.SIGINT])
def test_a_signal_is_passed_on_once_and_waited_for(launch: Callable[..., Launcher], number: signal.Signals) -> None:
    launcher = launch(SAVES)
    os.killpg(launcher.process.pid, number)  # as a terminal, or a scheduler, does
    launcher.wait_for(lambda: all(map(launcher.noted, (0, 1))))
    os.kill(launcher.process.pid, signal.SIGTERM)  # impatient: nothing more happens
    said = launcher.finish()
    assert f"RanksPreempted(signal_name='{number.name}')" in said
    assert said.count("asking the ranks to save and leave, for which they have 10 minutes") == 1
    assert [launcher.noted(rank) for rank in (0, 1)] == ["[15]", "[15]"]


def test_a_second_interrupt_ends_the_ranks_at_once(launch: Callable[..., Launcher]) -> None:
    launcher = launch("wait(lambda: False)")
    launcher.process.send_signal(signal.SIGINT)
    launcher.wait_for(lambda: all(map(launcher.noted, (0, 1))))
    time.sleep(0.4)
    launcher.process.send_signal(signal.SIGINT)
    assert launcher.finish().endswith("interrupted\n")
    assert launcher.gone()


def test_ranks_end_with_a_killed_launcher(launch: Callable[..., Launcher]) -> None:
    launcher = launch("wait(lambda: False)")
    assert not launcher.gone()
    launcher.process.kill()
    launcher.wait_for(launcher.gone)


def test_a_rank_that_did_not_listen_yet(launch: Callable[..., Launcher]) -> None:
    """Rank 1 dies of the signal while Python is still importing; rank 0 waits for it in its first collective."""
    launcher = launch("wait(lambda: False)", (1,))
    launcher.process.terminate()
    assert "RanksPreempted(signal_name='SIGTERM')" in launcher.finish()
    assert launcher.gone()


def test_a_killed_rank_takes_what_it_started_with_it(tmp_path: Path) -> None:
    child = "import subprocess; p = subprocess.Popen(['sleep', '60']); print(p.pid, flush=True); time.sleep(60)"
    failure_of(run_ranks(fails("time.sleep(0.5); sys.exit(1)", child), 2, tmp_path))
    assert not running(int((tmp_path / "rank-1.log").read_text()))
