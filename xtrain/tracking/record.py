"""metrics.jsonl and events.jsonl: the record of a run, of which W&B and the reports are views.

Each line is one JSON object with ``time`` (UTC, ISO 8601, whole seconds); a metrics line has the integer
``step`` it belongs to. JSON knows no NaN and no infinity: they are written as the texts ``"NaN"``,
``"Infinity"`` and ``"-Infinity"``, and :func:`read_metrics` gives them back as floats. A line is appended by
one write and taken back if that fails half-way; a torn last line, left by a killed process, is passed over
when reading and removed when the next process opens the file. While the disk is full, lines wait in memory, in
order: a record that cannot be written now is no reason to stop training.

An attempt at the phase that a newer one has fenced off loses its lines without a word. What it has open has no name any
more, for the newer one began by putting copies in place; and what it opens after that it does not write into.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from xtrain.errors import Fenced, Problem, UserError, counted
from xtrain.files import Staging, make_folder, through, write_bytes, writing
from xtrain.run_directory import RunDirectory

SAY_EVERY_SECONDS = 60.0  # that lines cannot be written
_NON_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


class Recorder:
    """Appends to the files of a run directory. On ranks other than 0 every call does nothing."""

    def __init__(self, run_dir: RunDirectory, rank: int = 0, on_trouble: Callable[[str], None] | None = None) -> None:
        """``on_trouble`` is told, not too often, why lines cannot be written at the moment."""
        self._active = rank == 0
        self._metrics = _Lines(run_dir.metrics, on_trouble, run_dir.staging)
        self._events = _Lines(run_dir.events, on_trouble, run_dir.staging)
        self._batches = _Lines(run_dir.batches, on_trouble, run_dir.staging)

    def metrics(self, step: int, values: Mapping[str, Any]) -> None:
        """Append ``values`` (numbers, or anything JSON can hold) as one line of ``metrics.jsonl``."""
        if not self._active:
            return
        assert not {"step", "time"} & values.keys(), sorted(values)
        self._metrics.append({"time": _now(), "step": int(step), **plain(values)})

    def event(self, kind: str, **fields: Any) -> None:
        """Append ``{"time", "event": kind, ...fields}`` to ``events.jsonl``; any thread may call this."""
        if self._active:
            self._events.append({"time": _now(), "event": kind, **plain(fields)})

    def batch_ids(self, step: int, task: str, ids: Sequence[str]) -> None:
        """Append the example ids of the global batch of ``step`` (from 0) to ``batches.jsonl``."""
        if self._active:
            self._batches.append({"step": step, "task": task, "ids": list(ids)})

    def resume_at(self, step: int, *, again: bool = True) -> int:
        """Drop the lines of steps after ``step``, whole or not at all; returns how many of metrics.

        What a crashed run had recorded beyond its last checkpoint is about to be recorded ``again``. The event
        ``steps_lost`` then keeps what is known of it: how far training had come (``reached``), and when (``seen``).
        """
        if not self._active:
            return 0
        self._batches.keep(lambda line: int(line["step"]) < step)
        dropped = self._metrics.keep(lambda line: int(line["step"]) <= step)
        if dropped and again:
            self.event("steps_lost", step=step, reached=int(dropped[-1]["step"]), seen=dropped[-1]["time"])
        return len(dropped)

    def close(self) -> None:
        """Close the files; a later call opens them again.

        Raises :class:`xtrain.errors.UserError` if lines still wait, and cannot be written now either.
        """
        self._metrics.close()
        self._batches.close()
        self._events.close()

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a ``metrics.jsonl`` in order, non-finite numbers as floats; a missing file has none.

    A torn last line is passed over; a broken line elsewhere is a :class:`xtrain.errors.UserError`.
    """
    return [{key: _restored(value) for key, value in line.items()} for _, line in _read_lines(path)]


def read_events(path: Path) -> list[dict[str, Any]]:
    """The lines of an ``events.jsonl`` in order, read as :func:`read_metrics` does."""
    return [{key: _restored(value) for key, value in line.items()} for _, line in _read_lines(path)]


def plain(value: Any) -> Any:
    """``value`` as JSON can hold it: numpy and torch scalars as numbers, non-finite floats as texts."""
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        if math.isfinite(value):
            return value
        return "NaN" if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (Sequence, set, frozenset)) and not isinstance(value, (bytes, bytearray)):
        return [plain(item) for item in value]
    if hasattr(value, "tolist"):  # numpy and torch: a scalar gives a number, an array a list
        return plain(value.tolist())
    return str(value)


def number(value: Any) -> float | int | None:
    """The number that a recorded value stands for (non-finite texts included), or None if it is none."""
    value = _restored(value)
    return value if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def _restored(value: Any) -> Any:
    return _NON_FINITE.get(value, value) if isinstance(value, str) else value


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


class _Lines:
    """One append-only file of JSON lines, opened at the first append."""

    def __init__(
        self, path: Path, on_trouble: Callable[[str], None] | None = None, staging: Staging | None = None
    ) -> None:
        self._path = path
        self._staging = staging
        self._fenced = False
        self._descriptor: int | None = None
        self._lock = threading.Lock()
        self._waiting: list[bytes] = []
        self._on_trouble = on_trouble
        self._said = -math.inf  # when trouble was told last, by time.monotonic()

    def append(self, line: dict[str, Any]) -> None:
        data = (json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n").encode()
        with self._lock:
            if self._fenced:
                return
            self._waiting.append(data)
            try:
                self._flush()
            except Fenced:
                self._fence()
            except UserError as error:
                if self._on_trouble is None:
                    self._waiting.pop()
                    raise
                if time.monotonic() - self._said > SAY_EVERY_SECONDS:
                    self._said = time.monotonic()
                    self._on_trouble(f"{counted(len(self._waiting), 'line')} not written yet: {error}")

    def _flush(self) -> None:
        """Write what waits, line by line."""
        with through(self._staging), writing(self._path):
            if self._descriptor is None:
                self._descriptor = self._open()
            while self._waiting:
                before = os.fstat(self._descriptor).st_size
                try:
                    view = memoryview(self._waiting[0])
                    while view:
                        view = view[os.write(self._descriptor, view) :]
                except OSError:
                    # Half a line would swallow the next one: back to the last whole line.
                    with contextlib.suppress(OSError):
                        os.ftruncate(self._descriptor, before)
                    raise
                self._waiting.pop(0)

    def keep(self, wanted: Callable[[dict[str, Any]], bool]) -> list[dict[str, Any]]:
        """Rewrite the file with only the lines that are ``wanted``; returns the others.

        Raises :class:`xtrain.errors.Fenced` if a newer attempt has begun.
        """
        with self._lock:
            if self._waiting:
                self._flush()
            self._close()
            lines = list(_read_lines(self._path))
            kept = [raw for raw, line in lines if wanted(line)]
            if len(kept) < len(lines):
                write_bytes(self._path, b"".join(kept), self._staging)
            return [line for _, line in lines if not wanted(line)]

    def close(self) -> None:
        with self._lock:
            try:
                if self._waiting:
                    self._flush()
            except Fenced:
                self._fence()
            self._close()

    def _fence(self) -> None:
        """A newer attempt has begun: what waits here is of no use, and nor is what comes."""
        self._fenced = True
        self._waiting.clear()
        self._close()

    def _close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _open(self) -> int:
        make_folder(self._path.parent)
        self._check()
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
        try:
            self._check()  # after it was opened: a newer attempt from now on puts a copy in its place
        except Fenced:
            os.close(descriptor)
            raise
        size = os.fstat(descriptor).st_size
        if size and os.pread(descriptor, 1, size - 1) != b"\n":
            whole = _last_newline(descriptor, size)
            os.ftruncate(descriptor, whole)
        return descriptor

    def _check(self) -> None:
        if self._staging is not None and self._staging.taken:
            raise Fenced(f"{self._path}: a newer attempt has begun")


def _last_newline(descriptor: int, size: int, block: int = 65536) -> int:
    """The length of the file up to and including its last newline."""
    end = size
    while end > 0:
        start = max(0, end - block)
        found = os.pread(descriptor, end - start, start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        end = start
    return 0


def _read_lines(path: Path) -> Iterator[tuple[bytes, dict[str, Any]]]:
    """Each whole line of ``path`` with its newline, and the object in it."""
    try:
        handle = open(path, "rb")  # noqa: SIM115 (closed by the with below)
    except FileNotFoundError:
        return
    with handle:
        for n, raw in enumerate(handle, 1):
            if not raw.endswith(b"\n"):
                return  # torn: the process that wrote it was killed
            try:
                line = json.loads(raw)
            except ValueError as error:
                raise UserError(
                    Problem(
                        f"{path}:{n}",
                        f"not a JSON object: {error}",
                        allowed="one JSON object a line",
                        remedy="remove the line if it was edited by hand; else the file system has lost data",
                    )
                ) from None
            assert isinstance(line, dict), f"{path}:{n}"
            yield raw, line
