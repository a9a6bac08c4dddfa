"""What a folder's file system still takes from this user: free space, quotas, and names of files."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

from xtrain.files import existing

_ANSWER_SECONDS = 5.0
_NUMBERS = 6  # blocks, quota, limit, grace, files, quota, limit, grace: as quota and lfs quota both have them


@dataclass(frozen=True)
class Space:
    """What may still be written."""

    free: int
    """Bytes."""
    files: int | None
    """Names; None where nobody counts them."""
    by: str
    """What sets the bound: ``the file system of /out``, ``the quota of this user on /out``."""


def space(folder: Path) -> Space | None:
    """What may still be written below ``folder``; None where the file system does not answer."""
    place = existing(folder)
    try:
        found = os.statvfs(place)
    except OSError:
        return None
    names = found.f_favail if found.f_files else None
    bounds = [Space(found.f_bavail * found.f_frsize, names, f"the file system of {place}")]
    quota = _quota(str(place))
    if quota is not None:
        bounds.append(Space(quota[0], quota[1], f"the quota of this user on {place}"))
    smallest = min(bounds, key=lambda bound: bound.free)
    files = min((bound.files for bound in bounds if bound.files is not None), default=None)
    return Space(smallest.free, files, smallest.by)


def same_disk(one: Path, other: Path) -> bool:
    """Whether two folders lie on one file system."""
    return os.stat(existing(one)).st_dev == os.stat(existing(other)).st_dev


def bytes_below(*folders: Path) -> int:
    """What the files below ``folders`` take of the disk, each once, whatever its names."""
    seen: dict[tuple[int, int], int] = {}
    for folder in folders:
        for parent, _, names in os.walk(folder):
            for name in names:
                try:
                    found = os.lstat(os.path.join(parent, name))
                except OSError:  # gone meanwhile
                    continue
                seen[found.st_dev, found.st_ino] = found.st_blocks * 512  # POSIX: always in units of 512
    return sum(seen.values())


def _quota(place: str) -> tuple[int, int | None] | None:
    """Bytes and names that this user's quota leaves below ``place``; None where there is no quota, or nobody to ask.

    Lustre's ``lfs quota`` and the quota tools have the same columns; GPFS has a program of its own. Project quotas are
    in what statvfs says.
    """
    left: list[tuple[int, int | None]] = []
    for command in (["lfs", "quota", "-q", "-u", str(os.getuid()), place], ["quota", "-w", "-p", "-f", place]):
        try:
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_ANSWER_SECONDS
            )
        except (OSError, subprocess.SubprocessError):
            continue
        for line in done.stdout.splitlines():  # quota ends with 1 where one is exceeded: it is said all the same
            words = [word.rstrip("*") for word in line.split()]
            numbers = [int(word) for word in words[1:] if word.isdecimal()]
            if len(words) < 1 + _NUMBERS or not words[1:4] or not all(word.isdecimal() for word in words[1:4]):
                continue
            used, soft, hard = numbers[:3]
            names, names_limit = _names(words[5:])
            limit = hard or soft
            if limit:
                left.append((max(0, limit - used) * 1024, names_limit and max(0, names_limit - names)))
    left += _gpfs_quota(place)
    return min(left, key=lambda one: one[0], default=None)


def _gpfs_quota(place: str) -> list[tuple[int, int | None]]:
    """The same of GPFS (Storage Scale): every quota of this user and of their groups on the device of ``place``."""
    device = _device(place, "gpfs")
    if not device:
        return []
    try:
        done = subprocess.run(
            ["mmlsquota", "-Y", "--block-size", "K", device],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_ANSWER_SECONDS,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return []
    left: list[tuple[int, int | None]] = []
    header: list[str] = []
    for words in (line.split(":") for line in done.stdout.splitlines()):
        if words[2:3] == ["HEADER"]:
            header = words
            continue
        row = {name: int(word) for name, word in zip(header, words, strict=False) if word.isdecimal()}
        limit, names = row.get("blockLimit") or row.get("blockQuota"), row.get("filesLimit") or row.get("filesQuota")
        if limit:
            used = row.get("blockUsage", 0)
            left.append((max(0, limit - used) * 1024, names and max(0, names - row.get("filesUsage", 0))))
    return left


def _device(place: str, kind: str, mounts: str | None = None) -> str:
    """The name of the file system of this kind that ``place`` is on; an empty string if it is of another kind."""
    found, source = mounted(Path(place), mounts)
    return source.removeprefix("/dev/") if found == kind else ""


def mounted(place: Path, mounts: str | None = None) -> tuple[str, str]:
    """The kind of the file system that ``place`` is on (``nfs4``) and what is mounted there; empty where not known.

    ``mounts`` is the text of /proc/self/mountinfo.
    """
    if mounts is None:
        try:
            mounts = Path("/proc/self/mountinfo").read_text("utf-8", errors="replace")
        except OSError:
            return "", ""
    target = place.resolve()
    best, found = -1, ("", "")
    for line in mounts.splitlines():
        before, _, after = line.partition(" - ")
        fields, more = before.split(), after.split()
        if len(fields) < 5 or len(more) < 2:
            continue
        point = Path(fields[4].encode().decode("unicode_escape"))  # a blank in a path is \040
        if target.is_relative_to(point) and len(point.parts) >= best:
            best, found = len(point.parts), (more[0], more[1])  # of two mounts on one point the later is seen
    return found


def _names(words: list[str]) -> tuple[int, int | None]:
    """How many names there are, and may be; None for no limit."""
    if len(words) < 3 or not all(word.isdecimal() for word in words[:3]):
        return 0, None
    return int(words[0]), int(words[2]) or int(words[1]) or None
