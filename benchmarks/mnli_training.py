"""Training speed against transformers' Trainer: the same model, data and recipe, in turn, in one run.

    python benchmarks/mnli_training.py --data DIR [--steps 120] [--rounds 2]

Fine-tunes the starter model on ``intermediate/mnli`` (batch 32, 5e-5, bf16, ZeRO-2, grouped by length), ours and the
peer's alternately, and writes the seconds of the optimizer steps (set-up, evaluation and saving apart) with the
machine's description to ``benchmarks/results/mnli_training.json``. Dropout is on in both.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
WARM_UP = 10  # steps not counted: first calls allocate and choose kernels


def ours(data: Path, steps: int, seed: int, folder: Path) -> list[float]:
    """Seconds of each step after the warm-up."""
    settings = [f"recipe.target.max_steps={steps}", f"seeds=[{seed}]", "recipe.target.eval_examples=0"]
    settings += ["engine.log_every=1", "tracking.mode=off", "evaluation.limit=10", "engine.checkpoint_every=100000"]
    command = ["-m", "xtrain", "run", "studies/mnli_to_xnli.toml", "--data", str(data), "--out", str(folder)]
    subprocess.run([sys.executable, *command, "--set", *settings], cwd=PROJECT, check=True, stdout=subprocess.DEVNULL)
    (metrics,) = folder.glob("target/*/metrics.jsonl")
    lines = [json.loads(line) for line in metrics.read_text("utf-8").splitlines()]
    return [line["seconds"] for line in lines if "loss" in line][WARM_UP:]


def peer(data: Path, model: Path, steps: int, seed: int, folder: Path) -> list[float]:
    """Seconds of each step after the warm-up."""
    script = str(PROJECT / "benchmarks" / "trainer_peer.py")
    command = [script, "--model", str(model), "--data", str(data), "--out", str(folder), "--max-steps", str(steps)]
    result = subprocess.run(
        [sys.executable, *command, "--seed", str(seed)], check=True, capture_output=True, text=True, cwd=folder.parent
    )
    seconds: list[float] = json.loads(result.stdout.splitlines()[-1])["step_seconds"]
    return seconds[WARM_UP:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--rounds", type=int, default=2)
    arguments = parser.parse_args()
    import torch
    import transformers

    from xtrain.phase.entry import processor_name
    from xtrain.starter import model_folder

    rounds = []
    for number in range(arguments.rounds):
        with tempfile.TemporaryDirectory() as folder:
            mine = ours(arguments.data, arguments.steps, number, Path(folder) / "ours")
            theirs = peer(arguments.data, model_folder(), arguments.steps, number, Path(folder) / "peer")
        sums = {"ours": sum(mine), "peer": sum(theirs), "ratio": sum(mine) / sum(theirs)}
        medians = {"ours_median_step": statistics.median(mine), "peer_median_step": statistics.median(theirs)}
        rounds.append(sums | medians)
        print(json.dumps(rounds[-1]), flush=True)
    result = {
        "work": f"starter model, MNLI, batch 32, steps {WARM_UP + 1} to {arguments.steps}, bf16, ZeRO-2, dropout 0.1",
        "peer": f"transformers {transformers.__version__} Trainer, DeepSpeed ZeRO-2, group_by_length",
        "seconds": rounds,
        "machine": {"processor": processor_name(), "cores": os.cpu_count(), "system": platform.platform()},
        "torch": torch.__version__,
    }
    path = PROJECT / "benchmarks" / "results" / "mnli_training.json"
    path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(f"written: {path}")


if __name__ == "__main__":
    main()
