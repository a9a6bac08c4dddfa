"""How checkpoints are shown: a table for people, JSON for programs."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from xtrain.checkpoints import CheckpointFolder, Entry
from xtrain.run_directory import RunDirectory


def show_run(run: RunDirectory, console: Console) -> None:
    """The table of a run's checkpoints, and what they take together."""
    entries = CheckpointFolder(run.checkpoints).entries()
    if entries:
        table = Table(title=str(run.path), title_justify="left")
        table.add_column("name", no_wrap=True)
        for column in ("step", "size", "files", "ranks", "ZeRO", "age"):
            table.add_column(column, justify="right", no_wrap=True)
        table.add_column("kind", no_wrap=True)
        table.add_column("state")
        for entry in entries:
            table.add_row(*_row(entry), style=None if entry.state == "finished" else "yellow")
        console.print(table)
        say(console, f"{len(entries)} folders, {size(disk_bytes([entry.path for entry in entries]))} on disk")
    if run.done:
        where = f"are in {run.encoder}" if run.encoder.is_dir() else "were deleted (engine.keep_encoders)"
        say(console, f"{run.path} is finished: its weights {where}")
    elif run.failed:
        say(console, f"{run.path} was given up: {run.failed_marker} says why")
    elif not entries:
        say(console, f"{run.path} has no checkpoints yet")


def as_json(run: RunDirectory) -> dict[str, Any]:
    """What :func:`show_run` shows, for a program."""
    entries = CheckpointFolder(run.checkpoints).entries()
    return {
        "run": str(run.path),
        "done": run.done,
        "bytes": disk_bytes([entry.path for entry in entries]),
        "checkpoints": [_fields(entry) for entry in entries],
    }


def size(num_bytes: int) -> str:
    """A number of bytes in the unit that fits it."""
    if num_bytes < 1024:
        return f"{num_bytes} B"
    value = num_bytes / 1024
    for unit in ("KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:,.1f} {unit}"
        value /= 1024
    return f"{value:,.2f} TiB"


def disk_bytes(folders: Sequence[Path], staying: Sequence[Path] = ()) -> int:
    """Bytes that ``folders`` hold together: a file of several names counts once, and not if it stays elsewhere."""
    held = {file for folder in staying for file, _ in _files(folder)}
    return sum({file: num for folder in folders for file, num in _files(folder) if file not in held}.values())


def say(console: Console, text: str) -> None:
    """A line as it is, without markup and without being broken."""
    console.print(text, highlight=False, markup=False, soft_wrap=True)


def _files(folder: Path) -> Iterator[tuple[tuple[int, int], int]]:
    """Identity and size of the files in a folder; what vanishes meanwhile is left out."""
    with contextlib.suppress(OSError):
        for path in folder.iterdir():
            found = path.lstat()
            yield (found.st_dev, found.st_ino), found.st_size


def _fields(entry: Entry) -> dict[str, Any]:
    manifest = entry.manifest
    return {
        "name": entry.path.name,
        "step": entry.step,
        "state": entry.state,
        "bytes": disk_bytes([entry.path]),
        "files": sum(1 for _ in _files(entry.path)),
        "kind": manifest.kind if manifest else None,
        "world_size": manifest.world_size if manifest else None,
        "stage": manifest.stage if manifest else None,
        "age_seconds": _age(entry.path),
        "damage": list(entry.damage),
    }


def _row(entry: Entry) -> list[str]:
    fields = _fields(entry)
    known = [str(fields[name]) if fields[name] is not None else "" for name in ("world_size", "stage")]
    why = f": {entry.damage[0]}" if entry.damage else ""
    more = f" (and {len(entry.damage) - 1} more)" if len(entry.damage) > 1 else ""
    return [
        fields["name"],
        str(entry.step),
        size(fields["bytes"]),
        str(fields["files"]),
        *known,
        _in_words(fields["age_seconds"]),
        fields["kind"] or "",
        f"{entry.state}{why}{more}",
    ]


def _age(folder: Path) -> float | None:
    """Seconds since the last file was put into the folder."""
    try:
        return round(max(0.0, time.time() - folder.lstat().st_mtime), 1)
    except OSError:
        return None


def _in_words(seconds: float | None) -> str:
    if seconds is None:
        return ""
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"
