"""Whole-or-nothing file writing, hashing, and reading with errors that name file and line."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import secrets
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from xtrain.errors import Fenced, Problem, UserError
from xtrain.file_kinds import FIRST, foreign, not_utf8


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn the operating system's refusals while writing below ``path`` into a clear error."""
    try:
        yield
    except (UserError, Fenced):
        raise
    except Exception as error:
        problem = write_problem(path, error)
        if problem is None:
            raise
        raise UserError(problem) from error


_REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.ENOENT, errno.EEXIST, errno.ENAMETOOLONG)


NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)  # of file systems without any


def lock(handle: IO[Any], path: Path) -> bool:
    """Take the lock of an open file for this process, at once; False where another process has it.

    Where the file system has no locks (Lustre mounted ``noflock``, NFS without its lock service) that is said, and
    nobody is kept out.
    """
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        print(f"warning: {path} cannot be locked ({error.strerror}): run one command at a time here", file=sys.stderr)
    return True


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

    Libraries that hide the error number (safetensors, torch.save, numpy: "requested and ... written") are seen through.
    """
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    if "No space left on device" in str(error):
        return True
    try:
        return "writ" in str(error) and shutil.disk_usage(existing(path)).free < 2**20
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


@dataclass(frozen=True)
class Staging:
    """A folder in which files are made before they get their names elsewhere, by a rename within its file system.

    Who takes it away (:func:`take_away`) thereby ends, at one instant, all that is done by way of it, whatever those
    who do it still believe. So it is made once, by whoever hands it out, and by nobody again.
    """

    path: Path

    @property
    def taken(self) -> bool:
        """Whether it was taken away."""
        try:  # not a look at the folder itself: NFS may answer that from what it remembers
            return self.path.name not in os.listdir(self.path.parent)
        except OSError:
            return True

    @contextlib.contextmanager
    def used(self) -> Iterator[None]:
        """Whatever fails inside since the folder was taken away raises :class:`xtrain.errors.Fenced`."""
        try:
            yield
        except Fenced:
            raise
        except Exception as error:
            if self.taken:
                raise Fenced(f"{self.path} was taken away by a newer attempt") from error
            raise


def through(staging: Staging | None) -> contextlib.AbstractContextManager[None]:
    """``staging.used()``, or nothing where there is none."""
    return contextlib.nullcontext() if staging is None else staging.used()


def take_away(folder: Path) -> None:
    """End everything that is done by way of the :class:`Staging` ``folder``; what is in it goes to ``NAME.dropped``.

    To rename it away is not enough: another node's NFS client goes on by the folder's handle, which a rename does not
    change. So it is emptied and removed as well: then no file is left that could be renamed out of it, and none can
    be made. A few renames, whatever the size; several processes may do it at once, and again after one was killed.
    """
    away, dropped = (folder.with_name(f"{folder.name}.{word}") for word in ("away", "dropped"))
    with contextlib.suppress(FileNotFoundError):
        os.rename(folder, away)
    while True:
        try:
            os.rmdir(away)
            return
        except FileNotFoundError:
            return
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
        dropped.mkdir(exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            for name in os.listdir(away):
                there = os.path.lexists(dropped / name)
                os.rename(away / name, dropped / (f"{name}.{secrets.token_hex(4)}" if there else name))


def write_text(path: Path, text: str, staging: Staging | None = None) -> None:
    """Replace ``path`` by ``text``, whole or not at all, synced to disk."""
    write_bytes(path, text.encode("utf-8"), staging)


def write_bytes(path: Path, data: bytes, staging: Staging | None = None) -> None:
    """Replace ``path`` by ``data``, whole or not at all, synced to disk; by way of ``staging`` if there is one.

    Raises :class:`xtrain.errors.Fenced` if that was taken away.
    """
    folder = path.parent if staging is None else staging.path
    temporary = folder / f".{path.name}.{os.getpid()}.tmp"
    with through(staging), writing(path):
        try:
            with open(temporary, "wb") as handle:
                handle.write(data)
                handle.flush()
                os.fsync(handle.fileno())
            os.replace(temporary, path)
        except OSError:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise


def write_json(path: Path, value: Any, staging: Staging | None = None) -> None:
    """Replace ``path`` by ``value`` as indented JSON, whole or not at all; by way of ``staging`` if there is one."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n", staging)


def read_text(path: Path) -> str:
    """The UTF-8 text of ``path`` without a byte order mark; no file, or another kind of it, is a :class:`UserError`."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise UserError(Problem(str(path), "no such file", remedy="check the path")) from None
    except IsADirectoryError:
        raise UserError(Problem(str(path), "is a folder, not a file", remedy="name a file")) from None
    except PermissionError as error:
        raise UserError(Problem(str(path), f"cannot be read: {error.strerror}")) from None
    if problem := foreign(path, data[:FIRST]):
        raise UserError(problem)
    try:
        return data.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(not_utf8(path, line, data, error)) from None


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


def write_token(path: Path, token: str) -> str:
    """Write and sync a small new file that somebody else is to see; returns why it could not be done, or nothing."""
    try:
        with open(path, "x", encoding="ascii") as handle:
            handle.write(token)
            handle.flush()
            os.fsync(handle.fileno())
    except OSError as error:
        return error.strerror or str(error)
    return ""


def sees_token(path: Path, token: str) -> bool:
    """Whether the file of :func:`write_token` is there, with what was written."""
    try:
        return path.read_text("ascii") == token
    except (OSError, UnicodeDecodeError):
        return False
