"""Disks that fill up or cannot be written for a while: training goes on, loudly, and loses nothing that is saved.

The run's checkpoints/ (or the whole run) lies on a small file system of its own, which a rank fills up or remounts at a
step, as another job on the machine would. Where no file system may be mounted, there is nothing to test with.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from disk_faults import TROUBLE
from long import with_long
from runs import (
    STEPS,
    Ended,
    Nursery,
    events,
    make_run,
    note_case,
    reached,
    same_weights,
    settings,
    steps_recorded,
)

from xtrain.checkpoints import MANIFEST
from xtrain.cli import main

KIB = 1024
ROOMY = 4096 * KIB  # more than all that a run ever has
SLACK = 4096  # a file takes whole pages
Mount = Callable[[Path, int], Path]


@pytest.fixture
def mount() -> Iterator[Mount]:
    """Mounts a file system of so many bytes, with what is in the folder."""
    mounted: list[Path] = []

    def at(folder: Path, size: int) -> Path:
        aside = folder.with_name(f"{folder.name}-aside")
        folder.mkdir(exist_ok=True)
        shutil.copytree(folder, aside, symlinks=True)
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
        if os.geteuid() != 0 or subprocess.run(command).returncode:
            pytest.skip("no tmpfs can be mounted here")
        mounted.append(folder)
        shutil.copytree(aside, folder, symlinks=True, dirs_exist_ok=True)
        return folder

    yield at
    for folder in mounted:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture
def run_on(tmp_path: Path, tiny_model: Path, toy_data: Path, mount: Mount) -> Callable[..., Path]:
    """A run whose checkpoints are on a small disk."""

    def of(stage: int, size: int = ROOMY, **changes: Any) -> Path:
        run = make_run(tmp_path / "run", tiny_model, toy_data, settings(stage, **changes))
        mount(run / "checkpoints", size)
        return run

    return of


def saved(run: Path) -> list[int]:
    return [event["step"] for event in events(run, "save")]


def failed(run: Path) -> list[int]:
    return [event["step"] for event in events(run, "save_failed")]


def ended_well(ended: Ended, run: Path, other: Path) -> None:
    """Nothing but the trouble's own events tells the run from one that nothing happened to."""
    assert ended.codes == [0, 0], ended
    assert steps_recorded(run) == list(range(1, STEPS + 1))
    assert same_weights(run, other)


def sizes(undisturbed: Path) -> tuple[int, int]:
    """What a full checkpoint takes on such a disk, and the weights of the best step."""
    of = {event["folders"][0]: event["bytes"] for event in events(undisturbed, "save")}
    return of["step-3"] + 8 * SLACK, of["best-step-4"] + 4 * SLACK


def test_room_for_one_checkpoint(
    nursery: Nursery, run_on: Callable[..., Path], undisturbed: Callable[..., Path]
) -> None:
    """The first stays, and whole, as long as there is no other; at the end the weights alone find room."""
    full, weights = sizes(undisturbed(2))
    run = run_on(2, full + 2 * weights + 8 * SLACK)
    killed = nursery.run(run, fault={"kind": "kill at step", "step": 11, "who": "all"})
    assert killed.codes == [-9, -9], killed
    assert saved(run) == [3, 4]
    assert set(failed(run)) == {6, 9}
    assert all("do not fit" in event["reason"] for event in events(run, "save_failed"))
    assert "warning: the save of step 6 failed" in killed.log(0)
    assert main(["checkpoint", "verify", str(run)]) == 0
    last = reached(run)
    ended = nursery.run(run)
    assert ended.beginning["step"] == 3
    ended_well(ended, run, undisturbed(2))
    note_case("disk with room for one checkpoint; SIGKILL of all", run, last - 3, ended.seconds_to_recover)


def test_room_for_two_checkpoints(
    nursery: Nursery, run_on: Callable[..., Path], undisturbed: Callable[..., Path]
) -> None:
    """As many as are kept, and none more while they are exchanged: the older one makes way, also at the end."""
    full, weights = sizes(undisturbed(1))
    run = run_on(1, 2 * full + weights + weights // 2)
    ended = nursery.run(run, fault=trouble(run, "full", -1, None))
    ended_well(ended, run, undisturbed(1))
    assert saved(run) == [3, 4, 6, 9, 12]
    assert failed(run) == [9, 12]
    note_case("disk with room for two checkpoints", run, 0, None)


def trouble(run: Path, what: str, step: int, until: int | None) -> dict[str, Any]:
    folder = str(run / "checkpoints")
    return {"kind": "trouble from step", "folder": folder, "trouble": what, "step": step, "until": until}


WORDS = {"full": "do not fit", "read-only": "Read-only file system"}


@pytest.mark.parametrize(("what", "stage"), with_long([("full", 1)], [("read-only", 3), ("full", 2)]))
def test_trouble_for_a_while(
    nursery: Nursery, run_on: Callable[..., Path], undisturbed: Callable[..., Path], what: str, stage: int
) -> None:
    """The state of step 6 is kept in memory, and saved when it can be, two steps later."""
    run = run_on(stage)
    ended = nursery.run(run, fault=trouble(run, what, 5, 7))
    ended_well(ended, run, undisturbed(stage))
    assert failed(run) == [6, 6]
    assert saved(run) == [3, 4, 6, 9, 12]
    assert all(WORDS[what] in event["reason"] for event in events(run, "save_failed"))
    assert "warning: the save of step 6 failed" in ended.log(0)
    note_case(f"{what} disk for two steps", run, 0, None)


@pytest.mark.parametrize(("what", "stage"), with_long([("full", 2)], [("read-only", 1)]))
def test_what_was_kept_in_memory_is_right(
    nursery: Nursery, run_on: Callable[..., Path], undisturbed: Callable[..., Path], what: str, stage: int
) -> None:
    """A checkpoint that was written two steps late is gone on from."""
    run = run_on(stage)
    kill = {"kind": "kill at step", "step": 9, "who": "all"}
    killed = nursery.run(run, fault={"kind": "several", "faults": [trouble(run, what, 5, 7), kill]})
    assert killed.codes == [-9, -9], killed
    assert saved(run) == [3, 4, 6]
    assert main(["checkpoint", "verify", str(run)]) == 0
    last = reached(run)
    ended = nursery.run(run)
    assert ended.beginning["step"] == 6
    ended_well(ended, run, undisturbed(stage))
    note_case(f"{what} disk for two steps; then SIGKILL of all", run, last - 6, ended.seconds_to_recover)


@pytest.mark.parametrize(("what", "stage"), with_long([("read-only", 2)], [("full", 3)]))
def test_trouble_without_copies(
    nursery: Nursery, run_on: Callable[..., Path], undisturbed: Callable[..., Path], what: str, stage: int
) -> None:
    """The state of step 6 is gone with the next step; the first state that can be saved is that of step 8."""
    run = run_on(stage, background_save=False)
    ended = nursery.run(run, fault=trouble(run, what, 5, 7))
    ended_well(ended, run, undisturbed(stage))
    assert sorted(set(failed(run))) == [6, 7]
    assert saved(run) == [3, 4, 8, 9, 12]
    assert all(WORDS[what] in event["reason"] for event in events(run, "save_failed"))
    note_case(f"{what} disk for two steps, no copies in memory", run, 0, None)


@pytest.mark.parametrize("stage", [1])
def test_the_best_weights_wait(
    nursery: Nursery, run_on: Callable[..., Path], undisturbed: Callable[..., Path], stage: int
) -> None:
    """Those of step 4 cannot be saved before step 7, and nothing else has them: they go first, then a step."""
    run = run_on(stage)
    ended = nursery.run(run, fault=trouble(run, "full", 3, 7))
    ended_well(ended, run, undisturbed(stage))
    assert set(failed(run)) == {4}
    assert saved(run) == [3, 4, 8, 9, 12]
    assert json.loads((run / "DONE").read_bytes())["selected_step"] == 4
    note_case("full disk when the best weights are saved", run, 0, None)


@pytest.mark.parametrize(("what", "stage"), with_long([("read-only", 1)], [("full", 2)]))
def test_trouble_until_the_end(
    nursery: Nursery, run_on: Callable[..., Path], undisturbed: Callable[..., Path], what: str, stage: int
) -> None:
    """All that was trained since is lost, for there is nowhere to put it; what to do is said, and then it goes on."""
    run = run_on(stage)
    stuck = nursery.run(run, fault=trouble(run, what, 5, None))
    assert stuck.codes == [2, 2], stuck
    assert "the trained weights could not be saved" in stuck.log(0)
    assert WORDS[what] in stuck.log(0)
    assert "run the same command again" in stuck.log(0)
    assert "Traceback" not in stuck.log(0) + stuck.log(1)
    assert saved(run) == [3, 4]
    assert main(["checkpoint", "verify", str(run)]) == 0
    last = reached(run)
    assert last == STEPS
    TROUBLE[what][1](run / "checkpoints")
    ended = nursery.run(run)
    assert ended.beginning["step"] == 3
    ended_well(ended, run, undisturbed(stage))
    note_case(f"{what} disk until the end", run, last - 3, ended.seconds_to_recover)


@pytest.mark.parametrize(
    ("stage", "place", "who"),
    with_long([(2, "exp_avg-", 1)], [(1, MANIFEST, 0), (3, "weights-", 0), (1, "exp_avg_sq-", 1)]),
)
def test_full_in_the_middle_of_a_save(
    nursery: Nursery,
    run_on: Callable[..., Path],
    undisturbed: Callable[..., Path],
    stage: int,
    place: str,
    who: int,
) -> None:
    """There was room when it was asked for; somebody else took it. The very first save, so that none is there yet."""
    run = run_on(stage)
    fault = {"kind": "full in save", "folder": str(run / "checkpoints"), "place": place, "who": who, "until": 3}
    ended = nursery.run(run, fault=fault)
    ended_well(ended, run, undisturbed(stage))
    assert saved(run) == [3, 4, 6, 9, 12]
    (event,) = events(run, "save_failed")
    assert event["step"] == 3
    # rank 0 asks for room, and may do so when rank 1 has taken it
    assert "the disk is full" in event["reason"] or (who == 1 and "do not fit" in event["reason"])
    note_case(f"disk that fills up in a save, rank {who}: {place.strip('-')}", run, 0, None)


@pytest.mark.parametrize("logs", with_long(["there as well"], ["elsewhere"]))
def test_the_whole_run_on_a_full_disk(
    tmp_path: Path,
    nursery: Nursery,
    tiny_model: Path,
    toy_data: Path,
    mount: Mount,
    undisturbed: Callable[..., Path],
    logs: str,
) -> None:
    """Lines of metrics and events wait in memory, in order, and are written when there is room again."""
    run = make_run(tmp_path / "run", tiny_model, toy_data, settings(2))
    if logs == "elsewhere":
        (run / "logs").rmdir()
        (tmp_path / "logs").mkdir()
        (run / "logs").symlink_to(tmp_path / "logs")
    mount(run, ROOMY)
    (run / "checkpoints").mkdir()
    ended = nursery.run(run, fault=trouble(run, "full to the last page", 5, 9))
    ended_well(ended, run, undisturbed(2))
    assert set(failed(run)) == {6, 9}
    assert set(saved(run)) >= {3, 4, 12}
    if logs == "elsewhere":
        assert "not written yet" in ended.log(0)
    note_case(f"the whole run on a full disk for four steps, its logs {logs}", run, 0, None)
