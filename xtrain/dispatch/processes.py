"""Which process something was, so that it can be told later whether it still is: process ids are used again."""

from __future__ import annotations

import os
import platform
from pathlib import Path

_BOOT = Path("/proc/sys/kernel/random/boot_id")


def process_stat(process: int) -> list[str] | None:
    """The fields of a process from the third of proc(5) on: its state, ..., the tick that it began in at ``[19]``.

    None where there is no such process, or no Linux.
    """
    try:
        return Path(f"/proc/{process}/stat").read_text("utf-8").rpartition(")")[2].split()
    except OSError:
        return None


def is_process(process: int, began: str | None) -> bool:
    """Whether ``process`` lives, and is the one that began in the tick ``began`` (None: whichever)."""
    stat = process_stat(process)
    return stat is not None and stat[0] not in "ZX" and began in (None, stat[19])


def own_mark() -> str:
    """``PID TICK BOOT NAMESPACE`` of this process; empty where there is no Linux."""
    stat = process_stat(os.getpid())
    return "" if stat is None else f"{os.getpid()} {stat[19]} {_boot()} {_namespace()}"


ALIVE, GONE, WENT_DOWN, UNKNOWN = "alive", "gone", "went down", "unknown"


def fate(mark: str, host: str) -> str:
    """What became of the process that once gave :func:`own_mark` on ``host``, as far as can be seen from here."""
    words = mark.split()
    if host != platform.node() or len(words) != 4:
        return UNKNOWN
    if words[2] != _boot():
        return WENT_DOWN if _boot() else UNKNOWN
    if words[3] != _namespace():  # another container: its process ids are not ours
        return UNKNOWN
    return ALIVE if is_process(int(words[0]), words[1]) else GONE


def _boot() -> str:
    try:
        return _BOOT.read_text("ascii").strip()[:13]
    except OSError:
        return ""


def _namespace() -> str:
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""
