"""A commit: a folder whose manifest vouches for every byte in it, made under another name and renamed when whole."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import stat
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

from xtrain.checkpoints.manifest import MANIFEST, REASON, SET_ASIDE, FileEntry, Manifest, decode, read_manifest
from xtrain.checkpoints.manifest import commit_name as commit_name
from xtrain.errors import Problem, UserError
from xtrain.files import Staging, through, write_bytes, writing

_CHUNK = 4 * 2**20  # bytes hashed at once; hashlib lets other threads run meanwhile


def damage(
    folder: Path,
    *,
    deep: bool,
    names: Collection[str] | None = None,
    strangers: bool = False,
    on_bytes: Callable[[int], None] | None = None,
) -> list[str]:
    """What is wrong with the commit in ``folder``, as lines ``FILE: what``; none if all is well.

    Args:
        folder: The commit; must carry its final name.
        deep: Read every byte and compare hashes; otherwise only names and sizes are compared.
        names: The files to hash, so that ranks can share the work; all by default.
        strangers: Whether a file that the manifest does not name counts. Nobody reads it, so that no work is thrown
            away for it; but something put it there that had no business to.
        on_bytes: Told how many bytes were hashed, as they are (for a progress bar).
    """
    if folder.is_symlink() or not folder.is_dir():
        return [f"{folder.name}: is not a folder"]
    try:
        manifest = read_manifest(folder)
    except ValueError as error:
        return [f"{MANIFEST}: {error}"]
    found = [line for name, entry in sorted(manifest.files.items()) if (line := _shallow_damage(folder, name, entry))]
    if strangers:
        found += [f"{name}: is not in the manifest" for name in _strangers(folder, manifest)]
    if not deep:
        return found
    bad = {line.partition(":")[0] for line in found}
    for name, entry in sorted(manifest.files.items()):
        if name not in bad and (names is None or name in names):
            found += _deep_damage(folder / name, entry, on_bytes)
    return found


def publish(temporary: Path, final: Path, manifest: Manifest, staging: Staging | None = None) -> bool:
    """Make ``temporary``, in which every file is written and synced, the commit ``final``.

    Called by one process, when all others are done. At every instant ``final`` is a whole commit or none: a crash
    before the rename leaves a ``.tmp`` folder, which nobody reads; what a power failure loses after it is the rename
    itself, for all that it names was synced before.

    Where ``final`` exists already (its step was trained again after a restart from an earlier one), it is kept if
    it is whole, of the same phase and kind, and ``temporary`` is dropped; any other is set aside first. Returns
    whether ``temporary`` became the commit.

    ``temporary`` is on the file system of ``final``: in ``staging`` if there is one, else beside it. Raises
    :class:`xtrain.errors.Fenced` if that was taken away, :class:`UserError` if a file of the manifest is not there in
    full (the ranks do not write into the same folder), or the operating system refuses.
    """
    assert temporary.parent == (staging.path if staging else final.parent), f"{temporary} is not the place for it"
    assert final.name == manifest.name, f"{final} is not {manifest.name}"
    decode(manifest.encode())  # what could not be read again must not be written
    with through(staging), writing(final):
        _check_whole(temporary, manifest)
        write_bytes(temporary / MANIFEST, manifest.encode())
        sync_folder(temporary)
        if os.path.lexists(final):
            reason = _why_not(final, manifest)
            if not reason:
                shutil.rmtree(temporary)
                return False
            move_aside(final, reason, staging)
        os.rename(temporary, final)
        sync_folder(final.parent)
    return True


def move_aside(path: Path, reason: str, staging: Staging | None = None) -> Path:
    """Rename ``path`` to ``NAME.broken`` (``NAME-2.broken``, ... where that is taken); returns the new path.

    The reason is written beside its files, if that is possible. By way of ``staging`` if there is one: an attempt
    that was fenced off, and cannot read a disk any more, sets nothing aside that a newer one goes on from.
    """
    with through(staging), writing(path):
        target = free_path(path, SET_ASIDE)
        if staging is None:
            os.rename(path, target)
        else:
            between = free_path(staging.path / path.name, SET_ASIDE)
            os.rename(path, between)
            os.rename(between, target)
        sync_folder(path.parent)
    with contextlib.suppress(OSError):
        (target / REASON).write_text(reason + "\n", "utf-8")
    return target


def free_path(path: Path, ending: str) -> Path:
    """``path`` with ``ending``, numbered if that is taken: ``step-5.broken``, ``step-5-2.broken``, ..."""
    number = 1
    while os.path.lexists(target := path.with_name(f"{path.name}{f'-{number}' if number > 1 else ''}{ending}")):
        number += 1
    return target


def sync_folder(path: Path) -> None:
    """Make the names in the folder ``path`` durable, where its file system can."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network file systems know no such thing
            raise
    finally:
        os.close(handle)


def _shallow_damage(folder: Path, name: str, entry: FileEntry) -> str:
    """What is wrong with a file without reading it, or an empty string."""
    try:
        found = (folder / name).lstat()
    except FileNotFoundError:
        return f"{name}: is missing"
    except OSError as error:
        return f"{name}: cannot be read: {error.strerror}"
    if not stat.S_ISREG(found.st_mode):
        return f"{name}: is not a plain file"
    if found.st_size != entry.bytes:
        return f"{name}: has {found.st_size:,} bytes, and the manifest says {entry.bytes:,}"
    return ""


def _strangers(folder: Path, manifest: Manifest) -> Iterator[str]:
    """Names in the folder that the manifest does not have."""
    yield from sorted(entry.name for entry in os.scandir(folder) if entry.name not in {MANIFEST, *manifest.files})


def _deep_damage(path: Path, entry: FileEntry, on_bytes: Callable[[int], None] | None) -> Iterator[str]:
    """The file's hash against the manifest's; a file that cannot be read is damaged."""
    digest, buffer = hashlib.sha256(), memoryview(bytearray(min(_CHUNK, max(1, entry.bytes))))
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
        try:
            while count := os.readv(handle, [buffer]):
                digest.update(buffer[:count])
                if on_bytes is not None:
                    on_bytes(count)
        finally:
            os.close(handle)
    except OSError as error:
        yield f"{path.name}: cannot be read: {error.strerror}"
        return
    if digest.hexdigest() != entry.sha256:
        yield f"{path.name}: its bytes have changed (SHA-256 is not the manifest's)"


def _why_not(final: Path, manifest: Manifest) -> str:
    """Why the commit that is there already cannot stand for the new one; an empty string if it can."""
    found = damage(final, deep=True)
    if found:
        return "; ".join(found)
    existing = read_manifest(final)
    shapes = {name: tuple(shape) for name, shape in manifest.parameters.items()}
    if (existing.phase, existing.kind, existing.parameters) != (manifest.phase, manifest.kind, shapes):
        return "another phase, another kind or other parameters than what was saved in its place"
    return ""


def _check_whole(temporary: Path, manifest: Manifest) -> None:
    """Raise unless the folder holds the manifest's files in their sizes; what else is in it is dropped."""
    lines = [
        line for name, entry in sorted(manifest.files.items()) if (line := _shallow_damage(temporary, name, entry))
    ]
    for name in _strangers(temporary, manifest):  # left by an earlier try
        with contextlib.suppress(OSError):
            (temporary / name).unlink()
    if lines:
        more = f" (and {len(lines) - 1} more)" if len(lines) > 1 else ""
        raise UserError(
            Problem(
                str(temporary),
                f"does not hold what the ranks have written: {lines[0]}{more}",
                allowed="one folder that every node sees",
                remedy="put --out on a file system that all nodes share",
            )
        )
