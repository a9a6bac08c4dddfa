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
from typing import Any, NoReturn

import torch
import torch.distributed as dist

import xtrain
from xtrain.dispatch.rendezvous import Ranks, from_environment
from xtrain.dispatch.signals import Signals
from xtrain.errors import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_OURS, EXIT_PREEMPTED, EXIT_USER, Problem, UserError
from xtrain.graph import EVALUATE
from xtrain.model import keep_freed_memory
from xtrain.phase.evaluating import evaluate_phase
from xtrain.phase.file import PhaseFile
from xtrain.phase.observer import PhaseObserver
from xtrain.phase.printing import forgive_failed_prints
from xtrain.phase.rank import PhaseRank
from xtrain.phase.shared_folder import check_present, check_shared
from xtrain.phase.training import train_phase
from xtrain.run_directory import RunDirectory
from xtrain.training.agreement import Agreement
from xtrain.training.attempts import TrainingFailed
from xtrain.training.engine import initialize_ranks
from xtrain.training.guard import Guard
from xtrain.training.preemption import Preempted
from xtrain.training.watchdog import Watchdog


def main(arguments: Sequence[str]) -> int:
    """Run the phase of ``RUN_DIR`` on this rank; returns the exit code."""
    if len(arguments) != 1 or arguments[0].startswith("-"):
        print(f"usage: python train.py RUN_DIR (got: {' '.join(arguments) or 'nothing'})", file=sys.stderr)
        return EXIT_USER
    forgive_failed_prints()
    watch: list[Watchdog] = []
    try:
        run_phase(RunDirectory(Path(arguments[0])), watch)
    except Preempted as preempted:
        _leave(EXIT_PREEMPTED, watch, str(preempted))
    except TrainingFailed as failure:
        _leave(EXIT_FAILED, watch, f"failed: {failure}")
    except UserError as error:
        _tell(watch, error, EXIT_USER)
        _leave(EXIT_USER, [], f"error: {error}")
    except KeyboardInterrupt as error:
        _tell(watch, error, EXIT_INTERRUPTED)
        _leave(EXIT_INTERRUPTED, [], "stopped at once; the same command goes on from the last checkpoint")
    except Exception as error:
        _tell(watch, error, EXIT_OURS)
        _leave(EXIT_OURS, [], traceback.format_exc())
    return 0


def _tell(watch: Sequence[Watchdog], error: BaseException, code: int) -> None:
    """Let the other ranks know why this one ends: they wait in a collective."""
    for watchdog in watch:
        watchdog.failed(error, code)


def _leave(code: int, watch: Sequence[Watchdog], message: str) -> NoReturn:
    """End this rank now: where others wait in a collective, waiting for them would never end."""
    for watchdog in watch:
        watchdog.stop()
    print(message, file=sys.stderr, flush=True)
    sys.stdout.flush()
    os._exit(code)


def run_phase(run: RunDirectory, watch: list[Watchdog]) -> None:
    """Run the phase, or return at once if it is done. ``watch`` gets the watchdog that is to be told of an error."""
    ranks = from_environment()
    check_present(run, ranks)
    phase = PhaseFile.read(run)
    if run.done:
        if ranks.is_first:
            run.drop_checkpoints()  # of a start that was killed when it was done
        print(f"{run.path}: done before")
        return
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
    signals = Signals(phase.engine.preemption_signals, ranks.rank)
    # Never exited: a second signal while this process takes its leave must not kill it before it says how it ended.
    signals.__enter__()
    device = initialize_ranks(ranks, training=phase.kind != EVALUATE)
    if device.type == "cpu":
        keep_freed_memory()
    agreement = Agreement()
    check_shared(run, ranks, agreement.gather)
    if ranks.is_first:
        run.drop_unfinished_files()
    with PhaseObserver(run, phase, ranks) as observer:
        watchdog = _watchdog(run, phase, ranks, observer)
        watch.append(watchdog)
        guard = Guard(signals, agreement, watchdog)
        environment = describe_environment(ranks, device)
        observer.event("start", **environment)
        work = evaluate_phase if phase.kind == EVALUATE else train_phase
        summary = work(PhaseRank(run, phase, ranks, device, observer, guard, environment))
        if ranks.is_first:
            summary = {**summary, "seconds": round(time.monotonic() - started, 1)}
            observer.event("done", **summary)
            run.mark_done(summary)
            run.drop_checkpoints()
    watchdog.tick("the end")
    agreement.barrier()
    watchdog.stop()
    dist.destroy_process_group()


def _watchdog(run: RunDirectory, phase: PhaseFile, ranks: Ranks, observer: PhaseObserver) -> Watchdog:
    watchdog = Watchdog(
        run.logs,
        ranks.rank,
        ranks.world_size,
        60.0 * phase.engine.stall_minutes,
        dist.distributed_c10d._get_default_store() if ranks.world_size > 1 else None,
        on_ending=lambda kind, fields: observer.event(f"ended_{kind}", **fields),
    )
    watchdog.start()
    return watchdog


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
