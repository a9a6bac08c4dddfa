"""The head of span question answering: where the answer begins and ends in each window, and the n best spans.

Dimension letters: B sequences (windows), E examples (questions), T tokens, L tokens of the longest window,
H hidden, K candidates kept of a window.
"""

from __future__ import annotations

from typing import cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xtrain.data.batches import PackedBatch
from xtrain.model.dropout import DropoutKeys
from xtrain.model.heads.base import INIT_STD, Head, HeadShape
from xtrain.tasks.span_qa import DEFAULTS

Array = npt.NDArray[np.generic]


class SpanHead(Head):
    """One linear layer to two logits a token, as Hugging Face's XLMRobertaForQuestionAnswering."""

    first_only = False

    def __init__(self, hidden_size: int, num_best: int, max_answer: int) -> None:
        super().__init__()
        self.qa_outputs = nn.Linear(hidden_size, 2)
        nn.init.normal_(self.qa_outputs.weight, std=INIT_STD)
        nn.init.zeros_(self.qa_outputs.bias)
        self.num_best, self.max_answer = num_best, max_answer

    def forward(self, hidden: Tensor, batch: PackedBatch, keys: DropoutKeys | None = None, site: int = 0) -> Tensor:
        """``hidden`` (T, H) -> (T, 2): how much speaks for each token as the first, and as the last of the answer."""
        return cast(Tensor, self.qa_outputs(hidden))

    def idle(self, hidden: Tensor) -> Tensor:
        """0, at the cost of one row."""
        return 0.0 * cast(Tensor, self.qa_outputs(hidden[:1])).float().sum()

    def loss(self, logits: Tensor, batch: PackedBatch) -> Tensor:
        """The sum over an example's windows of the mean of two cross entropies, (E,).

        They are of the first and of the last token, ``fields["start"]`` and ``fields["end"]`` (B,), among all
        tokens of the window; 0, the place of ``<s>``, says that the window does not hold the answer.
        """
        rows = _by_window(logits, batch)  # (B, L, 2)
        start, end = (F.cross_entropy(rows[..., n], batch.fields[name], reduction="none") for n, name in _SIDES)
        per_example = rows.new_zeros(batch.num_examples)
        return per_example.index_add(0, _example(batch), (start + end) / 2)

    def predictions(self, logits: Tensor, batch: PackedBatch) -> dict[str, Array]:
        """The likeliest spans of each question, over all its windows.

        ``spans`` (E,): each (n, 2) int64, first character and the one after the last in the context, best
        first, n up to twice ``num_best`` (several may be the same words); ``span_scores`` (E,): each (n,)
        fp32, the sum of the two logits; ``no_answer_score`` (E,) fp32, the least over the windows of the sum
        of the logits of ``<s>``.

        Of each window the ``num_best`` likeliest first and last tokens are paired; a span does not end before
        it begins, has at most ``max_answer`` tokens, and lies in the context. Source: run_squad.py, which
        takes the likeliest of all tokens first and leaves out those of the question afterwards.
        """
        values = logits.detach().float()
        null = values[batch.cu_seqlens[:-1].long()].sum(-1)  # (B,)
        silent = null.new_full((batch.num_examples,), torch.inf).scatter_reduce(0, _example(batch), null, "amin")
        window, spans, scores = (part.cpu().numpy() for part in self._candidates(values, batch))
        spans_of, scores_of = _best(
            _example(batch).cpu().numpy()[window], spans, scores, batch.num_examples, 2 * self.num_best
        )
        return {"spans": spans_of, "span_scores": scores_of, "no_answer_score": silent.cpu().numpy()}

    def _candidates(self, values: Tensor, batch: PackedBatch) -> tuple[Tensor, Tensor, Tensor]:
        """Window (n,), characters (n, 2) and score (n,) of the pairs of likely tokens that are spans."""
        chars = torch.stack([batch.fields["char_begin"], batch.fields["char_end"]], dim=-1)  # (T, 2)
        rows = _by_window(values.masked_fill(chars < 0, -torch.inf), batch)  # (B, L, 2)
        kept = min(self.num_best, rows.shape[1])
        score, place = rows.topk(kept, dim=1)  # (B, K, 2) each
        first, last = place[:, :, None, 0], place[:, None, :, 1]  # (B, K, 1), (B, 1, K)
        pair = score[:, :, None, 0] + score[:, None, :, 1]  # (B, K, K)
        good = (last >= first) & (last - first < self.max_answer) & pair.isfinite()
        window, i, j = good.nonzero(as_tuple=True)  # (n,) each
        offset = batch.cu_seqlens[:-1].long()[window]
        begin = chars[offset + place[window, i, 0], 0]
        end = chars[offset + place[window, j, 1], 1]
        return window, torch.stack([begin, end], dim=-1), pair[window, i, j]


_SIDES = ((0, "start"), (1, "end"))


def build_span_qa(shape: HeadShape) -> Head:
    """A new head; the task's options say how many spans are kept, and how long they may be."""
    settings = {**DEFAULTS, **shape.options}
    return SpanHead(shape.hidden_size, int(settings["num_best"]), int(settings["max_answer"]))


def _by_window(values: Tensor, batch: PackedBatch) -> Tensor:
    """Values of tokens (T, 2) by window, (B, L, 2) fp32, -inf behind the last token."""
    sizes = batch.cu_seqlens.long().diff()  # (B,)
    numbers = torch.arange(len(sizes), device=sizes.device)
    window = numbers.repeat_interleave(sizes, output_size=batch.num_tokens)  # (T,)
    rows = values.new_full((len(sizes), batch.max_seqlen, 2), -torch.inf, dtype=torch.float32)
    return rows.index_put((window, batch.positions), values.float())


def _example(batch: PackedBatch) -> Tensor:
    """The example of each window, (B,)."""
    sizes = batch.example_offsets.diff()
    numbers = torch.arange(len(sizes), device=sizes.device)
    return numbers.repeat_interleave(sizes, output_size=batch.num_sequences)


def _best(
    example: Array, spans: Array, scores: npt.NDArray[np.float32], num_examples: int, most: int
) -> tuple[Array, Array]:
    """The ``most`` best different spans of each example, and their scores: two object arrays (E,).

    ``example`` (n,), ``spans`` (n, 2) and ``scores`` (n,) are the candidates. Of equal scores the span that
    begins, then the one that ends, earlier comes first.
    """
    order = np.lexsort((-scores, spans[:, 1], spans[:, 0], example))
    keys = np.column_stack([example, spans])[order]
    order = order[np.append(True, (np.diff(keys, axis=0) != 0).any(1))[: len(order)]]  # each span once, at its best
    order = order[np.argsort(-scores[order], kind="stable")]
    order = order[np.argsort(example[order], kind="stable")]
    offsets = np.searchsorted(example[order], np.arange(num_examples + 1))
    found = np.empty((2, num_examples), dtype=object)
    for number in range(num_examples):
        mine = order[offsets[number] : min(offsets[number + 1], offsets[number] + most)]
        found[0, number], found[1, number] = spans[mine], scores[mine]
    return found[0], found[1]
