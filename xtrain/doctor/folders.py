"""Folders as a process on some machine sees them: writable, how much is free, on a network file system or not."""

from __future__ import annotations

import errno
import os
import platform
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from xtrain.disk_space import Space, mounted, space
from xtrain.doctor.findings import Finding, gib, ok, problem, warning
from xtrain.files import existing

NETWORK = ("nfs", "lustre", "gpfs", "cifs", "smb", "beegfs", "ceph", "glusterfs", "afs", "orangefs", "pvfs", "panfs")
"""Beginnings of the names of file systems that several machines share."""
CHECKPOINT_BYTES = int(6.7e9)  # of XLM-R Large with its optimizer state, all rows of the embedding trained
ENCODER_BYTES = int(2.2e9)  # of XLM-R Large in float32
LEAST_BYTES = 2**30  # with less than this no phase of a model worth training ends well
_SAMPLE = b"x" * 2**16  # a file system with a few blocks left takes an empty file and no more


@dataclass(frozen=True)
class FolderReport:
    """One folder, on one machine."""

    path: str
    exists: bool
    refused: str = ""
    """Why a file could not be written and read back; empty where it could."""
    full: bool = False
    """It was refused since the disk is full or a quota is used up."""
    free: int = 0
    """Bytes that this user may still write."""
    files_free: int | None = None
    """Files that may still be made; None where the file system does not count them."""
    kind: str = ""
    """The file system: ``ext4``, ``nfs4``, ``tmpfs``."""
    quota: str = ""
    """Whose quota it is that leaves so little, where it is one."""

    @property
    def on_network(self) -> bool:
        """Whether the file system is one that machines share."""
        return self.kind.removeprefix("fuse.").startswith(NETWORK)


def look_at(path: Path, *, create: bool = False) -> FolderReport:
    """Write a small file below ``path`` (or the nearest folder above that exists), read it back, and remove it.

    With ``create`` the folder is made if that is possible, and stays. Never raises for what the system refuses.
    """
    refused, full = "", False
    try:
        if create:
            path.mkdir(parents=True, exist_ok=True)
        _write_and_remove(existing(path))
    except OSError as error:
        refused = error.strerror or str(error)
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    left = space(path) or Space(0, None, "")
    quota = left.by if left.by.startswith("the quota") else ""
    return FolderReport(str(path), path.is_dir(), refused, full, left.free, left.files, file_system(path), quota)


def _write_and_remove(folder: Path) -> None:
    path = folder / f".doctor-{platform.node()}-{os.getpid()}-{secrets.token_hex(4)}"
    try:
        with open(path, "xb") as handle:
            handle.write(_SAMPLE)
            handle.flush()
            os.fsync(handle.fileno())
        if path.read_bytes() != _SAMPLE:
            raise OSError(errno.EIO, "what was read back is not what was written")
    finally:
        path.unlink(missing_ok=True)


def file_system(path: Path, mounts: str | None = None) -> str:
    """The name of the file system that ``path`` is on, or an empty string. ``mounts``: /proc/self/mountinfo's text."""
    return mounted(existing(path), mounts)[0]


def check_folder(
    looked_at: str, report: FolderReport, *, remedy: str, wanted: int = 0, least: int = LEAST_BYTES, where: str = ""
) -> Finding:
    """Whether a folder can be written and has room: ``wanted`` bytes for comfort, ``least`` to work at all.

    ``remedy`` says how to choose another one; ``where`` names the machine if it is not this one.
    """
    place = f"{report.path}{f' on {where}' if where else ''}"
    room = f"{gib(report.free)} free" + (f", {report.kind}" if report.kind else "")
    room += f", by {report.quota}" if report.quota else ""
    if report.full or (not report.refused and report.free < least):
        found = f"{place}: the disk is full ({room})" if report.full else f"{place}: {room}, less than {gib(least)}"
        return problem(looked_at, found, f"free some space there, or {remedy}")
    if report.refused:
        to_do = f"{remedy}; or change its permissions or its mount (ls -ld and findmnt -T show them)"
        return problem(looked_at, f"{place}: cannot be written: {report.refused}", to_do)
    if report.files_free is not None and report.files_free < 1000:
        return problem(looked_at, f"{place}: room for {report.files_free} more files", f"delete files, or {remedy}")
    if report.free < wanted:
        found = f"{place}: {room}; XLM-R Large takes {gib(wanted)}"
        return warning(looked_at, found, f"free some space there, or {remedy}; smaller models take less")
    return ok(looked_at, f"{place}: writable, {room}")


def node_local_caches(environ: Mapping[str, str]) -> dict[str, Path]:
    """Where this process's compilers keep what they build: Triton, Inductor, PyTorch's extensions if told so."""
    user = environ.get("USER") or str(os.getuid())
    inductor = Path(environ.get("TMPDIR") or "/tmp") / f"torchinductor_{user}"
    found = {
        "TRITON_CACHE_DIR": Path(environ.get("TRITON_CACHE_DIR") or Path.home() / ".triton" / "cache"),
        "TORCHINDUCTOR_CACHE_DIR": Path(environ.get("TORCHINDUCTOR_CACHE_DIR") or inductor),
    }
    if environ.get("TORCH_EXTENSIONS_DIR"):
        found["TORCH_EXTENSIONS_DIR"] = Path(environ["TORCH_EXTENSIONS_DIR"])
    return found


def disk_wanted(keep_checkpoints: int) -> int:
    """Bytes that a phase of XLM-R Large takes at most: its checkpoints, the one being written, and its encoder."""
    return CHECKPOINT_BYTES * (keep_checkpoints + 1) + ENCODER_BYTES
