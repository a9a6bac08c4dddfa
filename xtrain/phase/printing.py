"""What a rank prints must not end it: its log may lie on a disk that is full, its terminal may be gone."""

from __future__ import annotations

import contextlib
import io
import sys
from typing import Any, TextIO


class _Forgiving(io.FileIO):
    """The end of a standard stream: what cannot be written is lost."""

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except OSError:
            return memoryview(data).nbytes


def forgive_failed_prints() -> None:
    """From now on, printing to standard output and standard error never raises for what the system refuses."""
    sys.stdout, sys.stderr = _forgiving(sys.stdout), _forgiving(sys.stderr)


def _forgiving(stream: TextIO) -> TextIO:
    """``stream`` with another way to the same file; one that somebody has put in its place is left alone."""
    if not isinstance(stream, io.TextIOWrapper) or getattr(stream, "name", "") not in ("<stdout>", "<stderr>"):
        return stream
    with contextlib.suppress(OSError):
        stream.flush()
    raw = _Forgiving(stream.fileno(), "w", closefd=False)
    # without a buffer (python -u) a line counts as soon as it is printed
    at_once = stream.line_buffering or isinstance(stream.buffer, io.RawIOBase)
    return io.TextIOWrapper(io.BufferedWriter(raw), stream.encoding, stream.errors, line_buffering=at_once)
