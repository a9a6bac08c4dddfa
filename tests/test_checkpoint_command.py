"""`python -m xtrain checkpoint ls | verify | export | prune`: what it shows, finds, refuses and never deletes."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from commits import change_byte, make_best, make_commit, write_files
from toy import Toy, run_python
from transformers import AutoModel

from xtrain.checkpoints import MANIFEST, TRAINER, CheckpointFolder
from xtrain.cli import main
from xtrain.run_directory import RunDirectory


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    """A run that is under way: nothing of it but its place is needed here."""
    run = RunDirectory(tmp_path / "out" / "target" / "toy-s0-0123456789ab")
    run.path.mkdir(parents=True)
    run.phase_file.write_text("")
    return run


@pytest.fixture
def folder(run: RunDirectory) -> CheckpointFolder:
    """Checkpoints after 10, 20 and 30 steps, the best weights of step 20, one unfinished and one set aside."""
    folder = CheckpointFolder(run.checkpoints)
    make_best(folder, 20)
    for step in (10, 20, 30, 40):
        make_commit(folder, step, best=20 if step >= 20 else -1)
    folder.set_aside("step-40", f"{TRAINER}: is missing")
    write_files(folder.temporary("step-50"), 50)
    return folder


def command(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return run_python(["-m", "xtrain", "checkpoint", *map(str, arguments)], Path.cwd())


def content(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def names(folder: CheckpointFolder) -> list[str]:
    return sorted(path.name for path in folder.path.iterdir())


def test_ls(run: RunDirectory, folder: CheckpointFolder) -> None:
    result = command("ls", run.path)
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    for name, state in {"step-30": "finished", "best-step-20": "finished", "step-50.tmp": "unfinished"}.items():
        assert any(name in line and state in line for line in lines), result.stdout
    assert f"set aside: {TRAINER}: is missing" in result.stdout
    assert "6 folders" in result.stdout
    value = json.loads(command("ls", run.path, "--json").stdout)["runs"][0]
    assert value["run"] == str(run.path)
    row = next(row for row in value["checkpoints"] if row["name"] == "step-30")
    files = list((folder.path / "step-30").iterdir())
    assert row["bytes"] == sum(path.stat().st_size for path in files)
    assert (row["step"], row["state"], row["kind"]) == (30, "finished", "full")
    assert (row["world_size"], row["stage"], row["files"]) == (2, 2, len(files))
    assert row["age_seconds"] >= 0
    assert value["bytes"] == sum(row["bytes"] for row in value["checkpoints"])


def test_ls_of_a_studys_output_folder(
    run: RunDirectory, folder: CheckpointFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = RunDirectory(tmp_path / "out" / "intermediate" / "mnli-s0-ba9876543210")
    other.path.mkdir(parents=True)
    other.phase_file.write_text("")
    assert main(["checkpoint", "ls", str(tmp_path / "out")]) == 0
    assert run.path.name in capsys.readouterr().out
    make_commit(CheckpointFolder(other.checkpoints), 5)
    assert main(["checkpoint", "ls", str(tmp_path / "out")]) == 0
    shown = capsys.readouterr().out
    assert run.path.name in shown
    assert other.path.name in shown
    assert main(["checkpoint", "verify", str(tmp_path / "out")]) == 0
    assert str(other.checkpoints / "step-5") in capsys.readouterr().out


def test_a_file_with_two_names_counts_once(
    run: RunDirectory, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where the file system can, the best weights are a second name of a checkpoint's."""
    folder = CheckpointFolder(run.checkpoints)
    commit, best = make_commit(folder, 20, best=20), make_best(folder, 20)
    both = sum(path.stat().st_size for path in (*commit.iterdir(), *best.iterdir()))
    shared = [path for path in best.iterdir() if path.suffix == ".safetensors"]
    for path in shared:
        (commit / path.name).unlink()
        os.link(path, commit / path.name)
    assert main(["checkpoint", "ls", str(run.path), "--json"]) == 0
    value = json.loads(capsys.readouterr().out)["runs"][0]
    assert value["bytes"] == both - sum(path.stat().st_size for path in shared)


def test_a_finished_run_says_where_its_weights_are(run: RunDirectory, capsys: pytest.CaptureFixture[str]) -> None:
    run.mark_done({})
    for name in ("ls", "verify"):
        assert main(["checkpoint", name, str(run.path)]) == 0
        assert "encoder" in capsys.readouterr().out
    assert main(["checkpoint", "export", str(run.path), "--to", str(run.path / "x")]) == 2
    assert f"its weights are in {run.encoder}" in capsys.readouterr().err


def test_verify_finds_what_changed(run: RunDirectory, folder: CheckpointFolder) -> None:
    before = content(run.path)
    result = command("verify", run.path)
    assert result.returncode == 0, result.stderr
    assert "4 checkpoints" in result.stdout
    assert content(run.path) == before, "verify changed something"
    rng = random.Random(0)
    for name in ("weights-00000-of-00002.safetensors", TRAINER, MANIFEST):
        restore = change_byte(folder.path / "step-20" / name, rng)
        result = command("verify", run.path)
        assert result.returncode == 1, result.stdout
        assert f"  {name}: " in result.stdout
        assert "1 of 4 checkpoints are damaged" in result.stdout
        assert not result.stderr
        restore()


def test_verify_finds_each_of_200_changed_bytes(
    run: RunDirectory, folder: CheckpointFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    """As it is done when: any file of any checkpoint, the manifests included."""
    files = [path for name in ("step-10", "step-30", "best-step-20") for path in sorted((folder.path / name).iterdir())]
    rng = random.Random(7)
    for number in range(200):
        path = rng.choice(files)
        restore = change_byte(path, rng)
        assert main(["checkpoint", "verify", str(run.path), "--json"]) == 1, (number, path)
        value = json.loads(capsys.readouterr().out)
        assert value["num_damaged"] == 1
        found = {row["name"]: row["damage"] for row in value["checkpoints"] if row["damage"]}
        assert list(found) == [path.parent.name]
        assert [line.partition(":")[0] for line in found[path.parent.name]] == [path.name]
        restore()
    assert main(["checkpoint", "verify", str(run.path)]) == 0


def test_verify_names_a_file_that_does_not_belong(
    run: RunDirectory, folder: CheckpointFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder.path / "step-10" / "model.bin").write_bytes(b"?")
    assert main(["checkpoint", "verify", str(run.path)]) == 1
    assert "  model.bin: is not in the manifest" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["ls", "verify", "export", "prune"])
def test_what_is_no_run(tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "empty").mkdir()
    for path, what in {"none": "no such folder", "file": "is not a folder", "empty": "is not a run directory"}.items():
        more = ["--to", str(tmp_path / "to")] if name == "export" else []
        assert main(["checkpoint", name, str(tmp_path / path), *more]) == 2
        error = capsys.readouterr().err
        assert what in error
        assert "OUT/target/NAME-HASH" in error


@pytest.mark.parametrize("name", ["verify", "export"])
def test_a_run_without_checkpoints(run: RunDirectory, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["checkpoint", "ls", str(run.path)]) == 0
    assert "has no checkpoints yet" in capsys.readouterr().out
    more = ["--to", str(run.path / "to")] if name == "export" else []
    assert main(["checkpoint", name, str(run.path), *more]) == 2
    assert "has no checkpoints yet" in capsys.readouterr().err


class Exports:
    """Stands for the export itself, which has tests of its own: takes note of what is to be exported."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from xtrain.phase import exporting

        self.names: list[str] = []
        monkeypatch.setattr(exporting, "export_checkpoint", self)
        self._export = exporting.Export

    def __call__(self, run: RunDirectory, checkpoint: Path, out: Path) -> Any:
        self.names.append(checkpoint.name)
        return self._export(out, 0, 0, 0.0)


def test_export_takes_what_was_asked_for_and_is_whole(
    run: RunDirectory,
    folder: CheckpointFolder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    exports = Exports(monkeypatch)
    export = ["checkpoint", "export", str(run.path), "--to", str(tmp_path / "to")]
    assert [main([*export, *more]) for more in ([], ["--step", "10"], ["--best"])] == [0, 0, 0]
    assert exports.names == ["step-30", "step-10", "best-step-20"]
    change_byte(folder.path / "step-30" / TRAINER, random.Random(1))
    capsys.readouterr()
    assert main(export) == 0
    assert exports.names[-1] == "step-20"
    assert f"step-30 is damaged: {TRAINER}: " in capsys.readouterr().out
    assert main([*export, "--step", "30"]) == 1
    assert "nothing was exported" in capsys.readouterr().out
    change_byte(folder.path / "step-20" / TRAINER, random.Random(1))
    assert main([*export, "--step", "20"]) == 0
    assert exports.names[-1] == "best-step-20", "the same weights"
    assert len(exports.names) == 5


def test_export_refuses(
    run: RunDirectory, folder: CheckpointFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    full = tmp_path / "full"
    full.mkdir()
    (full / "thesis.tex").write_text("x")
    export = ["checkpoint", "export", str(run.path), "--to"]
    cases = {
        (str(full),): "is not empty",
        (str(full / "thesis.tex"),): "is a file",
        (str(tmp_path / "to"), "--step", "11"): "allowed: best-step-20, step-10, step-20, step-30",
        (str(tmp_path / "to"), "--step", "10", "--best"): "cannot go together",
    }
    for arguments, what in cases.items():
        assert main([*export, *arguments]) == 2
        assert what in capsys.readouterr().err
    assert not (tmp_path / "to").exists()
    assert main(["checkpoint", "export", str(tmp_path / "out"), "--to", str(tmp_path / "to")]) == 2
    assert f"allowed: {run.path}" in capsys.readouterr().err


def test_prune(run: RunDirectory, folder: CheckpointFolder) -> None:
    before = names(folder)
    result = command("prune", run.path)
    assert result.returncode == 2
    assert "add --yes" in result.stderr
    for name in ("step-10", "step-20", "step-40.broken", "step-50.tmp"):
        assert f"  {name} " in result.stdout, result.stdout
    assert names(folder) == before
    result = command("prune", run.path, "--keep", "2", "--yes", "--json")
    assert result.returncode == 0, result.stderr
    value = json.loads(result.stdout)
    assert sorted(value["deleted"]) == ["step-10", "step-40.broken", "step-50.tmp"]
    assert value["bytes"] > 0
    assert names(folder) == ["best-step-20", "step-20", "step-30"]
    assert command("prune", run.path, "--yes").returncode == 0
    assert names(folder) == ["best-step-20", "step-30"], "step 30 refers to the best weights"
    assert "nothing to delete" in command("prune", run.path).stdout


def test_prune_asks_on_a_terminal(run: RunDirectory, folder: CheckpointFolder) -> None:
    before = names(folder)
    for answer, after in {"n": before, "y": ["best-step-20", "step-30"]}.items():
        ours, theirs = pty.openpty()
        prune = [sys.executable, "-m", "xtrain", "checkpoint", "prune", str(run.path)]
        with subprocess.Popen(prune, stdin=theirs, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
            os.write(ours, f"{answer}\n".encode())
            shown = process.communicate(timeout=60)[0].decode()
        os.close(ours)
        os.close(theirs)
        assert process.returncode == 0, shown
        assert "Delete these 4?" in shown
        assert names(folder) == after


def test_prune_keeps_the_newest_that_verifies(
    run: RunDirectory, folder: CheckpointFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    change_byte(folder.path / "step-30" / "exp_avg-00001-of-00002.safetensors", random.Random(1))
    assert main(["checkpoint", "prune", str(run.path), "--yes"]) == 0
    assert "newest that verifies, never deleted: step-20" in capsys.readouterr().out
    assert names(folder) == ["best-step-20", "step-20"]
    change_byte(folder.path / "step-20" / TRAINER, random.Random(1))
    assert main(["checkpoint", "prune", str(run.path), "--yes"]) == 0
    assert names(folder) == ["best-step-20", "step-20"], "where none verifies, nothing goes"
    assert main(["checkpoint", "prune", str(run.path), "--keep", "0"]) == 2


def test_prune_leaves_a_running_phase_alone(
    run: RunDirectory, folder: CheckpointFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    before = names(folder)
    with open(run.path / ".lock", "w", encoding="utf-8") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        assert main(["checkpoint", "prune", str(run.path), "--yes"]) == 2
    assert "another command is running this phase" in capsys.readouterr().err
    assert names(folder) == before
    assert main(["checkpoint", "ls", str(run.path)]) == 0
    assert main(["checkpoint", "prune", str(run.path), "--yes"]) == 0


def test_a_real_run_that_was_killed(toy: Toy) -> None:
    """Verified, exported and opened by Hugging Face, while the run has more steps to do."""
    study = {"intermediate": [{"name": "none"}], "target": [{"task": "toy", "languages": ["en"]}]}
    study["engine"] = {"checkpoint_every": 2, "log_every": 1, "tokens_per_micro_batch": 512}
    run = RunDirectory(toy.run_killed("killed", 9, **study))
    steps = [commit.step for commit in CheckpointFolder(run.checkpoints).commits()]
    assert steps, "nothing was saved"
    assert main(["checkpoint", "verify", str(toy.out("killed"))]) == 0
    for number, choice in enumerate(([], ["--best"], ["--step", str(steps[0])])):
        out = toy.root / f"export-{number}"
        assert main(["checkpoint", "export", str(run.path), "--to", str(out), *choice]) == 0
        _, info = AutoModel.from_pretrained(out, add_pooling_layer=False, output_loading_info=True)
        assert not info["missing_keys"]
    assert main(["checkpoint", "prune", str(run.path), "--yes"]) == 0
    assert [commit.step for commit in CheckpointFolder(run.checkpoints).commits()] == steps[-1:]


def test_it_starts_without_torch(run: RunDirectory, folder: CheckpointFolder) -> None:
    code = (
        "import sys; from xtrain.cli import main; "
        f"assert main(['checkpoint', 'verify', {str(run.path)!r}]) == 0; "
        "assert 'torch' not in sys.modules, 'torch was imported'"
    )
    result = run_python(["-c", code], Path.cwd())
    assert result.returncode == 0, result.stderr
