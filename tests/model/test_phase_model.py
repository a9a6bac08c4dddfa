"""Several heads on one encoder: each has the loss and gradients that it would have alone; shared ones are one."""

from __future__ import annotations

import pytest
import torch
from packs import make_batch, make_encoder, make_reference

from xtrain.data.batches import PackedBatch
from xtrain.model import PhaseModel
from xtrain.model.heads import build

BATCHES = {
    "pairs": {"labels": [0, 2, 1, 1]},
    "choice": {"labels": [1, 0], "per_example": [2, 2]},
    "other": {"labels": [1, 1, 0, 2]},
}


def batch_of(task: str) -> PackedBatch:
    return make_batch([5, 9, 30, 2], task=task, seed=len(task), **BATCHES[task])  # type: ignore[arg-type]


def model_of(*tasks: str, head_of: dict[str, str] | None = None) -> PhaseModel:
    """A model with the same weights for a head whatever the others are."""
    heads = {}
    for task in tasks:
        torch.manual_seed(sum(map(ord, task)))
        heads[task] = build("multiple_choice" if task == "choice" else "classification", 16, 3, 0.1)
    return PhaseModel(make_encoder(make_reference()), heads, head_of).train()


def trained_on(model: PhaseModel, task: str) -> tuple[float, dict[str, torch.Tensor]]:
    torch.manual_seed(5)
    loss, _ = model(batch_of(task))
    model.zero_grad()
    loss.backward()
    return loss.item(), {name: value.grad.clone() for name, value in model.named_parameters() if value.grad is not None}


@pytest.mark.parametrize("task", ["pairs", "choice"])
def test_each_head_is_what_it_would_be_alone(task: str) -> None:
    together, alone = trained_on(model_of("pairs", "choice"), task), trained_on(model_of(task), task)
    assert together[0] == alone[0]
    for name, gradient in alone[1].items():
        assert torch.equal(together[1][name], gradient), name
    resting = "choice" if task == "pairs" else "pairs"
    others = {name: value for name, value in together[1].items() if name.startswith(f"heads.{resting}.")}
    assert len(others) == 4, "a resting head has gradients, all of them"
    assert not any(value.any() for value in others.values())


def test_tasks_with_the_same_labels_share_a_head() -> None:
    model = model_of("pairs", head_of={"pairs": "pairs", "other": "pairs"})
    assert len(model.heads) == 1
    _, gradients = trained_on(model, "other")
    assert gradients["heads.pairs.out_proj.weight"].any()
    alone = model_of("pairs")
    torch.manual_seed(1)
    expected, _ = alone.eval()(make_batch([4, 6], labels=[0, 1], task="pairs"))
    found, _ = model.eval()(make_batch([4, 6], labels=[0, 1], task="other"))
    assert torch.equal(found, expected)
