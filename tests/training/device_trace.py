"""Training steps on a GPU that is not there: what in them would wait for it, as JSON.

Arguments: the model's folder, the data of tests/toy_formats.py, a folder to work in, and cases "DS_CONFIG PRECISION".
Weights and batches are meta tensors (shapes without numbers), which stand for a GPU's: DeepSpeed is told so by an
accelerator of our own, and the collectives of its two ranks do nothing. A dispatch mode notes each operation that makes
the host wait for a real GPU.
"""

from __future__ import annotations

import contextlib
import json
import sys
import traceback
import types
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from deepspeed.accelerator import set_accelerator
from deepspeed.accelerator.cpu_accelerator import CPU_Accelerator
from deepspeed.runtime.zero import linear, partitioned_param_coordinator
from torch.fx.experimental import _config as config
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from toy import TASKS as TOY_TASKS
from toy_formats import TASKS

from xtrain.data import Shard, prepare
from xtrain.data.masking import Masking
from xtrain.dispatch.signals import Signals
from xtrain.model import Encoder, PhaseModel
from xtrain.model import encoder as encoders
from xtrain.model.config_file import read_config
from xtrain.phase.heads import MASKED, new_head
from xtrain.study import Engine, Recipe
from xtrain.tasks import TaskSpec, catalog
from xtrain.training import optimizer
from xtrain.training.agreement import Agreement
from xtrain.training.engine import TrainEngine, import_deepspeed, resolve_ds_config
from xtrain.training.feeding import StepWork, work_of
from xtrain.training.guard import Guard
from xtrain.training.health import Health
from xtrain.training.loop import Trainer
from xtrain.training.plan import Plan
from xtrain.training.watchdog import Watchdog

PROJECT = Path(__file__).resolve().parent.parent.parent
GPU = torch.device("meta")
PASSES, UPDATE = "passes", "update"


class Waits:
    """What waited, and where from."""

    def __init__(self) -> None:
        self.within, self.seen = PASSES, Counter[tuple[str, str, str]]()

    def note(self, what: str) -> None:
        """Something waits, in the part of the step that is under way."""
        frames = [f for f in traceback.extract_stack() if f.filename != __file__ and "/torch/" not in f.filename]
        inner = frames[-1]
        place = f"{Path(inner.filename).relative_to(_root(inner.filename))}:{inner.name}"
        self.seen[(self.within, what, place)] += 1


def _root(filename: str) -> Path:
    packages = [Path(path) for path in sys.path if path.endswith("site-packages")]
    return next((path for path in [*packages, PROJECT] if Path(filename).is_relative_to(path)), Path("/"))


WAITS = Waits()


class Nothing:
    """A stream or an event, of which only waiting for it by the host counts."""

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __getattr__(self, name: str) -> Any:
        return lambda *_, **__: Nothing()

    def query(self) -> bool:
        return True

    def synchronize(self) -> None:
        WAITS.note("synchronize")


def _made(dtype: torch.dtype) -> property:
    """A tensor of Python's numbers on the GPU: the copy is waited for."""

    def make(values: Any) -> torch.Tensor:
        WAITS.note("numbers to the GPU")
        return torch.zeros(len(values), dtype=dtype, device=GPU)

    return property(lambda _: make)


class Traced(CPU_Accelerator):
    """As DeepSpeed's for CUDA, but that the GPU is the meta device."""

    Stream = Event = Nothing
    FloatTensor, ByteTensor, IntTensor = _made(torch.float), _made(torch.uint8), _made(torch.int)

    def is_synchronized_device(self) -> bool:
        return False

    use_host_timers = resolves_data_dependency = handles_memory_backpressure = is_synchronized_device

    def device_name(self, _: Any = None) -> str:
        return GPU.type

    def current_device_name(self) -> str:
        return GPU.type

    def device(self, _: Any = None) -> torch.device:
        return GPU

    def current_device(self) -> int:
        return 0

    def synchronize(self, _: Any = None) -> None:
        WAITS.note("synchronize")

    def stream(self, _: Any) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    def current_stream(self, _: Any = None) -> Nothing:
        return Nothing()

    default_stream = current_stream

    def on_accelerator(self, tensor: torch.Tensor) -> bool:
        return tensor.device == GPU

    def communication_backend_name(self) -> str:
        return "fake"

    def is_fp16_supported(self) -> bool:
        return True

    def pin_memory(self, tensor: torch.Tensor, align_bytes: int = 1) -> torch.Tensor:
        return tensor

    def is_pinned(self, tensor: torch.Tensor) -> bool:
        return True


def note_factories() -> None:
    """Note tensors that are made of Python's numbers on the GPU, as well."""

    def noted(make: Any) -> Any:
        def made(values: Any, *arguments: Any, **named: Any) -> torch.Tensor:
            there = named.get("device") is not None and torch.device(named["device"]) == GPU
            if there and not isinstance(values, torch.Tensor):
                WAITS.note("numbers to the GPU")
            found: torch.Tensor = make(values, *arguments, **named)
            return found

        return made

    torch.tensor, torch.as_tensor = noted(torch.tensor), noted(torch.as_tensor)


class Dispatched(TorchDispatchMode):
    """Notes operations that wait for the GPU, and gives what they would: a number, or a tensor of a likely size."""

    def __torch_dispatch__(self, func: Any, _: Any, arguments: Any = (), named: Any = None) -> Any:
        named = named or {}
        name, first = func.name().removeprefix("aten::"), arguments[0] if arguments else None
        if not any(isinstance(leaf, torch.Tensor) and leaf.device == GPU for leaf in tree_leaves((arguments, named))):
            if name == "_to_copy" and named.get("device") == GPU and not named.get("non_blocking"):
                WAITS.note("a copy to the GPU that is waited for")
            return func(*arguments, **named)
        if name == "_local_scalar_dense":
            WAITS.note("a number from the GPU")
            return {torch.bool: False}.get(first.dtype, 1.0 if first.is_floating_point() else 0)
        if name == "_to_copy" and named.get("device") == torch.device("cpu"):
            WAITS.note("a copy from the GPU")
            return torch.ones(first.shape, dtype=named.get("dtype") or first.dtype)
        if name == "copy_":
            return self._copied(first, *arguments[1:])
        if name == "nonzero":
            WAITS.note("how many are not zero")
            return first.new_empty((max(1, first.numel() // 2), first.dim()), dtype=torch.long)
        if name == "repeat_interleave.Tensor" and named.get("output_size") is None:
            WAITS.note("how many there will be")
            return first.new_empty(2 * first.numel())
        masks = tree_leaves(arguments[1:2]) if name.startswith(("index.", "index_put", "_index_put")) else []
        if any(isinstance(leaf, torch.Tensor) and leaf.dtype in (torch.bool, torch.uint8) for leaf in masks):
            WAITS.note("an index of booleans")
        if name in ("equal", "masked_select", "unique_dim", "_unique2", "is_nonzero"):
            WAITS.note(name)
        return func(*arguments, **named)

    def _copied(self, target: torch.Tensor, source: torch.Tensor, non_blocking: bool = False) -> torch.Tensor:
        if target.device == source.device:
            return torch.ops.aten.copy_(target, source)
        if not non_blocking:
            WAITS.note("a copy to or from the GPU that is waited for")
        return target if target.device == GPU else target.fill_(1.0)


def no_collectives() -> None:
    """Collectives of two ranks that do nothing: on a GPU they are queued, and nothing waits."""

    def nothing(*_: Any, async_op: bool = False, **__: Any) -> Any:
        return Nothing() if async_op else None

    for name in ("all_reduce", "broadcast", "barrier", "reduce", "all_gather", "all_gather_into_tensor",
                 "reduce_scatter", "reduce_scatter_tensor"):  # fmt: skip
        setattr(dist, name, nothing)
    group = dist.new_group
    dist.new_group = lambda *arguments, backend="", **named: group(*arguments, **named)  # Gloo's, too, does nothing
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=2)  # noqa: TID251


def no_kernels() -> None:
    """DeepSpeed's Adams without their compiled parts."""
    from deepspeed.ops.adam import cpu_adam, fused_adam

    op = types.SimpleNamespace(
        multi_tensor_adam=lambda *_: None, create_adam=lambda *_: None, adam_update=lambda *_: None,
        destroy_adam=lambda *_: None,
    )  # fmt: skip
    builder = types.SimpleNamespace(load=lambda: op)
    fused_adam.FusedAdamBuilder = cpu_adam.CPUAdamBuilder = lambda: builder


def model_of(folder: Path, specs: Mapping[str, TaskSpec]) -> PhaseModel:
    """An encoder and a head of each task, without numbers."""
    encoder = Encoder(read_config(folder), dropout=0.1).requires_grad_(True)
    with GPU:
        heads = {task: new_head(spec, encoder, 0.1) for task, spec in specs.items()}
    return PhaseModel(encoder, heads)


def trainer_of(
    folder: Path, specs: Mapping[str, TaskSpec], shards: Mapping[str, Shard], ds_config: str, precision: str, out: Path
) -> Trainer:
    """A trainer of a mixture of all tasks; a batch is made when it is asked for, and nothing is saved."""
    recipe = Recipe(batch_size=8, max_steps=400, learning_rate=1e-3, temperature=5.0)
    settings = Engine(ds_config, precision=precision, tokens_per_micro_batch=100_000)
    resolved, _ = resolve_ds_config(settings, PROJECT / "ds_configs", recipe.max_grad_norm)
    model = model_of(folder, specs)
    masked = {task: Masking.of(folder, spec, 3) for task, spec in specs.items() if spec.format == MASKED}
    plan = Plan.of(shards, recipe, 3, maskings=masked)

    def at(step: int) -> StepWork:
        return work_of(plan, step, rank=0, world_size=2, tokens_per_micro_batch=settings.tokens_per_micro_batch)

    feeder: Any = types.SimpleNamespace(at=at)
    saver: Any = types.SimpleNamespace(copied=lambda: None)
    observer: Any = types.SimpleNamespace()
    engine = TrainEngine(model, recipe, resolved, GPU)
    guard = Guard(Signals(()), Agreement(), Watchdog(out, 0, 2, 600.0))
    health = Health.of(recipe, settings, plan, resolved, GPU, model)
    return Trainer(engine, plan, recipe, settings, 3, observer, saver, feeder, guard, health, None)


def traced(trainer: Trainer) -> dict[str, list[tuple[str, str, str, int]]]:
    """Of a step of each task: in which part of it what waited, where, and how often. Each has had a step before."""
    steps: dict[str, list[int]] = {}
    for step in range(trainer.plan.num_steps):
        steps.setdefault(trainer.plan.mixture.at(step)[0], []).append(step)
    assert set(steps) == set(trainer.plan.shards)
    update = trainer.engine.step

    def updated(learning_rate: float) -> Any:
        WAITS.within = UPDATE
        try:
            return update(learning_rate)
        finally:
            WAITS.within = PASSES

    trainer.engine.step = updated  # type: ignore[method-assign]
    for first, *_ in steps.values():
        trainer._global_step(first, 1e-3)
    found = {}
    for task, (_, second, *_) in steps.items():
        WAITS.seen.clear()
        trainer._global_step(second, 1e-3)
        found[task] = [(*what, count) for what, count in sorted(WAITS.seen.items())]
    return found


def main(folder: Path, data: Path, out: Path, cases: Sequence[str]) -> None:
    """Trace each case, and write what was found to ``OUT/waits.json``."""
    set_accelerator(Traced())
    no_collectives()
    deepspeed = import_deepspeed()
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed("fake", verbose=False, dist_init_required=False)
    no_kernels()
    note_factories()
    optimizer.provide = lambda _: ""  # type: ignore[assignment]
    partitioned_param_coordinator.assert_ints_same_as_other_ranks = lambda _: WAITS.note("an agreement")
    linear._get_autocast_dtype, linear._is_autocast_enabled = lambda _: None, lambda _: False
    torch.autocast = lambda **_: contextlib.nullcontext()  # type: ignore[misc, assignment]
    config.meta_nonzero_assume_all_nonzero = True  # what an index of booleans chooses
    torch.Tensor.record_stream = lambda *_: None  # type: ignore[method-assign]
    # as on Ampere and newer
    encoders.flash_serves = lambda device, dtype, _: device == GPU and dtype != torch.float32  # type: ignore[assignment]
    known = catalog.load({**TOY_TASKS, **TASKS})
    specs = {task: known[task] for task in ("toy", "choose", "tags", "qa", "pairs", "text")}
    shards = {task: prepare(spec, "train", "en", folder, 48, data, out / "prepared") for task, spec in specs.items()}
    found = {}
    for case in cases:
        with Dispatched():
            found[case] = traced(trainer_of(folder, specs, shards, *case.split(), out=out))
    (out / "waits.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4:])
