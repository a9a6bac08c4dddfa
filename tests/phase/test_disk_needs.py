"""What a phase takes of the disk: reckoned, compared with what is known, and refused where it is not there."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from made_up_run import make_run
from transformers import XLMRobertaConfig

from xtrain import disk_space
from xtrain.disk_space import Space, bytes_below, space
from xtrain.errors import UserError
from xtrain.phase import PhaseFile
from xtrain.phase.disk import Model, check_disk, of_phase, of_training, record_bytes
from xtrain.run_directory import RunDirectory
from xtrain.study import Engine

LARGE = XLMRobertaConfig(
    vocab_size=250002, hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096,
    max_position_embeddings=514, type_vocab_size=1,
)  # fmt: skip


def test_xlm_r_large(tmp_path: Path) -> None:
    """559.9 million parameters; a checkpoint of 6.72 GB was measured (docs/checkpoints.md)."""
    LARGE.save_pretrained(tmp_path)
    model = Model.of(tmp_path)
    assert model.parameters() / 1e6 == pytest.approx(559.9, abs=1.2)
    needs = of_training(model, Engine(checkpoint_every=500, keep_checkpoints=2), None, 10_000)
    full, encoder = 12 * model.parameters(), 4 * model.parameters()
    assert full / 1e9 == pytest.approx(6.72, abs=0.02)
    assert needs.checkpoints == full + encoder
    assert needs.least == full + 2 * encoder
    assert needs.peak == 3 * full + 4 * encoder
    assert needs.stays == 2 * encoder + record_bytes(0)
    assert needs.stays - needs.sure == encoder, "the last step may be the selected one"
    short = of_training(model, Engine(checkpoint_every=500), None, 300)
    assert short.least == 2 * encoder, "it never comes to a checkpoint"
    small = of_training(model, Engine(checkpoint_every=500), 30_000, 10_000)
    assert small.least < needs.least


@pytest.fixture
def run(tmp_path: Path, tiny_model: Path) -> RunDirectory:
    """A phase that comes to a checkpoint at step 20 of 50."""
    return make_run(tmp_path, tiny_model, engine=Engine(checkpoint_every=20))


def left(monkeypatch: pytest.MonkeyPatch, free: int, files: int | None = None) -> None:
    monkeypatch.setattr("xtrain.phase.disk.space", lambda folder: Space(free, files, f"the file system of {folder}"))


def test_refused_where_it_cannot_end(run: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    phase = PhaseFile.read(run)
    needs = of_phase(run, phase)
    left(monkeypatch, needs.least - 1)
    with pytest.raises(UserError) as caught:
        check_disk(run, phase)
    text = str(caught.value)
    assert f"{run.path}: phase made-up needs at least" in text
    assert "keep_encoders" in text
    left(monkeypatch, needs.least)
    assert "the disk may get full" in check_disk(run, phase)
    left(monkeypatch, needs.peak)
    assert check_disk(run, phase) == ""
    left(monkeypatch, needs.peak, files=3)
    with pytest.raises(UserError, match="room for 3 more files"):
        check_disk(run, phase)


def test_what_is_there_already_is_not_needed_again(run: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    phase = PhaseFile.read(run)
    needs = of_phase(run, phase)
    (run.checkpoints / "step-20").mkdir(parents=True)
    (run.checkpoints / "step-20" / "weights").write_bytes(bytes(needs.checkpoints))
    run.encoder.mkdir()
    (run.encoder / "model.safetensors").write_bytes(bytes(needs.least - needs.checkpoints))
    left(monkeypatch, 0)
    with pytest.raises(UserError):
        check_disk(make_run(run.path.parents[1] / "other", Path(phase.base_folder)), phase)
    assert "the disk may get full" in check_disk(run, phase)


def test_a_file_with_two_names_counts_once(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(bytes(8192))
    (tmp_path / "b").hardlink_to(tmp_path / "a")
    assert bytes_below(tmp_path) == 8192
    assert bytes_below(tmp_path / "nothing") == 0


@pytest.mark.parametrize(
    ("tool", "answer", "free", "files"),
    [
        ("quota", "Disk quotas for user me (uid 1000):\n  Filesystem blocks quota limit grace files quota limit grace\n"
                  "/dev/sda1 100 400 500 0 7 0 10 0\n", 400 * 1024, 3),
        ("quota", "/dev/sda1 450* 400 0 6days 7 0 0 0\n", 0, None),
        ("quota", "Disk quotas for user me (uid 1000): none\n", None, None),
        ("quota", "/dev/sda1 450 0 0 0 7 0 0 0\n", None, None),
        ("mmlsquota", "mmlsquota::HEADER:v:r:r:filesystemName:quotaType:blockUsage:blockQuota:blockLimit:filesUsage:"
                      "filesQuota:filesLimit:\nmmlsquota::0:1:::fs1:USR:1000:0:1500:12:0:20:\n"
                      "mmlsquota::0:1:::fs1:GRP:1000:0:0:12:0:0:\n", 500 * 1024, 8),
        ("lfs", "/lustre 1000 0 3000 - 12 0 20 -\n", 2000 * 1024, 8),
    ],
)  # fmt: skip
def test_the_quota_of_this_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tool: str, answer: str, free: int | None, files: int | None
) -> None:
    program = tmp_path / "bin" / tool
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\ncat <<'EOF'\n{answer}EOF\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
    monkeypatch.setattr(disk_space, "_device", lambda place, kind: "fs1")
    now = os.statvfs(tmp_path)
    monkeypatch.setattr(os, "statvfs", lambda place: now)  # other tests write meanwhile
    found = space(tmp_path)
    assert found is not None
    if free is None:
        assert "the file system of" in found.by
        assert found.free == shutil.disk_usage(tmp_path).free
    else:
        assert (found.free, found.by) == (free, f"the quota of this user on {tmp_path}")
        assert files is None or found.files == files


def test_the_device_of_a_folder(tmp_path: Path) -> None:
    mounts = (
        "1 0 8:1 / / rw - ext4 /dev/sda1 rw\n"
        f"2 1 0:9 / {tmp_path}/far rw shared:1 - gpfs /dev/fs1 rw\n"
        f"3 1 0:8 / {tmp_path}/nfs rw - nfs4 server:/x rw\n"
    )
    found = [disk_space._device(f"{tmp_path}/{name}", "gpfs", mounts) for name in ("far/out", "nfs", "farther")]
    assert found == ["fs1", "", ""]
