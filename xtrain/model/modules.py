"""The encoder's modules: names, shapes and order of their weights are those of Hugging Face's ``XLMRobertaModel``.

They only hold the weights, since :class:`xtrain.model.encoder.Encoder` runs the blocks itself. Importing Hugging Face's
own takes longer than all else that a rank imports, on every rank and at each of its starts.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from xtrain.model.config_file import EncoderConfig
from xtrain.model.dropout import DropoutAddNorm


class XLMRobertaModules(nn.Module):
    """Embeddings and blocks of ``config``; ``num_rows`` of the word embeddings, of which ``padding_row`` is padding."""

    def __init__(self, config: EncoderConfig, num_rows: int | None = None, padding_row: int | None = None) -> None:
        super().__init__()
        self.embeddings = _Embeddings(config, num_rows, padding_row)
        self.encoder = nn.Module()
        self.encoder.add_module("layer", nn.ModuleList(_Block(config) for _ in range(config.num_hidden_layers)))


class _Embeddings(nn.Module):
    def __init__(self, config: EncoderConfig, num_rows: int | None, padding_row: int | None) -> None:
        super().__init__()
        hidden, pad = config.hidden_size, config.pad_token_id
        rows, row = config.vocab_size if num_rows is None else num_rows, pad if padding_row is None else padding_row
        self.word_embeddings = _table(rows, hidden, row)
        self.token_type_embeddings = _table(config.type_vocab_size, hidden)
        self.LayerNorm = nn.LayerNorm(hidden, eps=config.layer_norm_eps)
        self.position_embeddings = _table(config.max_position_embeddings, hidden, pad)


def _table(rows: int, hidden: int, padding_row: int | None = None) -> nn.Embedding:
    """An embedding that draws no random weights: on the meta device, that imports torch's compiler, over a second."""
    empty = torch.empty(rows, hidden)
    return nn.Embedding(rows, hidden, padding_idx=padding_row, _weight=empty)


class _Block(nn.Module):
    """``attention.self.query``, ``key``, ``value``; ``attention.output``; ``intermediate``; ``output``."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        hidden = config.hidden_size
        projections = nn.Module()
        for name in ("query", "key", "value"):
            projections.add_module(name, nn.Linear(hidden, hidden))
        self.attention = nn.Module()
        self.attention.add_module("self", projections)
        self.attention.add_module("output", _Output(hidden, config))
        self.intermediate = _Intermediate(config)
        self.output = _Output(config.intermediate_size, config)


class _Intermediate(nn.Module):
    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.intermediate_size)
        self.intermediate_act_fn = _activation(config.hidden_act)

    def forward(self, x: Tensor) -> Tensor:
        """(T, H) -> (T, inner size)."""
        return cast(Tensor, self.intermediate_act_fn(self.dense(x)))


class _Output(nn.Module):
    """The end of a block's half: dense, dropout, residual, LayerNorm."""

    def __init__(self, inputs: int, config: EncoderConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(inputs, config.hidden_size)
        self.LayerNorm = DropoutAddNorm([config.hidden_size], config.layer_norm_eps)

    def forward(self, x: Tensor, residual: Tensor, p: float, keys: Any, site: int) -> Tensor:
        """``x`` (T, dense's inputs) and ``residual`` (T, H) -> (T, H)."""
        return cast(Tensor, self.LayerNorm(self.dense(x), residual, p, keys, site))


def _activation(name: str) -> nn.Module:
    """One of :data:`xtrain.model.config_file.ACTIVATIONS`."""
    if name == "gelu":
        return nn.GELU()
    if name == "relu":
        return nn.ReLU()
    return nn.SiLU() if name in ("silu", "swish") else nn.GELU(approximate="tanh")
