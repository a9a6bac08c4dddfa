"""What a save may take: room on the disk, and host memory for copies of the state; and why one could not be written."""

from __future__ import annotations

import math
import os
import platform
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from xtrain.disk_space import bytes_below
from xtrain.errors import UserError
from xtrain.files import existing, write_problem

_RESERVE = 64 * 2**20  # bytes of a large disk that are left free: events and metrics must still fit
_FILES = 64  # names that a save needs beside its ranks' files, generously
_DEFAULT_SHARE = 0.5  # of the memory that is free at the start: the other half is for activations


def size_in_words(num_bytes: float) -> str:
    """``"13.4 GiB"``, ``"3.2 MiB"``, ``"512 bytes"``: the largest unit of which there is at least one."""
    for unit, name in ((2**40, "TiB"), (2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if num_bytes >= unit:
            return f"{num_bytes / unit:,.1f} {name}"
    return f"{int(num_bytes)} bytes"


def disk_shortage(folder: Path, needed: int, started: Sequence[Path] = ()) -> str | None:
    """What is missing for writing ``needed`` bytes below ``folder``, in words; None where they fit.

    ``needed`` counts the files of all ranks, for they share the folder; what already lies in the folders
    ``started`` is a part of it (another rank may have begun). A small reserve stays free: 64 MiB, or a hundredth of a
    disk so small that this is less. The file system is asked (statvfs), and only for what this user may take; a
    *quota* cannot be asked for in general, so a save can still fail: see :func:`describe_write_failure`.
    """
    place = existing(folder)
    try:
        found = os.statvfs(place)
    except OSError:
        return None  # a file system that does not answer: writing will show
    free = found.f_bavail * found.f_frsize
    reserve = min(_RESERVE, found.f_blocks * found.f_frsize // 100)
    missing = max(0, needed - bytes_below(*started)) + reserve - free
    if missing > 0:
        return (
            f"{size_in_words(needed)} do not fit: the file system of {place} has {size_in_words(free)} free; "
            f"{size_in_words(missing)} are missing, with {size_in_words(reserve)} in reserve"
        )
    if found.f_files and found.f_favail < _FILES:  # no inodes are counted where f_files is 0
        return f"the file system of {place} has room for {found.f_favail} more files only ({_FILES} are needed)"
    return None


def describe_write_failure(error: BaseException, folder: Path) -> str:
    """One line on why writing below ``folder`` failed: a full disk, a refusal of the system's, or the error itself."""
    if isinstance(error, UserError):
        return "; ".join(f"{problem.where}: {problem.what}" for problem in error.problems)
    said = str(error)
    if isinstance(error, OSError) and error.errno is None and said and "No space left" not in said:
        return said  # our own words: a disk that was found too small is not full
    problem = write_problem(folder, error)
    if problem is not None:
        return f"{problem.where}: {problem.what}"
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename or folder}: {error.strerror}"
    return f"{type(error).__name__}: {said}"


@dataclass(frozen=True)
class RankMemory:
    """What a rank tells the others about memory."""

    host: str
    needed: int
    """Bytes of its copy of the state."""
    available: int
    """Bytes that its node can still give, as it sees it; shared by the ranks of the node."""
    to_come: int = 0
    """Bytes that it will take all the same: the optimizer's moments, where they are the host's and not made yet."""

    @classmethod
    def of(cls, needed: int, to_come: int = 0) -> RankMemory:
        """This rank, now; call it once the model exists."""
        return cls(platform.node(), needed, available_memory(), to_come)


@dataclass(frozen=True)
class SnapshotBudget:
    """Whether the state may be copied, so that it is written beside training. The same on every rank."""

    fits: bool
    why: str
    """In words, of the node where it is tightest."""
    needed: int
    """Bytes of the copies on that node."""
    allowed: int
    """Bytes that copies may take there."""


def snapshot_budget(setting_gib: float | None, ranks: Sequence[RankMemory]) -> SnapshotBudget:
    """Whether every node can hold the copies of all its ranks' state.

    ``setting_gib`` is ``engine.snapshot_memory_gib``: what copies may take on a node, though never more than is free;
    None for half of what is free. ``ranks`` are those of all nodes. Where two ranks of a node see different limits,
    the smaller one holds.
    """
    nodes: dict[str, list[RankMemory]] = defaultdict(list)
    for rank in ranks:
        nodes[rank.host].append(rank)
    return min((_node_budget(host, setting_gib, on_it) for host, on_it in nodes.items()), key=_room_left)


def _room_left(budget: SnapshotBudget) -> int:
    return budget.allowed - budget.needed


def _node_budget(host: str, setting_gib: float | None, ranks: Sequence[RankMemory]) -> SnapshotBudget:
    needed, to_come = sum(rank.needed for rank in ranks), sum(rank.to_come for rank in ranks)
    available = max(0, min(rank.available for rank in ranks) - to_come)
    if setting_gib is None:
        allowed = int(available * _DEFAULT_SHARE)
        limit = f"half of the {size_in_words(available)} that is free there is {size_in_words(allowed)}"
    elif setting_gib * 2**30 <= available:
        allowed = int(setting_gib * 2**30)
        limit = f"engine.snapshot_memory_gib allows {size_in_words(allowed)}"
    else:
        allowed = available
        limit = f"{size_in_words(allowed)} is free there (engine.snapshot_memory_gib = {setting_gib:g})"
    head = f"copies of the state need {size_in_words(needed)} on {host}, and {limit}"
    if needed <= allowed:
        return SnapshotBudget(True, f"{head}: saves are written beside training", needed, allowed)
    remedy = "use more nodes or a job with more memory"
    if needed <= available:  # only the limit is in the way
        remedy = f"set engine.snapshot_memory_gib = {math.ceil(needed / 2**30 * 100) / 100:g}, or {remedy}"
    return SnapshotBudget(False, f"{head}: training waits for each save; to change that, {remedy}", needed, allowed)


def available_memory(proc: Path = Path("/proc")) -> int:
    """Bytes of host memory that this process can still take without swapping or being killed.

    The least of what the machine has (MemAvailable of proc(5)) and what each memory cgroup around the process leaves
    (versions 1 and 2; SLURM and containers set them): its limit less its usage, with the page cache that the kernel
    would let go first (inactive_file) counted as free, as kubelet does.
    """
    return max(0, min([_machine_memory(proc), *_cgroup_memory(proc)]))


def _machine_memory(proc: Path) -> int:
    text = _read(proc / "meminfo")
    for line in text.splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")  # not Linux: what is built in


def _cgroup_memory(proc: Path) -> Iterator[int]:
    """What each memory cgroup that this process is in, and each above it, has left."""
    memberships: dict[str, str] = {}  # "" (version 2) or "memory" (version 1) -> the process's group
    for line in _read(proc / "self/cgroup").splitlines():
        _, controllers, group = line.split(":", 2)
        if controllers == "" or "memory" in controllers.split(","):
            memberships["memory" if controllers else ""] = group
    for line in _read(proc / "self/mountinfo").splitlines():
        # proc(5): number, parent, device, root, mount point, options, tags..., "-", type, source, options
        left, _, right = line.partition(" - ")
        kind, _, options = right.split(" ", 2)
        version_2 = kind == "cgroup2"
        if not (version_2 or (kind == "cgroup" and "memory" in options.split(","))):
            continue
        root, mount = (name.replace("\\040", " ") for name in left.split(" ")[3:5])
        membership = "" if version_2 else "memory"
        if membership in memberships:
            yield from _chain(Path(mount), root, memberships[membership], version_2)


def _chain(mount: Path, root: str, group: str, version_2: bool) -> Iterator[int]:
    """The room of ``group`` and of all above it that can be seen below ``mount``, whose top is the group ``root``."""
    path = Path(group)
    # in a container the path may be the host's: then the top of the mount is the group
    inside = path.relative_to(root) if path.is_relative_to(root) and ".." not in path.parts else Path()
    for level in (inside, *inside.parents):
        yield from _group_room(mount / level, version_2)


def _group_room(folder: Path, version_2: bool) -> Iterator[int]:
    # memory.high: beyond it the kernel slows a group down until it is of no use
    limits = ("memory.max", "memory.high") if version_2 else ("memory.limit_in_bytes",)
    usage = _read(folder / ("memory.current" if version_2 else "memory.usage_in_bytes")).strip()
    cached = "inactive_file" if version_2 else "total_inactive_file"
    for name in limits:
        limit = _read(folder / name).strip()
        if limit.isdigit() and usage.isdigit():  # "max" is no limit; the top group has no such file
            stat = dict(line.split(" ", 1) for line in _read(folder / "memory.stat").splitlines())
            yield int(limit) - int(usage) + int(stat.get(cached, 0))


def _read(path: Path) -> str:
    """The text of one of the kernel's files, empty where there is none."""
    try:
        return path.read_text("utf-8", errors="replace")
    except OSError:
        return ""
