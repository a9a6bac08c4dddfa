"""Weights that are read piece by piece, wherever they are: what the export takes, so that a model is never whole.

Dimension letters: V rows of the full vocabulary, K rows kept of it, H hidden.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import prod
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from xtrain.model.loading import locate_word_embeddings
from xtrain.model.tensor_files import TensorFile
from xtrain.model.vocabulary import UsedVocabulary
from xtrain.model.weight_files import WORD_EMBEDDINGS


class WeightSource(Protocol):
    """Named tensors that can be read in parts.

    :class:`~xtrain.model.tensor_files.TensorFile` and :class:`~xtrain.model.sharded_weights.ShardedWeights` are two.
    """

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """The shape of each tensor."""

    def read(self, name: str, start: int, stop: int) -> Tensor:
        """Elements ``start`` to ``stop`` of the flattened tensor, (stop - start,) fp32 on the CPU."""


class InMemory:
    """Tensors of any dtype, on any device, as a source; only what is read is copied."""

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        self.weights = weights
        self.shapes = {name: tuple(value.shape) for name, value in weights.items()}

    def read(self, name: str, start: int, stop: int) -> Tensor:
        """Elements ``start`` to ``stop`` of the flattened tensor."""
        return self.weights[name].detach().reshape(-1)[start:stop].to("cpu", torch.float32)


class Part:
    """The tensors of a source whose names begin with ``prefix``, by the rest of their names."""

    def __init__(self, source: WeightSource, prefix: str) -> None:
        self.source, self.prefix = source, prefix
        self.shapes = {
            name.removeprefix(prefix): shape for name, shape in source.shapes.items() if name.startswith(prefix)
        }

    def read(self, name: str, start: int, stop: int) -> Tensor:
        """Elements ``start`` to ``stop`` of the flattened tensor."""
        return self.source.read(self.prefix + name, start, stop)


def base_table(folder: Path) -> WeightSource:
    """The word embeddings (V, H) of the model in ``folder``, as "embeddings.word_embeddings.weight", beside others."""
    path, name = locate_word_embeddings(folder)
    return Part(TensorFile(path), name.removesuffix(WORD_EMBEDDINGS))


class LazyTensors(Mapping[str, Tensor]):
    """The tensors of a source, each read when it is asked for and not kept."""

    def __init__(self, source: WeightSource) -> None:
        self.source = source

    def __getitem__(self, name: str) -> Tensor:
        shape = self.source.shapes[name]
        return self.source.read(name, 0, prod(shape)).view(shape)

    def __iter__(self) -> Iterator[str]:
        return iter(self.source.shapes)

    def __len__(self) -> int:
        return len(self.source.shapes)


class Expanded:
    """An encoder's weights with the whole word embeddings, where training had the used rows alone.

    What :meth:`~xtrain.model.vocabulary.UsedVocabulary.expand` makes of the whole table (V, H), bit for bit, without
    the table ever being in memory.
    """

    def __init__(self, source: WeightSource, vocabulary: UsedVocabulary, base: WeightSource, decay: float) -> None:
        """``source`` has the trained rows (K, H), ``base`` the table (V, H) that training started from, both as
        "embeddings.word_embeddings.weight"; ``decay`` is what is left of a row that no batch touched."""
        kept, width = source.shapes[WORD_EMBEDDINGS]
        assert kept == len(vocabulary), f"{kept} trained rows, and {len(vocabulary)} are kept"
        assert base.shapes[WORD_EMBEDDINGS] == (vocabulary.vocab_size, width), base.shapes[WORD_EMBEDDINGS]
        self.source, self.vocabulary, self.base, self.decay = source, vocabulary, base, decay
        self.shapes = {**source.shapes, WORD_EMBEDDINGS: (vocabulary.vocab_size, width)}

    def read(self, name: str, start: int, stop: int) -> Tensor:
        """Elements ``start`` to ``stop`` of the flattened tensor."""
        if name != WORD_EMBEDDINGS:
            return self.source.read(name, start, stop)
        width = self.shapes[name][1]
        first, last = start // width, -(-stop // width)  # rows of the full table
        rows = self._rows(first, last, width)  # (last - first, H)
        return rows.view(-1)[start - first * width : stop - first * width]

    def _rows(self, first: int, last: int, width: int) -> Tensor:
        """Rows ``first`` to ``last`` of the full table."""
        before = self.base.read(WORD_EMBEDDINGS, first * width, last * width).view(-1, width)
        begin, end = self.vocabulary.within(first, last)
        trained = self.source.read(WORD_EMBEDDINGS, begin * width, end * width).view(-1, width)
        return self.vocabulary.expand(trained, before, self.decay, first)
