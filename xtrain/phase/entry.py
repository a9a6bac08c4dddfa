"""The entry of one rank: from a run directory to DONE, with the right exit code."""

from __future__ import annotations

import os
import platform
import sys
import time
import traceback
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

import xtrain
from xtrain.dispatch.rendezvous import Ranks, from_environment
from xtrain.errors import EXIT_OURS, EXIT_USER, Problem, UserError
from xtrain.graph import EVALUATE
from xtrain.model import keep_freed_memory
from xtrain.phase.evaluating import evaluate_phase
from xtrain.phase.file import PhaseFile
from xtrain.phase.observer import PhaseObserver
from xtrain.phase.training import train_phase
from xtrain.run_directory import RunDirectory
from xtrain.training.engine import initialize_ranks


def main(arguments: Sequence[str]) -> int:
    """Run the phase of ``RUN_DIR`` on this rank; returns the exit code."""
    if len(arguments) != 1 or arguments[0].startswith("-"):
        print(f"usage: python train.py RUN_DIR (got: {' '.join(arguments) or 'nothing'})", file=sys.stderr)
        return EXIT_USER
    try:
        run_phase(RunDirectory(Path(arguments[0])))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        _leave(EXIT_USER)
    except Exception:
        traceback.print_exc()
        _leave(EXIT_OURS)
    return 0


def _leave(code: int) -> None:
    """End this rank now: the others wait in a collective, and waiting for them would never end."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def run_phase(run: RunDirectory) -> None:
    """Run the phase, or return at once if it is done."""
    phase = PhaseFile.read(run)
    if run.done:
        print(f"{run.path}: done before")
        return
    ranks = from_environment()
    run.create().writable()
    if phase.kind != EVALUATE and phase.recipe.batch_size % ranks.world_size:
        raise UserError(
            Problem(
                f"{ranks.world_size} ranks",
                f"cannot divide the batch of {phase.recipe.batch_size} examples",
                remedy="start a number of ranks that divides it, or set recipe.*.batch_size to a multiple",
            )
        )
    started = time.monotonic()
    device = initialize_ranks(ranks, training=phase.kind != EVALUATE)
    if device.type == "cpu":
        keep_freed_memory()
    with PhaseObserver(run, phase, ranks) as observer:
        environment = describe_environment(ranks, device)
        observer.event("start", **environment)
        work = evaluate_phase if phase.kind == EVALUATE else train_phase
        summary = work(run, phase, ranks, device, observer, environment)
        if ranks.is_first:
            summary = {**summary, "seconds": round(time.monotonic() - started, 1)}
            observer.event("done", **summary)
            run.mark_done(summary)
    dist.barrier()
    dist.destroy_process_group()


def describe_environment(ranks: Ranks, device: torch.device) -> dict[str, Any]:
    """Versions, device and ranks, for ``environment.json`` and the start event."""
    return {
        "xtrain": xtrain.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "deepspeed": version("deepspeed"),
        "transformers": version("transformers"),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else processor_name(),
        "threads": torch.get_num_threads(),
        "world_size": ranks.world_size,
        "launcher": ranks.launcher,
        "host": platform.node(),
    }


def processor_name() -> str:
    """The processor's name, as Linux tells it."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text("utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
