"""A rank of checkpoint_large.py: a model of random weights is trained, and what each save and the resume cost is noted.

Arguments: the run directory, a JSON object of settings, "train" or "resume". Rank 0 writes ``result-MODE.json`` into
the run directory.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from export_memory import status_bytes
from torch import nn

from xtrain.checkpoints import CheckpointFolder, commit_name, read_manifest
from xtrain.dispatch.rank_process import run_rank
from xtrain.dispatch.rendezvous import from_environment
from xtrain.dispatch.signals import Signals
from xtrain.model import Encoder, PhaseModel, build_head, keep_freed_memory
from xtrain.model.config_file import read_config
from xtrain.phase.file import PhaseFile
from xtrain.run_directory import RunDirectory
from xtrain.training import loop
from xtrain.training.agreement import Agreement
from xtrain.training.budget import RankMemory, available_memory, snapshot_budget
from xtrain.training.engine import TrainEngine, initialize_ranks, resolve_ds_config
from xtrain.training.feeding import Feeder
from xtrain.training.guard import Guard
from xtrain.training.health import Health
from xtrain.training.pieces import STATE_KINDS
from xtrain.training.plan import Plan
from xtrain.training.saver import Saver
from xtrain.training.watchdog import Watchdog

PROJECT = Path(__file__).resolve().parent.parent
LEAST_MEMORY = 1.5e9  # the benchmark ends rather than have the machine run out


class Memory:
    """Resident memory of this process, and the least that the machine had left while it was watched."""

    def __init__(self) -> None:
        self.least_available = available_memory()
        threading.Thread(target=self._watch, name="memory", daemon=True).start()

    def _watch(self) -> None:
        while True:
            self.least_available = min(self.least_available, available_memory())
            if self.least_available < LEAST_MEMORY:
                print(f"{self.least_available / 2**30:.1f} GiB of memory left: the benchmark ends", file=sys.stderr)
                os._exit(1)
            time.sleep(0.1)

    @staticmethod
    def resident() -> int:
        """Bytes now."""
        return status_bytes("VmRSS")

    @staticmethod
    def restart_peak() -> None:
        """From here on :meth:`peak` counts anew; see export_memory.py."""
        Path("/proc/self/clear_refs").write_text("5")

    @staticmethod
    def peak() -> int:
        """The most bytes since :meth:`restart_peak`."""
        return status_bytes("VmHWM")


class Listener:
    """What the loop and the savers tell: the time and memory of each step, losses, events.

    At the steps ``synchronous`` the state is first saved by ``other``, for which training waits, and then, at the same
    step boundary, by the loop's own saver beside training.
    """

    def __init__(self, folder: CheckpointFolder, synchronous: Sequence[int] = ()) -> None:
        self.folder, self.synchronous = folder, synchronous
        self.other: Saver | None = None
        self.steps: list[dict[str, Any]] = []
        self.losses: dict[int, list[float]] = {}
        self.events: list[dict[str, Any]] = []
        self.hashes: dict[int, dict[str, str]] = {}
        self.same_bytes: list[bool] = []
        self._began, self._taking = time.monotonic(), False

    def begin(self) -> None:
        """The next step's time and memory count from here."""
        Memory.restart_peak()
        self._taking = any(thread.name == "memory for saves" for thread in threading.enumerate())
        self._began = time.monotonic()

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """The loss and the gradient's norm of a step."""
        if "loss" in values:
            self.losses[step] = [values["loss"], values["grad_norm"]]

    def advanced(self, step: int, values: Mapping[str, float]) -> None:
        """A step is done; its boundary, where a save begins, counts for the next one."""
        seconds = time.monotonic() - self._began
        entry = {"step": step, "seconds": seconds, "resident": Memory.resident(), "peak": Memory.peak(),
                 "beside_taking_memory": self._taking}  # fmt: skip
        self.steps.append(entry)
        if torch.distributed.get_rank() == 0:
            print(f"step {step}: {seconds:.1f} s, {self.losses.get(step)}, {entry['peak'] / 2**30:.2f} GiB", flush=True)
        if step in self.synchronous and self.other is not None:
            self._save_synchronously(step, self.other)
        self.begin()

    def _save_synchronously(self, step: int, saver: Saver) -> None:
        Memory.restart_peak()
        before = Memory.resident()
        saver.save(step, {"selection": {"best_step": -1}}, full=True, best=False)
        self.event("synchronous_memory", step=step, extra=Memory.peak() - before)
        if saver.agreement.rank == 0:
            self.hashes[step] = _hashes(saver.folder.path / commit_name("step", step))
            saver.folder.clear()
        saver.agreement.barrier()

    def event(self, kind: str, **fields: Any) -> None:
        """Something happened; a save beside training is compared with the synchronous one of the same state."""
        self.events.append({"event": kind, "after_steps": self.steps[-1]["step"] if self.steps else 0, **fields})
        if torch.distributed.get_rank() == 0:
            print(kind, fields, flush=True)
        if kind == "save" and fields["beside_training"] and fields["step"] in self.hashes:
            found = _hashes(self.folder.path / commit_name("step", fields["step"]))
            self.same_bytes.append(found == self.hashes[fields["step"]])

    def batch_ids(self, step: int, task: str, ids: Sequence[str]) -> None:
        """Not asked for."""


def _hashes(commit: Path) -> dict[str, str]:
    """SHA-256 of every file of tensors, as the manifest has it."""
    files = read_manifest(commit).files
    return {name: entry.sha256 for name, entry in files.items() if name.endswith(".safetensors")}


def random_model(folder: Path, phase: PhaseFile) -> PhaseModel:
    """The model of the configuration in ``folder``, its weights drawn from the phase's seed.

    In bf16 from the start, as DeepSpeed would cast it: an fp32 model would leave 2.2 GB to the allocator, and two
    ranks with copies of their state need all memory of a machine of 24 GB.
    """
    encoder = Encoder(read_config(folder), None, phase.recipe.dropout).to(torch.bfloat16)
    encoder.model.to_empty(device="cpu")
    torch.manual_seed(phase.seed)
    for name, parameter in encoder.named_parameters():
        norm = name.endswith("LayerNorm.weight")
        with torch.no_grad():
            if parameter.dim() > 1:
                parameter.normal_(0.0, encoder.config.initializer_range)
            else:
                parameter.fill_(1.0 if norm else 0.0)
    encoder.requires_grad_(True)
    spec = phase.task["random"]
    head = build_head(spec.format, encoder.hidden_size, len(spec.labels), encoder.hidden_p)
    return PhaseModel(encoder, {"random": head})


@contextmanager
def measured(name: str, into: dict[str, Any]) -> Iterator[None]:
    """Note the seconds inside, and the most memory above what there was before or, if that is more, stays after it.

    Adam's moments are zeros that no page was touched of until they are loaded: they are no extra.
    """
    before, began = Memory.resident(), time.monotonic()
    Memory.restart_peak()
    yield
    after = Memory.resident()
    into[name] = {"seconds": time.monotonic() - began, "peak_above": Memory.peak() - max(before, after)}
    into[name] |= {"before": before, "after": after}


def noted(name: str, function: Callable[..., Any], into: dict[str, Any]) -> Callable[..., Any]:
    """``function``, measured."""

    def call(*arguments: Any) -> Any:
        with measured(name, into):
            return function(*arguments)

    return call


def train(run: RunDirectory, settings: Mapping[str, Any], mode: str, device: torch.device) -> dict[str, Any]:
    """Train to the last step, or go on to it; returns what was measured on this rank."""
    memory, costs, phase, agreement = Memory(), dict[str, Any](), PhaseFile.read(run), Agreement()
    config, _ = resolve_ds_config(phase.engine, PROJECT / "ds_configs", phase.recipe.max_grad_norm)
    plan = Plan.of({"random": phase.open_shards(run, "train")[0][1]}, phase.recipe, phase.seed)
    with measured("model", costs):
        model = random_model(phase.start_folder(run), phase)
    with measured("engine", costs):
        engine = TrainEngine(model, phase.recipe, config, device)
    share = 4 * len(STATE_KINDS) * sum(piece.count for piece in engine.state.owned())
    budget = snapshot_budget(None, agreement.gather(RankMemory.of(share)))
    resident = Memory.resident()

    folder = CheckpointFolder(run.checkpoints)
    listener = Listener(folder, settings["synchronous"] if mode == "train" else ())
    common: dict[str, Any] = {"phase": phase.hash, "stage": engine.stage, "retry_after": 1}
    listener.other = Saver(engine.state, CheckpointFolder(run.path / "synchronous"), agreement, listener,
                           **common, keep=1, copies=False)  # fmt: skip
    saver = Saver(engine.state, folder, agreement, listener, **common, keep=2, copies=mode == "train")
    feeder = Feeder(
        plan, rank=agreement.rank, world_size=agreement.world_size, num_workers=0, signals=(), with_ids=False,
        tokens_per_micro_batch=phase.engine.tokens_per_micro_batch, on_event=listener.event,
    )  # fmt: skip
    for name in ("newest", "fill"):  # verifying, and loading
        setattr(loop, name, noted(name, getattr(loop, name), costs))
    with Signals(()) as signals:
        guard = Guard(signals, agreement, Watchdog(run.logs, agreement.rank, agreement.world_size, 3600.0))
        health = Health.of(phase.recipe, phase.engine, plan, config, device, model)
        listener.begin()
        trainer = loop.Trainer(
            engine, plan, phase.recipe, phase.engine, phase.seed, listener, saver, feeder, guard, health, None
        )
        trainer.run()
    tokens = int(plan.batch(0).lengths.sum())
    return {
        "parameters": sum(parameter_size(model)),
        "tokens_a_step": tokens,
        "micro_batches_a_step": tokens // phase.engine.tokens_per_micro_batch // agreement.world_size,
        "threads": torch.get_num_threads(),
        "optimizer": engine.choices["optimizer"],
        "copy_bytes": share,
        "by_default": {"beside_training": budget.fits, "why": budget.why},
        "resident_with_engine": resident,
        "costs": costs,
        "steps": listener.steps,
        "losses": listener.losses,
        "events": listener.events,
        "stall_seconds": saver.stall_seconds,
        "same_bytes": listener.same_bytes,
        "least_memory_available": memory.least_available,
    }


def parameter_size(model: nn.Module) -> Iterator[int]:
    """Elements of each parameter."""
    return (parameter.numel() for parameter in model.parameters())


def main() -> None:
    run, settings, mode = RunDirectory(Path(sys.argv[1])), json.loads(sys.argv[2]), sys.argv[3]
    ranks = from_environment()
    device = initialize_ranks(ranks, training=True)
    keep_freed_memory()
    results = Agreement().gather(train(run, settings, mode, device))
    if ranks.is_first:
        (run.path / f"result-{mode}.json").write_text(json.dumps(results))


if __name__ == "__main__":
    run_rank(main)
