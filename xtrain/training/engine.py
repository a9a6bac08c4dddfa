"""DeepSpeed behind a few verbs: accumulate a micro-batch, step, and the state that a checkpoint holds."""

from __future__ import annotations

import contextlib
import importlib
import logging
import math
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any, cast

import torch
from torch import Tensor, nn

from xtrain.data.batches import PackedBatch
from xtrain.dispatch.joining import join
from xtrain.dispatch.rendezvous import Ranks, device_index
from xtrain.errors import Problem, UserError, listed
from xtrain.files import read_json
from xtrain.model import PhaseModel
from xtrain.study import Engine as EngineSettings
from xtrain.study import Recipe
from xtrain.training.device_settings import let_memory_grow, use_exact_products
from xtrain.training.optimizer import build_optimizer
from xtrain.training.pieces import ZeroState

# What DeepSpeed's dynamic loss scaler remembers between steps.
_SCALER = ("cur_scale", "cur_iter", "last_overflow_iter", "cur_hysteresis")

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}

IMPORTING = "torch_autocast"  # imports whatever modules it names
# Keys of a DeepSpeed file that belong to the study, with the key that sets each there.
OWNED_KEYS = {
    "train_batch_size": "recipe.*.batch_size",
    "train_micro_batch_size_per_gpu": "engine.tokens_per_micro_batch",
    "gradient_accumulation_steps": "engine.tokens_per_micro_batch",
    "gradient_clipping": "recipe.*.max_grad_norm",
    "optimizer": "recipe.*.learning_rate and its neighbours",
    "scheduler": "recipe.*.warmup_ratio",
    "bf16": "engine.precision",
    IMPORTING: "engine.precision",
}


def resolve_ds_config(settings: EngineSettings, folder: Path, max_grad_norm: float) -> tuple[dict[str, Any], list[str]]:
    """The DeepSpeed configuration of a phase, and notes on what was changed in it and why.

    ``settings.ds_config`` names a file of ``folder`` (``ds_configs/``) or a path. Raises a
    :class:`UserError` for a missing file and for keys that the study owns.
    """
    path = Path(settings.ds_config).expanduser()
    if path.suffix != ".json":
        path = folder / f"{settings.ds_config}.json"
    if not path.is_file():
        known = listed(sorted(file.stem for file in folder.glob("*.json")))
        raise UserError(
            Problem(
                "engine.ds_config",
                f"{settings.ds_config!r}: no file {path}",
                known,
                "name one, or a path to yours",
            )
        )
    config: dict[str, Any] = read_json(path)
    problems = [
        Problem(f"{path}: {key}", "is set by the study, not here", remedy=f"remove it and set {owner}")
        for key, owner in OWNED_KEYS.items()
        if key in config
    ]
    if config.get("fp16", {}).get("enabled") and settings.precision != "fp16":
        problems.append(
            Problem(
                f"{path}: fp16.enabled",
                f"is true, but engine.precision is {settings.precision!r}",
                remedy='set engine.precision = "fp16", or choose another engine.ds_config',
            )
        )
    if problems:
        raise UserError(*problems)
    notes = []
    stage = config.setdefault("zero_optimization", {}).setdefault("stage", 0)
    if stage == 0 and settings.precision != "fp32":
        config["zero_optimization"]["stage"] = 1
        notes.append(
            f"ZeRO stage 0 in {settings.precision} runs as stage 1: DeepSpeed's stage 0 updates rounded weights "
            "there; stage 1 keeps them in fp32 and gives the numbers that stage 0 should"
        )
    if settings.precision == "bf16":
        # else one gradient of many micro-batches is rounded at each, to 8 bits
        config["data_types"] = {"grad_accum_dtype": "fp32", **config.get("data_types", {})}
    if settings.precision != "fp32":
        config[settings.precision] = {**config.get(settings.precision, {}), "enabled": True}
    config |= {
        "train_micro_batch_size_per_gpu": 1,  # we cut the micro-batches, by tokens, and set each boundary
        "gradient_accumulation_steps": 1,
        "gradient_clipping": max_grad_norm,
        "steps_per_print": 2**31,
        "zero_allow_untested_optimizer": True,
        "timers": {"throughput": {"enabled": False}},  # it makes the device wait at every forward pass and update
    }
    return config, notes


def read_ds_config(path: Path) -> dict[str, Any]:
    """The resolved configuration of a run directory; :class:`UserError` where somebody has put in what imports code."""
    config: dict[str, Any] = read_json(path)
    if IMPORTING in config:
        raise UserError(Problem(f"{path}: {IMPORTING}", "is not allowed", remedy="remove it"))
    return config


def is_offloaded(config: Mapping[str, Any]) -> bool:
    """Whether the optimizer's state lives in the host's memory, beside the device."""
    device: str = config["zero_optimization"].get("offload_optimizer", {}).get("device", "none")
    return device != "none"


def initialize_ranks(
    ranks: Ranks, *, training: bool, stop: Callable[[], str] = str, collective_seconds: float | None = None
) -> torch.device:
    """Set up this rank's device and the process group; must come before anything else of DeepSpeed.

    Only inside of :func:`xtrain.dispatch.rank_process.run_rank`, which ends a rank as it must be ended.
    ``stop`` tells the signal that is to end the wait for the others; ``collective_seconds`` is that of
    :func:`xtrain.dispatch.joining.join`.

    Evaluation (not ``training``) needs no DeepSpeed, whose import takes longer than a small evaluation.
    """
    let_memory_grow()
    for line in use_exact_products():
        if ranks.is_first:
            print(f"note: {line}", file=sys.stderr, flush=True)
    cuda = torch.cuda.is_available()
    device = torch.device("cpu")
    if cuda:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        device = torch.device("cuda", device_index(ranks.local_rank, torch.cuda.device_count(), visible))
        torch.cuda.set_device(device)
    ranks.export(device.index)
    backend = "nccl" if cuda else "gloo"
    gpu = str(torch.cuda.get_device_properties(device).uuid) if cuda else ""
    join(ranks, backend, stop=stop, collective_seconds=collective_seconds, gpu=gpu)
    if not training:
        return device
    if not cuda:
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    deepspeed = import_deepspeed()
    warnings.filterwarnings("ignore", message=".*is deprecated", module="torch.distributed")  # DeepSpeed's affair
    deepspeed.utils.logger.setLevel(logging.WARNING)
    # The shared-memory all-reduce spins for ever when a peer dies, and saves nothing that matters over Gloo.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed(backend, verbose=False)
    return device


def import_deepspeed() -> ModuleType:
    """DeepSpeed, with its optimizer Muon, which it needs at its first step whatever the optimizer is.

    As that is imported, it asks torch to compile its functions, which brings all of Inductor: a third of a rank's
    start, for an optimizer that no phase uses.
    """
    import deepspeed
    from deepspeed.runtime import compiler

    whole = compiler.compile
    compiler.compile = lambda: lambda function: function
    try:
        importlib.import_module("deepspeed.runtime.zero.muon.muon_optimizer")
    finally:
        compiler.compile = whole
    _without_compiler(torch.optim.Optimizer)
    return cast(ModuleType, deepspeed)


def _without_compiler(kind: type) -> None:
    """Have the methods that torch hides from its compiler called as they are: any of them would import all of it.

    That is a second of every start, for what no phase uses. Where torch does not know the attribute, nothing changes.
    """
    for method in vars(kind).values():
        plain = getattr(method, "__wrapped__", None)
        if isinstance(plain, FunctionType):
            plain.__dynamo_disable = plain  # type: ignore[attr-defined]


@contextlib.contextmanager
def _sharded_in_stage_1() -> Iterator[None]:
    """Inside, DeepSpeed takes the same optimizer for stage 1 as for stage 2, where bf16 accumulates in fp32, too.

    Left to itself it takes another one there (``BF16_Optimizer``), whose state is laid out differently.
    """
    from deepspeed.runtime import engine

    whole = engine.DeepSpeedEngine._do_optimizer_sanity_check

    def check(self: Any, optimizer: Any) -> Any:
        found = whole(self, optimizer)
        return engine.ZERO_OPTIMIZATION if found == engine.BFLOAT16 and self.zero_optimization() else found

    engine.DeepSpeedEngine._do_optimizer_sanity_check = check
    try:
        yield
    finally:
        engine.DeepSpeedEngine._do_optimizer_sanity_check = whole


def _read_norms_once(optimizer: Any, stage: int) -> None:
    """Have the norm of the gradient where DeepSpeed looks at it, and we: in the host's memory, for one wait.

    Left to itself it sends numbers to the GPU for each group of parameters, and asks it up to four times whether the
    norm is one. The norm is the same: the root of the squares' sum over all groups and ranks, which may be no number.
    """

    def of_groups() -> list[Tensor]:
        gradients = [optimizer.averaged_gradients[number] for number in sorted(optimizer.averaged_gradients)]
        device = next(one.device for group in gradients for one in group)
        nothing = torch.zeros((), device=device)  # a rank may have no part in a group
        norms = [[torch.linalg.vector_norm(one, dtype=torch.float32) for one in group] for group in gradients]
        squares = torch.stack([torch.stack([nothing, *group]).square().sum() for group in norms])
        torch.distributed.all_reduce(squares)
        return list(squares.sqrt().cpu())

    if stage == 3:
        optimizer._get_norm_groups = of_groups
    else:
        optimizer.scaled_global_norm = lambda: torch.linalg.vector_norm(torch.stack(of_groups()))


@dataclass(frozen=True)
class StepResult:
    """What an optimizer step did."""

    grad_norm: float  # global, before clipping
    skipped: bool  # the gradient was not finite: no weight changed (in fp16 the loss scale was lowered)


class TrainEngine:
    """One model under DeepSpeed. A global step is some :meth:`accumulate` and one :meth:`step`."""

    def __init__(self, model: nn.Module, recipe: Recipe, config: Mapping[str, Any], device: torch.device) -> None:
        import deepspeed

        zero = config["zero_optimization"]
        self.stage = int(zero["stage"])
        optimizer, self.choices = build_optimizer(model, recipe, offloaded=is_offloaded(config))
        self._max_grad_norm = float(config["gradient_clipping"])
        if self.stage == 0:  # see _plain_step
            config = {**config, "gradient_clipping": 0.0}
        if "torch" in self.choices["optimizer"]:
            config = {**config, "zero_force_ds_cpu_optimizer": False}
        try:
            with _sharded_in_stage_1():
                self._engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=dict(config))
        except ValueError as error:
            if "not supported on your device" not in str(error):
                raise
            raise UserError(
                Problem(
                    "engine.precision",
                    f"{error}",
                    "bf16 or fp32 on this device",
                    'set engine.precision = "bf16"',
                )
            ) from error
        if self.stage == 3 and isinstance(model, PhaseModel):
            for module, parameter in model.borrowed():
                deepspeed.zero.register_external_parameter(module, parameter)
        if self.stage and not is_offloaded(config):
            _read_norms_once(self._engine.optimizer, self.stage)
        self.state = ZeroState(self._engine, self.stage)
        """What a checkpoint holds of weights and optimizer."""
        self._world_size = torch.distributed.get_world_size()
        self.device = device

    def close(self) -> None:
        """Give back the memory of weights, gradients and optimizer; nothing may be called after it.

        Stage 3 remembers modules by its classes, so that they are never collected: their tensors are emptied.
        """
        module = self.model
        self._engine.destroy()
        for parameter in module.parameters():
            parameter.grad = None
            parameter.data = parameter.new_empty(0)
            if hasattr(parameter, "ds_tensor"):
                parameter.ds_tensor.data = parameter.new_empty(0)

    @property
    def model(self) -> nn.Module:
        """The model; call it for evaluation (all ranks together, for ZeRO-3 gathers weights in it)."""
        module: nn.Module = self._engine.module
        return module

    def accumulate(self, batch: PackedBatch, num_units: int, *, last: bool) -> Tensor:
        """Forward and backward of one micro-batch; returns its summed loss, detached.

        ``num_units`` is the number of examples (or tokens) of the *global* batch, over all micro-batches and
        ranks: dividing by it here, and multiplying by the world size that DeepSpeed's averaging divides by,
        makes the accumulated gradient that of the mean loss over the global batch.
        """
        self._engine.set_gradient_accumulation_boundary(last)
        loss_sum, _ = self._engine(batch)
        self._engine.backward(loss_sum * (self._world_size / num_units))
        summed: Tensor = loss_sum.detach()
        return summed

    def step(self, learning_rate: float) -> StepResult:
        """Clip, update, and clear the gradients; a gradient that is not finite changes nothing."""
        for group in self._engine.optimizer.param_groups:
            group["lr"] = learning_rate
        if self.stage == 0:
            return self._plain_step()
        skipped_before = self._engine.skipped_steps
        try:
            self._engine.step()
        except Exception as error:  # DeepSpeed has no type of its own for it
            if "loss scale already at minimum" not in str(error):
                raise
            return StepResult(math.inf, skipped=True)  # the loop knows the floor, and what to say
        skipped = self._engine.skipped_steps > skipped_before
        return StepResult(math.inf if skipped else float(self._engine.get_global_grad_norm()), skipped)

    def _plain_step(self) -> StepResult:
        """Stage 0, fp32 without ZeRO: DeepSpeed would clip, but neither keep the norm nor look at it; so we do all."""
        parameters = [p for p in self.model.parameters() if p.grad is not None]
        gradients = [cast(Tensor, p.grad) for p in parameters]
        there = torch.nn.utils.get_total_norm(gradients)
        norm = float(there)
        if not math.isfinite(norm):
            for gradient in gradients:
                gradient.zero_()
            self._engine.optimizer.zero_grad()
            return StepResult(norm, skipped=True)
        if self._max_grad_norm > 0:
            torch.nn.utils.clip_grads_with_norm_(parameters, self._max_grad_norm, there)
        self._engine.step()
        return StepResult(norm, skipped=False)

    def counters(self) -> dict[str, Any]:
        """What changes from step to step beside the tensors: fp16's dynamic loss scale."""
        scaler = getattr(self._engine.optimizer, "loss_scaler", None)
        return {name: getattr(scaler, name) for name in _SCALER if hasattr(scaler, name)}

    def restore(self, counters: Mapping[str, Any]) -> None:
        """Take back what :meth:`counters` gave."""
        scaler = getattr(self._engine.optimizer, "loss_scaler", None)
        for name, value in counters.items():
            if hasattr(scaler, name):
                setattr(scaler, name, value)

    @property
    def loss_scale(self) -> float | None:
        """The fp16 loss scale, or None in other precisions."""
        return float(self._engine.optimizer.cur_scale) if self._engine.fp16_enabled() else None

    @contextlib.contextmanager
    def whole(self, module: nn.Module) -> Iterator[None]:
        """Inside, the parameters of ``module`` are whole on every rank, in ZeRO-3 too; collective."""
        if self.stage != 3:
            yield
            return
        from deepspeed.runtime.zero.partition_parameters import GatheredParameters

        with GatheredParameters(list(module.parameters())):
            yield
