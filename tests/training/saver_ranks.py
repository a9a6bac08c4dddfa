"""The ranks of test_killed_savers.py, forked from a process that has imported torch and little else: see conftest.py.

Two processes share a folder as two ranks do: each writes its files, and rank 0 commits. What they agree on goes through
a pipe, and a rank whose peer has died leaves at once, as the watchdog makes it.
"""

from __future__ import annotations

import contextlib
import os
import signal
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from commits import PHASE, SHAPES, end_at_change

from xtrain.checkpoints import CheckpointFolder
from xtrain.training.agreement import Agreement
from xtrain.training.pieces import STATE_KINDS, Piece
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


def run(
    folder: Path, rank: int, ends: tuple[Connection, Connection], step: int, who: str, call: int, copies: bool
) -> None:
    """Save ``step``; "0", "1" or "all" is killed before a rank's ``call``-th change of the disk."""
    peer = ends[rank]
    ends[1 - rank].close()
    mine = os.getpid()
    both = ByPipe(rank, peer).gather(mine)
    if who == str(rank):
        end_at_change(call, lambda: os.kill(mine, signal.SIGKILL))
    elif who == "all" and rank == 0:
        other = os.pidfd_open(both[1])  # it cannot end yet: this rank has the commit to make

        def kill_both() -> None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(other, signal.SIGKILL)
            os.kill(mine, signal.SIGKILL)

        end_at_change(call, kill_both)
    save(folder, rank, peer, step, copies)
