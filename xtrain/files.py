"""Whole-or-nothing file writing, hashing, and reading with errors that name file and line."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from xtrain.errors import Problem, UserError


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn the operating system's refusals while writing below ``path`` into a clear error."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        problem = write_problem(path, error)
        if problem is None:
            raise
        raise UserError(problem) from error


_REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.ENOENT, errno.EEXIST, errno.ENAMETOOLONG)


def write_problem(path: Path, error: BaseException) -> Problem | None:
    """What to tell the user of an error while writing below ``path``; None where it is no refusal of the system's."""
    number = error.errno if isinstance(error, OSError) else None
    if is_disk_full(error, path):
        try:
            free = f"{shutil.disk_usage(existing(path)).free / 2**20:,.1f} MiB free"
        except OSError:
            free = "free space unknown"
        return Problem(
            str(path),
            f"the disk is full ({free} on the file system of {existing(path)})",
            remedy="free some space or choose another folder with --out (or XTRAIN_CACHE), then run the "
            "same command again: finished phases and checkpoints are kept",
        )
    if number in _REFUSED:
        return Problem(
            str(path),
            f"cannot be written: {os.strerror(number)}",
            allowed="a folder in which this user may create files",
            remedy="choose another folder with --out (or XTRAIN_CACHE), or change its permissions",
        )
    return None


def is_disk_full(error: BaseException, path: Path) -> bool:
    """Whether an error while writing below ``path`` came of a full disk or an exhausted quota.

    Libraries that hide the error number (safetensors, torch.save) are seen through.
    """
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    if "No space left on device" in str(error):
        return True
    try:
        return "write" in str(error) and shutil.disk_usage(existing(path)).free < 2**20
    except OSError:
        return False


def existing(path: Path) -> Path:
    """The nearest ancestor of ``path`` that exists (``path`` itself if it does)."""
    path = path.absolute()
    while not path.exists() and path != path.parent:
        path = path.parent
    return path


def make_folder(path: Path) -> Path:
    """Create ``path`` and its parents, with a clear error where that is not possible."""
    with writing(path):
        path.mkdir(parents=True, exist_ok=True)
    return path


def write_text(path: Path, text: str) -> None:
    """Replace ``path`` by ``text``, whole or not at all, synced to disk."""
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: Path, data: bytes) -> None:
    """Replace ``path`` by ``data``, whole or not at all, synced to disk."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with writing(path):
        try:
            with open(temporary, "wb") as handle:
                handle.write(data)
                handle.flush()
                os.fsync(handle.fileno())
            os.replace(temporary, path)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise


def write_json(path: Path, value: Any) -> None:
    """Replace ``path`` by ``value`` as indented JSON, whole or not at all."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_text(path: Path) -> str:
    """The UTF-8 text of ``path``; a missing file or another encoding is a :class:`UserError`."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise UserError(Problem(str(path), "no such file", remedy="check the path")) from None
    except IsADirectoryError:
        raise UserError(Problem(str(path), "is a folder, not a file", remedy="name a file")) from None
    except PermissionError as error:
        raise UserError(Problem(str(path), f"cannot be read: {error.strerror}")) from None
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(
            Problem(
                f"{path}:{line}",
                f"byte 0x{data[error.start]:02x} is not UTF-8",
                allowed="text in UTF-8",
                remedy=f"convert it, for example: iconv -f LATIN1 -t UTF-8 {path.name}",
            )
        ) from None


def read_json(path: Path) -> Any:
    """The JSON value in ``path``; broken JSON is a :class:`UserError` with its line."""
    try:
        return json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise UserError(Problem(f"{path}:{error.lineno}", f"not JSON: {error.msg}")) from None


def sha256(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hex."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def content_hash(value: Any, length: int = 12) -> str:
    """The first ``length`` hex digits of the SHA-256 of ``value`` as canonical JSON."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8")).hexdigest()[:length]
