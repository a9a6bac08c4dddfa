"""On each rank of test_engine.py: train a tiny model in several ways and print what came out as JSON.

Arguments: the model's folder, the folder for results, and a JSON list of cases
{"name", "stage", "precision", "tokens", "steps", "dropout", "tasks"}.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from deepspeed.accelerator import get_accelerator
from whole import whole_weights

from xtrain.checkpoints import CheckpointFolder
from xtrain.data import PackedBatch, Shard
from xtrain.dispatch.rank_process import run_rank
from xtrain.dispatch.rendezvous import from_environment
from xtrain.dispatch.signals import Signals
from xtrain.model import PhaseModel, build_head, load_encoder
from xtrain.study import Engine, Recipe
from xtrain.training.agreement import Agreement
from xtrain.training.engine import TrainEngine, initialize_ranks, resolve_ds_config
from xtrain.training.feeding import Feeder
from xtrain.training.guard import Guard
from xtrain.training.health import Health
from xtrain.training.loop import Trainer
from xtrain.training.plan import Plan
from xtrain.training.saver import Saver
from xtrain.training.watchdog import Watchdog

LIMIT = 4000.0
PROJECT = Path(__file__).resolve().parent.parent.parent


class Listener:
    """Keeps the metrics of every step."""

    def __init__(self) -> None:
        self.lines: list[dict[str, float]] = []

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        self.lines.append(dict(values))

    def event(self, kind: str, **fields: Any) -> None:
        pass

    def advanced(self, step: int, values: Mapping[str, float]) -> None:
        pass

    def batch_ids(self, step: int, task: str, ids: Sequence[str]) -> None:
        pass


class CountingEngine(TrainEngine):
    """Counts the micro-batches of each step."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.counts: Counter[int] = Counter()
        self.num_steps = 0

    def accumulate(self, batch: PackedBatch, num_units: int, *, last: bool) -> torch.Tensor:
        self.counts[self.num_steps] += 1
        self.num_steps += last
        return super().accumulate(batch, num_units, last=last)


def run(case: dict[str, Any], model_folder: Path, shards: dict[str, Shard], out: Path, device: torch.device) -> Any:
    recipe = Recipe(
        batch_size=8, max_steps=case["steps"], learning_rate=1e-3, warmup_ratio=0.0, dropout=case["dropout"],
        window_batches=4,
    )  # fmt: skip
    settings = Engine(
        f"zero{case['stage']}", precision=case["precision"], tokens_per_micro_batch=case["tokens"], log_every=1
    )
    config, _ = resolve_ds_config(settings, PROJECT / "ds_configs", recipe.max_grad_norm)
    encoder, _ = load_encoder(model_folder, torch.float32, dropout=recipe.dropout)
    chosen = {task: shards[task] for task in case["tasks"]}
    heads = {}
    for task, shard in chosen.items():
        torch.manual_seed(0)
        heads[task] = build_head(shard.format, encoder.hidden_size, 3, encoder.hidden_p)
    model = PhaseModel(encoder, heads)
    engine = CountingEngine(model, recipe, config, device)
    listener = Listener()
    plan = Plan.of(chosen, recipe, seed=3)
    agreement = Agreement()
    saver = Saver(
        engine.state, CheckpointFolder(out / f"{case['name']}-{agreement.world_size}"), agreement, listener,
        phase="test", stage=engine.stage, keep=1, retry_after=1, copies=False,
    )  # fmt: skip
    feeder = Feeder(
        plan, rank=agreement.rank, world_size=agreement.world_size, tokens_per_micro_batch=case["tokens"],
        num_workers=0, signals=(), with_ids=False, on_event=listener.event,
    )  # fmt: skip
    with Signals(()) as signals:
        guard = Guard(signals, agreement, Watchdog(out, agreement.rank, agreement.world_size, 600.0))
        health = Health.of(recipe, settings, plan, config, device, model)
        Trainer(engine, plan, recipe, settings, 3, listener, saver, feeder, guard, health, None).run()
    weights = whole_weights(engine)
    checksum = {
        name: [float(value.double().sum()), float(value.double().abs().max())] for name, value in weights.items()
    }
    return {
        "losses": [line["loss"] for line in listener.lines],
        "norms": [line["grad_norm"] for line in listener.lines],
        "tasks": [plan.batch(step).task for step in range(case["steps"])],
        "by_task": [{k: v for k, v in line.items() if k.endswith("/loss")} for line in listener.lines],
        "micro_steps": [engine.counts[step] for step in range(case["steps"])],
        "weights": checksum,
    }


def counted_waits() -> list[int]:
    """How often anything waits for the device to have done all that it was given."""
    waits, accelerator = [0], get_accelerator()

    def synchronize(device: object = None) -> None:
        waits[0] += 1

    accelerator.synchronize = synchronize
    return waits


def limits() -> list[float]:
    """Seconds after which a collective fails, of every group that was made."""
    groups = dist.distributed_c10d._world.pg_map
    return [group._get_backend(torch.device("cpu")).options._timeout.total_seconds() for group in groups]


def main() -> None:
    model_folder, out, cases = Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3])
    ranks = from_environment()
    device = initialize_ranks(ranks, training=True, collective_seconds=LIMIT)
    waits = counted_waits()
    np.seterr(all="raise")
    paths = json.loads((out / "shards.json").read_text())
    shards = {task: Shard.open(Path(path)) for task, path in paths.items()}
    results = {case["name"]: run(case, model_folder, shards, out, device) for case in cases}
    results["all"] = {"waits": waits[0], "limits": limits()}
    if ranks.is_first:
        (out / f"world-{ranks.world_size}.json").write_text(json.dumps(results))


if __name__ == "__main__":
    run_rank(main)
