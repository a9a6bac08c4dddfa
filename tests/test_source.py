"""The code that a run was made with is named as git names it, and otherwise by its bytes."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from xtrain.source import checked_out, source_version
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
