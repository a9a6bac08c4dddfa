"""Ranks are killed at every instant of a save at which they change the disk: the real saver, and no engine behind it.

Two processes share a folder as two ranks do: each writes its files, and rank 0 commits. What they agree on goes through
a pipe, and a rank whose peer has died leaves at once, as the watchdog makes it. Of real ranks of DeepSpeed's engine
tests/faults/test_kills.py kills a few.
"""

from __future__ import annotations

import os
import shutil
import signal
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
import torch
from commits import PHASE, SHAPES, end_at_change

from xtrain.checkpoints import CheckpointFolder, damage, read_manifest
from xtrain.training.agreement import Agreement
from xtrain.training.pieces import STATE_KINDS, WEIGHTS, Piece
from xtrain.training.saver import Saver

LEFT = 7  # the exit code of a rank that was not killed, but has lost its peer


class ByPipe(Agreement):
    """What two ranks agree on without torch.distributed."""

    def __init__(self, rank: int, peer: Connection) -> None:
        self.rank, self.world_size, self._peer = rank, 2, peer

    def gather(self, value: Any) -> list[Any]:
        try:
            self._peer.send(value)
            other = self._peer.recv()
        except (EOFError, OSError):
            os._exit(LEFT)
        return [value, other] if self.rank == 0 else [other, value]

    def _reduced(self, values: Any, operation: Any) -> list[int]:
        choose = max if operation == torch.distributed.ReduceOp.MAX else min
        return [choose(pair) for pair in zip(*self.gather(list(values)), strict=True)]


class HalfOfState:
    """One rank's half of every parameter and its moments, with the values that they have after a step."""

    def __init__(self, rank: int, step: int) -> None:
        self.rank, self.step = rank, step

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return SHAPES

    def owned(self) -> list[Piece]:
        pieces = []
        for name, shape in SHAPES.items():
            size = torch.Size(shape).numel()
            start, stop = size * self.rank // 2, size * (self.rank + 1) // 2
            pieces.append(Piece(name, start, stop - start, torch.empty(0), 0))
        return pieces

    def view(self, piece: Piece, kind: str) -> torch.Tensor:
        generator = torch.Generator().manual_seed(10 * self.step + STATE_KINDS.index(kind))
        return torch.randn(piece.start + piece.count, generator=generator)[piece.start :]


class Listener:
    def event(self, kind: str, **fields: Any) -> None:
        pass


def save(folder: Path, rank: int, peer: Connection, step: int, copies: bool) -> None:
    """What a rank does at a step that is saved and was the best so far: two folders, and the step before goes."""
    saver = Saver(
        HalfOfState(rank, step), CheckpointFolder(folder), ByPipe(rank, peer), Listener(),  # type: ignore[arg-type]
        phase=PHASE, stage=2, keep=1, retry_after=1, copies=copies,
    )  # fmt: skip
    state = {"step": step, "selection": {"best_step": step, "best_score": 0.5, "num_without_best": 0}}
    saver.save(step, state, full=True, best=True)
    saver.finish()
    assert saver.saved_step == step, saver.failure


def ranks_end(folder: Path, step: int, who: str = "", call: int = 0, copies: bool = False) -> list[int]:
    """Two ranks save ``step``; "0", "1" or "all" is killed before a rank's ``call``-th change. The exit codes."""
    ends = Pipe()
    pids: list[int] = []
    for rank in (0, 1):
        pid = os.fork()
        if pid == 0:
            os.setpgid(0, pids[0] if pids else 0)
            ends[1 - rank].close()
            if who == str(rank):
                end_at_change(call, lambda: os.kill(os.getpid(), signal.SIGKILL))
            elif who == "all" and rank == 0:
                end_at_change(call, lambda: os.killpg(0, signal.SIGKILL))
            try:
                save(folder, rank, ends[rank], step, copies)
            except BaseException:
                os._exit(1)
            os._exit(0)
        os.setpgid(pid, pids[0] if pids else pid)
        pids.append(pid)
    for end in ends:
        end.close()
    return [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """By step: a folder of checkpoints that nothing has happened to after the save of that step."""
    root = tmp_path_factory.mktemp("saved")
    assert ranks_end(root / "3", 3) == [0, 0]
    shutil.copytree(root / "3", root / "6")
    assert ranks_end(root / "6", 6) == [0, 0]
    assert names(root / "6") == ["best-step-6", "step-6"]
    return {step: root / str(step) for step in (3, 6)}


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def is_whole(folder: Path, other: Path) -> None:
    """That every checkpoint in ``folder`` that has its name holds what it should, to the last byte."""
    for name in names(folder):
        if not name.endswith(".tmp"):
            assert damage(folder / name, deep=True, strangers=True) == []
            if (other / name).exists():
                assert read_manifest(folder / name).files == read_manifest(other / name).files


@pytest.mark.parametrize(("who", "copies"), [("0", True), ("1", True), ("all", False)])
def test_killed_at_every_instant_of_a_save(tmp_path: Path, saved: dict[int, Path], who: str, copies: bool) -> None:
    """The step before is there until the new one is, with all that it needs; what is left stands in no one's way."""
    call, codes, seen = 0, [-signal.SIGKILL], set()
    while codes != [0, 0]:
        call += 1
        folder = tmp_path / str(call)
        shutil.copytree(saved[3], folder)
        codes = ranks_end(folder, 6, who, call, copies)
        rest = [code for rank, code in enumerate(codes) if who not in ("all", str(rank))]
        assert codes == [0, 0] or (-signal.SIGKILL in codes and set(rest) <= {LEFT, 0}), codes
        is_whole(folder, saved[6])
        checkpoints = CheckpointFolder(folder)
        newest, best = checkpoints.commits()[-1], [commit.step for commit in checkpoints.commits("best")]
        assert newest.step in best, "the weights that it says were the best"
        seen.add((newest.step, *best))
        checkpoints.clean()
        assert ranks_end(folder, 6) == [0, 0]
        assert names(folder) == names(saved[6])
        is_whole(folder, saved[6])
    assert seen >= ({(3, 3), (6, 6)} if who == "1" else {(3, 3), (3, 3, 6), (6, 3, 6), (6, 6)})
    assert call > (10 if who == "1" else 30), "not much was interrupted"


def test_best_weights_alone(tmp_path: Path, saved: dict[int, Path]) -> None:
    """The files of both folders are the same: one is a second name of the other."""
    best, step = (saved[6] / name for name in ("best-step-6", "step-6"))
    for path in best.glob(f"{WEIGHTS}-*"):
        assert path.stat().st_ino == (step / path.name).stat().st_ino
    assert not list(best.glob("exp_*"))
