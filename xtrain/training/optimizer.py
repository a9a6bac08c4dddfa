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


def lead_to(adam: torch.optim.Optimizer, num_updates: int) -> None:
    """Have what DeepSpeed's op keeps outside of all tensors as ``num_updates`` updates of this process leave it.

    On CPU an object of the op's carries products of the betas on from update to update, in fp32, to correct the bias
    (``IncrementStep`` of csrc/includes/cpu_adam.h). Where the step jumps it takes ``std::pow``, which differs in the
    last place, and so would all weights from then on. It is therefore led there step by step, with nothing to update
    (3 us each). At step 1 it begins anew, whatever it has counted in this process before.

    On a GPU the op keeps nothing: its kernel is told the step. torch's AdamW has it in a tensor.
    """
    from deepspeed.ops.adam import DeepSpeedCPUAdam, FusedAdam

    ((beta1, beta2),) = {group["betas"] for group in adam.param_groups}  # the object is common to all groups
    nothing = torch.empty(0)
    if isinstance(adam, DeepSpeedCPUAdam):
        update, op = adam.ds_opt_adam.adam_update, adam.opt_id
        for step in range(1, num_updates + 1):
            update(op, step, 0.0, beta1, beta2, 1.0, 0.0, True, nothing, nothing, nothing, nothing)
    elif isinstance(adam, FusedAdam) and adam._dummy_overflow_buf.device.type == "cpu":
        update, flag, lists, mode = adam.multi_tensor_adam, adam._dummy_overflow_buf, [[nothing]] * 4, adam.adam_w_mode
        for step in range(1, num_updates + 1):
            update(1, flag, lists, 0.0, beta1, beta2, 1.0, step, mode, 1, 0.0)
