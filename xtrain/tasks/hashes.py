"""SHA-256 of files, remembered in this process: a study asks for the same files hundreds of times."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from xtrain.files import sha256


def file_hash(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hex; computed again only if its size or time has changed."""
    status = path.stat()
    return _hash_of_version(path, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=4096)
def _hash_of_version(path: Path, size: int, modified: int) -> str:
    return sha256(path)
