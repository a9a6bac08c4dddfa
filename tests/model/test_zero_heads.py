"""Two tasks in turn under DeepSpeed: the head that rests gets zeros, so that all ZeRO stages agree.

The engine runs in a rank of its own, which this file is too, since DeepSpeed keeps global state.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from packs import make_batch, make_encoder, make_reference
from runs import Nursery

from xtrain.dispatch.rank_process import run_rank
from xtrain.dispatch.rendezvous import from_environment
from xtrain.model import PhaseModel
from xtrain.model.heads import build
from xtrain.training.engine import initialize_ranks


def train(stage: int) -> list[float]:
    """Losses of some steps of classification and multiple choice in turn, in fp32 on one rank."""
    import deepspeed

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


def test_stages_agree(nursery: Nursery, tmp_path: Path) -> None:
    nursery.work(__file__, 1, tmp_path, tmp_path / "losses.json")
    losses = json.loads((tmp_path / "losses.json").read_text())
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)


def main() -> None:
    initialize_ranks(from_environment(), training=True)
    torch.set_num_threads(1)
    Path(sys.argv[1]).write_text(json.dumps([train(stage) for stage in (0, 3)]))


if __name__ == "__main__":
    run_rank(main)
