"""The cache folder, and folders in it that are made once, whole or not at all, by one process."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from xtrain.errors import UserError
from xtrain.files import NO_LOCKS, make_folder, read_json, write_json, writing
from xtrain.starter.packages import Say, say

MANIFEST = "starter.json"


def cache_folder() -> Path:
    """Where things made once are kept; it need not exist yet.

    ``XTRAIN_CACHE``, else ``XDG_CACHE_HOME/xtrain``, else ``~/.cache/xtrain``.
    """
    own = os.environ.get("XTRAIN_CACHE")
    if own:
        return Path(own).expanduser().absolute()
    xdg = os.environ.get("XDG_CACHE_HOME")
    return (Path(xdg).expanduser() if xdg else Path.home() / ".cache") / "xtrain"


def made_once(
    folder: Path, version: int, make: Callable[[Path, Path], dict[str, Any]], say: Say = say, manifest: str = MANIFEST
) -> Path:
    """``folder``, made by ``make`` unless it is there and whole.

    ``make(work, out)`` fills the empty folder ``out``, may use the empty folder ``work`` for what is
    thrown away, and returns what the file ``manifest`` shall say besides the files. Whole means: it has
    this ``version`` and every file it lists has its size; nothing is hashed, so that looking costs
    nothing. Of several processes one makes the folder while the others wait; an interrupted one leaves
    nothing behind that counts. Raises :class:`UserError` where the cache cannot be written.
    """
    if is_whole(folder, version, manifest):
        return folder
    make_folder(folder.parent)
    with _locked(folder, say) as alone:
        if is_whole(folder, version, manifest):  # another process made it while we waited
            return folder
        if alone:
            for left in folder.parent.glob(f".{folder.name}.*.tmp"):
                shutil.rmtree(left, ignore_errors=True)
        with writing(folder):
            temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".tmp", dir=folder.parent))
            try:
                out, work = temporary / "out", temporary / "work"
                out.mkdir()
                work.mkdir()
                facts = make(work, out)
                write_json(out / manifest, {"version": version, **facts, "files": _files(out)})
                _replace(out, folder, temporary / "old", version, manifest)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
    return folder


def is_whole(folder: Path, version: int, manifest: str = MANIFEST) -> bool:
    """Whether ``folder`` has a ``manifest`` of this ``version`` and every file in it with its size."""
    try:
        found = read_json(folder / manifest)
        return bool(found["version"] == version) and all(
            (folder / name).stat().st_size == size for name, size in found["files"].items()
        )
    except (UserError, OSError, KeyError, TypeError, AttributeError):
        return False


def _files(folder: Path) -> dict[str, int]:
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.stat().st_size for path in found}


def _replace(new: Path, folder: Path, old: Path, version: int, manifest: str) -> None:
    """Rename ``new`` to ``folder``; what is broken or of another version there goes to ``old``."""
    if is_whole(folder, version, manifest):
        return  # only without locks: another process was quicker, and its folder may be in use
    with contextlib.suppress(FileNotFoundError):
        folder.rename(old)
    try:
        new.rename(folder)
    except OSError:
        if not is_whole(folder, version, manifest):  # quicker still; a rename never mixes two folders
            raise


@contextlib.contextmanager
def _locked(folder: Path, say: Say) -> Iterator[bool]:
    """Wait until no other process makes ``folder``; yields whether that is certain."""
    path = folder.with_name(f"{folder.name}.lock")
    with writing(path):
        handle = open(path, "w")  # noqa: SIM115  (closed, and with it unlocked, below)
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"waiting for another process that is making {folder}")
            fcntl.flock(handle, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            yield False
            return
        yield True
