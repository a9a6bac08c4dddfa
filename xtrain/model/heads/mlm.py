"""The head of masked language modelling: XLM-R's lm_head, at the masked positions alone.

Dimension letters: E examples, T tokens, M masked tokens, H hidden, V vocabulary.
"""

from __future__ import annotations

from pathlib import Path
from typing import cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xtrain.data.batches import PackedBatch
from xtrain.errors import Problem, UserError
from xtrain.model.config_file import read_config
from xtrain.model.dropout import DropoutKeys
from xtrain.model.heads.base import INIT_STD, Head, HeadShape
from xtrain.model.linear_cross_entropy import linear_cross_entropy
from xtrain.model.loading import read_part
from xtrain.tasks.formats import IGNORED

_NAMES = {  # of the parameters in a checkpoint of transformers, behind "lm_head."
    "dense.weight": "dense.weight",
    "dense.bias": "dense.bias",
    "layer_norm.weight": "layer_norm.weight",
    "layer_norm.bias": "layer_norm.bias",
    "bias": "decoder.bias",
}


class _Decoder(nn.Module):
    """The bias of the vocabulary, in a module of its own: ZeRO-3 gathers what a module's forward uses."""

    def __init__(self, vocab_size: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(vocab_size))

    def forward(self) -> Tensor:
        """A copy, (V,): the parameter itself is freed when this returns."""
        return self.bias.clone()


class MlmHead(Head):
    """Masked token -> dense -> GELU -> LayerNorm -> the word embeddings and a bias; no dropout, as in XLM-R."""

    first_only = False
    tied = True

    def __init__(self, hidden_size: int, vocab_size: int, layer_norm_eps: float) -> None:
        super().__init__()
        assert vocab_size < 2**24, "a token's number has to be exact in fp32"
        self.dense = nn.Linear(hidden_size, hidden_size)
        self.layer_norm = nn.LayerNorm(hidden_size, eps=layer_norm_eps)
        self.decoder = _Decoder(vocab_size)
        nn.init.normal_(self.dense.weight, std=INIT_STD)
        nn.init.zeros_(self.dense.bias)

    def forward(
        self,
        hidden: Tensor,
        batch: PackedBatch,
        keys: DropoutKeys | None = None,
        site: int = 0,
        table: Tensor | None = None,
    ) -> Tensor:
        """``hidden`` (T, H) and ``table`` (V, H) -> (M, 2) fp32: the loss of each masked token, in the order of
        the pack, and the number of the likeliest one. The logits (M, V) are never there as a whole."""
        assert table is not None, "the head is tied to the word embeddings"
        places = _masked(batch)
        rows = self._transformed(hidden[places])
        loss, best = linear_cross_entropy(rows, table, self.decoder(), batch.fields["label"][places])
        return torch.stack([loss, best.float()], dim=1)

    def _transformed(self, hidden: Tensor) -> Tensor:
        return cast(Tensor, self.layer_norm(F.gelu(self.dense(hidden))))

    def idle(self, hidden: Tensor) -> Tensor:
        """0, at the cost of one row; the word embeddings are the encoder's and never idle."""
        rows, bias = self._transformed(hidden[:1]), cast(Tensor, self.decoder())
        return 0.0 * (rows.float().sum() + bias.float().sum())

    def loss(self, logits: Tensor, batch: PackedBatch) -> Tensor:
        """Summed loss of each example's masked tokens, (E,) fp32, from the first column of ``logits`` (M, 2)."""
        owner = _examples(batch)[_masked(batch)]  # (M,)
        zeros: Tensor = logits.new_zeros(batch.num_examples)
        return zeros.index_add(0, owner, logits[:, 0])

    def predictions(self, logits: Tensor, batch: PackedBatch) -> dict[str, npt.NDArray[np.generic]]:
        """``prediction`` and ``label`` (E,), of each example an int64 array with the likeliest and the right token
        at each masked place, and ``loss`` (E,) fp32, summed."""
        places = _masked(batch)
        sizes = torch.bincount(_examples(batch)[places], minlength=batch.num_examples)
        ends = np.cumsum(sizes.cpu().numpy())[:-1]
        columns = {"prediction": logits[:, 1].detach().long(), "label": batch.fields["label"][places]}
        found: dict[str, npt.NDArray[np.generic]] = {"loss": self.loss(logits.detach(), batch).cpu().numpy()}
        for name, values in columns.items():
            found[name] = np.empty(batch.num_examples, dtype=object)
            for example, part in enumerate(np.split(values.cpu().numpy(), ends)):
                found[name][example] = part  # one by one: numpy would make equally long ones a matrix
        return found


def build_mlm(shape: HeadShape) -> Head:
    """A new head of masked language modelling."""
    return MlmHead(shape.hidden_size, shape.vocab_size, shape.layer_norm_eps)


def lm_head_weights(folder: Path) -> dict[str, Tensor] | None:
    """The weights of an :class:`MlmHead` in the model's folder, fp32, or None if they are not all there.

    A checkpoint of ``XLMRobertaForMaskedLM``, such as XLM-R's own, has them; its decoder is tied to the word
    embeddings, which the encoder has. One whose decoder is a matrix of its own has no such head.
    """
    found = read_part(folder, "lm_head.")
    if not found.keys() >= _NAMES.keys() or "decoder.weight" in found:
        return None
    config = read_config(folder)
    hidden = config.hidden_size
    shapes = {"dense.weight": [hidden, hidden], "bias": [config.vocab_size]}
    for there in _NAMES:
        shape, wanted = list(found[there].shape), shapes.get(there, [hidden])
        if shape != wanted:
            remedy = "fetch the model again, or resize its head with its embeddings"
            raise UserError(Problem(str(folder), f"lm_head.{there} is {shape}, not {wanted}", remedy=remedy))
    return {name: found[there] for there, name in _NAMES.items()}


def _masked(batch: PackedBatch) -> Tensor:
    """The places of the masked tokens, (M,), found on the CPU, as a GPU would have to be waited for."""
    assert "label" in batch.fields, "the batch was not masked"
    places = (batch.host.fields["label"] != IGNORED).nonzero().squeeze(1)
    return places.to(batch.input_ids.device, non_blocking=True)


def _examples(batch: PackedBatch) -> Tensor:
    """The example of each token, (T,)."""
    sizes = batch.cu_seqlens.long()[batch.example_offsets].diff()  # (E,) tokens
    numbers = torch.arange(len(sizes), device=sizes.device)
    return numbers.repeat_interleave(sizes, output_size=batch.num_tokens)
