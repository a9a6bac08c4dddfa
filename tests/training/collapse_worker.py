"""On each rank of test_collapse.py: train a tiny model on the toy tasks and look for a collapse after every step.

Arguments: a folder with shards.json, the model's folder, and a JSON list of cases {"name", "tasks", "learning_rate",
"steps", "window", "stage", "cut"}. At step ``cut`` (0 for never) the detector is thrown away, and a new one restored
from its state as JSON.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch

from xtrain.data import Shard, microbatches
from xtrain.dispatch.rank_process import run_rank
from xtrain.dispatch.rendezvous import from_environment
from xtrain.model import PhaseModel, build_head, load_encoder
from xtrain.study import Engine, Recipe
from xtrain.training.engine import TrainEngine, initialize_ranks, resolve_ds_config
from xtrain.training.health import Collapsed, Health
from xtrain.training.loop import seed_dropout
from xtrain.training.plan import Plan
from xtrain.training.probe import probe
from xtrain.training.schedule import LinearSchedule

PROJECT = Path(__file__).resolve().parent.parent.parent
TOKENS = 512


def run(case: dict[str, Any], model_folder: Path, shards: dict[str, Shard], rank: int, world_size: int) -> Any:
    recipe = Recipe(
        batch_size=8, max_steps=case["steps"], learning_rate=case["learning_rate"], collapse_window=case["window"]
    )
    settings = Engine(f"zero{case['stage']}", precision="fp32", tokens_per_micro_batch=TOKENS)
    config, _ = resolve_ds_config(settings, PROJECT / "ds_configs", recipe.max_grad_norm)
    encoder, _ = load_encoder(model_folder, torch.float32)
    chosen = {task: shards[task] for task in case["tasks"]}
    torch.manual_seed(0)
    heads = {task: build_head(s.format, encoder.hidden_size, 3, encoder.hidden_p) for task, s in chosen.items()}
    model = PhaseModel(encoder, heads)
    device = torch.device("cpu")
    engine = TrainEngine(model, recipe, config, device)
    plan = Plan.of(chosen, recipe, seed=3)
    schedule = LinearSchedule.of(recipe.learning_rate, plan.num_steps, recipe.warmup_ratio)
    health = Health.of(recipe, settings, plan, config, device, model)
    engine.model.train()
    losses = []
    for step in range(plan.num_steps):
        whole = plan.batch(step)
        dealt = [bins[rank] for bins in microbatches(whole.lengths, world_size, TOKENS)]
        total = 0.0
        for number, share in enumerate(dealt):
            batch = whole.part(*share)
            seed_dropout(3, step, number, rank, device)
            loss_sum = engine.accumulate(batch, whole.num_units(), last=number == len(dealt) - 1)
            health.add(whole.task, loss_sum, batch)
            total += float(loss_sum)
        engine.step(schedule(step))
        losses.append(total / whole.num_units())
        try:
            health.check(step + 1)
        except Collapsed as collapsed:
            return summary(health, losses, plan, case, found_at=step + 1, reason=str(collapsed))
        if step + 1 == case["cut"]:
            state = json.loads(json.dumps(health.state()))
            health = Health.of(recipe, settings, plan, config, device, model)
            health.restore(state)
    return summary(health, losses, plan, case, found_at=None, reason="")


def summary(health: Health, losses: list[float], plan: Plan, case: dict[str, Any], **found: Any) -> dict[str, Any]:
    looks = [probe(health.model, plan, task, len(losses), TOKENS) for task in case["tasks"]]
    assert health.model.training, "the probe leaves the model as it was"
    return {
        **found,
        "latency": health.detector.latency,
        "warmup": health.detector.first_step,
        "losses": losses,
        "looks": [vars(look) for look in looks],
    }


def main() -> None:
    out, model_folder, cases = Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3])
    ranks = from_environment()
    initialize_ranks(ranks, training=True)
    paths = json.loads((out / "shards.json").read_text())
    shards = {task: Shard.open(Path(path)) for task, path in paths.items()}
    results = {case["name"]: run(case, model_folder, shards, ranks.rank, ranks.world_size) for case in cases}
    (out / f"rank-{ranks.rank}-of-{ranks.world_size}.json").write_text(json.dumps(results))


if __name__ == "__main__":
    run_rank(main)
