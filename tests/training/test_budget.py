"""Room for a save: on real small disks, in made-up trees of the kernel's files, and on this machine."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from xtrain.errors import Problem, UserError
from xtrain.files import is_disk_full, writing
from xtrain.training.budget import (
    RankMemory,
    SnapshotBudget,
    available_memory,
    describe_write_failure,
    disk_shortage,
    size_in_words,
    snapshot_budget,
)

GIB = 2**30
Mount = Callable[[str], Path]


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Mount]:
    """Mounts file systems in memory, with the options it is called with."""
    folders: list[Path] = []

    def new(options: str) -> Path:
        folder = tmp_path / f"disk-{len(folders)}"
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
        if os.geteuid() != 0 or subprocess.run(command).returncode:
            pytest.skip("no tmpfs can be mounted here")
        folders.append(folder)
        return folder

    yield new
    for folder in folders:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder: Path, size: int) -> None:
    (folder / "filling").write_bytes(b"x" * size)


@pytest.mark.parametrize(
    ("size", "words"),
    [(0, "0 bytes"), (1023, "1023 bytes"), (1536, "1.5 KiB"), (3.2 * 2**20, "3.2 MiB"), (13.4 * GIB, "13.4 GiB"),
     (5000 * 2**40, "5,000.0 TiB")],
)  # fmt: skip
def test_sizes_in_words(size: float, words: str) -> None:
    assert size_in_words(size) == words


def test_what_fits_on_a_small_disk_and_what_does_not(mount: Mount) -> None:
    disk = mount("size=4m")
    assert disk_shortage(disk / "checkpoints" / "step-1.tmp", 3 * 2**20) is None, "folders need not exist yet"
    text = disk_shortage(disk, 5 * 2**20)
    assert text is not None
    assert text.startswith(f"5.0 MiB do not fit: the file system of {disk} has 4.0 MiB free; ")
    fill(disk, 2 * 2**20)
    assert disk_shortage(disk, 3 * 2**20) is not None
    assert disk_shortage(disk, 2**20) is None
    # one that would fit to the last byte does not: events and metrics are to be written as well
    assert disk_shortage(disk, 2 * 2**20) is not None


def test_what_fits_is_really_written(mount: Mount) -> None:
    """The answer and the file system agree, at the edge of what is said to fit."""
    disk = mount("size=4m")
    needed = next(size for size in range(4 * 2**20, 0, -4096) if disk_shortage(disk, size) is None)
    assert needed > 3.8 * 2**20
    fill(disk, needed)
    (disk / "events.jsonl").write_text("there is still room for this\n")


def test_what_other_ranks_have_written_counts(mount: Mount) -> None:
    disk = mount("size=4m")
    begun = disk / "step-1.tmp"
    begun.mkdir()
    (begun / "weights-00001").write_bytes(b"x" * 2 * 2**20)
    os.link(begun / "weights-00001", begun / "a second name")
    assert disk_shortage(disk, 3 * 2**20) is not None
    assert disk_shortage(disk, 3 * 2**20, started=[begun, disk / "not there yet"]) is None
    assert disk_shortage(disk, 5 * 2**20, started=[begun]) is not None, "a second name takes nothing"


def test_a_disk_without_room_for_more_files(mount: Mount) -> None:
    disk = mount("size=4m,nr_inodes=70")
    assert disk_shortage(disk, 2**20) is None
    for number in range(20):
        (disk / str(number)).touch()
    text = disk_shortage(disk, 2**20)
    assert text is not None
    assert "more files only" in text


def test_why_a_write_failed_on_a_full_disk(mount: Mount) -> None:
    disk = mount("size=1m")
    expected = f"{disk}: the disk is full (0.0 MiB free on the file system of {disk})"
    with pytest.raises(OSError, match="No space left") as plain:
        fill(disk, 2 * 2**20)
    assert is_disk_full(plain.value, disk)
    assert describe_write_failure(plain.value, disk) == expected
    # a library that hides the number of the error
    with pytest.raises(Exception, match=r".") as hidden:
        save_file({"w": torch.zeros(2**19)}, disk / "model.safetensors")
    assert not isinstance(hidden.value, OSError)
    assert is_disk_full(hidden.value, disk)
    assert describe_write_failure(hidden.value, disk) == expected
    with pytest.raises(UserError) as told, writing(disk / "trainer.json"):
        (disk / "trainer.json").write_bytes(b"x" * 4096)
    assert describe_write_failure(told.value, disk).startswith(f"{disk}/trainer.json: the disk is full")


def test_why_a_write_failed_on_a_disk_that_turned_read_only(mount: Mount) -> None:
    disk = mount("size=1m")
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    with pytest.raises(OSError, match="Read-only") as caught:
        fill(disk, 10)
    assert not is_disk_full(caught.value, disk)
    assert describe_write_failure(caught.value, disk) == f"{disk}: cannot be written: Read-only file system"


def test_other_reasons(tmp_path: Path) -> None:
    assert is_disk_full(OSError(errno.EDQUOT, "Disk quota exceeded"), tmp_path)
    assert not is_disk_full(RuntimeError("a mistake of ours"), tmp_path)
    assert describe_write_failure(RuntimeError("a mistake of ours"), tmp_path) == "RuntimeError: a mistake of ours"
    lost = OSError(errno.EIO, os.strerror(errno.EIO), str(tmp_path / "weights"))
    assert describe_write_failure(lost, tmp_path) == f"{tmp_path}/weights: Input/output error"
    assert describe_write_failure(OSError("5.0 GiB do not fit: written so far"), tmp_path) == (
        "5.0 GiB do not fit: written so far"
    )
    pyarrow = OSError("[Errno 28] Error writing bytes to file. Detail: [errno 28] No space left on device")
    assert "the disk is full" in describe_write_failure(pyarrow, tmp_path)
    two = UserError(Problem("a", "is wrong"), Problem("b", "too"))
    assert describe_write_failure(two, tmp_path) == "a: is wrong; b: too"


def budget(setting_gib: float | None, *ranks: tuple[str, float, float]) -> SnapshotBudget:
    """Of ranks as (host, GiB needed, GiB available)."""
    return snapshot_budget(setting_gib, [RankMemory(h, int(n * GIB), int(a * GIB)) for h, n, a in ranks])


def test_half_of_what_is_free_by_default() -> None:
    assert budget(None, ("node7", 4, 20), ("node7", 6, 20)).fits
    one = budget(None, ("node7", 6.7, 20.125), ("node7", 6.7, 20.25))
    assert not one.fits
    assert one.why == (
        "copies of the state need 13.4 GiB on node7, and half of the 20.1 GiB that is free there is 10.1 GiB: "
        "training waits for each save; to change that, set engine.snapshot_memory_gib = 13.4, or use more nodes "
        "or a job with more memory"
    )


def test_the_remedy_of_the_message_is_enough() -> None:
    needed = 13.4 + 1e-6
    assert "engine.snapshot_memory_gib = 13.41" in budget(None, ("a", needed, 20)).why
    assert budget(13.41, ("a", needed, 20)).fits


def test_the_setting() -> None:
    assert budget(13.5, ("a", 6.7, 20), ("a", 6.7, 20)).fits
    small = budget(2, ("a", 6.7, 100))
    assert not small.fits
    assert "engine.snapshot_memory_gib allows 2.0 GiB" in small.why
    assert "set engine.snapshot_memory_gib = 6.7" in small.why
    absent = budget(50, ("a", 30, 20))
    assert not absent.fits, "the setting allows memory, it does not make any"
    assert "20.0 GiB is free there (engine.snapshot_memory_gib = 50)" in absent.why
    assert "set engine.snapshot_memory_gib" not in absent.why


def test_nodes_are_counted_apart_and_the_tightest_decides() -> None:
    assert budget(None, ("a", 6, 20), ("b", 6, 20)).fits
    uneven = budget(None, ("a", 6, 20), ("b", 6, 20), ("b", 6, 20))
    assert not uneven.fits
    assert "12.0 GiB on b" in uneven.why
    assert (uneven.needed, uneven.allowed) == (12 * GIB, 10 * GIB)


def test_this_rank() -> None:
    one = RankMemory.of(5)
    assert one.needed == 5
    assert 0 < one.available < 2**50
    assert snapshot_budget(None, [one]).fits


def kernel_files(root: Path, files: dict[str, str]) -> Path:
    """A made-up ``/proc``, with mount points below ``root`` written as ROOT."""
    for name, text in {"proc/meminfo": "MemTotal: 9000 kB\nMemAvailable:    8000 kB\n", **files}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text.replace("ROOT", str(root).replace(" ", "\\040")))
    return root / "proc"


KB = 1024
STAT = "anon 5\ninactive_file {}\ntotal_inactive_file {}\n"
V2 = {
    "proc/self/cgroup": "0::/job_1/step_0/task\n",
    "proc/self/mountinfo": "29 23 0:26 / ROOT/fs/cg rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
    "30 23 8:1 / / rw - ext4 /dev/sda1 rw\n",
    "fs/cg/job_1/step_0/task/memory.max": "max\n",
    "fs/cg/job_1/step_0/task/memory.high": "max\n",
    "fs/cg/job_1/step_0/task/memory.current": f"{100 * KB}\n",
    "fs/cg/job_1/step_0/task/memory.stat": STAT.format(0, 0),
}


def group(name: str, limit: int, usage: int, cached: int, which: str = "memory.max") -> dict[str, str]:
    return {
        f"{name}/{which}": f"{limit * KB}\n",
        f"{name}/memory.current": f"{usage * KB}\n",
        f"{name}/memory.stat": STAT.format(cached * KB, cached * KB),
    }


def test_the_machine_alone(tmp_path: Path) -> None:
    assert available_memory(kernel_files(tmp_path, {})) == 8000 * KB
    assert available_memory(kernel_files(tmp_path, V2)) == 8000 * KB, "no group has a limit"


@pytest.mark.parametrize("folder", ["fs/cg/job_1/step_0/task", "fs/cg/job_1", "fs/cg"])
@pytest.mark.parametrize("which", ["memory.max", "memory.high"])
def test_the_group_and_all_above_it(tmp_path: Path, folder: str, which: str) -> None:
    proc = kernel_files(tmp_path, {**V2, **group(folder, 5000, 3000, 700, which)})
    assert available_memory(proc) == 2700 * KB


def test_the_least_counts_and_is_never_below_nothing(tmp_path: Path) -> None:
    files = {**V2, **group("fs/cg/job_1", 5000, 3000, 0), **group("fs/cg/job_1/step_0", 4000, 2500, 0)}
    assert available_memory(kernel_files(tmp_path / "with space", files)) == 1500 * KB
    files |= group("fs/cg/job_1/step_0", 4000, 4500, 0)
    assert available_memory(kernel_files(tmp_path / "over", files)) == 0


def test_version_1_beside_version_2(tmp_path: Path) -> None:
    unlimited = 9223372036854771712 // KB
    files = {
        "proc/self/cgroup": "5:cpu,cpuacct:/other\n4:memory:/slurm/job\n0::/\n",
        "proc/self/mountinfo": "35 31 0:32 / ROOT/memory rw,relatime - cgroup cgroup rw,memory\n"
        "36 31 0:33 / ROOT/cpu rw,relatime - cgroup cgroup rw,cpu,cpuacct\n"
        "41 31 0:38 / ROOT/unified rw,relatime - cgroup2 cgroup2 rw\n",
        "memory/memory.limit_in_bytes": f"{unlimited * KB}\n",
        "memory/memory.usage_in_bytes": "1000\n",
        "memory/slurm/job/memory.limit_in_bytes": f"{6000 * KB}\n",
        "memory/slurm/job/memory.usage_in_bytes": f"{2000 * KB}\n",
        "memory/slurm/job/memory.stat": f"inactive_file 1\ntotal_inactive_file {500 * KB}\n",
        "cpu/other/memory.limit_in_bytes": "1\n",
    }
    assert available_memory(kernel_files(tmp_path, files)) == 4500 * KB


@pytest.mark.parametrize("path", ["/docker/abc", "/", "/../../elsewhere"])
def test_in_a_container(tmp_path: Path, path: str) -> None:
    """Only the container's own group is mounted, whatever path the process is told of."""
    files = {
        "proc/self/cgroup": f"0::{path}\n",
        "proc/self/mountinfo": "29 23 0:26 /docker/abc ROOT/cg ro - cgroup2 cgroup ro\n",
        **group("cg", 3000, 1000, 100),
    }
    assert available_memory(kernel_files(tmp_path, files)) == 2100 * KB


def test_this_machine() -> None:
    assert 0 < available_memory() <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def test_what_is_to_come_is_not_free() -> None:
    """Adam's moments, made in the first step, are set apart before the rest is halved."""
    fits = snapshot_budget(None, [RankMemory("node1", 30, 100, 40)] * 1)
    tight = snapshot_budget(None, [RankMemory("node1", 15, 100, 25), RankMemory("node1", 16, 100, 20)])
    assert (fits.fits, fits.allowed) == (True, 30)
    assert (tight.fits, tight.allowed, tight.needed) == (False, 27, 31)
