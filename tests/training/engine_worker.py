"""On each rank of test_engine.py: train a tiny model in several ways and print what came out as JSON.

Arguments: the model's folder, the folder for results, and a JSON list of cases
{"name", "stage", "precision", "tokens", "steps", "dropout"}.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from xtrain.data import Shard, microbatches
from xtrain.dispatch.rendezvous import from_environment
from xtrain.model import PhaseModel, build_head, load_encoder
from xtrain.study import Engine, Recipe
from xtrain.training.engine import TrainEngine, initialize_ranks, resolve_ds_config
from xtrain.training.loop import Plan, seed_dropout

PROJECT = Path(__file__).resolve().parent.parent.parent


def run(case: dict[str, Any], model_folder: Path, shard: Shard, device: torch.device) -> dict[str, Any]:
    recipe = Recipe(
        batch_size=8, max_steps=case["steps"], learning_rate=1e-3, dropout=case["dropout"], window_batches=4
    )
    settings = Engine(f"zero{case['stage']}", precision=case["precision"])
    config, _ = resolve_ds_config(settings, PROJECT / "ds_configs", recipe.max_grad_norm)
    encoder, _ = load_encoder(model_folder, torch.float32, dropout=recipe.dropout)
    torch.manual_seed(0)
    head = build_head("classification", encoder.hidden_size, 3, encoder.hidden_p)
    engine = TrainEngine(PhaseModel(encoder, {"toy": head}), recipe, config, device)
    engine.model.train()
    plan = Plan.of({"toy": shard}, recipe, seed=3)
    losses, norms, sizes = [], [], []
    for step in range(case["steps"]):
        whole = plan.batch(step)
        dealt = microbatches(whole.lengths, dist.get_world_size(), case["tokens"])
        total = torch.zeros(())
        units = whole.num_units()
        for number, bins in enumerate(dealt):
            positions, weights = bins[dist.get_rank()]
            batch = whole.part(positions, weights)
            seed_dropout(3, step, number, dist.get_rank(), device)
            total += engine.accumulate(batch, units, last=number == len(dealt) - 1) / units
        result = engine.step(1e-3)
        dist.all_reduce(total)
        losses.append(total.item())
        norms.append(result.grad_norm)
        sizes.append(len(dealt))
    weights = engine.gathered_weights()
    checksum = {
        name: [float(value.double().sum()), float(value.double().abs().max())] for name, value in weights.items()
    }
    return {"losses": losses, "norms": norms, "micro_steps": sizes, "weights": checksum}


def main() -> None:
    model_folder, out, cases = Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3])
    ranks = from_environment()
    device = initialize_ranks(ranks, training=True)
    np.seterr(all="raise")
    shard = Shard.open(Path((out / "shard").read_text()))
    results = {case["name"]: run(case, model_folder, shard, device) for case in cases}
    if ranks.is_first:
        (out / f"world-{ranks.world_size}.json").write_text(json.dumps(results))


if __name__ == "__main__":
    main()
