"""Faults of disks: one that is full, one that cannot be written for a while. For small file systems of a test's own."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from faults import BUILDERS, build_in

from xtrain.checkpoints import commit
from xtrain.model.tensor_files import TensorFileWriter
from xtrain.training.loop import Trainer

BALLAST = "ballast"


def fill(folder: Path) -> None:
    """Take every byte that the file system of ``folder`` has left."""
    handle = os.open(folder / BALLAST, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    size = 2**16
    while size:
        try:
            os.write(handle, bytes(size))
        except OSError:
            size //= 2
    os.close(handle)


PAGE = 4096  # bytes: what a file on a tmpfs takes at once


def fill_with_pages(run: Path) -> None:
    """As :func:`fill`; the last pages of the files that the run appends to are full as well."""
    for path in (run / "metrics.jsonl", run / "events.jsonl", *(run / "logs").resolve().glob("rank-*.log")):
        head, tail = '{"event": "padding", "step": 0, "text": "', '"}\n'
        missing = -path.stat().st_size % PAGE - len(head) - len(tail)
        with open(path, "a", encoding="utf-8") as handle:
            handle.write(head + "x" * (missing % PAGE) + tail)
    fill(run / "checkpoints")


def free(folder: Path) -> None:
    """Give back what :func:`fill` took."""
    (folder / BALLAST).unlink(missing_ok=True)


def remount(folder: Path, how: str) -> None:
    """Remount as "ro" or "rw"; waits while a file is open for writing."""
    command = ["mount", "-o", f"remount,{how}", str(folder)]
    while subprocess.run(command, capture_output=True).returncode:
        time.sleep(0.01)


TROUBLE: Mapping[str, tuple[Callable[[Path], None], Callable[[Path], None]]] = {
    "full": (fill, free),
    "full to the last page": (lambda folder: fill_with_pages(folder.parent), free),
    "read-only": (lambda folder: remount(folder, "ro"), lambda folder: remount(folder, "rw")),
}


def trouble_from_step(rank: int, folder: str, trouble: str, step: int, until: int | None = None) -> None:
    """The disk of ``folder`` is in trouble from the beginning of a step (from 0) to that of step ``until``.

    All ranks end what they are saving before each step, so that every test of a kind sees the same order of events.
    """
    begin, end = TROUBLE[trouble]
    whole = Trainer._global_step

    def acted(self: Trainer, number: int, learning_rate: float) -> Any:
        self.saver.finish()
        if rank == 0 and number == step:
            begin(Path(folder))
        if rank == 0 and number == until:
            end(Path(folder))
        return whole(self, number, learning_rate)

    Trainer._global_step = acted  # type: ignore[method-assign]


def full_in_save(rank: int, folder: str, place: str, who: int, until: int) -> None:
    """The disk of ``folder`` is found full for the first time in the middle of a file, or as the manifest is written.

    ``place`` is the file's kind or MANIFEST, ``who`` the rank that finds it; it is free again at step ``until``.
    """
    trouble_from_step(rank, folder, "full", -1, until)
    if rank != who:
        return
    put, write_bytes = TensorFileWriter._put, commit.write_bytes
    done: list[str] = []

    def fill_once(name: str) -> None:
        if name.startswith(place) and not done:
            done.append(name)
            fill(Path(folder))

    def put_some(self: TensorFileWriter, data: Any) -> None:
        if self._bytes:  # the header is there
            fill_once(self.path.name)
        put(self, data)

    def written(path: Path, data: bytes) -> None:
        fill_once(path.name)
        write_bytes(path, data)

    TensorFileWriter._put = put_some  # type: ignore[method-assign]
    commit.write_bytes = written


def several(rank: int, faults: list[dict[str, Any]]) -> None:
    """More than one fault."""
    for fault in faults:
        build_in(rank=rank, **fault)


BUILDERS |= {"trouble from step": trouble_from_step, "full in save": full_in_save, "several": several}
