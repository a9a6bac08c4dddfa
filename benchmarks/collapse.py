"""Collapse on purpose, and healthy runs beside it: is the one caught in time, and are the others left alone?

    python benchmarks/collapse.py --data DIR [--steps 200] [--seeds 10] [--window 40]

Fine-tunes the starter model on MNLI (batch 16, bf16, ZeRO-2) by the command line: once with a learning rate far too
high, which has to end as failed within the declared number of steps, and with ``--seeds`` seeds as it should be, none
of which may be taken for a collapse. Writes ``benchmarks/results/collapse.json`` with the machine's description.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parent.parent
COLLAPSING, HEALTHY = 5e-3, 5e-5
BATCH, WARMUP = 16, 0.1


def train(data: Path, out: Path, steps: int, window: int, seed: int, learning_rate: float, more: Sequence[str]) -> int:
    """One run into ``out``; returns the exit code."""
    settings = [f"recipe.target.max_steps={steps}", f"recipe.target.learning_rate={learning_rate}", f"seeds=[{seed}]"]
    settings += [f"recipe.target.batch_size={BATCH}", f"recipe.target.warmup_ratio={WARMUP}"]
    settings += [f"recipe.target.collapse_window={window}", "recipe.target.on_collapse=stop"]
    settings += ["recipe.target.eval_examples=0", "evaluation.limit=10", "tracking.mode=off", "engine.log_every=10"]
    command = ["-m", "xtrain", "run", "studies/mnli_to_xnli.toml", "--data", str(data), "--out", str(out)]
    result = subprocess.run([sys.executable, *command, "--set", *settings, *more], cwd=PROJECT, capture_output=True)
    if result.returncode not in (0, 3):
        sys.exit(f"{result.stdout.decode()}\n{result.stderr.decode()}\nexit code {result.returncode}")
    return result.returncode


def measured(out: Path, code: int) -> dict[str, Any]:
    """What the run directory says of a run that ended with ``code``."""
    (run,) = (path for path in (out / "target").iterdir() if path.is_dir())
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text("utf-8").splitlines()]
    losses = [line["loss"] for line in lines if "loss" in line]
    failed = json.loads((run / "FAILED").read_text("utf-8")) if (run / "FAILED").is_file() else {}
    done = json.loads((run / "DONE").read_text("utf-8")) if (run / "DONE").is_file() else {}
    return {
        "exit_code": code,
        "collapsed_at": failed.get("step"),
        "reason": failed.get("reason"),
        "steps": done.get("steps"),
        "last_loss": losses[-1] if losses else None,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--window", type=int, default=40)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="further keys of the study")
    arguments = parser.parse_args()
    import torch

    from xtrain.phase.entry import processor_name
    from xtrain.training.collapse import BLOCKS

    runs = []
    cases = [("collapsing", COLLAPSING, 0), *(("healthy", HEALTHY, seed) for seed in range(arguments.seeds))]
    print(f"{'run':<12}{'rate':>8}{'seed':>6}{'ended':>12}{'at step':>9}{'last loss':>11}", flush=True)
    for name, rate, seed in cases:
        with tempfile.TemporaryDirectory() as folder:
            sizes = (arguments.steps, arguments.window, seed, rate)
            code = train(arguments.data, Path(folder), *sizes, arguments.set)
            entry = {"run": name, "learning_rate": rate, "seed": seed, **measured(Path(folder), code)}
        runs.append(entry)
        step = entry["collapsed_at"] or entry["steps"]
        loss = "" if entry["last_loss"] is None else f"{entry['last_loss']:.3f}"
        ended = "collapsed" if entry["collapsed_at"] else "finished"
        print(f"{name:<12}{rate:>8g}{seed:>6}{ended:>12}{step:>9}{loss:>11}", flush=True)
    block = -(-arguments.window // BLOCKS)
    declared = round(WARMUP * arguments.steps) + (BLOCKS + 1) * block
    caught = runs[0]["collapsed_at"] is not None and runs[0]["collapsed_at"] <= declared
    flagged = sum(run["collapsed_at"] is not None for run in runs[1:])
    print(f"caught by step {declared} as declared: {caught}; healthy runs flagged: {flagged} of {len(runs) - 1}")
    result = {
        "work": f"starter model, MNLI, {arguments.steps} steps, batch {BATCH}, bf16, ZeRO-2, window {arguments.window}",
        "declared_by_step": declared,
        "caught": caught,
        "healthy_flagged": flagged,
        "runs": runs,
        "machine": {"processor": processor_name(), "cores": os.cpu_count(), "system": platform.platform()},
        "torch": torch.__version__,
    }
    path = PROJECT / "benchmarks" / "results" / "collapse.json"
    path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(f"written: {path}")
    sys.exit(0 if caught and not flagged else 1)


if __name__ == "__main__":
    main()
