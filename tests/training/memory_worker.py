"""For test_out_of_memory.py: train in a limited address space, following the remedy until the batch fits.

Arguments: a shard's folder, and engine.tokens_per_micro_batch to begin with. Prints a line of JSON for each try.
"""

from __future__ import annotations

import json
import re
import resource
import sys
from pathlib import Path

import torch
from torch import nn

from xtrain.data import Shard, microbatches
from xtrain.errors import UserError
from xtrain.study import Engine, Recipe
from xtrain.training.out_of_memory import MicroBatch, naming_batch
from xtrain.training.plan import Plan

ROOM = 96 * 2**20  # bytes that the process may take beyond what it has once torch is warm
HIDDEN = 512


def step(model: nn.Module, plan: Plan, tokens: int) -> None:
    """Forward and backward of a global batch on one rank: memory in proportion to a micro-batch's tokens."""
    settings, whole = Engine(ds_config="zero2", tokens_per_micro_batch=tokens), plan.batch(0)
    dealt = [shares[0] for shares in microbatches(whole.lengths, 1, tokens)]
    for number, (positions, weights) in enumerate(dealt):
        batch = MicroBatch(0, number, len(dealt), 0, plan, positions)
        with naming_batch(batch, settings, torch.device("cpu")):
            model(whole.part(positions, weights).input_ids).sum().backward()  # (T, HIDDEN) activations


def main() -> None:
    shard, tokens = Shard.open(Path(sys.argv[1])), int(sys.argv[2])
    torch.set_num_threads(1)
    layers = [layer for _ in range(4) for layer in (nn.Linear(HIDDEN, HIDDEN), nn.GELU())]
    model = nn.Sequential(nn.Embedding(1000, HIDDEN), *layers)
    plan = Plan.of({"t": shard}, Recipe(batch_size=len(shard), max_steps=1), seed=0)
    step(model, plan, 200)  # gradients exist, libraries are loaded
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + ROOM, size + ROOM))
    for _ in range(10):
        text = attempt(model, plan, tokens)
        print(json.dumps({"tokens": tokens, "error": text}), flush=True)
        if not text:
            return
        tokens = int(re.findall(r"engine.tokens_per_micro_batch = (\d+)", text)[0])


def attempt(model: nn.Module, plan: Plan, tokens: int) -> str:
    """A step over all examples; what the user would read if it failed."""
    try:
        step(model, plan, tokens)
    except UserError as error:
        return str(error)
    return ""


if __name__ == "__main__":
    main()
