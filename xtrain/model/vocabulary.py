"""Training only the rows of the embedding table that the data uses, with the full table's exact result.

A row that no batch touches gets no gradient, so its AdamW moments stay zero and its update is nothing but
weight decay: w <- w (1 - lr_t wd) at step t (Loshchilov and Hutter, arXiv 1711.05101, with zero moments).
That product is known without the row, so the row need not be in the model, the optimizer, the gradient
exchange or the checkpoint. This does not hold with a masked language model, whose softmax touches every row.

Dimension letters: V rows of the full vocabulary, K rows kept, H hidden.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor


class UsedVocabulary:
    """Which rows are kept, and where each token id is among them."""

    def __init__(self, used: Tensor, vocab_size: int, special: Iterable[int], padding_id: int) -> None:
        """Keep the ids in ``used`` (any shape, repeats allowed), the ``special`` ones and the padding id."""
        always = torch.tensor([*special, padding_id], dtype=torch.long)
        self.kept = torch.unique(torch.cat([used.reshape(-1).long(), always]))  # (K,) sorted
        assert 0 <= int(self.kept[0]) <= int(self.kept[-1]) < vocab_size, "token ids outside the vocabulary"
        self.vocab_size = vocab_size
        self.remap = torch.full((vocab_size,), -1, dtype=torch.long)  # (V,) -1: not kept
        self.remap[self.kept] = torch.arange(len(self.kept))
        self.padding_row = int(self.remap[padding_id])

    def __len__(self) -> int:
        """K."""
        return len(self.kept)

    @staticmethod
    def mapped(input_ids: Tensor, remap: Tensor) -> Tensor:
        """Rows of the short table for ``input_ids``; ``remap`` (V,) lies on their device."""
        rows = remap[input_ids]
        # on a GPU the embedding's own check catches a row of -1, without waiting for it
        assert rows.device.type != "cpu" or int(rows.min()) >= 0, "a token that is not in the kept vocabulary"
        return rows

    def within(self, first: int, last: int) -> tuple[int, int]:
        """Which of the kept rows are among the rows ``first`` to ``last`` of the full table: from one to another."""
        begin, end = torch.searchsorted(self.kept, torch.tensor([first, last])).tolist()
        return int(begin), int(end)

    def expand(self, kept_rows: Tensor, full_rows: Tensor, decay: float = 1.0, first: int = 0) -> Tensor:
        """The full table after training, or some rows of it: like ``full_rows``, in their dtype.

        ``full_rows`` (n, H) are the rows from ``first`` on of the table (V, H) that training started from,
        ``kept_rows`` the trained rows that are :meth:`within` them, ``decay`` the factor of
        :func:`untouched_decay`.
        """
        last = first + len(full_rows)
        assert last <= self.vocab_size, f"rows to {last} of {self.vocab_size}"
        begin, end = self.within(first, last)
        assert kept_rows.shape == (end - begin, full_rows.shape[1]), (kept_rows.shape, end - begin, full_rows.shape)
        full = full_rows * decay
        full[self.kept[begin:end].to(full.device) - first] = kept_rows.to(full.dtype)
        return full


def untouched_decay(learning_rates: Iterable[float], weight_decay: float) -> float:
    """What decay leaves of a row without gradients: the product of 1 - lr_t * weight_decay over all steps."""
    return math.prod(1.0 - rate * weight_decay for rate in learning_rates)
