"""Fetching wheels with the user's pip: the right file, another file, no file, and what is said of each."""

from __future__ import annotations

import subprocess
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from xtrain.errors import UserError
from xtrain.files import sha256
from xtrain.starter import packages
from xtrain.starter.packages import Package

MADE = Package("made-up-pkg", "1.2", 1, "", "MIT", "made-up things")


def test_the_pinned_wheel_is_fetched(tmp_path: Path, only_these_wheels: Path, wheel: Callable[..., Path]) -> None:
    made = wheel(only_these_wheels, MADE.name, MADE.version, {"made_up/data.bin": b"12345"})
    said: list[str] = []
    found = packages.fetch(replace(MADE, sha256=sha256(made)), tmp_path / "into", said.append)
    assert found.read_bytes() == made.read_bytes()
    assert said == ["fetching made-up-pkg 1.2 (1 MB): made-up things"]
    with packages.opened(found) as archive:
        assert packages.read(archive, "made_up/data.bin") == b"12345"
        assert packages.take(archive, "made_up/data.bin", tmp_path / "data").read_bytes() == b"12345"
        with pytest.raises(UserError, match="has no file 'made_up/other'"):
            packages.read(archive, "made_up/other")


def test_another_file_under_that_name_is_refused(
    tmp_path: Path, only_these_wheels: Path, wheel: Callable[..., Path]
) -> None:
    made = wheel(only_these_wheels, MADE.name, MADE.version, {})
    with pytest.raises(UserError, match=f"its SHA-256 is {sha256(made)}") as caught:
        packages.fetch(replace(MADE, sha256="0" * 64), tmp_path, lambda line: None)
    assert "allowed: " + "0" * 64 in str(caught.value)


def test_without_the_wheel_the_user_is_told_what_to_do(tmp_path: Path, only_these_wheels: Path) -> None:
    with pytest.raises(UserError) as caught:
        packages.fetch(MADE, tmp_path, lambda line: None)
    text = str(caught.value)
    assert "made-up things" in text
    assert "needs the package registry once" in text
    assert "pip's last line: ERROR: No matching distribution found for made-up-pkg==1.2" in text
    assert "PIP_INDEX_URL" in text
    assert "PIP_FIND_LINKS" in text


@pytest.mark.parametrize(
    ("output", "said"),
    [
        ("ERROR: Could not install: [Errno 28] No space left on device\n", "the disk is full"),
        ("/usr/bin/python: No module named pip\n", "has no pip"),
        (
            "WARNING: Retrying (Retry(total=4))\nERROR: none\n",
            r"\(after connections that failed\): ERROR: none",
        ),
        ("", "pip's last line: nothing"),
    ],
)
def test_what_pip_says_is_understood(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, output: str, said: str) -> None:
    def no_luck(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(command, 1, stdout=output)

    monkeypatch.setattr(subprocess, "run", no_luck)
    with pytest.raises(UserError, match=said):
        packages.fetch(MADE, tmp_path, lambda line: None)


def test_a_broken_archive_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "broken.whl"
    path.write_bytes(b"PK not really")
    with pytest.raises(UserError, match=r"broken\.whl: is not a wheel"), packages.opened(path):
        pass
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x", "y")
    with packages.opened(path) as archive:
        assert archive.namelist() == ["x"]
