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
from pathlib import Path

import pytest
from toy import PROJECT, Toy, run_python, study, write_study

from xtrain.errors import EXIT_FAILED, EXIT_PREEMPTED, EXIT_USER

ONE_TARGET = {"intermediate": [{"name": "none"}, {"name": "choose", "tasks": ["choose"]}], "target": [{"task": "mine"}]}
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
COLLAPSES = 'run.mark_failed("training collapsed: one class", 40); sys.exit(EXIT_FAILED)'
WAITS = """
    (run.checkpoints / "step-7").mkdir(parents=True)
    (run.checkpoints / "step-3").mkdir()
    (run.path / "ready").touch()
    while not noted: time.sleep(0.05)
    sys.exit(EXIT_PREEMPTED)"""


def launcher(toy: Toy, body: str, more: str = "") -> list[str]:
    """Arguments of a Python that runs the study, with ``body`` as the intermediate phase's ranks."""
    path = write_study(toy.root / "study.toml", study(toy.base, **ONE_TARGET))
    rank = toy.root / "rank.py"
    rank.write_text(RANK.format(body=body, train=str(PROJECT / "train.py")))
    command = ["run", str(path), "--data", str(toy.data), "--out", str(toy.out("study")), "--ranks", "2"]
    return ["-c", LAUNCHER.format(rank=str(rank), more=more, command=command)]


def test_a_collapsed_phase_leaves_out_what_starts_from_it_and_nothing_else(toy: Toy) -> None:
    arguments = launcher(toy, COLLAPSES)
    first = run_python(arguments, toy.root)
    assert first.returncode == EXIT_FAILED, first.stderr
    run = toy.run_directory("study", "intermediate")
    assert json.loads((run / "FAILED").read_text()) == {"reason": "training collapsed: one class", "step": 40}
    assert "failed: training collapsed: one class" in first.stdout
    assert first.stdout.count("left out: it starts from choose-s0, which failed") == 1
    assert "failed: choose-s0; 2 of 3 phases have no result" in first.stderr
    assert (toy.out("study") / "report.html").exists()
    again = run_python(arguments, toy.root)
    assert again.returncode == EXIT_FAILED, again.stderr
    for part in ("not run again: training collapsed: one class (step 40)", "learning_rate", "delete", "done before"):
        assert part in again.stdout, part


def signalled(toy: Toy, arguments: list[str], ready: str, number: signal.Signals) -> tuple[int, str]:
    """Start the launcher, send it a signal once a file that ``ready`` matches is there; exit code and messages."""
    environment = {**os.environ, "PYTHONPATH": str(PROJECT), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        [sys.executable, *arguments], cwd=toy.root, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        text=True,
    ) as process:  # fmt: skip
        end = time.monotonic() + 90
        while not any(toy.root.glob(ready)) and time.monotonic() < end and process.poll() is None:
            time.sleep(0.05)
        process.send_signal(number)
        _, said = process.communicate(timeout=90)
        return process.returncode, said


def test_a_signal_to_the_command_saves_and_says_where(toy: Toy) -> None:
    code, said = signalled(toy, launcher(toy, WAITS), "out-study/intermediate/*/ready", signal.SIGUSR1)
    assert code == EXIT_PREEMPTED, said
    last = said.splitlines()[-1]
    assert last == "SIGUSR1: phase choose-s0 saved at step 7; the same command goes on from there"
    assert "Traceback" not in said


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR2])
def test_a_signal_while_data_is_prepared(toy: Toy, number: signal.Signals) -> None:
    prepares = "def wait(*_):\n    open('ready', 'w').close()\n    time.sleep(60)\nxtrain.runner.prepare = wait"
    code, said = signalled(toy, launcher(toy, WAITS, prepares), "ready", number)
    assert code == EXIT_PREEMPTED, said
    assert said == f"{number.name}: stopped between phases; the same command goes on from there\n"


def test_a_wrong_name_of_a_signal_is_found_at_once(toy: Toy) -> None:
    result = toy.run("wrong", engine={"preemption_signals": ["SIGUSR", "SIGTERM"]})
    assert result.returncode == EXIT_USER
    assert "engine.preemption_signals: 'SIGUSR' is not allowed" in result.stderr
    assert not Path(toy.out("wrong")).exists()
