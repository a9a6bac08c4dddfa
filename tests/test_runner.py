"""A study whose phases are stopped by signals or fail as experiments, through the real command line.

Ranks of the intermediate phase are stood in for by a few lines; launcher, preparation and evaluation are the real ones.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from toy import PROJECT, Toy, study, write_study

import xtrain.runner
from xtrain.cli import main
from xtrain.disk_space import Space
from xtrain.dispatch.attempts import Attempts
from xtrain.dispatch.local import python
from xtrain.errors import EXIT_FAILED, EXIT_PREEMPTED, EXIT_USER
from xtrain.run_directory import RunDirectory

CHOOSE = {"name": "choose", "tasks": ["choose"]}
RANK = """
import os, runpy, signal, sys, time
from pathlib import Path
from xtrain.errors import EXIT_FAILED, EXIT_PREEMPTED
from xtrain.run_directory import RunDirectory
run = RunDirectory(Path(sys.argv[1]))
if run.path.parent.name == "intermediate":
    noted = []
    signal.signal(signal.SIGTERM, lambda number, frame: noted.append(number))
    {body}
else:
    runpy.run_path({train!r}, run_name="__main__")
"""
LAUNCHER = """
import sys, time, xtrain.runner
xtrain.runner.python = lambda script, *rest: [sys.executable, {rank!r}, *rest]
{more}
from xtrain.cli import main
sys.exit(main({command!r}))
"""
DIES_AT_THE_END = """
import atexit, os, runpy
if os.environ["RANK"] == "1":
    os._exit = lambda code: os.abort()
atexit.register(os.abort)
runpy.run_path({train!r}, run_name="__main__")
"""
COLLAPSES = 'run.mark_failed("training collapsed: one class", 40); sys.exit(EXIT_FAILED)'
WAITS = """
    (run.checkpoints / "step-7").mkdir(parents=True, exist_ok=True)
    (run.checkpoints / "step-3").mkdir(exist_ok=True)
    (run.path / "ready").touch()
    while not noted: time.sleep(0.05)
    sys.exit(EXIT_PREEMPTED)"""

KILLED = """
    from xtrain.dispatch.attempts import Attempts
    (run.checkpoints / "step-7").mkdir(parents=True, exist_ok=True)
    if os.environ["RANK"] == "0": Attempts(run).claim(); (run.path / "ready").touch()
    while not noted:
        time.sleep(0.05)
        if os.environ["RANK"] == "1" and Attempts(run).newest() == 2: os.kill(os.getpid(), signal.SIGKILL)"""


def command(toy: Toy, body: str, *rows: object) -> list[str]:
    """A command on a study of ``rows`` with one target, and a stand-in for train.py with ``body`` beside it."""
    path = write_study(toy.root / "study.toml", study(toy.base, intermediate=list(rows), target=[{"task": "mine"}]))
    (toy.root / "rank.py").write_text(RANK.format(body=body, train=str(PROJECT / "train.py")))
    return ["run", str(path), "--data", str(toy.data), "--out", str(toy.out("study")), "--ranks", "2"]


def test_a_collapsed_phase_leaves_out_what_starts_from_it_and_nothing_else(
    toy: Toy, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for name, value in {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(PROJECT), "HF_HUB_OFFLINE": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(xtrain.runner, "python", lambda script, *rest: python(str(toy.root / "rank.py"), *rest))
    arguments = command(toy, COLLAPSES, {"name": "none"}, CHOOSE)
    code, (out, err) = main(arguments), capfd.readouterr()
    assert code == EXIT_FAILED, err
    run = toy.run_directory("study", "intermediate")
    assert json.loads((run / "FAILED").read_text()) == {"reason": "training collapsed: one class", "step": 40}
    assert "failed: training collapsed: one class" in out
    assert out.count("left out: it starts from choose-s0, which failed") == 1
    assert "failed: choose-s0; 2 of 3 phases have no result" in err
    assert (toy.out("study") / "report-toy.html").exists()
    code, (out, err) = main(arguments), capfd.readouterr()
    assert code == EXIT_FAILED, err
    for part in ("not run again: training collapsed: one class (step 40)", "learning_rate", "delete", "done before"):
        assert part in out, part


def signalled(toy: Toy, arguments: list[str], more: str, ready: str, number: signal.Signals) -> tuple[int, str]:
    """Start the command, send it a signal once a file that ``ready`` matches is there; exit code and messages."""
    code = LAUNCHER.format(rank=str(toy.root / "rank.py"), more=more, command=arguments)
    environment = {**os.environ, "PYTHONPATH": str(PROJECT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=toy.root, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        text=True,
    ) as process:  # fmt: skip
        end = time.monotonic() + 90
        while not any(toy.root.glob(ready)) and time.monotonic() < end and process.poll() is None:
            time.sleep(0.05)
        process.send_signal(number)
        _, said = process.communicate(timeout=90)
        return process.returncode, said


def test_ranks_that_die_once_the_phase_is_done_take_nothing_along(
    toy: Toy, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Rank 0 never comes to what aborts when the interpreter is torn down; rank 1 dies when it takes its leave."""
    for name, value in {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(PROJECT), "HF_HUB_OFFLINE": "1"}.items():
        monkeypatch.setenv(name, value)
    arguments = command(toy, "", {"name": "none"})
    (toy.root / "rank.py").write_text(DIES_AT_THE_END.format(train=str(PROJECT / "train.py")))
    monkeypatch.setattr(xtrain.runner, "python", lambda script, *rest: python(str(toy.root / "rank.py"), *rest))
    code, (out, err) = main(arguments), capfd.readouterr()
    assert code == 0, err
    assert "rank 1 was killed (signal 6): SIGABRT" in out
    assert "the phase was done, nothing is lost" in out
    assert (toy.run_directory("study", "evaluate") / "DONE").exists()
    assert (toy.out("study") / "report-toy.html").exists()


def test_a_signal_to_the_command_saves_and_says_where(toy: Toy) -> None:
    ready = "out-study/intermediate/*/ready"
    code, said = signalled(toy, command(toy, WAITS, CHOOSE), "", ready, signal.SIGUSR1)
    assert code == EXIT_PREEMPTED, said
    last = said.splitlines()[-1]
    assert last == "SIGUSR1: phase choose-s0 saved at step 7; the same command goes on from there"
    assert "Traceback" not in said


def test_who_is_killed_is_said_to_be_by_whoever_sees_it(toy: Toy, capfd: pytest.CaptureFixture[str]) -> None:
    """First the command, and its ranks with it: the next start finds that out. Then a rank, which its parent sees."""
    arguments, out = command(toy, KILLED, CHOOSE), str(toy.out("study"))
    code, _ = signalled(toy, arguments, "", "out-study/intermediate/*/ready", signal.SIGKILL)
    assert code == -signal.SIGKILL
    assert main(["why", "choose-s0", "--out", out]) == 0
    said = capfd.readouterr().out
    assert "stopped" in said.splitlines()[0]
    assert "killed: killed (signal 9): nothing is left of it, and nobody wrote how it ended" in said
    (run,) = toy.out("study").glob("intermediate/*")
    code, _ = signalled(toy, arguments, "", "out-study/intermediate/*/job/attempt-2/end.json", signal.SIGTERM)
    assert main(["why", "choose-s0", "--out", out]) == 0
    rows = [line.split() for line in capfd.readouterr().out.splitlines() if line.split()[:1] in (["1"], ["2"])]
    assert [row[0] for row in rows] == ["1", "2"]
    ends = [Attempts(RunDirectory(run)).read_end(number) for number in (1, 2)]
    assert [end and (end.how, end.code, end.step) for end in ends] == [("killed", 137, 7), ("killed", 137, 7)]
    assert ends[1] is not None
    assert ends[1].reason.startswith("rank 1 was killed (signal 9): SIGKILL, out of memory?")


def test_a_signal_while_data_is_prepared(toy: Toy) -> None:
    prepares = "def wait(*_):\n    open('ready', 'w').close()\n    time.sleep(60)\nxtrain.runner.prepare = wait"
    code, said = signalled(toy, command(toy, WAITS, CHOOSE), prepares, "ready", signal.SIGTERM)
    assert code == EXIT_PREEMPTED, said
    assert said == "SIGTERM: stopped between phases; the same command goes on from there\n"


def test_a_disk_that_is_too_small_is_found_before_a_rank_starts(
    toy: Toy, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("xtrain.phase.disk.space", lambda folder: Space(2**20 // 10, None, "the quota of this user"))
    code, (out, err) = main(command(toy, WAITS, CHOOSE)), capfd.readouterr()
    assert code == EXIT_USER, err
    assert "phase choose-s0 needs at least" in err
    assert "and the quota of this user has 102.4 KiB free" in err
    assert "to do:   make room there" in err
    assert "disk: " in out
    assert not list(toy.out("study").glob("intermediate/*/logs/rank-*.log"))


def test_a_wrong_name_of_a_signal_is_found_at_once(toy: Toy, capfd: pytest.CaptureFixture[str]) -> None:
    wrong = ["--set", 'engine.preemption_signals=["SIGUSR", "SIGTERM"]']
    assert main([*command(toy, WAITS, CHOOSE), *wrong]) == EXIT_USER
    assert "engine.preemption_signals: 'SIGUSR' is not allowed" in capfd.readouterr().err
    assert not toy.out("study").exists()
