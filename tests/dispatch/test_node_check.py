"""The start-up check of nodes: each planted fault is named, good nodes are silent, and bad ones are remembered."""

from __future__ import annotations

import json
import os
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from xtrain.dispatch.node_check import (
    BadNode,
    Expected,
    Remembered,
    bad_nodes,
    check_nodes,
    problems,
    remember,
    usable_gpus,
)

CHECK = [sys.executable, "-m", "xtrain.dispatch.node_check"]
LIST = """\
GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-3f2a)
GPU 1: NVIDIA A100-SXM4-40GB (UUID: GPU-77b1)
"""
PARTS = """\
GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-3f2a)
  MIG 3g.20gb     Device  0: (UUID: MIG-1)
  MIG 3g.20gb     Device  1: (UUID: MIG-2)
"""
LOST = """\
GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-3f2a)
Unable to determine the device handle for GPU1: 0000:41:00.0: GPU is lost. Reboot the system to recover this GPU
"""


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "phase.toml").touch()
    return folder


def nodes(**arguments: Sequence[object]) -> list[str]:
    """What srun does, on one machine: the check once a node, at the same time."""
    lines = [f"SLURMD_NODENAME={node} {shlex.join([*CHECK, *map(str, given)])} &" for node, given in arguments.items()]
    return ["bash", "-c", "\n".join(["echo 'Welcome to {the} cluster'", *lines, "wait"])]


def tool(folder: Path, name: str, text: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(text)
    (folder / name).chmod(0o755)


def test_good_nodes(run: Path, tmp_path: Path) -> None:
    given = [run, "--scratch", tmp_path / "made" / "here", "--scratch-gib", 0.001]
    assert check_nodes(nodes(n1=given, n2=given), ["n1", "n2"]) == []
    assert os.listdir(run) == ["phase.toml"], "nothing is left behind"


def test_an_output_folder_that_is_not_shared(run: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    bad = check_nodes(nodes(n1=[run], n2=[tmp_path / "nowhere"], n3=[empty]), ["n1", "n2", "n3"])
    assert [node.node for node in bad] == ["n2", "n3"]
    assert f"run directory {tmp_path}/nowhere is not there" in bad[0].reason
    assert f"run directory {empty} has no phase.toml" in bad[1].reason


def test_an_answer_is_written_in_one_piece(run: Path) -> None:
    """Else those of two nodes that come at once are one line, and neither is read."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)  # keeps what is written apart
    with ours, theirs:
        unbuffered = {**os.environ, "PYTHONUNBUFFERED": "1"}  # as many images of containers set it
        assert subprocess.run([*CHECK, run], env=unbuffered, stdout=theirs, timeout=60).returncode == 0
        assert json.loads(ours.recv(10_000).removesuffix(b"\n"))["problems"] == []
        ours.setblocking(False)
        with pytest.raises(BlockingIOError):
            ours.recv(10_000)


def test_what_another_node_has_just_written(run: Path) -> None:
    given = [run, "--file", "phase.toml", "--file", "job/attempt-2/attempt.json"]
    (bad,) = check_nodes(nodes(n1=given), ["n1"])
    assert "has no job/attempt-2/attempt.json" in bad.reason
    assert "phase.toml" not in bad.reason


def test_folders_that_cannot_be_written(run: Path, tmp_path: Path) -> None:
    (found,) = problems(Expected(Path("/proc/sys/kernel"), files=("ostype",)))
    assert found.startswith("run directory /proc/sys/kernel cannot be written: ")
    (found,) = problems(Expected(run, scratch=run / "phase.toml" / "job"))
    assert found == f"scratch folder {run}/phase.toml/job cannot be written: File exists"


def test_a_scratch_folder_that_others_could_have_filled(run: Path, tmp_path: Path) -> None:
    assert problems(Expected(run, scratch=tmp_path / "mine")) == []
    assert (tmp_path / "mine").stat().st_mode & 0o777 == 0o700
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    (tmp_path / "link").symlink_to(tmp_path / "mine")
    for name in ("open", "link"):
        (found,) = problems(Expected(run, scratch=tmp_path / name))
        assert found == f"scratch folder {tmp_path}/{name} is there already, and is not a folder of this user's alone"


def test_a_small_scratch(run: Path, tmp_path: Path) -> None:
    (found,) = problems(Expected(run, scratch=tmp_path, scratch_gib=1e6))
    assert "GiB free, and 1e+06 are needed" in found


def test_a_full_scratch(run: Path, tmp_path: Path) -> None:
    full = tmp_path / "full"
    full.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "none", str(full)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.decode().strip()}")
    try:
        (full / "rest").write_bytes(b"x" * 16384)
        (found,) = problems(Expected(run, scratch=full / "job", scratch_gib=0))
    finally:
        subprocess.run(["umount", str(full)], check=True)
    assert found == f"scratch folder {full}/job cannot be written: No space left on device"


@pytest.mark.parametrize(("shift", "words"), [(3600, "60 minutes ahead of"), (-600, "10 minutes behind")])
def test_a_clock_that_is_off(run: Path, monkeypatch: pytest.MonkeyPatch, shift: float, words: str) -> None:
    moment = time.time()
    monkeypatch.setattr(time, "time", lambda: moment + shift)
    (found,) = problems(Expected(run))
    assert words in found


@pytest.mark.parametrize(
    ("listing", "code", "found", "why"),
    [(LIST, 0, 2, ""), (PARTS, 0, 2, ""), (LOST, 15, 1, "GPU is lost"), ("", 9, 0, "exits with 9")],
)
def test_gpus_by_nvidia_smi(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, listing: str, code: int, found: int, why: str
) -> None:
    tool(tmp_path / "bin", "nvidia-smi", f"#!/bin/sh\ncat <<'END'\n{listing}END\nexit {code}\n")
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    number, reason = usable_gpus()
    assert number == found
    assert why in reason
    assert bool(why) == bool(reason)


def test_gpus_by_their_devices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    for name in ("nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm"):
        (tmp_path / name).touch()
    assert usable_gpus(tmp_path) == (2, "")
    assert usable_gpus(run) == (0, "")


def test_too_few_gpus(run: Path) -> None:
    (found,) = problems(Expected(run, gpus=99))
    assert found.endswith("GPUs are usable, and 99 needed")


def test_a_node_that_does_not_answer(run: Path) -> None:
    """It hangs in its file system, say; what the others said is kept."""
    command = nodes(n1=[run])
    command[2] = command[2].replace("wait", "wait %1; sleep 1000")
    (bad,) = check_nodes(command, ["n1", "n2"], seconds=5.0)
    assert bad == BadNode("n2", "did not answer within 5 s")


def test_a_node_without_this_program() -> None:
    command = ["bash", "-c", "echo 'slurmstepd: error: execve(): python: No such file or directory' >&2; exit 2"]
    (bad,) = check_nodes(command, ["n1"])
    assert bad.reason == "did not answer: slurmstepd: error: execve(): python: No such file or directory"


def test_bad_nodes_are_remembered_for_a_day(tmp_path: Path) -> None:
    assert bad_nodes(tmp_path) == []
    remember(tmp_path, [BadNode("n1", "0 GPUs"), BadNode("n2", "disk")], now=1000.0)
    remember(tmp_path, [BadNode("n2", "disk again")], now=5000.0)
    both = [Remembered("n1", "0 GPUs", 1000.0), Remembered("n2", "disk again", 5000.0)]
    assert bad_nodes(tmp_path, now=6000.0) == both
    assert bad_nodes(tmp_path, now=1000.0 + 24 * 3600) == both[1:]
    remember(tmp_path, [], now=1000.0 + 24 * 3600)
    assert "n1" not in (tmp_path / "bad_nodes.json").read_text()
    (tmp_path / "bad_nodes.json").write_text("{}")
    assert bad_nodes(tmp_path) == []


def test_it_starts_at_once() -> None:
    code = "import sys, xtrain.dispatch.node_check; print([name for name in ('torch', 'numpy') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
