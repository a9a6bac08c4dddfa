"""A look at a head without dropout: whether what it sees of different examples differs at all.

In training, dropout makes the predictions of a network vary even where its encoder gives every input the same
vector. So a collapse is confirmed (see :mod:`xtrain.training.collapse`) on a few of the last steps' examples in
evaluation mode. Dimension letters: B sequences, E examples, D features of the head, C classes or choices.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from xtrain.data import PackedBatch, microbatches
from xtrain.model import PhaseModel
from xtrain.model.heads.first_token import ClassificationHead, MultipleChoiceHead
from xtrain.training.plan import Plan

PROBE_EXAMPLES = 64
"""Looked at on all ranks together. A spread estimated from so many is within a fifth of the true one, and the limit
that it is compared with is several times away from both sides."""
MOST_STEPS_BACK = 1000
"""How far the examples are looked for, where other tasks have most of the steps."""

MOST_CLASSES = 1024  # columns of predictions that are told apart; what is beyond shares the last
_COUNTS = 4  # sequences, examples, entropy, entropy of equal probabilities; then the classes

WatchedHead = ClassificationHead | MultipleChoiceHead
"""Heads that choose one of C for each example; the input of their last layer are the features."""


@dataclass(frozen=True)
class Probe:
    """What a head does with some examples when there is no dropout."""

    num_examples: int
    spread: float
    """Of the features (D,) over sequences: root of their mean variance, divided by their root mean square. 0 where
    all inputs look the same to the last layer, about 1 where they differ as much as they can."""
    share: float
    """Of the class that is predicted most."""
    entropy: float
    """Mean entropy of the predicted distributions, divided by the entropy of equal probabilities."""


def probe(model: PhaseModel, plan: Plan, task: str, step: int, tokens_per_batch: int) -> Probe:
    """Look at the examples that ``task`` had in the steps before ``step``; collective, the same on every rank.

    Every rank runs the same number of forward passes, as ZeRO-3 needs. The model's training mode is restored. No
    random number is drawn, so training goes on as if nothing had happened.
    """
    head = model.head(task)
    assert isinstance(head, WatchedHead)
    device = next(model.parameters()).device
    seen: list[Tensor] = []  # the features of a forward pass, (B, D)
    hook = head.out_proj.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0].detach()))
    sums = torch.zeros(_COUNTS + MOST_CLASSES, dtype=torch.float64, device=device)
    features = torch.zeros(2, head.out_proj.in_features, dtype=torch.float64, device=device)
    training = model.training
    try:
        model.eval()
        with torch.no_grad():
            for batch in _recent(plan, task, step, tokens_per_batch):
                batch = batch.to(device)
                _, logits = model(batch)
                scores = torch.from_numpy(head.predictions(logits, batch)["scores"]).to(device)
                _add(sums, features, seen.pop(), scores, batch)
    finally:
        hook.remove()
        model.train(training)
    dist.all_reduce(sums)
    dist.all_reduce(features)
    return _summed_up(sums, features)


def _recent(plan: Plan, task: str, step: int, tokens_per_batch: int) -> Iterator[PackedBatch]:
    """This rank's share of the last examples of ``task`` before ``step``, dealt as in training."""
    rank, world_size = dist.get_rank(), dist.get_world_size()
    count = 0
    for earlier in range(step - 1, max(-1, step - 1 - MOST_STEPS_BACK), -1):
        if count >= PROBE_EXAMPLES:
            return
        if plan.mixture.at(earlier)[0] != task:
            continue
        whole = plan.batch(earlier)
        chosen = np.arange(len(whole.indices))[: PROBE_EXAMPLES - count]
        count += len(chosen)
        for bins in microbatches(whole.lengths[chosen], world_size, tokens_per_batch):
            positions, weights = bins[rank]
            yield whole.part(chosen[positions], weights)


def _add(sums: Tensor, features: Tensor, seen: Tensor, scores: Tensor, batch: PackedBatch) -> None:
    """Add a micro-batch: ``seen`` (B, D), ``scores`` (E, C); examples of weight 0 do not count."""
    weights = batch.weights.double()  # (E,)
    sizes = batch.example_offsets.diff()  # (E,)
    rows = seen.double()[weights.repeat_interleave(sizes) > 0]  # (n, D)
    features += torch.stack([rows.sum(0), rows.square().sum(0)])
    log_p = scores.double().log_softmax(-1)  # (E, C)
    entropy = -(log_p.exp() * log_p.masked_fill(log_p.isneginf(), 0.0)).sum(-1)  # (E,)
    equal = scores.isfinite().sum(-1).double().log()  # (E,)
    sums[0] += len(rows)
    sums[1] += weights.sum()
    sums[2] += (entropy * weights).sum()
    sums[3] += (equal * weights).sum()
    sums[_COUNTS:].index_add_(0, scores.argmax(-1).clamp(max=MOST_CLASSES - 1), weights)


def _summed_up(sums: Tensor, features: Tensor) -> Probe:
    rows, examples, entropy, equal, *counts = sums.tolist()
    mean, square = features / rows  # (D,) each
    variance = (square - mean.square()).clamp(min=0.0).mean().item()
    size = square.mean().item()
    spread = math.sqrt(variance / size) if size > 0 else 0.0
    return Probe(int(examples), spread, max(counts) / examples, entropy / equal if equal else 0.0)
