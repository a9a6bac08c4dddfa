"""AdamW with the fused implementation that this machine has, and which one that is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from xtrain.study import Recipe
from xtrain.training.ops import Op, provide


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
    """AdamW over ``model`` and a record of the implementation chosen and why; collective.

    DeepSpeed's FusedAdam where all ranks have its op (DeepSpeedCPUAdam where the state is offloaded), otherwise
    torch's fused AdamW, which is on DeepSpeed's list of supported optimizers.
    """
    groups = parameter_groups(model, recipe.weight_decay)
    common: dict[str, Any] = {
        "lr": recipe.learning_rate,
        "betas": (recipe.adam_beta1, recipe.adam_beta2),
        "eps": recipe.adam_epsilon,
    }
    wanted = "DeepSpeedCPUAdam" if offloaded else "FusedAdam"
    refusal = provide(Op.adam(offloaded))
    if not refusal:
        from deepspeed.ops.adam import DeepSpeedCPUAdam, FusedAdam

        kind = DeepSpeedCPUAdam if offloaded else FusedAdam
        adamw = {"adamw_mode": True} if offloaded else {"adam_w_mode": True}
        return kind(groups, **common, **adamw), {"optimizer": f"DeepSpeed {wanted}"}
    return torch.optim.AdamW(groups, **common, fused=True), {
        "optimizer": "torch AdamW (fused)",
        "optimizer_note": f"DeepSpeed's {wanted} cannot be had here: {refusal}",
    }
