"""Checkpoints as training writes them, small, and other things to do with them."""

from __future__ import annotations

import json
import os
import random
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from xtrain.checkpoints import TRAINER, CheckpointFolder, FileEntry, Manifest
from xtrain.model.tensor_files import TensorFileWriter

SHAPES = {"encoder.embeddings.weight": (40, 8), "encoder.layer.0.dense.weight": (8, 8), "heads.toy.bias": (3,)}
PHASE = "0123456789ab"
SMALL: dict[str, Any] = {"kinds": ("weights",), "ranks": 1}  # two files and the manifest


def write_files(
    folder: Path,
    step: int,
    *,
    kinds: tuple[str, ...] = ("weights", "exp_avg", "exp_avg_sq"),
    best: int = -1,
    ranks: int = 2,
) -> dict[str, FileEntry]:
    """What ranks write into ``folder``: each its half of every parameter, for every kind; and the trainer's state."""
    folder.mkdir(parents=True)
    files = {}
    generator = torch.Generator().manual_seed(step)
    for kind in kinds:
        for rank in range(ranks):
            name = f"{kind}-{rank:05d}-of-{ranks:05d}.safetensors"
            pieces = {}
            for parameter, shape in SHAPES.items():
                count = torch.Size(shape).numel()
                start, stop = count * rank // ranks, count * (rank + 1) // ranks
                pieces[f"{parameter}:{start}"] = torch.randn(stop - start, generator=generator)
            with TensorFileWriter(folder / name, {key: tuple(piece.shape) for key, piece in pieces.items()}) as writer:
                for key, piece in pieces.items():
                    writer.write(key, piece)
                files[name] = writer.close()
    state = {"step": step, "selection": {"best_step": best, "best_score": 0.5, "num_without_best": 0}, "num_skipped": 0}
    (folder / TRAINER).write_text(json.dumps(state))
    return {**files, TRAINER: FileEntry.of(folder / TRAINER)}


def manifest_of(name: str, files: dict[str, FileEntry], **changes: Any) -> Manifest:
    """The manifest of ``files`` in the folder ``name``."""
    values: dict[str, Any] = {
        "name": name,
        "step": int(name.rpartition("-")[2]),
        "phase": PHASE,
        "world_size": 2,
        "stage": 2,
        "kind": "weights" if name.startswith("best") else "full",
        "parameters": SHAPES,
        "files": files,
    }
    return Manifest(**values | changes)


def make_commit(folder: CheckpointFolder, step: int, **how: Any) -> Path:
    """``step-N`` in ``folder``; ``how`` goes to :func:`write_files`."""
    name = f"step-{step}"
    folder.publish(manifest_of(name, write_files(folder.temporary(name), step, **how)))
    return folder.path / name


def make_best(folder: CheckpointFolder, step: int) -> Path:
    """``best-step-N`` in ``folder``."""
    name = f"best-step-{step}"
    folder.publish(manifest_of(name, write_files(folder.temporary(name), step, kinds=("weights",), best=step)))
    return folder.path / name


def change_byte(path: Path, rng: random.Random) -> Callable[[], None]:
    """Put another value in the place of one random byte; returns what takes that back."""
    place = rng.randrange(path.stat().st_size)
    with open(path, "r+b") as handle:
        handle.seek(place)
        old = handle.read(1)[0]
        handle.seek(place)
        handle.write(bytes([(old + rng.randrange(1, 256)) % 256]))

    def restore() -> None:
        with open(path, "r+b") as handle:
            handle.seek(place)
            handle.write(bytes([old]))

    return restore


# what Python says of its calls that change a disk ("open" is said of reading as well)
CHANGES = ("os.rename", "os.remove", "os.rmdir", "os.link", "os.mkdir", "open", "fsync")
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT


def killed_at(call: int, work: Callable[[], object]) -> bool:
    """Do ``work`` in a process of its own that kills itself just before its ``call``-th change of the disk.

    Returns whether it came that far; if not, the work was done.
    """
    child = os.fork()
    if child == 0:
        end_at_change(call, lambda: os.kill(os.getpid(), signal.SIGKILL))
        try:
            work()
        except BaseException:
            os._exit(1)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    if os.WIFEXITED(status):
        assert os.WEXITSTATUS(status) == 0, "the work failed"
        return False
    assert os.WTERMSIG(status) == signal.SIGKILL
    return True


def end_at_change(call: int, end: Callable[[], object]) -> None:
    """From now on count this process's changes of the disk, in all its threads, and ``end`` before number ``call``."""
    count = 0

    def watch(event: str, details: tuple[Any, ...]) -> None:
        nonlocal count
        if event in CHANGES and (event != "open" or details[2] & WRITES):
            count += 1
            if count == call:
                end()

    _watch_fsync(watch)
    sys.addaudithook(watch)


def _watch_fsync(watch: Callable[[str, tuple[Any, ...]], None]) -> None:
    """`os.fsync` raises no audit event of its own."""
    real = os.fsync

    def fsync(handle: int) -> None:
        watch("fsync", ())
        real(handle)

    os.fsync = fsync  # type: ignore[assignment]  # in the child process alone
