"""Ranks that meet whatever their shell has inherited, and ranks that cannot: one message with the variable's name."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

import pytest
from once import once
from toy import PROJECT

from xtrain.dispatch import joining
from xtrain.dispatch.joining import GLOO, NCCL, join
from xtrain.dispatch.rank_process import run_rank
from xtrain.dispatch.rendezvous import LocalRanks, from_environment, without_launchers
from xtrain.errors import EXIT_INTERRUPTED, EXIT_OURS, EXIT_PREEMPTED, EXIT_USER, Problem, UserError

WORKER = Path(__file__).with_name("joining_worker.py")
AGENT = {"TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RUN_ID": "x", "GROUP_RANK": "1"}  # inherited
VISIBLE = "CUDA_VISIBLE_DEVICES"
STEP = {"SLURM_STEP_ID": "0", "SLURM_PROCID": "1", "SLURM_NTASKS": "4", "SLURM_LOCALID": "1", "PMI_RANK": "3"}


def place(rank: int, port: int, address: str = "127.0.0.1") -> dict[str, str]:
    """What a launcher sets for one of two ranks."""
    return {
        "RANK": f"{rank}",
        "WORLD_SIZE": "2",
        "LOCAL_RANK": f"{rank}",
        "MASTER_ADDR": address,
        "MASTER_PORT": f"{port}",
    }


def started(environment: Mapping[str, str], *launcher: str, fds: tuple[int, ...] = ()) -> subprocess.Popen[str]:
    path = os.pathsep.join([str(PROJECT), str(PROJECT / "tests")])
    whole = {**without_launchers(os.environ), "OMP_NUM_THREADS": "1", "PYTHONPATH": path, **environment}
    command = [*(launcher or [sys.executable]), str(WORKER)]
    pipe = subprocess.PIPE
    return subprocess.Popen(
        command, env=whole, stdout=pipe, stderr=pipe, text=True, pass_fds=fds,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # whatever pytest was started from
    )  # fmt: skip


Ended = Mapping[str, tuple[int, str, str]]
"""By case: exit code, output and errors."""


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> Ended:
    return {name: tuple(one) for name, one in once(tmp_path_factory, "joining", lambda _: end_all()).items()}


def end_all() -> Ended:
    """All wait side by side."""
    cases: dict[str, subprocess.Popen[str]] = {}
    with ExitStack() as stack:
        held, foreign = (stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(2))
        quiet = stack.enter_context(socket.socket())
        quiet.bind(("127.0.0.1", 0))  # nobody listens there, and nobody else can
        closed = quiet.getsockname()[1]
        threading.Thread(target=answer_as_a_web_server, args=[foreign], daemon=True).start()
        taken = held.getsockname()[1]
        cases["alone"] = started({**AGENT, "PMI_SIZE": "9"})
        cases["interface"] = started({GLOO: "ib7"})
        cases["unresolved"] = started(place(1, closed, "no-such-host.invalid"))
        cases["taken"] = started(place(0, taken))
        cases["foreign"] = started(place(1, foreign.getsockname()[1]))
        cases["agent"] = started({**AGENT, **place(1, closed)})
        cases["no port"] = started(place(1, 70000))
        cases["interrupted"] = started(place(1, closed))
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
        cases["torchrun"] = started({GLOO: "ib7"}, *torchrun)
        for name, variables in {
            "local": {},
            "local interface": {GLOO: "ib7"},
            "local gpu": {"GPU": "GPU-8a1f"},
        }.items():
            with LocalRanks(2) as ours:
                for rank in (0, 1):
                    environment = ours.environment(rank, {**os.environ, **AGENT, **STEP, **variables})
                    cases[f"{name} {rank}"] = started(environment, fds=ours.inherited(rank))
        waits = cases["interrupted"].stdout
        assert waits is not None
        assert waits.readline() == "ready\n"
        cases["interrupted"].send_signal(signal.SIGINT)
        found = {}
        for name, process in cases.items():
            out, errors = process.communicate(timeout=200)
            found[name] = (process.returncode, out, errors)
        return found


def answer_as_a_web_server(listener: socket.socket) -> None:
    while True:
        try:
            connection, _ = listener.accept()
            with connection:
                connection.recv(64)
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        except OSError:
            return


def test_what_the_shell_has_inherited_keeps_nobody_from_meeting(ended: Ended) -> None:
    assert ended["alone"][:2] == (0, "ready\nnone: 1 have met\n"), ended["alone"]
    for rank in (0, 1):
        assert ended[f"local {rank}"][:2] == (0, "ready\nxtrain: 2 have met\n"), ended[f"local {rank}"]


@pytest.mark.parametrize(
    ("case", "variable", "words"),
    [
        ("interface", GLOO, "'ib7': no such network interface on"),
        ("local interface 0", GLOO, "'ib7': no such network interface on"),
        ("local interface 1", GLOO, "'ib7': no such network interface on"),
        ("local gpu 0", VISIBLE, "several ranks see the same GPU (GPU-8a1f) and no other"),
        ("local gpu 1", VISIBLE, "several ranks see the same GPU (GPU-8a1f) and no other"),
        ("unresolved", "MASTER_ADDR", "'no-such-host.invalid' (MASTER_PORT"),
        ("taken", "MASTER_PORT", "is taken by another program on"),
        ("foreign", "MASTER_ADDR", "another program answers there, or rank 0 has ended"),
        ("agent", "MASTER_ADDR", "torchrun's agent is to be (TORCHELASTIC_USE_AGENT_STORE): nobody listens on port"),
        ("no port", "MASTER_PORT", "70000 is not allowed"),
    ],
)
def test_one_message_names_the_variable(ended: Ended, case: str, variable: str, words: str) -> None:
    code, _, errors = ended[case]
    assert code == EXIT_USER, errors
    assert errors.startswith(f"error: environment: {variable}: "), errors
    assert words in errors
    assert errors.count("environment: ") == 1
    assert "Traceback" not in errors
    assert "frame #" not in errors, "the stacks of C++"


def test_ranks_that_share_a_terminal_say_it_once(ended: Ended) -> None:
    errors = ended["torchrun"][2]
    assert errors.count("error: environment: GLOO_SOCKET_IFNAME: 'ib7'") == 1, errors
    assert "exitcode  : 2" in errors, errors


def test_ctrl_c_ends_the_wait(ended: Ended) -> None:
    code, _, errors = ended["interrupted"]
    assert code == EXIT_PREEMPTED, errors
    assert "SIGINT: stopped before the ranks had met" in errors


@pytest.mark.parametrize(
    ("variable", "value", "wrong"),
    [
        (GLOO, "lo", False), (GLOO, "", False), (GLOO, "lo,ib7", True), (GLOO, "l", True),
        (NCCL, "lo", False), (NCCL, "l", False), (NCCL, "=l", True), (NCCL, "=lo", False), (NCCL, "=lo:0", False),
        (NCCL, "ib7,lo", False), (NCCL, "ib7", True), (NCCL, "^docker,lo", False),
    ],
)  # fmt: skip
def test_interfaces_as_gloo_and_nccl_read_them(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, wrong: bool
) -> None:
    monkeypatch.setenv(variable, value)
    problem = joining._wrong_interface(variable)
    assert (problem is not None) == wrong
    assert problem is None or problem.where == f"environment: {variable}"


def test_ranks_meet_only_where_they_are_ended_well() -> None:
    with pytest.raises(RuntimeError, match="run_rank"):
        join(from_environment({}))


def raise_(error: BaseException) -> None:
    raise error


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (None, 0, ""), (SystemExit(3), 3, ""), (SystemExit("no"), 1, "no\n"), 
        (KeyboardInterrupt(), EXIT_INTERRUPTED, "stopped\n"),
        (UserError(Problem("here", "is wrong")), EXIT_USER, "error: here: is wrong\n"),
        (ValueError("ours"), EXIT_OURS, "Traceback (most recent call last)"),
    ],
)  # fmt: skip
def test_how_a_rank_ends(tmp_path: Path, error: BaseException | None, code: int, said: str) -> None:
    pid = os.fork()
    if pid == 0:
        with open(tmp_path / "said", "w") as sys.stderr:
            run_rank(lambda: raise_(error) if error else None)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == code
    assert (tmp_path / "said").read_text().startswith(said)
