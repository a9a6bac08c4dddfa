"""AdamW with the fused implementation that this machine has, and which one that is."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from xtrain.study import Recipe


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """The trained parameters in two groups: with decay, and biases and LayerNorm without."""
    decayed: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    norms = {id(p) for module in model.modules() if isinstance(module, nn.LayerNorm) for p in module.parameters()}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            without = name.endswith("bias") or id(parameter) in norms
            (plain if without else decayed).append(parameter)
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def build_optimizer(
    model: nn.Module, recipe: Recipe, *, offloaded: bool = False
) -> tuple[torch.optim.Optimizer, Mapping[str, str]]:
    """AdamW over ``model`` and a record of the implementation chosen and why.

    DeepSpeed's FusedAdam where its op builds (DeepSpeedCPUAdam where the state is offloaded), otherwise
    torch's fused AdamW, which is on DeepSpeed's list of supported optimizers.
    """
    groups = parameter_groups(model, recipe.weight_decay)
    common: dict[str, Any] = {
        "lr": recipe.learning_rate,
        "betas": (recipe.adam_beta1, recipe.adam_beta2),
        "eps": recipe.adam_epsilon,
    }
    wanted = "DeepSpeedCPUAdam" if offloaded else "FusedAdam"
    refusal = missing_build_tools()
    if not refusal:
        try:
            from deepspeed.ops.adam import DeepSpeedCPUAdam, FusedAdam

            kind = DeepSpeedCPUAdam if offloaded else FusedAdam
            adamw = {"adamw_mode": True} if offloaded else {"adam_w_mode": True}
            return kind(groups, **common, **adamw), {"optimizer": f"DeepSpeed {wanted}"}
        except Exception as error:  # an op that does not build says so in many ways
            refusal = f"{type(error).__name__}: {_last_line(error)}"
    return torch.optim.AdamW(groups, **common, fused=True), {
        "optimizer": "torch AdamW (fused)",
        "optimizer_note": f"DeepSpeed's {wanted} op does not build here: {refusal}",
    }


def missing_build_tools() -> str:
    """Why no DeepSpeed op can be built here, or an empty string."""
    if os.environ.get("XTRAIN_NO_OPS"):
        return "XTRAIN_NO_OPS is set"
    missing = [tool for tool in ("ninja", "c++") if shutil.which(tool) is None]
    return f"{' and '.join(missing)} not found on PATH" if missing else ""


def _last_line(error: Exception) -> str:
    lines: Iterable[str] = [line.strip() for line in str(error).splitlines() if line.strip()]
    return list(lines)[-1][:200] if lines else "no message"


def op_is_built(offloaded: bool) -> bool:
    """Whether the op that :func:`build_optimizer` wants lies built in the cache."""
    name = "cpu_adam" if offloaded else "fused_adam"
    return any((Path(os.environ.get("TORCH_EXTENSIONS_DIR", ops_cache())) / name).glob("*.so"))


def ops_cache() -> Path:
    """Where built DeepSpeed ops are kept: node-local, one folder a version and machine type."""
    if os.environ.get("TORCH_EXTENSIONS_DIR"):
        return Path(os.environ["TORCH_EXTENSIONS_DIR"])
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    device = "cpu" if not torch.cuda.is_available() else f"cu{(torch.version.cuda or '').replace('.', '')}"
    return root / "torch_extensions" / f"xtrain-torch{torch.__version__.split('+')[0]}-{device}"
