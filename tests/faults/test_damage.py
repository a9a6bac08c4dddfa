"""Checkpoints that were damaged while nobody looked: the one before is taken, and the run ends as if nothing had been.

All start from copies of one run for each ZeRO stage: killed in its ninth step, with the checkpoints of step 3 and 6 and
the best weights so far, of step 4. Step 3 was saved before any evaluation, and needs no best weights. That each damage
to each file is found needs no ranks; ranks go on after a few, with XTRAIN_ALL_FAULTS=1 after each.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import pickle
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from long import with_long
from planted import Trap
from runs import (
    STEPS,
    Ended,
    Nursery,
    events,
    left_over,
    make_run,
    note_case,
    reached,
    same_weights,
    settings,
    steps_recorded,
)

from xtrain.checkpoints import MANIFEST, TRAINER, WORK, CheckpointFolder, damage, read_manifest
from xtrain.cli import main

OLDER, NEWEST, BEST = "step-3", "step-6", "best-step-4"
FILE = "{}-{:05d}-of-00002.safetensors".format

Stopped = Callable[..., Path]


@pytest.fixture(scope="session")
def stopped_once(
    tmp_path_factory: pytest.TempPathFactory, nursery: Nursery, tiny_model: Path, toy_data: Path
) -> Callable[..., Path]:
    """By ZeRO stage and other settings: a run that was killed with two checkpoints; not to be written into."""
    done: dict[str, Path] = {}

    def of(stage: int, **changes: Any) -> Path:
        key = json.dumps([stage, changes])
        if key not in done:
            root = tmp_path_factory.mktemp("stopped") / "run"
            done[key] = make_run(root, tiny_model, toy_data, settings(stage, **changes))
            ended = nursery.run(done[key], fault={"kind": "kill at step", "step": 8, "who": "all"})
            assert ended.codes == [-9, -9], ended
        run = done[key]
        names = sorted(path.name for path in (run / "checkpoints").iterdir() if not path.name.startswith(WORK))
        assert names == [BEST, OLDER, NEWEST]
        return run

    return of


@pytest.fixture
def stopped(tmp_path: Path, stopped_once: Callable[..., Path]) -> Stopped:
    """A copy of the stopped run of a ZeRO stage, for one test to damage and to go on with."""

    def of(stage: int) -> Path:
        run = stopped_once(stage)
        shutil.copytree(run.parents[1], tmp_path / "out")  # with the prepared data beside it
        return tmp_path / "out" / run.relative_to(run.parents[1])

    return of


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def remove(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def replace_by_zeros(path: Path) -> None:
    """What some file systems leave of a file after a power failure: its size, and nothing in it."""
    path.write_bytes(bytes(path.stat().st_size))


def exchange(path: Path) -> None:
    """The other rank's file of the same kind: sound in itself, and in the wrong place."""
    shutil.copyfile(path.with_name(path.name.replace("-00000-", "-00001-")), path)


def point_elsewhere(path: Path) -> None:
    """The same bytes, through a link that leads out of the folder."""
    outside = path.parents[2] / "outside"
    path.rename(outside)
    path.symlink_to(outside)


def leave_the_folder(path: Path) -> None:
    """A manifest, sound by its digest, that names a file outside of its folder, which is there."""
    value = json.loads(path.read_bytes())
    del value["digest"]
    secret = path.parents[1] / "secret.safetensors"
    secret.write_bytes(b"secret")
    entry = {"bytes": 6, "sha256": hashlib.sha256(b"secret").hexdigest()}
    value["files"]["../secret.safetensors"] = entry
    digest = hashlib.sha256(canonical(value)).hexdigest()
    path.write_bytes(canonical({**value, "digest": digest}))


def canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode() + b"\n"


def went_on(nursery: Nursery, run: Path, case: str, expected: int, other: Path | None, **more: Any) -> Ended:
    """Go on from step ``expected``, and end as ``other``, whom nothing disturbed."""
    last = reached(run)
    again = nursery.run(run, **more)
    assert again.codes == [0, 0], again
    assert again.beginning["step"] == expected, again
    assert [event["step"] for event in events(run, "resume")] == ([expected] if expected else [])
    assert steps_recorded(run) == list(range(1, STEPS + 1))
    assert left_over(run) == []
    assert other is None or same_weights(run, other)
    note_case(case, run, last - expected, again.seconds_to_recover)
    return again


def was_set_aside(ended: Ended, run: Path, name: str, had: Mapping[str, Any], *words: str) -> None:
    """``name`` is kept under another name, with all that was in it, and an event says why."""
    (event,) = [event for event in events(run, "checkpoint_broken") if event["checkpoint"] == name]
    assert event["moved_to"] == f"{name}.broken"
    folders = ended.beginning["folders"]
    assert sorted({*had[name], "set-aside.txt"}) == folders[f"{name}.broken"]
    assert name not in folders
    for word in words:
        assert word in event["reason"], event
        assert word in ended.log(0)


def names_in(run: Path) -> dict[str, list[str]]:
    return {one.name: sorted(os.listdir(one)) for one in (run / "checkpoints").iterdir() if one.is_dir()}


DAMAGE: list[tuple[int, Callable[[Path], None], str]] = [
    (1, truncate, FILE("weights", 1)),
    (3, flip, FILE("exp_avg_sq", 0)),
    (2, leave_the_folder, MANIFEST),
]
MORE = [
    (1, exchange, FILE("weights", 0)),
    (2, point_elsewhere, FILE("weights", 0)),
    *[
        (stage, harm, file)
        for stage in (1, 2, 3)
        for harm in (truncate, flip, empty, remove, replace_by_zeros)
        for file in (FILE("weights", 1), FILE("exp_avg", 0), FILE("exp_avg_sq", 1), MANIFEST, TRAINER)
    ],
]


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_every_damage_to_every_file_is_found(tmp_path: Path, stopped_once: Callable[..., Path], stage: int) -> None:
    """By the folder itself, without ranks: the one before is what a rank would go on from."""
    template = stopped_once(stage) / "checkpoints"
    for number, (_, harm, file) in enumerate([*DAMAGE, *MORE]):
        folder = CheckpointFolder(tmp_path / str(number))
        shutil.copytree(template, folder.path)
        harm(folder.path / NEWEST / file)
        (line,) = damage(folder.path / NEWEST, deep=True)
        assert line.startswith(f"{file}: "), (harm, line)
        last = folder.last_verified()
        assert last is not None
        assert last.name == OLDER, harm


@pytest.mark.parametrize(
    ("stage", "harm", "file"), with_long(DAMAGE, MORE), ids=lambda value: getattr(value, "__name__", str(value))
)
def test_the_newest_is_damaged(
    nursery: Nursery,
    stopped: Stopped,
    undisturbed: Callable[..., Path],
    capsys: pytest.CaptureFixture[str],
    stage: int,
    harm: Callable[[Path], None],
    file: str,
) -> None:
    run = stopped(stage)
    assert main(["checkpoint", "verify", str(run)]) == 0
    harm(run / "checkpoints" / NEWEST / file)
    assert main(["checkpoint", "verify", str(run)]) == 1
    assert file in capsys.readouterr().out
    had = names_in(run)
    ended = went_on(nursery, run, f"{NEWEST}/{file}: {harm.__name__}", 3, undisturbed(stage))
    was_set_aside(ended, run, NEWEST, had, file)
    assert len(events(run, "checkpoint_broken")) == 1


@pytest.mark.parametrize(("stage", "harm"), with_long([(1, flip)], [(3, remove), (2, truncate)]))
def test_the_best_weights_are_damaged(
    nursery: Nursery, stopped: Stopped, undisturbed: Callable[..., Path], stage: int, harm: Callable[[Path], None]
) -> None:
    """The checkpoint that needs them is whole, and left as it is: the one before needs none, and finds them again."""
    run = stopped(stage)
    harm(run / "checkpoints" / BEST / FILE("weights", 1))
    had = names_in(run)
    ended = went_on(nursery, run, f"{BEST}/{FILE('weights', 1)}: {harm.__name__}", 3, undisturbed(stage))
    was_set_aside(ended, run, BEST, had, FILE("weights", 1))
    assert NEWEST in ended.beginning["folders"]
    (passed_over,) = events(run, "passed_over")
    assert (passed_over["checkpoint"], passed_over["missing"]) == (NEWEST, BEST)
    assert not events(run, "best_lost")


def test_all_are_damaged(nursery: Nursery, stopped: Stopped, undisturbed: Callable[..., Path]) -> None:
    """Training begins again from the start, and says so."""
    run = stopped(2)
    flip(run / "checkpoints" / NEWEST / FILE("weights", 0))
    remove(run / "checkpoints" / OLDER / FILE("exp_avg", 1))
    had = names_in(run)
    ended = went_on(nursery, run, "all checkpoints", 0, undisturbed(2))
    was_set_aside(ended, run, NEWEST, had)
    was_set_aside(ended, run, OLDER, had)
    kinds = [event["event"] for event in events(run)]
    assert "begin" in kinds[len(kinds) - kinds[::-1].index("checkpoint_broken") :]
    assert "no checkpoint is left to go on from" in ended.log(0)


def test_a_checkpoint_of_another_phase(
    nursery: Nursery,
    stopped: Stopped,
    stopped_once: Callable[..., Path],
    undisturbed: Callable[..., Path],
) -> None:
    """Whole, and of as many steps, of the same model: nothing but the phase's hash tells that it is not ours."""
    run, other = stopped(2), stopped_once(2, recipe={"learning_rate": 2e-3})
    for name in (NEWEST, BEST):
        remove(run / "checkpoints" / name)
        shutil.copytree(other / "checkpoints" / name, run / "checkpoints" / name)
    had = names_in(run)
    ended = went_on(nursery, run, "a checkpoint of another phase", 3, undisturbed(2))
    was_set_aside(ended, run, NEWEST, had, f"it is of phase {read_manifest(other / 'checkpoints' / NEWEST).phase}")


def test_a_checkpoint_under_another_name(nursery: Nursery, stopped: Stopped, undisturbed: Callable[..., Path]) -> None:
    """An old one, copied or renamed, does not pass for a newer one."""
    run = stopped(1)
    shutil.copytree(run / "checkpoints" / OLDER, run / "checkpoints" / "step-9")
    had = names_in(run)
    ended = went_on(nursery, run, "a checkpoint under another's name", 6, undisturbed(1))
    was_set_aside(ended, run, "step-9", had, OLDER)


def test_a_planted_pickle_is_never_opened(
    tmp_path: Path,
    nursery: Nursery,
    stopped: Stopped,
    undisturbed: Callable[..., Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Under names that DeepSpeed and torch would load; the rank's interpreter reports every file that it opens."""
    run, sprung, opened = stopped(2), tmp_path / "sprung", tmp_path / "opened"
    folder = run / "checkpoints" / NEWEST
    planted = [folder / name for name in ("mp_rank_00_model_states.pt", "pytorch_model.bin", "trainer.pkl")]
    planted += [folder.parent / "latest", run / "checkpoints.pkl", run / "encoder.pt"]
    for path in planted:
        path.write_bytes(pickle.dumps(Trap(sprung)))
    pickle.loads(planted[0].read_bytes())
    sprung.rmdir()  # the trap does work
    assert main(["checkpoint", "verify", str(run)]) == 1
    assert "is not in the manifest" in capsys.readouterr().out
    watch = {"kind": "watch what is opened", "path": str(opened)}
    went_on(nursery, run, "a pickle in a checkpoint's folder", 6, undisturbed(2), fault=watch)
    seen = opened.read_text().splitlines()
    assert any(line.endswith(f"{NEWEST}/{TRAINER}") for line in seen), "the watch sees nothing"
    assert not {str(path) for path in planted} & set(seen)
    assert not sprung.exists()


def test_a_shard_that_is_a_pickle(
    tmp_path: Path, nursery: Nursery, stopped: Stopped, undisturbed: Callable[..., Path]
) -> None:
    """In the place of a shard, with the right size."""
    run, sprung = stopped(3), tmp_path / "sprung"
    path = run / "checkpoints" / NEWEST / FILE("weights", 1)
    data = pickle.dumps(Trap(sprung))
    path.write_bytes(data + bytes(path.stat().st_size - len(data)))
    had = names_in(run)
    ended = went_on(nursery, run, "a pickle in the place of a shard", 3, undisturbed(3))
    was_set_aside(ended, run, NEWEST, had, FILE("weights", 1))
    assert not sprung.exists()


def test_the_best_weights_are_lost(nursery: Nursery, stopped: Stopped) -> None:
    """And no older checkpoint can find them again: training goes on, says so, and selects among what is to come."""
    run = stopped(2)
    remove(run / "checkpoints" / OLDER)
    remove(run / "checkpoints" / BEST)
    ended = went_on(nursery, run, "the best weights, and no older checkpoint", 6, None)
    (lost,) = events(run, "best_lost")
    assert (lost["checkpoint"], lost["missing"]) == (NEWEST, BEST)
    assert BEST in ended.log(0)
    assert not events(run, "checkpoint_broken")  # it is not there to be broken
    done = json.loads((run / "DONE").read_bytes())
    selected = json.loads((run / "encoder" / "xtrain.json").read_bytes())["step"]
    assert done["selected_step"] == selected, "what is reported as selected is not what was exported"
    assert selected > 6


def test_a_manifest_that_is_sound_and_foreign(
    nursery: Nursery, stopped: Stopped, undisturbed: Callable[..., Path]
) -> None:
    """Whoever can write a manifest can write a digest: parameters that the files do not hold are found all the same."""
    run = stopped(2)
    folder = run / "checkpoints" / NEWEST
    manifest = read_manifest(folder)
    shapes = {name: (*shape, 2) for name, shape in manifest.parameters.items()}
    (folder / MANIFEST).write_bytes(dataclasses.replace(manifest, parameters=shapes).encode())
    ended = nursery.run(run)
    assert ended.codes == [2, 2], ended
    assert "has shape" in ended.log(0)
