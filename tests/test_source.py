"""The code that a run was made with is named as git names it, and otherwise by its bytes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from xtrain import submit_command
from xtrain.errors import UserError
from xtrain.source import checked_out, snapshot, source_version
from xtrain.starting import PROJECT


def git(folder: Path, *words: str) -> str:
    author = ["-c", "user.name=x", "-c", "user.email=x@example.org"]
    done = subprocess.run(["git", *author, *words], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.mark.skipif(shutil.which("git") is None, reason="there is no git")
def test_the_commit_is_the_one_that_git_names(tmp_path: Path) -> None:
    one = tmp_path / "one"
    one.mkdir()
    git(one, "init", "-q")
    assert checked_out(one / ".git") == "", "nothing is committed yet"
    git(one, "commit", "-q", "--allow-empty", "-m", "x")
    commit = git(one, "rev-parse", "HEAD")
    assert checked_out(one / ".git") == commit
    git(one, "worktree", "add", "-q", "-b", "other", "../two")
    git(tmp_path / "two", "commit", "-q", "--allow-empty", "-m", "y")
    assert checked_out(tmp_path / "two/.git") == git(tmp_path / "two", "rev-parse", "HEAD") != commit
    git(one, "pack-refs", "--all")
    assert checked_out(one / ".git") == commit
    git(one, "checkout", "-q", "--detach")
    assert checked_out(one / ".git") == commit
    assert checked_out(tmp_path / "three/.git") == ""


def test_a_changed_module_is_other_code(tmp_path: Path) -> None:
    for name in ("train.py", "xtrain/source.py"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        shutil.copy(PROJECT / name, path)
    before = source_version(tmp_path)
    assert source_version(tmp_path) == before
    path.write_text(path.read_text("utf-8") + "# changed\n", "utf-8")
    assert source_version(tmp_path) != before
    assert set(before) == {"source"}


def test_a_snapshot_is_the_code_as_it_was(tmp_path: Path) -> None:
    """It runs by itself, knows its commit, and is made anew for a change of any file, a table too."""
    project = tmp_path / "project"
    for name in ("xtrain", "ds_configs", "slurm"):
        shutil.copytree(PROJECT / name, project / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("train.py", "pyproject.toml"):
        shutil.copy(PROJECT / name, project / name)
    (project / ".git").mkdir()
    (project / ".git" / "HEAD").write_text("abc123")
    first = snapshot(tmp_path / "out", project)
    before = source_version(project)
    assert first.parent == tmp_path / "out" / "code"
    assert source_version(first) == before == {"commit": "abc123", "source": before["source"]}
    assert snapshot(tmp_path / "out", project) == first
    table = next((project / "xtrain/tasks/catalog").glob("*.toml"))
    table.write_text(table.read_text("utf-8") + "# changed\n", "utf-8")
    assert snapshot(tmp_path / "out", project) != first
    assert "# changed" not in (first / table.relative_to(project)).read_text("utf-8")
    assert sorted(path.name for path in first.parent.iterdir() if path.name.startswith(".")) == []
    (project / table.relative_to(project)).write_text((first / table.relative_to(project)).read_text("utf-8"), "utf-8")
    (first / "xtrain" / "planted.py").write_text("", "utf-8")
    with pytest.raises(UserError, match="is not what was copied there"):
        snapshot(tmp_path / "out", project)
    (first / "xtrain" / "planted.py").unlink()
    code = "import xtrain.starting as s; print(s.PROJECT)"
    environment = {**os.environ, "PYTHONPATH": f"{first}:{PROJECT}", "PYTHONSAFEPATH": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(first), "what a job's PYTHONPATH begins with"


def test_a_submission_goes_on_from_its_snapshot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Gone(BaseException): ...

    calls = []

    def exec_(program: str, words: list[str]) -> None:
        calls.append((program, words))
        raise Gone

    monkeypatch.setattr(os, "execv", exec_)
    arguments = ["study.toml", "--cluster", "cpu", "--snapshot", "--out", str(tmp_path)]
    with pytest.raises(Gone):
        submit_command.main(arguments)
    ((program, words),) = calls
    (folder,) = (tmp_path / "code").iterdir()
    rest = ["study.toml", "--cluster", "cpu", "--out", str(tmp_path)]
    assert (program, words) == (sys.executable, [sys.executable, str(folder / "slurm/submit.py"), *rest])
