"""The folder of checkpoints: what counts, what is set aside, and what retention never deletes."""

from __future__ import annotations

import random
import shutil
import threading
from pathlib import Path

import pytest
from commits import SMALL, change_byte, killed_at, make_best, make_commit, manifest_of, write_files

from xtrain.checkpoints import MANIFEST, TRAINER, CheckpointFolder, damage


@pytest.fixture
def folder(tmp_path: Path) -> CheckpointFolder:
    return CheckpointFolder(tmp_path / "checkpoints")


def names(folder: CheckpointFolder) -> list[str]:
    return sorted(path.name for path in folder.path.iterdir())


def test_only_finished_ones_count(folder: CheckpointFolder) -> None:
    assert folder.entries() == []
    for step in (100, 20, 3):
        make_commit(folder, step)
    make_best(folder, 20)
    write_files(folder.temporary("step-120"), 120)
    (folder.path / "step-7").mkdir()
    (make_commit(folder, 8) / "trainer.json").unlink()
    (folder.path / "step-0009").mkdir()
    (folder.path / "latest").write_text("step-100")
    assert [commit.step for commit in folder.commits()] == [3, 20, 100]
    assert [commit.name for commit in folder.commits("best")] == ["best-step-20"]
    assert [(entry.path.name, entry.state) for entry in folder.entries()] == [
        ("step-3", "finished"),
        ("step-7", "damaged"),
        ("step-8", "damaged"),
        ("best-step-20", "finished"),
        ("step-20", "finished"),
        ("step-100", "finished"),
        ("step-120.tmp", "unfinished"),
    ]
    assert [entry.damage for entry in folder.damaged()] == [(f"{MANIFEST}: is missing",), (f"{TRAINER}: is missing",)]
    assert folder.find("step-20") is not None
    assert folder.find("step-8") is None
    assert folder.find("../checkpoints/step-20") is None


def test_a_note_beside_the_files_loses_no_work(folder: CheckpointFolder) -> None:
    commit = make_commit(folder, 5)
    (commit / "read me.txt").write_text("the good one")
    assert [found.step for found in folder.commits()] == [5]
    assert folder.last_verified() == folder.find("step-5")


def test_set_aside_is_numbered_and_says_why(folder: CheckpointFolder) -> None:
    for reason in ("first", "second", "third"):
        make_commit(folder, 5)
        folder.set_aside("step-5", reason)
    assert names(folder) == ["step-5-2.broken", "step-5-3.broken", "step-5.broken"]
    assert {entry.damage for entry in folder.entries()} == {("first",), ("second",), ("third",)}
    assert {entry.state for entry in folder.entries()} == {"set aside"}
    assert folder.commits() == []
    assert folder.last_verified() is None


def test_retention_by_count(folder: CheckpointFolder) -> None:
    for step in range(1, 7):
        make_commit(folder, step)
        folder.retain(2)
        assert [commit.step for commit in folder.commits()] == [max(1, step - 1), step][-min(step, 2) :]
    assert folder.retain(2, protect={"step-5"}) == []
    make_commit(folder, 7)
    assert folder.retain(1, protect={"step-5"}) == ["step-6"]
    assert folder.retain(0) == ["step-5"], "the last one stays whatever is asked"
    assert names(folder) == ["step-7"]


def test_the_newest_that_verifies_is_never_deleted(folder: CheckpointFolder) -> None:
    for step in (1, 2, 3, 4):
        make_commit(folder, step)
    for step in (3, 4):  # the right size, the wrong bytes
        change_byte(folder.path / f"step-{step}" / "weights-00000-of-00002.safetensors", random.Random(step))
    anew = CheckpointFolder(folder.path)  # of a process that has not written them
    assert anew.retain(1) == ["step-1", "step-3"]
    assert names(folder) == ["step-2", "step-4"]
    change_byte(folder.path / "step-2" / TRAINER, random.Random(5))
    make_commit(CheckpointFolder(folder.path), 1)
    change_byte(folder.path / "step-1" / TRAINER, random.Random(6))
    assert CheckpointFolder(folder.path).retain(1) == [], "where none verifies, nothing goes"


def test_hashing_once_is_enough(folder: CheckpointFolder) -> None:
    """A commit that this process wrote, or that ranks have hashed together, is not read again."""
    for step in (1, 2):
        make_commit(folder, step)
    read = folder.path / "step-2" / "weights-00000-of-00002.safetensors"
    change_byte(read, random.Random(1))  # after it was written and hashed: not looked at
    assert folder.last_verified() == folder.find("step-2")
    anew = CheckpointFolder(folder.path)
    anew.vouch("step-2")
    assert anew.last_verified() == folder.find("step-2")
    commit = folder.find("step-2")
    assert commit is not None
    assert folder.verify(commit)
    assert folder.last_verified() == folder.find("step-1")


def test_best_weights_stay_as_long_as_something_refers_to_them(folder: CheckpointFolder) -> None:
    for best in (10, 20, 30):
        make_best(folder, best)
    make_commit(folder, 15, best=10)
    make_commit(folder, 25, best=20)
    assert folder.retain(2, best_step=30) == []
    assert folder.retain(1, best_step=30) == ["step-15", "best-step-10"]
    make_commit(folder, 35, best=30)
    assert folder.retain(1, best_step=30) == ["step-25", "best-step-20"]
    assert names(folder) == ["best-step-30", "step-35"]


def test_best_weights_stay_where_it_is_not_known_who_needs_them(folder: CheckpointFolder) -> None:
    make_best(folder, 10)
    make_best(folder, 20)
    temporary = folder.temporary("step-25")
    files = write_files(temporary, 25)
    (temporary / TRAINER).write_text("{}")
    folder.publish(manifest_of("step-25", {**files, TRAINER: type(files[TRAINER]).of(temporary / TRAINER)}))
    assert folder.retain(1, best_step=20) == []


@pytest.mark.parametrize("work", ["retain", "clear", "set_aside"])
def test_killed_at_every_instant_of_a_deletion(tmp_path: Path, work: str) -> None:
    template = CheckpointFolder(tmp_path / "template")
    for step in (1, 2, 3):
        make_commit(template, step, **SMALL)
    call, done = 0, False
    while not done:
        call += 1
        folder = CheckpointFolder(tmp_path / f"{work}-{call}")
        shutil.copytree(template.path, folder.path)

        def change(folder: CheckpointFolder = folder) -> None:
            if work == "retain":
                folder.retain(1)
            elif work == "clear":
                folder.clear()
            else:
                folder.set_aside("step-3", "why")

        done = not killed_at(call, change)
        for commit in folder.commits():
            assert damage(commit.path, deep=True, strangers=True) == []
        assert folder.damaged() == []
        if work == "retain":
            assert [commit.step for commit in folder.commits()][-1] == 3
        folder.clean()
        assert not [entry for entry in folder.entries() if entry.state == "unfinished"]
    assert call > 5 or work == "set_aside"


def test_clean_removes_what_did_not_end_and_nothing_else(folder: CheckpointFolder, tmp_path: Path) -> None:
    make_commit(folder, 1)
    write_files(folder.temporary("step-2"), 2)
    write_files(folder.temporary("best-step-2"), 2)
    write_files(folder.path / "step-2-2.tmp", 2)
    folder.temporary("step-3").symlink_to(tmp_path / "mine")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "data").write_text("x")
    (folder.path / "other.tmp").mkdir()
    make_commit(folder, 4)
    folder.set_aside("step-4", "why")
    assert sorted(folder.clean()) == ["best-step-2.tmp", "step-2-2.tmp", "step-2.tmp", "step-3.tmp"]
    assert names(folder) == ["other.tmp", "step-1", "step-4.broken"]
    assert (tmp_path / "mine" / "data").exists()


def test_a_deletion_does_not_stumble_over_a_save(folder: CheckpointFolder) -> None:
    """A stale temporary folder has the name that a deletion would use."""
    for step in (1, 2):
        make_commit(folder, step)
    write_files(folder.temporary("step-1"), 1)
    assert folder.retain(1) == ["step-1"]
    assert names(folder) == ["step-1.tmp", "step-2"]


def test_clear_leaves_nothing_to_resume_from(folder: CheckpointFolder) -> None:
    make_commit(folder, 1)
    make_best(folder, 1)
    make_commit(folder, 2)
    folder.set_aside("step-2", "why")
    folder.clear()
    assert names(folder) == []


def test_listing_beside_saving_and_deleting(folder: CheckpointFolder) -> None:
    """Who looks while training goes on sees whole ones, and never stumbles over what has just gone."""
    make_commit(folder, 1, **SMALL)
    stop, seen, wrong = threading.Event(), set(), []

    def look() -> None:
        own = CheckpointFolder(folder.path)
        while not stop.is_set():
            try:
                seen.update(commit.step for commit in own.commits())
            except Exception as error:
                wrong.append(error)

    thread = threading.Thread(target=look)
    thread.start()
    for step in range(2, 30):
        make_commit(folder, step, **SMALL)
        folder.retain(2)
    stop.set()
    thread.join()
    assert not wrong
    assert len(seen) > 2
