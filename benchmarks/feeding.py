"""Batches put together by the training process or by a worker ahead of it: tokens a second and seconds waited.

Run: python benchmarks/feeding.py [--threads 2] [--steps 30] [--rounds 3] [--workers 0 1] [--out FILE]

An encoder with random weights takes optimizer steps on generated examples, with masked language modelling's batches
(whose masks are drawn for each token) and with plain ones. Both ways take turns in one run, over the same steps; the
first two steps of each turn are not counted. On a GPU where there is one, else on the CPU, where a worker takes a core
from training; there ``engine.data_workers`` is 0 by default.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import XLMRobertaConfig, XLMRobertaModel

from xtrain.data import Shard
from xtrain.data.masking import Masking, Vocabulary
from xtrain.data.shards import write_shard
from xtrain.model.config_file import EncoderConfig
from xtrain.model.encoder import Encoder
from xtrain.model.memory import keep_freed_memory
from xtrain.study import Recipe
from xtrain.training.feeding import Feeder
from xtrain.training.plan import Plan

VOCAB = 8000
MASKING = Masking(Vocabulary(np.arange(4), VOCAB - 1, np.arange(4, VOCAB - 1)), 0, 0.15, 0.8, 0.1)
WARM_UP = 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--hidden", type=int, default=384)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=8192, help="of a micro-batch, at most")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "feeding.json")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    keep_freed_memory()
    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = make_encoder(options.hidden, options.layers).to(device)
    result: dict[str, Any] = {
        "work": f"{options.layers} blocks of {options.hidden}, bf16, batches of {options.batch_size}, "
        f"{options.steps} steps a turn, median of {options.rounds} turns",
        "machine": machine(options.threads, device),
    }
    with tempfile.TemporaryDirectory() as folder:
        shard = make_shard(Path(folder) / "shard", 4000)
        for task, maskings in (("masked", {"task": MASKING}), ("plain", {})):
            recipe = Recipe(batch_size=options.batch_size, max_steps=options.steps)
            plan = Plan.of({"task": shard}, recipe, 0, None, maskings)
            turns = [
                {workers: turn(model, plan, workers, options.tokens, device) for workers in options.workers}
                for _ in range(options.rounds)
            ]
            result[task] = {f"{workers} workers": medians([t[workers] for t in turns]) for workers in options.workers}
            print(task, json.dumps(result[task]))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(f"written: {options.out}")


def make_encoder(hidden: int, layers: int) -> Encoder:
    """Random weights, in bf16."""
    config = XLMRobertaConfig(
        vocab_size=VOCAB, hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=hidden // 32,
        intermediate_size=4 * hidden, max_position_embeddings=514, type_vocab_size=1, pad_token_id=1,
    )  # fmt: skip
    encoder = Encoder(EncoderConfig.of(config.to_dict(), "config.json"))
    encoder.model.load_state_dict(XLMRobertaModel(config, add_pooling_layer=False).state_dict(), assign=True)
    return encoder.requires_grad_(True).to(torch.bfloat16).train()


def make_shard(path: Path, examples: int) -> Shard:
    """Examples of 16 to 128 random tokens."""
    rng = np.random.default_rng(0)
    rows = [rng.integers(4, VOCAB - 1, size=rng.integers(16, 129)).astype(np.uint32) for _ in range(examples)]
    manifest = {"task": "task", "format": "mlm", "language": "en", "split": "train", "fields": {}}
    ids = [str(n) for n in range(examples)]
    return write_shard(path, rows, [len(row) for row in rows], [1] * examples, {}, ids, manifest)


def turn(model: Encoder, plan: Plan, workers: int, tokens: int, device: torch.device) -> dict[str, float]:
    """All steps of the plan, the first few not counted."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6, fused=True)
    feeder = Feeder(
        plan, rank=0, world_size=1, tokens_per_micro_batch=tokens, num_workers=workers, signals=(), with_ids=False,
        on_event=print,
    )  # fmt: skip
    with feeder:
        feeder.start(0)
        begin = waited = 0.0
        num_tokens = 0
        for step in range(plan.num_steps):
            if step == WARM_UP:
                begin, waited, num_tokens = time.perf_counter(), feeder.seconds_waited, 0
            work = feeder.at(step)
            for batch in work.batches:
                model(batch.to(device), first_only=False).float().square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
            num_tokens += work.num_tokens
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds = time.perf_counter() - begin
    counted = plan.num_steps - WARM_UP
    return {
        "tokens_per_second": num_tokens / seconds,
        "ms_per_step": 1e3 * seconds / counted,
        "ms_waited_per_step": 1e3 * (feeder.seconds_waited - waited) / counted,
    }


def medians(turns: Sequence[dict[str, float]]) -> dict[str, float]:
    """Of each number."""
    return {name: round(statistics.median(one[name] for one in turns), 2) for name in turns[0]}


def machine(threads: int, device: torch.device) -> dict[str, Any]:
    """What the numbers were measured on."""
    return {
        "device": torch.cuda.get_device_name() if device.type == "cuda" else platform.machine(),
        "cores": os.cpu_count(),
        "threads": threads,
        "load_average": round(os.getloadavg()[0], 1),
        "torch": torch.__version__,
    }


if __name__ == "__main__":
    main()
