"""The entry of one rank: from a run directory to DONE, with the right exit code."""

from __future__ import annotations

import contextlib
import os
import platform
import sys
import threading
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, NoReturn

import torch
import torch.distributed as dist

import xtrain
from xtrain.dispatch.attempts import COLLAPSED, DONE, FAILED, FENCED, PREEMPTED, USER, Attempts, Fence
from xtrain.dispatch.joining import NotMet, StoppedWaiting
from xtrain.dispatch.rank_process import leave, run_rank
from xtrain.dispatch.rendezvous import Ranks, from_environment
from xtrain.dispatch.signals import Signals
from xtrain.dispatch.time_limits import WRITING_MINUTES, collective_seconds
from xtrain.errors import (
    EXIT_FAILED,
    EXIT_FENCED,
    EXIT_INTERRUPTED,
    EXIT_OURS,
    EXIT_PREEMPTED,
    EXIT_USER,
    Fenced,
    Problem,
    UserError,
)
from xtrain.graph import EVALUATE
from xtrain.model import keep_freed_memory
from xtrain.phase.evaluating import evaluate_phase
from xtrain.phase.file import PhaseFile
from xtrain.phase.keeping import drop_evaluated, lost_encoder
from xtrain.phase.observer import PhaseObserver
from xtrain.phase.printing import forgive_failed_prints
from xtrain.phase.rank import PhaseRank
from xtrain.phase.shared_folder import check_present, check_shared
from xtrain.phase.training import train_phase
from xtrain.run_directory import RunDirectory
from xtrain.source import source_version
from xtrain.training.agreement import Agreement
from xtrain.training.attempts import TrainingFailed
from xtrain.training.engine import initialize_ranks
from xtrain.training.guard import Guard, Lookout
from xtrain.training.preemption import Preempted
from xtrain.training.watchdog import Watchdog


def main(arguments: Sequence[str]) -> int:
    """Run the phase of ``RUN_DIR`` on this rank. Ends the process, unless the arguments are wrong: then returns 2."""
    if len(arguments) != 1 or arguments[0].startswith("-"):
        print(f"usage: python train.py RUN_DIR (got: {' '.join(arguments) or 'nothing'})", file=sys.stderr)
        return EXIT_USER
    forgive_failed_prints()
    run_rank(partial(_run, RunDirectory(Path(arguments[0]).expanduser())))


def _run(run: RunDirectory) -> None:
    start = _Start()
    try:
        run_phase(run, start)
    except Preempted as preempted:
        start.leave(preempted, EXIT_PREEMPTED, PREEMPTED, str(preempted))
    except TrainingFailed as failure:
        start.leave(failure, EXIT_FAILED, COLLAPSED, f"failed: {failure}")
    except StoppedWaiting as stopped:
        start.leave(stopped, EXIT_PREEMPTED, PREEMPTED, str(stopped))
    except NotMet as error:
        # In a job, whose nodes and port we have chosen, it is not the user's: another attempt may have other nodes.
        code, how = (EXIT_USER, USER) if start.fence is None else (EXIT_OURS, FAILED)
        start.leave(error, code, how, "" if error.said else f"error: {error}")
    except UserError as error:
        start.leave(error, EXIT_USER, USER, f"error: {error}", tell=True)
    except KeyboardInterrupt as error:
        said = "stopped at once; the same command goes on from the last checkpoint"
        start.leave(error, EXIT_INTERRUPTED, FAILED, said, tell=True)
    except Exception as error:
        start.leave(error, EXIT_OURS, FAILED, traceback.format_exc(), tell=True)


@dataclass
class _Start:
    """What is known of this start of a rank, so that it can be ended in good order wherever it is."""

    watchdog: Watchdog | None = None
    fence: Fence | None = None
    """Of the attempt that this start is; None as long as it is none."""
    claimed: bool = False
    """Whether this rank has claimed the attempt itself, and so writes down how it ended."""

    def end(self, how: str, code: int, reason: str) -> None:
        """Write down how the attempt ended."""
        if self.fence is not None and self.claimed:
            with contextlib.suppress(UserError, OSError):  # the disk is full, or away
                self.fence.attempts.end(self.fence.number, how, code, reason)

    def leave(self, error: BaseException, code: int, how: str, message: str, *, tell: bool = False) -> NoReturn:
        """End this rank now: where others wait in a collective, waiting for them would never end.

        Where it may end alone they are to be ``tell`` told, and leave as well. If a newer attempt has begun, that is
        why: whatever failed here found another's files in the place of its own.
        """
        if self._fenced(error):
            assert self.fence is not None
            code, how, message, tell = EXIT_FENCED, FENCED, self.fence.why(), True
            error = Fenced(message)
        if tell and self.watchdog is not None:
            self.watchdog.failed(error, code)
        elif self.watchdog is not None:
            self.watchdog.stop()
        last = message.rstrip().rpartition("\n")[2] if how == FAILED else message
        self.end(how, code, last)
        if message:
            print(message, file=sys.stderr, flush=True)
        leave(code)

    def _fenced(self, error: BaseException) -> bool:
        """Whether a newer attempt has begun; if not, somebody may have deleted what this one needs."""
        if self.fence is None:
            return False
        try:
            return not self.fence.holds() or (isinstance(error, Fenced) and not self.fence.lost)
        except OSError:  # the disk is away
            return isinstance(error, Fenced)


def run_phase(run: RunDirectory, start: _Start) -> None:
    """Run the phase, or return at once if it is done. ``start`` is told what there is to be ended."""
    ranks = from_environment()
    check_present(run, ranks)
    phase = PhaseFile.read(run)
    attempts = Attempts(run)
    if run.done:
        return _done_before(attempts, ranks)
    if phase.parent and (lost := lost_encoder(RunDirectory(phase.out(run) / phase.parent), phase.name)):
        raise UserError(lost)
    start.fence = attempts.launched(os.environ)
    if start.fence is not None:
        start.fence.check()
    run.create().writable()
    began = time.monotonic()
    signals = Signals(phase.engine.preemption_signals, ranks.rank)
    # Never exited: a second signal while this process takes its leave must not kill it before it says how it ended.
    signals.__enter__()
    device = initialize_ranks(
        ranks,
        training=phase.kind != EVALUATE,
        stop=lambda: signals.name,
        collective_seconds=collective_seconds(phase.engine.stall_minutes),
    )
    if device.type == "cpu":
        keep_freed_memory()
    agreement = Agreement()
    check_shared(run, ranks, agreement.gather)
    fence = _begin(start, attempts, ranks, agreement)
    if fence is None:
        return _done_before(attempts, ranks)
    run = fence.directory
    sweeping = threading.Thread(target=attempts.sweep, name="what older attempts left", daemon=True)
    if ranks.is_first:
        run.drop_unfinished_files()
        sweeping.start()
    with PhaseObserver(run, phase, ranks, fence.holds) as observer:
        watchdog = start.watchdog = _watchdog(run, phase, ranks, observer, start)
        guard = Guard(signals, agreement, watchdog, Lookout(fence.holds) if ranks.is_first else bool)
        environment = describe_environment(ranks, device)
        observer.event("start", attempt=fence.number, **environment)
        work = evaluate_phase if phase.kind == EVALUATE else train_phase
        summary = work(PhaseRank(run, phase, ranks, device, observer, guard, environment))
        if ranks.is_first:
            summary = {**summary, "seconds": round(time.monotonic() - began, 1)}
            observer.event("done", **summary)
            run.mark_done(summary)
            run.drop_checkpoints()
            if phase.kind == EVALUATE:
                drop_evaluated(phase.out(run), phase.engine.keep_encoders)
            with guard.allow("deleting what older attempts left", minutes=WRITING_MINUTES):
                sweeping.join()
            start.end(DONE, 0, "finished")
    watchdog.tick("the end")
    agreement.barrier()
    watchdog.stop()  # and no call after it that could wait: the process ends with its group (rank_process.leave)


def _begin(start: _Start, attempts: Attempts, ranks: Ranks, agreement: Agreement) -> Fence | None:
    """Make this start an attempt, if its launcher has not.

    None where the phase is done: by an older attempt, until this one fenced it off. Collective.
    """
    if start.fence is None:
        start.fence = _claim(attempts, ranks, agreement)
        start.claimed = ranks.is_first
    if agreement.first(attempts.run.done):
        start.end(DONE, 0, "was done meanwhile")
        return None
    start.fence.check()
    if ranks.launcher == "srun":  # the log of a rank has all attempts
        print(f"attempt {start.fence.number}: rank {ranks.rank} of {ranks.world_size} on {platform.node()}", flush=True)
    return start.fence


def _done_before(attempts: Attempts, ranks: Ranks) -> None:
    if ranks.is_first:  # of a start that was killed when it was done
        attempts.run.drop_checkpoints()
        attempts.sweep()
    print(f"{attempts.run.path}: done before")


def _claim(attempts: Attempts, ranks: Ranks, agreement: Agreement) -> Fence:
    """Begin an attempt: rank 0 claims it, and all learn its number; raises the same on all ranks."""
    number, problems = 0, tuple[Problem, ...]()
    if ranks.is_first:
        try:
            gpus = ranks.world_size if torch.cuda.is_available() else 0  # as initialize_ranks has it: one a rank
            number = attempts.claim(ranks=ranks.world_size, gpus=gpus).number
        except UserError as error:
            problems = error.problems
        except OSError as error:
            problems = (Problem(str(attempts.folder), f"no attempt can be begun: {error}"),)
    number, problems = agreement.first((number, problems))
    if problems:
        raise UserError(*problems)
    return attempts.fence(number)


def _watchdog(run: RunDirectory, phase: PhaseFile, ranks: Ranks, observer: PhaseObserver, start: _Start) -> Watchdog:
    def ending(kind: str, code: int, fields: Mapping[str, Any]) -> None:
        observer.event(f"ended_{kind}", **fields)
        start.end(
            {EXIT_FENCED: FENCED, EXIT_USER: USER}.get(code, FAILED),
            code,
            f"rank {fields['rank']} on {fields['host']} {fields['text']}",
        )

    watchdog = Watchdog(
        run.logs,
        ranks.rank,
        ranks.world_size,
        60.0 * phase.engine.stall_minutes,
        dist.distributed_c10d._get_default_store() if ranks.world_size > 1 else None,
        on_ending=ending,
    )
    watchdog.start()
    return watchdog


def describe_environment(ranks: Ranks, device: torch.device) -> dict[str, Any]:
    """Versions, device and ranks, for ``environment.json`` and the start event."""
    return {
        "xtrain": xtrain.__version__,
        **(source_version() if ranks.is_first else {}),  # who writes it down; it reads every module
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
