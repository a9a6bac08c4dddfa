"""Folders made once: whole or not at all, by one process, and again when they are not whole."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from xtrain.errors import UserError
from xtrain.starter import cache as caches
from xtrain.starter.cache import cache_folder, made_once


def silent(line: str) -> None:
    pass


class Maker:
    """Makes a folder with one file and counts how often."""

    def __init__(self) -> None:
        self.times = 0

    def __call__(self, work: Path, out: Path) -> dict[str, Any]:
        self.times += 1
        (work / "thrown away").write_text("x")
        (out / "deep").mkdir()
        (out / "deep" / "file").write_text(f"made {self.times}")
        return {"what": "a test"}


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XTRAIN_CACHE", str(tmp_path / "own"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "own"
    monkeypatch.delenv("XTRAIN_CACHE")
    assert cache_folder() == tmp_path / "xdg" / "xtrain"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "xtrain"


def test_made_once_and_only_the_result_is_kept(tmp_path: Path) -> None:
    make = Maker()
    folder = tmp_path / "a" / "thing"
    assert made_once(folder, 1, make, silent) == folder
    assert made_once(folder, 1, make, silent) == folder
    assert make.times == 1
    assert sorted(path.name for path in folder.parent.iterdir()) == ["thing", "thing.lock"]
    assert sorted(path.name for path in folder.iterdir()) == ["deep", "starter.json"]


@pytest.mark.parametrize("harm", ["truncate", "remove", "manifest", "version"])
def test_what_is_not_whole_is_made_again(tmp_path: Path, harm: str) -> None:
    make = Maker()
    folder = made_once(tmp_path / "thing", 1, make, silent)
    if harm == "truncate":
        (folder / "deep" / "file").write_text("made")
    elif harm == "remove":
        (folder / "deep" / "file").unlink()
    elif harm == "manifest":
        (folder / "starter.json").write_text("[1")
    made_once(folder, 2 if harm == "version" else 1, make, silent)
    assert (folder / "deep" / "file").read_text() == "made 2"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["thing", "thing.lock"]


def test_an_interruption_leaves_nothing_that_counts(tmp_path: Path) -> None:
    def stopped(work: Path, out: Path) -> dict[str, Any]:
        (out / "half").write_text("x")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        made_once(tmp_path / "thing", 1, stopped, silent)
    assert [path.name for path in tmp_path.iterdir()] == ["thing.lock"]
    (tmp_path / ".thing.killed.tmp").mkdir()  # what a killed process leaves
    made_once(tmp_path / "thing", 1, Maker(), silent)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["thing", "thing.lock"]


def test_two_processes_make_it_once(tmp_path: Path) -> None:
    program = f"""
import sys, time
from pathlib import Path
from xtrain.starter.cache import made_once
home = Path({str(tmp_path)!r})
def make(work, out):
    with open(home / "log", "a") as log: log.write("made\\n")
    deadline = time.monotonic() + 20  # until the other one is there as well
    while len(list(home.glob("here-*"))) < 2 and time.monotonic() < deadline: time.sleep(0.02)
    time.sleep(0.2)
    (out / "file").write_text("x")
    return {{}}
(home / ("here-" + sys.argv[1])).touch()
made_once(home / "thing", 1, make)
assert (home / "thing" / "file").read_text() == "x"
"""
    both = [
        subprocess.Popen([sys.executable, "-c", program, name], cwd=os.getcwd(), stderr=subprocess.PIPE)
        for name in ("one", "two")
    ]
    said = [process.communicate()[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert (tmp_path / "log").read_text() == "made\n"
    assert b"waiting for another process" in b"".join(said)


def test_without_locks_the_rename_still_keeps_it_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(*_: Any) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    monkeypatch.setattr(caches, "NO_LOCKS", (37,))
    folder = tmp_path / "thing"
    inner, outer = Maker(), Maker()

    def slower(work: Path, out: Path) -> dict[str, Any]:
        made_once(folder, 1, inner, silent)  # another process is quicker
        (out / "late").write_text("x")
        outer.times += 1
        return {}

    made_once(folder, 1, slower, silent)
    assert (inner.times, outer.times) == (1, 1)
    assert (folder / "deep" / "file").exists()
    assert not (folder / "late").exists()


def test_a_cache_that_cannot_be_written_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="cannot be written") as caught:
        made_once(tmp_path / "file" / "starter" / "thing", 1, Maker(), silent)
    assert "XTRAIN_CACHE" in str(caught.value)


def test_a_full_disk_is_a_clear_error(tmp_path: Path) -> None:
    def full(work: Path, out: Path) -> dict[str, Any]:
        raise OSError(28, "No space left on device")

    with pytest.raises(UserError, match="the disk is full"):
        made_once(tmp_path / "thing", 1, full, silent)
    assert not (tmp_path / "thing").exists()
