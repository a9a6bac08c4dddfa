"""The head on the first piece of each word: one of C tags.

Dimension letters: E examples, T tokens, U labelled tokens (one a word), H hidden, C classes.
"""

from __future__ import annotations

from typing import cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xtrain.data.batches import PackedBatch
from xtrain.model.dropout import DropoutKeys, dropout
from xtrain.model.heads.base import INIT_STD, Head, HeadShape
from xtrain.tasks.formats import IGNORED, WITHHELD


class TaggingHead(Head):
    """Labelled token -> dropout -> linear: Hugging Face's XLMRobertaForTokenClassification.

    Tokens without a label (special ones, all but a word's first piece) have no part in the loss and no
    prediction, so no logits are computed for them: U is about half of T.
    """

    first_only = False

    def __init__(self, hidden_size: int, num_labels: int, p: float) -> None:
        super().__init__()
        self.classifier = nn.Linear(hidden_size, num_labels)
        self.p = p
        nn.init.normal_(self.classifier.weight, std=INIT_STD)
        nn.init.zeros_(self.classifier.bias)

    def forward(self, hidden: Tensor, batch: PackedBatch, keys: DropoutKeys | None = None, site: int = 0) -> Tensor:
        """``hidden`` (T, H) -> (U, C), in the order of the words."""
        assert hidden.shape[0] == batch.num_tokens, "a row for each token"
        rows = _labelled(batch)
        p = self.p if self.training else 0.0
        chosen = keys.at(rows) if keys is not None and p else None
        return cast(Tensor, self.classifier(dropout(hidden.index_select(0, rows), p, chosen, site)))

    def idle(self, hidden: Tensor) -> Tensor:
        """0, at the cost of one row."""
        return 0.0 * cast(Tensor, self.classifier(hidden[:1])).float().sum()

    def loss(self, logits: Tensor, batch: PackedBatch) -> Tensor:
        """Cross entropy of ``logits`` (U, C), summed over the words of each example, (E,)."""
        rows = _labelled(batch)
        labels = batch.fields["label"][rows]
        labels = torch.where(labels == WITHHELD, IGNORED, labels)  # nothing to learn, but something to predict
        losses = F.cross_entropy(logits.float(), labels, ignore_index=IGNORED, reduction="none")  # (U,)
        return losses.new_zeros(batch.num_examples).index_add(0, _example(batch)[rows], losses)

    def predictions(self, logits: Tensor, batch: PackedBatch) -> dict[str, npt.NDArray[np.generic]]:
        """``prediction`` (E,): of each example the likeliest tags, an array of one number a word."""
        best = logits.detach().argmax(-1).cpu().numpy().astype(np.int32)  # (U,)
        counts = torch.bincount(_example(batch)[_labelled(batch)], minlength=batch.num_examples)
        found = np.empty(batch.num_examples, dtype=object)  # of arrays, even where all are of the same length
        for example, numbers in enumerate(np.split(best, counts.cumsum(0)[:-1].cpu().numpy())):
            found[example] = numbers
        return {"prediction": found}


def build_tagging(shape: HeadShape) -> Head:
    """A new tagging head."""
    return TaggingHead(shape.hidden_size, shape.num_labels, shape.dropout)


def _labelled(batch: PackedBatch) -> Tensor:
    """The rows of the pack that have a label, (U,), found on the CPU, as a GPU would have to be waited for."""
    rows = (batch.host.fields["label"] != IGNORED).nonzero().squeeze(-1)
    return rows.to(batch.input_ids.device, non_blocking=True)


def _example(batch: PackedBatch) -> Tensor:
    """The example of each token, (T,)."""
    sizes = batch.cu_seqlens.long()[batch.example_offsets].diff()  # (E,) tokens
    numbers = torch.arange(len(sizes), device=sizes.device)
    return numbers.repeat_interleave(sizes, output_size=batch.num_tokens)
