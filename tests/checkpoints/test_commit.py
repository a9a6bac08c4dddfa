"""A commit: no changed byte is overlooked, and no crash leaves half of one under its final name."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from commits import SMALL, change_byte, killed_at, make_commit, manifest_of, write_files

from xtrain.checkpoints import MANIFEST, TRAINER, CheckpointFolder, FileEntry, damage, publish, read_manifest
from xtrain.checkpoints.manifest import decode
from xtrain.errors import UserError


@pytest.fixture
def folder(tmp_path: Path) -> CheckpointFolder:
    return CheckpointFolder(tmp_path / "checkpoints")


def test_200_single_byte_corruptions_are_all_found(folder: CheckpointFolder) -> None:
    commit = make_commit(folder, 120)
    files = sorted(commit.iterdir())
    assert {path.name for path in files} >= {MANIFEST, TRAINER, "exp_avg-00001-of-00002.safetensors"}
    rng = random.Random(0)
    hit = set()
    for _ in range(200):
        path = rng.choice(files)
        restore = change_byte(path, rng)
        found = damage(commit, deep=True)
        assert len(found) == 1, (path.name, found)
        assert found[0].startswith(f"{path.name}: "), (path.name, found)
        hit.add(path.name)
        restore()
    assert hit == {path.name for path in files}
    assert not damage(commit, deep=True, strangers=True)


def test_every_byte_of_a_manifest_counts(folder: CheckpointFolder) -> None:
    data = (make_commit(folder, 3) / MANIFEST).read_bytes()
    rng = random.Random(1)
    for place in range(len(data)):
        changed = data[:place] + bytes([(data[place] + rng.randrange(1, 256)) % 256]) + data[place + 1 :]
        with pytest.raises(ValueError, match=r"."):
            decode(changed)
        with pytest.raises(ValueError, match=r"."):
            decode(data[:place])
    assert decode(data).encode() == data


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace('"stage":2', '"stage":2.0'),
        lambda text: text.replace('"stage":2', '"stage":true'),
        lambda text: text.replace('"stage":2', '"stage":2,"stage":2'),
        lambda text: text.replace('"stage":2', '"stage": 2'),
        lambda text: text.replace('"step":3', '"step":4'),
        lambda text: text.replace('"format":2', '"format":1'),
        lambda text: text.replace(TRAINER, "../" + TRAINER),
        lambda text: text.replace(TRAINER, "sub/" + TRAINER),
        lambda text: text.replace(TRAINER, ".."),
        lambda text: text.replace(TRAINER, MANIFEST),
        lambda text: text + "\n",
        lambda text: "[" * 100_000,
        lambda text: "null",
        lambda text: "{}",
        lambda text: "",
    ],
)
def test_a_manifest_is_read_strictly(folder: CheckpointFolder, change: Callable[[str], str]) -> None:
    commit = make_commit(folder, 3)
    text = (commit / MANIFEST).read_text()
    assert change(text) != text
    (commit / MANIFEST).write_text(change(text))
    with pytest.raises(ValueError, match=r"."):
        read_manifest(commit)
    assert damage(commit, deep=False)[0].startswith(f"{MANIFEST}: ")


def test_names_in_a_manifest_cannot_lead_out_of_the_folder(folder: CheckpointFolder) -> None:
    """Even where the digest is right: such a manifest was not written by us."""
    outside = folder.path / "secret"
    folder.path.mkdir()
    outside.write_text("x")
    for name in ("../secret", "..", ".", "/etc/passwd", "a/b", ".hidden", "", "a\0b", MANIFEST):
        manifest = manifest_of("step-1", {name: FileEntry.of(outside)})
        with pytest.raises(ValueError, match="values that no manifest has"):
            decode(manifest.encode())


def test_a_manifest_belongs_to_its_folder(folder: CheckpointFolder) -> None:
    commit = make_commit(folder, 3)
    commit.rename(folder.path / "step-4")
    assert damage(folder.path / "step-4", deep=True) == [f"{MANIFEST}: is that of step-3"]


def test_what_is_wrong_with_files(folder: CheckpointFolder, tmp_path: Path) -> None:
    commit = make_commit(folder, 3)
    shards = sorted(path for path in commit.iterdir() if path.suffix == ".safetensors")
    shards[0].unlink()
    shards[1].write_bytes(b"")
    shards[2].write_bytes(shards[2].read_bytes()[:-1])
    content = shards[3].read_bytes()
    (tmp_path / "elsewhere").write_bytes(content)
    shards[3].unlink()
    shards[3].symlink_to(tmp_path / "elsewhere")  # the right bytes, but who knows for how long
    shards[4].unlink()
    shards[4].mkdir()
    (commit / "notes.txt").write_text("mine")
    shallow = damage(commit, deep=False)
    assert [line.partition(":")[0] for line in shallow] == [path.name for path in shards[:5]]
    for line, what in zip(
        shallow, ("is missing", "has 0 bytes", "has ", "is not a plain", "is not a plain"), strict=True
    ):
        assert f": {what}" in line
    assert damage(commit, deep=True) == shallow
    assert damage(commit, deep=True, strangers=True) == [*shallow, "notes.txt: is not in the manifest"]


def test_ranks_share_the_hashing(folder: CheckpointFolder) -> None:
    commit = make_commit(folder, 3)
    names = sorted(read_manifest(commit).files)
    change_byte(commit / names[3], random.Random(2))
    assert damage(commit, deep=False) == []
    own = [damage(commit, deep=True, names=names[rank::2]) for rank in range(2)]
    assert own[0] == []
    assert own[1] == [f"{names[3]}: its bytes have changed (SHA-256 is not the manifest's)"]
    counted: list[int] = []
    damage(commit, deep=True, on_bytes=counted.append)
    assert sum(counted) == sum(entry.bytes for entry in read_manifest(commit).files.values())


def test_a_folder_that_is_none_is_damaged(folder: CheckpointFolder) -> None:
    commit = make_commit(folder, 3)
    assert damage(folder.path / "step-9", deep=False)
    commit.rename(folder.path / "moved")
    (folder.path / "step-3").symlink_to(folder.path / "moved")
    assert damage(folder.path / "step-3", deep=True) == ["step-3: is not a folder"]


def test_what_the_ranks_did_not_write_is_no_commit(folder: CheckpointFolder) -> None:
    """The nodes write into folders of the same name that are not the same."""
    temporary = folder.temporary("step-5")
    files = write_files(temporary, 5)
    missing = "weights-00001-of-00002.safetensors"
    (temporary / missing).unlink()
    with pytest.raises(UserError, match=f"{missing}: is missing[^$]*all nodes share"):
        folder.publish(manifest_of("step-5", files))
    assert folder.commits() == []


def test_files_of_an_earlier_try_do_not_get_into_the_commit(folder: CheckpointFolder) -> None:
    files = write_files(folder.temporary("step-5"), 5)
    (folder.temporary("step-5") / "weights-00002-of-00003.safetensors").write_bytes(b"old")
    assert folder.publish(manifest_of("step-5", files))
    assert damage(folder.path / "step-5", deep=True, strangers=True) == []


def test_the_same_step_again(folder: CheckpointFolder) -> None:
    """Trained again after a restart from before: what is whole is kept, what is not makes way."""
    commit = make_commit(folder, 7)
    before = commit.stat().st_ino
    files = write_files(folder.temporary("step-7"), 7)
    assert not folder.publish(manifest_of("step-7", files))
    assert commit.stat().st_ino == before
    assert not folder.temporary("step-7").exists()
    for number, harm in enumerate(
        (lambda: change_byte(commit / TRAINER, random.Random(3)), lambda: shutil.rmtree(commit))
    ):
        harm()
        files = write_files(folder.temporary("step-7"), 7)
        assert folder.publish(manifest_of("step-7", files)), number
        assert damage(commit, deep=True) == []
    assert damage(folder.path / "step-7.broken", deep=False)
    for change in ({"phase": "other"}, {"phase": "other", "kind": "weights"}):
        files = write_files(folder.temporary("step-7"), 7)
        assert folder.publish(manifest_of("step-7", files, **change)), "what is there is something else"
        assert read_manifest(commit) == manifest_of("step-7", files, **change)
    assert len(list(folder.path.glob("step-7*.broken"))) == 3


@pytest.mark.parametrize("there", ["nothing", "whole", "damaged"])
def test_killed_at_every_instant_of_a_commit(tmp_path: Path, there: str) -> None:
    """What has the final name is whole, or is the damaged one that was there; a new try then succeeds."""
    template = CheckpointFolder(tmp_path / "template")
    make_commit(template, 4, **SMALL)
    call, done = 0, False
    while not done:
        call += 1
        folder = CheckpointFolder(tmp_path / f"{there}-{call}")
        shutil.copytree(template.path, folder.path)
        if there != "nothing":
            commit = make_commit(folder, 5, **SMALL)
        if there == "damaged":
            change_byte(commit / TRAINER, random.Random(4))
        manifest = manifest_of("step-5", write_files(folder.temporary("step-5"), 5, **SMALL))
        final, temporary = folder.path / "step-5", folder.temporary("step-5")
        done = not killed_at(call, lambda: publish(temporary, final, manifest))  # noqa: B023 - called at once
        assert damage(folder.path / "step-4", deep=True) == []
        if final.exists() and there != "damaged":
            assert damage(final, deep=True, strangers=True) == []
        if there == "whole":
            assert final.exists()
        folder.clean()
        assert not temporary.exists()
        folder.publish(manifest_of("step-5", write_files(temporary, 5, **SMALL)))
        assert damage(final, deep=True, strangers=True) == []
        assert [commit.step for commit in folder.commits()] == [4, 5]
    assert call > 5, "nothing was interrupted"


def test_the_order_of_syncs(folder: CheckpointFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Manifest, then the folder's names, then the rename, then the parent's names: what a power failure needs."""
    files = write_files(folder.temporary("step-5"), 5)
    calls: list[str] = []
    real_fsync, real_rename = os.fsync, os.rename

    def fsync(handle: int) -> None:
        calls.append("sync " + Path(os.readlink(f"/proc/self/fd/{handle}")).name)
        real_fsync(handle)

    def rename(source: Path, target: Path) -> None:
        calls.append(f"rename {Path(source).name} {Path(target).name}")
        real_rename(source, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "rename", rename)
    folder.publish(manifest_of("step-5", files))
    assert calls[0].startswith(f"sync .{MANIFEST}.")
    assert calls[1:] == ["sync step-5.tmp", "rename step-5.tmp step-5", "sync checkpoints"]


def test_a_manifest_is_json_that_says_what_it_is(folder: CheckpointFolder) -> None:
    value = json.loads((make_commit(folder, 120) / MANIFEST).read_text())
    assert (value["format"], value["name"], value["step"], value["kind"]) == (2, "step-120", 120, "full")
    assert value["files"][TRAINER] == {
        "bytes": (folder.path / "step-120" / TRAINER).stat().st_size,
        "sha256": FileEntry.of(folder.path / "step-120" / TRAINER).sha256,
    }
    assert len(value["digest"]) == 64
