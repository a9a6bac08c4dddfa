"""SHA-256 of files, remembered in this process: a study asks for the same files hundreds of times."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from xtrain.errors import Problem, UserError
from xtrain.files import sha256


def file_hash(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hex; computed again only if its size or time has changed.

    Raises :class:`UserError` for a file that may not be read.
    """
    try:
        status = path.stat()
        return _hash_of_version(path, status.st_size, status.st_mtime_ns)
    except OSError as error:
        remedy = "look at its permissions, or at the disk that it is on"
        raise UserError(Problem(str(path), f"cannot be read: {error.strerror}", remedy=remedy)) from error


@lru_cache(maxsize=4096)
def _hash_of_version(path: Path, size: int, modified: int) -> str:
    return sha256(path)
