"""Ranks are killed at every instant of a save at which they change the disk: the real saver, and no engine behind it.

saver_ranks.py is what they are. Of real ranks of DeepSpeed's engine tests/faults/test_kills.py kills a few.
"""

from __future__ import annotations

import shutil
import signal
from multiprocessing.context import ForkServerContext
from pathlib import Path

import pytest
import saver_ranks

from xtrain.checkpoints import CheckpointFolder, damage, read_manifest
from xtrain.training.pieces import WEIGHTS


def ranks_end(
    context: ForkServerContext, folder: Path, step: int, who: str = "", call: int = 0, copies: bool = False
) -> list[int | None]:
    """Two ranks save ``step``; "0", "1" or "all" is killed before a rank's ``call``-th change. The exit codes."""
    ends = context.Pipe()
    ranks = [
        context.Process(target=saver_ranks.run, args=(folder, rank, ends, step, who, call, copies)) for rank in (0, 1)
    ]
    for rank in ranks:
        rank.start()
    for end in ends:
        end.close()
    for rank in ranks:
        rank.join()
    return [rank.exitcode for rank in ranks]


@pytest.fixture(scope="module")
def saved(forkserver: ForkServerContext, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """By step: a folder of checkpoints that nothing has happened to after the save of that step."""
    root = tmp_path_factory.mktemp("saved")
    assert ranks_end(forkserver, root / "3", 3) == [0, 0]
    shutil.copytree(root / "3", root / "6")
    assert ranks_end(forkserver, root / "6", 6) == [0, 0]
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
def test_killed_at_every_instant_of_a_save(
    forkserver: ForkServerContext, tmp_path: Path, saved: dict[int, Path], who: str, copies: bool
) -> None:
    """The step before is there until the new one is, with all that it needs; what is left stands in no one's way."""
    call, codes, seen = 0, [-signal.SIGKILL], set()
    while codes != [0, 0]:
        call += 1
        folder = tmp_path / str(call)
        shutil.copytree(saved[3], folder)
        codes = ranks_end(forkserver, folder, 6, who, call, copies)
        rest = [code for rank, code in enumerate(codes) if who not in ("all", str(rank))]
        assert codes == [0, 0] or (-signal.SIGKILL in codes and set(rest) <= {saver_ranks.LEFT, 0}), codes
        is_whole(folder, saved[6])
        checkpoints = CheckpointFolder(folder)
        newest, best = checkpoints.commits()[-1], [commit.step for commit in checkpoints.commits("best")]
        assert newest.step in best, "the weights that it says were the best"
        seen.add((newest.step, *best))
        checkpoints.clean()
        assert ranks_end(forkserver, folder, 6) == [0, 0]
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
