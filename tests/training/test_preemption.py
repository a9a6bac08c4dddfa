"""Signals in real processes, workers that let them pass, and ranks that agree over Gloo."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from ranks import run_worker
from toy import PROJECT

from xtrain.dispatch.signals import Signals, signal_numbers
from xtrain.errors import UserError
from xtrain.training.agreement import Agreement
from xtrain.training.preemption import Preempted

WORKER = Path(__file__).with_name("agreement_worker.py")
NAMES = ("SIGTERM", "SIGUSR1", "SIGUSR2")
BEGIN = f"""
import os, signal, sys, time
from xtrain.dispatch.signals import Signals, Stopped, blocked, ignore_in_worker, stopping_on
signal.signal(signal.SIGINT, signal.default_int_handler)  # as at a terminal, however the tests were started
NAMES = {NAMES}
me = os.getpid()
"""


def run(body: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """A Python process of its own that runs ``body``."""
    return subprocess.run(
        [sys.executable, "-c", BEGIN + body], env={**os.environ, "PYTHONPATH": str(PROJECT)}, capture_output=True,
        text=True, timeout=60, **options,
    )  # fmt: skip


@pytest.mark.parametrize("name", [*NAMES, "SIGINT"])
def test_the_first_signal_is_noted_and_the_next_ones_pass(name: str) -> None:
    result = run(f"""
with Signals(NAMES, 1) as signals:
    assert (signals.number, signals.name, signals.seconds) == (0, "", 0.0)
    begun = time.monotonic()
    os.kill(me, signal.{name})
    assert begun <= signals.since <= time.monotonic()
    time.sleep(0.05)
    os.kill(me, signal.SIGUSR2)
    os.kill(me, signal.SIGTERM)
    assert signals.seconds >= 0.05
    print(signals.name, signals.num_ignored)
""")
    assert result.returncode == 0, result.stderr
    assert result.stdout == f"{name} 2\n"
    assert result.stderr == f"rank 1: {name} received: saving at the next step\n"


def test_a_signal_from_outside_interrupts_no_work() -> None:
    """Sent in the middle of a loop of matrix products, it changes nothing but the flag."""
    code = (
        BEGIN
        + """
import numpy as np
with Signals(NAMES) as signals:
    print("ready", flush=True)
    steps = 0
    while not signals.number:
        x = np.ones((200, 200)) @ np.ones((200, 200))
        steps += 1
    print(signals.name, float(x.sum()))
"""
    )
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    with subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        time.sleep(0.2)
        process.send_signal(signal.SIGUSR1)
        assert process.communicate(timeout=60)[0] == f"SIGUSR1 {200.0**3}\n"
    assert process.returncode == 0


def test_a_second_interrupt_stops_at_once() -> None:
    result = run("""
with Signals(NAMES) as signals:
    os.kill(me, signal.SIGINT)
    os.kill(me, signal.SIGINT)  # the same press, which a launcher passed on as well
    print("still here", flush=True)
    time.sleep(0.4)
    os.kill(me, signal.SIGINT)
    print("never", flush=True)
""")
    assert "KeyboardInterrupt" in result.stderr
    assert result.stdout == "still here\n"


def test_the_old_handlers_come_back() -> None:
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)}
    with Signals(NAMES):
        assert signal.getsignal(signal.SIGTERM) is not before[signal.SIGTERM]
    assert {number: signal.getsignal(number) for number in before} == before


def test_a_job_that_ignores_interrupts_goes_on_ignoring_them() -> None:
    result = run("""
signal.signal(signal.SIGINT, signal.SIG_IGN)
with Signals(NAMES) as signals:
    os.kill(me, signal.SIGINT)
    print(signals.number)
""")
    assert result.stdout == "0\n", result.stderr


def test_only_signals_that_make_sense_are_allowed() -> None:
    with pytest.raises(UserError, match="2 problems") as caught:
        Signals(("SIGTERM", "SIGUSR", "SIGKILL"))
    text = str(caught.value)
    for part in ("engine.preemption_signals: 'SIGUSR' is not allowed", "'SIGKILL'", "SIGTERM, SIGUSR1", "did you mean"):
        assert part in text
    assert signal_numbers(("SIGUSR1", "SIGTERM")) == [signal.SIGUSR1, signal.SIGTERM]


def test_workers_let_signals_pass_from_their_first_moment() -> None:
    """A signal that comes between fork and the worker's own first line would kill it, were it not held back."""
    result = run("""
def fork():
    child = os.fork()
    if not child:
        if not PROTECTED:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
        time.sleep(0.3)  # the parent's signals come now
        if PROTECTED:
            ignore_in_worker(NAMES)
        for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
            os.kill(os.getpid(), number)
        os._exit(7)
    return child
for PROTECTED in (True, False):
    with Signals(NAMES) as signals:
        if PROTECTED:
            with blocked(NAMES):
                child = fork()
        else:
            child = fork()
        for number in (signal.SIGTERM, signal.SIGUSR2, signal.SIGINT):
            os.kill(child, number)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), signals.number)
""")
    assert result.stdout == "7 0\n-15 0\n", result.stderr
    assert "received" not in result.stderr


def test_what_comes_while_a_worker_is_started_is_not_lost() -> None:
    result = run("""
with Signals(NAMES) as signals:
    with blocked(NAMES):
        os.kill(me, signal.SIGTERM)
        print(signals.name or "none")
    print(signals.name)
""")
    assert result.stdout == "none\nSIGTERM\n", result.stderr


def test_a_launcher_between_phases_stops_at_once() -> None:
    result = run("""
try:
    with stopping_on(NAMES):
        try:
            os.kill(me, signal.SIGUSR2)
            time.sleep(30)
        except Exception:
            print("swallowed")
except Stopped as stopped:
    print(stopped)
print(signal.getsignal(signal.SIGUSR2) == signal.SIG_DFL)
""")
    assert result.stdout == "SIGUSR2: stopped between phases; the same command goes on from there\nTrue\n"


def test_preempted_says_what_was_saved() -> None:
    error = Preempted(120, "SIGUSR1", 3.14159)
    assert (error.step, error.signal_name, error.seconds) == (120, "SIGUSR1", 3.14159)
    assert str(error) == "SIGUSR1: saved at step 120, 3.1 s after the signal"


def test_two_ranks_agree(tmp_path: Path) -> None:
    """Over the default group, a group of our own, and as an evaluation gathers; sums that a resume takes back."""
    run_worker(WORKER, 2, tmp_path, tmp_path)
    found = [json.loads((tmp_path / f"agreed-{rank}.json").read_text()) for rank in (0, 1)]
    assert found[0] == found[1]
    agreed = {
        "worst": [1, 0, 2**40 + 1, 7],
        "least": [0, -1],
        "gather": [{"rank": 0, "text": "é"}, {"rank": 1, "text": "é"}],
    }
    gathered = [2, [{"from": 0}, {"from": 1}]]
    sums = {"of one rank": [[1.5], [0.0]], "of two": [[1.5], [2.0]], "of three": [[7.5], [0.0]]}
    assert found[0] == {
        "default": agreed, "separate": agreed, "of_an_evaluation": gathered, "same_group": True, "sums": sums,
        "nothing": [[], []],
    }  # fmt: skip


def test_one_process_agrees_with_itself() -> None:
    agreement = Agreement()
    agreement.barrier()
    assert agreement.worst([3, -1]) == [3, -1]
    assert agreement.least([3]) == [3]
    assert agreement.gather("mine") == ["mine"]
