"""The doctor's trials of a GPU: on a CPU each says what it could not do, and what they would find is judged right."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from toy import PROJECT

from xtrain.cli import main
from xtrain.doctor import gpu
from xtrain.doctor.findings import NOTE, OK, PROBLEM, WARNING
from xtrain.doctor.gpu_trial import NUM_STEPS, _short

WORKER = Path(__file__).with_name("trial_worker.py")


def test_a_machine_without_a_gpu(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Every trial is made or says why not; what can be tried on a processor is."""
    command = [sys.executable, "-m", "xtrain", "doctor", "--gpu", "--json", "--out", str(tmp_path / "out")]
    done = subprocess.run(command, cwd=PROJECT, env={**os.environ, "CUDA_VISIBLE_DEVICES": ""}, timeout=300,
                          capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    sections = {section["title"]: section for section in json.loads(done.stdout)["sections"]}
    said = {one["looked_at"]: one for one in sections["trials on the processor"]["findings"]}
    assert {name: one["level"] for name, one in said.items()} == {
        "flash attention": NOTE, "dropout": OK, "20 steps": NOTE, "fp16": NOTE,
    }  # fmt: skip
    assert said["flash attention"]["found"] == "not tried: there is no GPU here"
    assert "with a save; waits were not counted" in said["20 steps"]["found"]
    assert "fp16" in said["fp16"]["found"]
    (two,) = sections["trials on two GPUs"]["findings"]
    assert two["found"] == "not tried: there is no GPU here"


def test_not_for_a_cluster(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--gpu", "--cluster", "h100", "--out", str(tmp_path)]) == 2
    assert "srun --gpus=1" in capsys.readouterr().err


def test_a_training_that_is_cut_off_goes_on(nursery: Any, tmp_path: Path) -> None:
    """What the trial of fp16 rests on, in bf16: its second training resumes, and its losses are the calm one's."""
    nursery.work(WORKER, 1, tmp_path, tmp_path)
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["resumes"] == 1
    assert len(found["calm"]) == 20
    assert found["calm"][10:] == found["torn"]


GOOD: dict[str, Any] = {
    "flash attention": {"cosine": 0.9991, "gradient": 0.998},
    "dropout": {"again": 0.0, "without_gradients": 0.0, "other_seed": 2.0},
    "20 steps": {"losses": [1.1] * NUM_STEPS, "saves": 2, "waits": {"a.py:1": 3 * NUM_STEPS}},
    "fp16": {"skipped": 21, "resumes": 1, "losses": [1.1], "apart": 0.0},
}


@pytest.mark.parametrize(
    ("name", "change", "level", "words"),
    [
        *((name, {}, OK, "") for name in GOOD),
        ("flash attention", {"gradient": 0.3}, PROBLEM, "0.3000 of a gradient"),
        ("dropout", {"without_gradients": 0.5}, PROBLEM, "0.5 apart"),
        ("dropout", {"other_seed": 0.0}, PROBLEM, "another seed"),
        ("20 steps", {"waits": {"a.py:1": 9 * NUM_STEPS}}, WARNING, "9.0 waits"),
        ("20 steps", {"losses": [1.0]}, PROBLEM, "1 of 20 steps"),
        ("fp16", {"skipped": 0}, PROBLEM, "0 steps skipped"),
        ("fp16", {"apart": 0.4}, PROBLEM, "0.4 from"),
        ("fp16", {"trouble": "RuntimeError: CUDA error"}, PROBLEM, "CUDA error"),
    ],
)
def test_what_is_found(
    monkeypatch: pytest.MonkeyPatch, name: str, change: dict[str, Any], level: str, words: str
) -> None:
    trials = {**GOOD, name: {**GOOD[name], **change}}
    monkeypatch.setattr(gpu, "_run", lambda *_: {"device": "NVIDIA H100", "ranks": 1, "trials": trials})
    one, _ = gpu.try_gpus()
    (finding,) = [found for found in one.findings if found.looked_at == name]
    assert finding.level == level
    assert words in finding.found


def test_two_gpus_and_a_process_that_dies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)

    def run(ranks: int, trials: Any) -> dict[str, Any]:
        return {"trials": GOOD if ranks == 1 else {"two GPUs": {"losses": [1.11] * NUM_STEPS}}}

    monkeypatch.setattr(gpu, "_run", run)
    _, two = gpu.try_gpus()
    assert (two.findings[0].level, two.findings[0].looked_at) == (OK, "two GPUs")
    monkeypatch.setattr(gpu, "_run", lambda *_: {"ended": "rank 0 was killed"})
    one, two = gpu.try_gpus()
    assert {finding.level for finding in (*one.findings, *two.findings)} == {PROBLEM}


def test_places_are_short() -> None:
    assert _short("/a/lib/site-packages/deepspeed/runtime/x.py") == "deepspeed/runtime/x.py"
    assert _short(f"{PROJECT}/xtrain/training/loop.py") == "xtrain/training/loop.py"
