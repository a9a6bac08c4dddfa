"""The run directory on several nodes: one folder, two folders of the same path, and one that cannot be written."""

from __future__ import annotations

import json
import os
import platform
import shlex
import subprocess
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from meeting_worker import MOUNTS
from ranks import run_worker

from xtrain.dispatch.rendezvous import Ranks
from xtrain.errors import UserError
from xtrain.phase.shared_folder import check_present, check_shared
from xtrain.run_directory import RunDirectory

WORKER = Path(__file__).with_name("meeting_worker.py")


def ranks_of(rank: int, world_size: int) -> Ranks:
    return Ranks(rank, world_size, 0, 1, "127.0.0.1", 1, "srun")


class Meeting:
    """Gathers over threads: each is a rank."""

    def __init__(self, world_size: int) -> None:
        self._values: list[Any] = [None] * world_size
        self._barrier = threading.Barrier(world_size, timeout=60)

    def gather(self, rank: int, value: Any) -> list[Any]:
        self._values[rank] = value
        self._barrier.wait()
        values = list(self._values)
        self._barrier.wait()
        return values


def check(folders: Sequence[Path], patience_seconds: float = 0.3) -> list[str]:
    """What every rank says, rank r having the run directory ``folders[r]``."""
    meeting = Meeting(len(folders))

    def one(rank: int) -> str:
        try:
            check_shared(
                RunDirectory(folders[rank]),
                ranks_of(rank, len(folders)),
                lambda value: meeting.gather(rank, value),
                patience_seconds,
            )
        except UserError as error:
            return str(error)
        return ""

    with ThreadPoolExecutor(len(folders)) as pool:
        return list(pool.map(one, range(len(folders))))


def without_place(said: Sequence[str]) -> set[str]:
    """The messages from "is not" or "cannot" on: ranks that are threads have different paths."""
    return {text.partition(": ")[2] for text in said}


def test_real_ranks_with_real_mounts(tmp_path: Path) -> None:
    """Rank 1 is in a mount namespace of its own, in which two of the three folders are not what rank 0 has."""
    if os.geteuid() != 0 or subprocess.run(["unshare", "-m", "mount", "-t", "tmpfs", "t", str(tmp_path)]).returncode:
        pytest.skip("no file system can be mounted here")
    folders = [tmp_path / name for name in ("one folder", "hidden", "read-only")]
    for folder in folders:
        folder.mkdir()
    _, hidden, readonly = (shlex.quote(str(folder)) for folder in folders)
    mounts = [
        f"mount -t tmpfs tmpfs {hidden}",
        f"mount --bind {readonly} {readonly}",
        f"mount -o remount,bind,ro {readonly}",
    ]
    run_worker(WORKER, 2, tmp_path, tmp_path, *folders, **{MOUNTS: " && ".join(mounts)})
    said = [json.loads((tmp_path / f"said-{rank}.json").read_text()) for rank in range(2)]
    assert said[0] == said[1], "all ranks raise the same error"
    host = platform.node()
    assert said[0]["one folder"] == ""
    assert (
        f"{folders[1]}: is not the same folder everywhere: {host} (rank 0) and {host} (rank 1) do not see"
        in (said[0]["hidden"])
    )
    assert f"{folders[2]}: cannot be written on {host} (rank 1): Read-only file system" in said[0]["read-only"]
    assert "do not see" not in said[0]["read-only"]
    assert "--out" in said[0]["hidden"]
    assert all(not list(folder.iterdir()) for folder in folders), "nothing is left behind"


def test_all_is_well_without_waiting(tmp_path: Path) -> None:
    assert check([tmp_path] * 4, patience_seconds=3600) == [""] * 4
    assert list(tmp_path.iterdir()) == []


def test_one_rank_needs_no_meeting(tmp_path: Path) -> None:
    check_shared(RunDirectory(tmp_path / "absent"), ranks_of(0, 1), lambda value: pytest.fail("gathered"))


@pytest.mark.parametrize("odd", [(0,), (3,), (2, 3), (1, 2, 3)])
def test_another_folder_on_some_nodes(tmp_path: Path, odd: tuple[int, ...]) -> None:
    folders = [tmp_path / ("other" if rank in odd else "run") for rank in range(4)]
    for folder in folders:
        folder.mkdir(exist_ok=True)
    said = check(folders)
    (text,) = without_place(said)
    host = platform.node()
    groups = [
        [rank for rank in range(4) if (rank in odd) == (0 in odd)],
        [r for r in range(4) if (r in odd) != (0 in odd)],
    ]
    first, second = (f"{host} (rank{'s' if len(group) > 1 else ''} {', '.join(map(str, group))})" for group in groups)
    assert text.startswith(f"is not the same folder everywhere: {first} and {second} do not see each other's files")
    assert list(tmp_path.glob("*/.*")) == []


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    (text,) = without_place(check([tmp_path, tmp_path / "absent"]))
    assert f"cannot be written on {platform.node()} (rank 1): No such file or directory" in text
    (text,) = without_place(check([tmp_path / "absent", tmp_path]))
    assert f"cannot be written on {platform.node()} (rank 0): No such file or directory" in text


def test_a_folder_that_shows_up_late(tmp_path: Path) -> None:
    """What a cache of the network file system does: for a while, rank 1 looks into an old state of the folder."""
    real, old, seen = tmp_path / "real", tmp_path / "old", tmp_path / "seen"
    real.mkdir()
    old.mkdir()
    seen.symlink_to(old)

    def refresh() -> None:
        while not list(old.iterdir()):  # rank 1 has written
            time.sleep(0.01)
        time.sleep(0.3)
        for path in old.iterdir():
            path.rename(real / path.name)
        (tmp_path / "new").symlink_to(real)
        (tmp_path / "new").rename(seen)

    thread = threading.Thread(target=refresh)
    thread.start()
    assert check([real, seen], patience_seconds=60) == ["", ""]
    thread.join()
    assert list(real.iterdir()) == []


def test_files_of_a_start_that_was_killed_are_cleared_away(tmp_path: Path) -> None:
    (tmp_path / ".meeting-0123-1").write_text("0123")
    assert check([tmp_path] * 2) == ["", ""]
    assert list(tmp_path.iterdir()) == []


def test_a_missing_phase_file_names_the_node(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    check_present(run, ranks_of(0, 1))
    with pytest.raises(UserError, match=rf"has no phase.toml on {platform.node()} \(rank 3 of 4\)") as caught:
        check_present(run, ranks_of(3, 4))
    assert "--out" in str(caught.value)
    run.phase_file.write_text("")
    check_present(run, ranks_of(3, 4))
