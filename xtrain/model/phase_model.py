"""What DeepSpeed trains: the encoder and the heads of a phase, from a packed batch to its summed loss."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import cast

from torch import Tensor, nn

from xtrain.data.batches import PackedBatch
from xtrain.model.encoder import Encoder
from xtrain.model.heads import Head

ENCODER_PREFIX = "encoder.model."
"""Of the encoder's parameters in a :class:`PhaseModel`; behind it are their names in a checkpoint."""
HEADS_PREFIX = "heads."
"""Of the heads' parameters; behind it are the head's name, a dot, and the parameter's own name."""


class PhaseModel(nn.Module):
    """An encoder and its heads: one a task, or one for several tasks with the same labels."""

    def __init__(self, encoder: Encoder, heads: Mapping[str, Head], head_of: Mapping[str, str] | None = None) -> None:
        """``head_of`` names the head of each task where that is not the one of its own name."""
        super().__init__()
        self.encoder = encoder
        self.heads = nn.ModuleDict(dict(heads))
        self.head_of = dict(head_of or {name: name for name in heads})

    def head(self, task: str) -> Head:
        """The head of ``task``."""
        return cast(Head, self.heads[self.head_of[task]])

    def borrowed(self) -> Iterator[tuple[nn.Module, nn.Parameter]]:
        """Modules whose forward uses a parameter of another module, each with it: ZeRO-3 has to be told."""
        for head in self.heads.values():
            if cast(Head, head).tied:
                yield head, self.encoder.model.embeddings.word_embeddings.weight

    def forward(self, batch: PackedBatch) -> tuple[Tensor, Tensor]:
        """Loss, summed over the examples of ``batch`` with their weights (a scalar, fp32), and the logits."""
        head = self.head(batch.task)
        keys = self.encoder.draw_keys(batch)
        hidden = self.encoder(batch, first_only=head.first_only, keys=keys)
        more = {"table": self.encoder.model.embeddings.word_embeddings.weight} if head.tied else {}
        logits = head(hidden, batch, keys, self.encoder.num_sites, **more)
        loss = (head.loss(logits, batch) * batch.weights).sum()
        if self.training:
            for other in self.heads.values():
                # ZeRO-3 steps a parameter without a gradient with the one of the step before; so give it zeros
                loss = loss + cast(Head, other).idle(hidden.detach()) if other is not head else loss
        return loss, logits
