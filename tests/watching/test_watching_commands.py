"""The commands as a user types them, on a machine without SLURM."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from by_hand import every_state

from xtrain.dispatch import slurm
from xtrain.errors import UserError
from xtrain.watching.studies import studies


def xtrain(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PATH": str(folder), "COLUMNS": "120"}  # no squeue, no sacct
    command = [sys.executable, "-m", "xtrain", *arguments]
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=120)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    every_state(tmp_path / "out")
    return tmp_path


def test_status(out: Path) -> None:
    result = xtrain("status", folder=out)
    assert result.returncode == 0, result.stderr
    assert "mnli-s0/xnli" in result.stdout
    assert "31 jobs: 5 done" in result.stdout
    assert "squeue: No such file or directory" in result.stdout
    value = json.loads(xtrain("status", "out", "--json", folder=out).stdout)
    assert {study["study"] for study in value["studies"]} == {"phang"}
    assert set(value["silent"]) == {"squeue", "sacct"}


def test_usage(out: Path) -> None:
    result = xtrain("usage", folder=out)
    assert result.returncode == 0, result.stderr
    assert "13 starts: " in result.stdout
    assert "sacct did not answer: sacct: No such file or directory" in result.stdout
    value = json.loads(xtrain("usage", "out", "--json", folder=out).stdout)
    assert value["totals"]["starts"] == 13
    assert set(value["silent"]) == {"squeue", "sacct"}


def test_why_and_logs(out: Path) -> None:
    result = xtrain("why", "phang/qnli-s0", folder=out)
    assert result.returncode == 0, result.stderr
    assert "label 'maybe'" in result.stdout
    result = xtrain("logs", "phang/qnli-s0", "--lines", "2", folder=out)
    assert result.stdout == "  allowed: yes, no\n  to do:   correct it\n"


def test_mistakes_are_told_without_a_traceback(out: Path) -> None:
    for arguments, message in (
        (("status", "elsewhere"), "there is no such folder"),
        (("usage", "elsewhere"), "elsewhere: there is no such folder\n  allowed: an output folder with"),
        (("usage", "."), "no study was run or submitted into this folder"),
        (("status", "out", "--study", "phong"), "did you mean 'phang'"),
        (("why", "qnli-s1"), "is no phase of phang"),
        (("logs", "phang/qnli-s0", "--rank", "5"), "logs/rank-0.log"),
        (("cancel", "out"), "add --yes"),
    ):
        result = xtrain(*arguments, folder=out)
        assert message in result.stderr
        assert result.returncode == 2
        assert "Traceback" not in result.stderr


def test_each_study_is_asked_of_its_own_cluster(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLURM_CLUSTER_NAME", raising=False)
    (known,) = studies(out / "out")
    for name, cluster in (("phang", "alpha"), ("second", "beta")):
        replace(known, study=name, profile={"scheduler": "slurm", "cluster": cluster}).write(out / "out")
    try:
        for name, cluster in (("phang", "alpha"), ("second", "beta")):
            studies(out / "out", name)
            assert slurm.addressed(["squeue", "-h"]) == ["squeue", f"--clusters={cluster}", "-h"]
        with pytest.raises(UserError, match="its studies are on several clusters: alpha, beta"):
            studies(out / "out")
    finally:
        slurm.ask_of("")


def test_cancel_says_what_it_could_not_do(out: Path) -> None:
    result = xtrain("cancel", "out", "phang/late-s0", "--yes", folder=out)
    assert result.returncode == 1
    assert "134  phang/late-s0" in result.stdout
    assert "not all jobs could be cancelled" in result.stdout


def test_they_start_without_the_libraries_that_take_seconds(out: Path) -> None:
    script = (
        "import sys\nfrom xtrain.cli import main\nmain(['status', 'out'])\nmain(['usage', 'out'])\n"
        "main(['why', 'phang/csqa-s0'])\n"
        "print([name for name in ('torch', 'transformers', 'numpy', 'deepspeed', 'wandb', 'submitit') "
        "if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", script], cwd=out, capture_output=True, text=True, timeout=120)
    assert result.stdout.splitlines()[-1] == "[]", result.stdout[-500:] + result.stderr
