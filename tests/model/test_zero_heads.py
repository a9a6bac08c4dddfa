"""Two tasks in turn under DeepSpeed: the head that rests gets zeros, so that all ZeRO stages agree.

The engine runs in a process of its own, which this file is too, since DeepSpeed keeps global state.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from packs import make_batch, make_encoder, make_reference

from xtrain.model import PhaseModel
from xtrain.model.heads import build


def train(stage: int, port: int) -> list[float]:
    """Losses of some steps of classification and multiple choice in turn, in fp32 on one rank."""
    os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"}
    os.environ |= {"MASTER_PORT": str(port), "DS_ACCELERATOR": "cpu"}
    import deepspeed

    torch.set_num_threads(1)
    deepspeed.init_distributed("gloo", verbose=False)
    torch.manual_seed(0)
    heads = {"t": build("classification", 16, 3, 0.1), "u": build("multiple_choice", 16, 0, 0.1)}
    model = PhaseModel(make_encoder(make_reference()), heads)
    config = {
        "train_micro_batch_size_per_gpu": 1,
        "zero_optimization": {"stage": stage, "stage3_param_persistence_threshold": 0},
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
    }
    engine, *_ = deepspeed.initialize(
        model=model, optimizer=torch.optim.AdamW(model.parameters(), lr=1e-2), config=config
    )
    losses = []
    for step in range(6):
        torch.manual_seed(step)
        kinds = ({"labels": [0, 1, 2, 1]}, {"labels": [1, 0], "per_example": [2, 2]})
        loss, _ = engine(make_batch([5, 9, 30, 2], task="tu"[step % 2], seed=step, **kinds[step % 2]))
        engine.backward(loss)
        engine.step()
        losses.append(loss.item())
    return losses


def test_stages_agree() -> None:
    losses = {}
    for stage in (0, 3):
        run = subprocess.run(
            [sys.executable, __file__, str(stage)],
            capture_output=True,
            text=True,
            timeout=240,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"},
        )
        assert run.returncode == 0, run.stderr[-3000:]
        losses[stage] = json.loads(run.stdout.strip().splitlines()[-1])
    assert losses[0] == pytest.approx(losses[3], abs=1e-5)


if __name__ == "__main__":
    import socket

    sys.path.insert(0, str(Path(__file__).parent))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        free = probe.getsockname()[1]
    print(json.dumps(train(int(sys.argv[1]), free)))
