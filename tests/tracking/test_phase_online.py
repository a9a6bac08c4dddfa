"""A whole phase tracked online: killed, resumed, and the same values under one id at the server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from toy import Toy, read_jsonl
from wandb_servers import KEY, OpenWandb

from xtrain.run_directory import RunDirectory
from xtrain.tracking.read_offline import compare

CHANGES: dict[str, Any] = {
    "intermediate": [{"name": "none"}],
    "target": [{"task": "toy", "languages": ["en", "ru"]}],
    "recipe": {"target": {"max_steps": 20, "batch_size": 8, "max_length": 64, "eval_every": 10}},
    "engine": {"log_every": 1, "checkpoint_every": 8, "tokens_per_micro_batch": 512},
    "tracking": {"mode": "online", "project": "toy"},
}


@pytest.mark.timeout(240)
def test_a_killed_and_resumed_phase_arrives_once(toy: Toy, openwandb: OpenWandb) -> None:
    environment = {"WANDB_BASE_URL": openwandb.url, "WANDB_API_KEY": KEY}
    killed = toy.run_killed("online", 12, environment=environment, **CHANGES)
    result = toy.run("online", environment=environment, **CHANGES)
    assert result.returncode == 0, result.stderr
    run = RunDirectory(killed)
    (identity,) = {(run.wandb / "id").read_text().strip()}
    recorded = {
        (line["step"], name): value
        for line in read_jsonl(run.metrics)
        for name, value in line.items()
        if name not in ("step", "time")
    }
    arrived = openwandb.metrics(identity, repeated=True)
    assert {step for step, _ in arrived} == set(range(1, 21))
    assert {key: arrived[key] for key in recorded if "second" not in key[1]} == pytest.approx(
        {key: value for key, value in recorded.items() if "second" not in key[1]}
    )
    assert any(kind == "model" for _, kind in openwandb.artifacts(identity))
    assert compare(run) == []
    evaluation = RunDirectory(toy.run_directory("online", "evaluate"))
    assert compare(evaluation) == []
    assert len(openwandb.runs()) == 2
    files = [path for path in Path(toy.out("online")).rglob("*") if path.is_file()]
    assert [path for path in files if KEY.encode() in path.read_bytes()] == []
