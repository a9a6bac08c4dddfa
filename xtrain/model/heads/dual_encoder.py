"""The dual encoder: one vector a sequence, trained by telling a query's candidate from all others of the batch.

Dimension letters: B sequences, E examples, S sequences of an example, H hidden. A pair is a query, then its candidate.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xtrain.data.batches import PackedBatch
from xtrain.model.dropout import DropoutKeys
from xtrain.model.heads.base import INIT_STD, Head, HeadShape

SCALE = 100.0  # of the inner products, at the start (XTREME-R's BertForRetrieval)


@dataclass(frozen=True)
class Contrast:
    """The in-batch loss of E pairs, and its gradient with respect to all it is a function of."""

    loss: Tensor  # (E,) fp32
    vector_gradient: Tensor  # (E, 2, H) fp32, of the loss summed over the pairs
    scale_gradient: Tensor  # () fp32, likewise; with respect to the parameter, ``log_scale``


class DualEncoderHead(Head):
    """First token -> dense -> tanh -> length 1, the same for queries and candidates (XLM-R's pooler, normalised).

    The loss of a pair is the cross entropy of its query against the candidates of all pairs, by inner product
    times a learned scale (Ruder et al. 2021, XTREME-R, for LAReQA and Mewsli-X). Over a global batch of many
    micro-batches it is computed by :meth:`contrast` from all vectors; a micro-batch that is then given the
    gradients as fields has a surrogate loss with these gradients (Gao et al. 2021, arXiv 2101.06983).
    """

    in_batch = True

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.dense = nn.Linear(hidden_size, hidden_size)
        nn.init.normal_(self.dense.weight, std=INIT_STD)
        nn.init.zeros_(self.dense.bias)
        # scale = 100 exp(log_scale): positive whatever the step, and exact at the start in bf16, where ln 100 is not
        self.log_scale = nn.Parameter(torch.zeros(1))
        self._in_forward: Tensor | None = None

    def scale(self, log_scale: Tensor | None = None) -> Tensor:
        """What inner products are multiplied by, () fp32."""
        value = self.log_scale if log_scale is None else log_scale
        return SCALE * value.float().exp().squeeze(0)

    def forward(self, hidden: Tensor, batch: PackedBatch, keys: DropoutKeys | None = None, site: int = 0) -> Tensor:
        """``hidden`` (B, H) of the first tokens -> vectors of length 1, (B, H) fp32."""
        assert hidden.shape[0] == batch.num_sequences, "a row for each sequence's first token"
        # under ZeRO-3 a parameter is whole in its own module's forward only: the loss takes it from here
        self._in_forward = self.log_scale * 1.0
        return F.normalize(torch.tanh(self.dense(hidden)).float(), dim=-1)

    def idle(self, hidden: Tensor) -> Tensor:
        """0, at the cost of one row."""
        return 0.0 * (torch.tanh(self.dense(hidden[:1])).float().sum() + self.log_scale.float().sum())

    def contrast(self, vectors: Tensor, groups: Tensor | None = None) -> Contrast:
        """The loss of each of E pairs among all of them, and its gradients; ``vectors`` (E, 2, H) fp32.

        ``groups`` (E,) are equal where two candidates are the same text: such a one is no negative.
        """
        with torch.enable_grad():
            leaf = vectors.detach().float().requires_grad_()
            log_scale = self.log_scale.detach().float().requires_grad_()
            loss = in_batch_loss(leaf, self.scale(log_scale), groups)
            by_vector, by_scale = torch.autograd.grad(loss.sum(), (leaf, log_scale))
        return Contrast(loss.detach(), by_vector, by_scale.squeeze(0))

    def loss(self, logits: Tensor, batch: PackedBatch) -> Tensor:
        """The loss of each example, (E,) fp32; ``logits`` (B, H) are the vectors.

        With the fields ``vector_gradient`` (E, 2, H) and ``scale_gradient`` (E,) the surrogate: its value
        means nothing, its gradient is theirs. Else the loss among the pairs of this batch, and 0 for
        examples of one sequence.
        """
        log_scale = self.log_scale if self._in_forward is None else self._in_forward
        self._in_forward = None  # it holds a graph, and a module with one cannot be copied
        sizes = batch.host.example_offsets.diff()  # (E,)
        if "vector_gradient" in batch.fields:
            assert bool((sizes == 2).all()), "an example is a query and its candidate"
            vectors = logits.float().view(batch.num_examples, 2, -1)
            along_vectors = (vectors * batch.fields["vector_gradient"]).sum(dim=(1, 2))  # (E,)
            return along_vectors + log_scale.float() * batch.fields["scale_gradient"]
        pairs = torch.nonzero(sizes == 2).squeeze(1).to(logits.device, non_blocking=True)  # (pairs,)
        loss = 0.0 * logits.float().sum() + logits.new_zeros(batch.num_examples, dtype=torch.float32)
        if len(pairs):
            first = batch.example_offsets[:-1][pairs]
            vectors = torch.stack([logits[first], logits[first + 1]], dim=1).float()  # (pairs, 2, H)
            groups = batch.fields["group"][pairs] if "group" in batch.fields else None
            loss = loss.index_add(0, pairs, in_batch_loss(vectors, self.scale(log_scale), groups))
        return loss

    def predictions(self, logits: Tensor, batch: PackedBatch) -> dict[str, npt.NDArray[np.generic]]:
        """``vectors`` (E, S, H) fp32; (E,) objects of (S, H) where examples have different numbers of sequences."""
        vectors = logits.detach().float().cpu().numpy()  # (B, H)
        offsets = batch.host.example_offsets.numpy()
        sizes = np.diff(offsets)
        if (sizes == sizes[0]).all():
            return {"vectors": vectors.reshape(len(sizes), int(sizes[0]), -1)}
        ragged = np.empty(len(sizes), dtype=object)
        ragged[:] = np.split(vectors, offsets[1:-1])
        return {"vectors": ragged}


def in_batch_loss(vectors: Tensor, scale: Tensor, groups: Tensor | None = None) -> Tensor:
    """Cross entropy of each query against the candidates of all E pairs, (E,) fp32.

    ``vectors`` (E, 2, H): a query, then its candidate; ``scale`` (); ``groups`` (E,) as in
    :meth:`DualEncoderHead.contrast`.
    """
    scores = scale * vectors[:, 0] @ vectors[:, 1].T  # (E, E)
    if groups is not None:
        same = groups[:, None] == groups
        same.fill_diagonal_(False)
        scores = scores.masked_fill(same, -math.inf)
    return F.cross_entropy(scores, torch.arange(len(scores), device=scores.device), reduction="none")


def build_dual_encoder(shape: HeadShape) -> Head:
    """A new dual encoder."""
    return DualEncoderHead(shape.hidden_size)
