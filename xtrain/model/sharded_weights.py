"""Whole parameters, or parts of them, from the pieces that any number of ranks wrote into a checkpoint's folder."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import NamedTuple, NoReturn

import torch
from torch import Tensor

from xtrain.model.tensor_files import TensorFile

FILE_NAME = "{prefix}-{rank:05d}-of-{world_size:05d}.safetensors"
"""Of the file in which a rank keeps its pieces of the weights, or of another state of the same shapes."""
KEY = "{name}:{start}"
"""Of a piece in such a file: the parameter, and which of its elements (flattened) is the first."""


class _Piece(NamedTuple):
    """Where some elements of a parameter lie."""

    start: int
    stop: int
    file: TensorFile
    key: str


class ShardedWeights:
    """Reads parameters out of the files ``PREFIX-RANK-of-RANKS.safetensors`` of one folder.

    Each file holds pieces of flattened parameters, fp32 (n,), under "PARAMETER:START". Which rank wrote which
    piece, and how many there were, makes no difference; nothing but what is asked for is in memory.
    """

    def __init__(
        self,
        folder: Path,
        parameters: Mapping[str, Sequence[int]],
        files: Iterable[str],
        prefix: str = "weights",
    ) -> None:
        """``parameters`` and ``files`` are the manifest's: each parameter's shape, and the names of all files.

        ``prefix`` says which of the files: "weights", or the state of the optimizer that has the same shapes,
        "exp_avg" and "exp_avg_sq". Raises ``ValueError`` for a file that is not safetensors and for elements
        that are there twice, and ``OSError`` for a file that cannot be opened.
        """
        self.folder, self.prefix = folder, prefix
        self.shapes: dict[str, tuple[int, ...]] = {name: tuple(shape) for name, shape in parameters.items()}
        self._pieces: dict[str, list[_Piece]] = {name: [] for name in self.shapes}
        own = re.compile(rf"{re.escape(prefix)}-\d+-of-\d+\.safetensors")
        for name in sorted(files):
            if own.fullmatch(name):
                self._add(TensorFile(folder / name))
        for parameter, pieces in self._pieces.items():
            pieces.sort(key=lambda piece: piece[:2])
            for one, other in pairwise(pieces):
                if one.stop > other.start:
                    what = f"elements {other.start} to {min(one.stop, other.stop)} of {parameter} are there twice"
                    raise ValueError(f"{folder}: {what}, in {one.file.path.name} and {other.file.path.name}")

    def _add(self, file: TensorFile) -> None:
        for key, shape in file.shapes.items():
            name, _, start = key.rpartition(":")
            if name in self._pieces and prod(shape) > 0:
                self._pieces[name].append(_Piece(int(start), int(start) + prod(shape), file, key))

    def read(self, name: str, start: int = 0, stop: int | None = None, out: Tensor | None = None) -> Tensor:
        """Elements ``start`` to ``stop`` of the flattened parameter, (stop - start,) fp32; into ``out`` if given.

        ``out`` has that many elements, of any dtype, on any device. Raises ``ValueError`` where elements are
        in none of the files, and ``KeyError`` for a parameter that is not in :attr:`shapes`.
        """
        size = prod(self.shapes[name])
        stop = size if stop is None else stop
        assert 0 <= start <= stop <= size, f"{name}[{start}:{stop}] of {size} elements"
        found = torch.empty(stop - start, dtype=torch.float32) if out is None else out
        assert found.numel() == stop - start, f"{name}[{start}:{stop}] into {found.numel()} elements"
        flat = found.view(-1)
        pieces, place = self._pieces[name], start
        number = max(0, bisect_right(pieces, start, key=lambda piece: piece.start) - 1)
        while place < stop:
            piece = pieces[number] if number < len(pieces) else None
            if piece is None or piece.start > place:
                self._refuse(name, place, min(stop, piece.start if piece else stop))
            end = min(piece.stop, stop)
            if end > place:
                first = place - piece.start
                piece.file.read(piece.key, first, end - piece.start, flat[place - start : end - start])
                place = end
            number += 1
        return found

    def whole(self, name: str) -> Tensor:
        """The parameter in its shape, fp32."""
        return self.read(name).view(self.shapes[name])

    def check(self) -> None:
        """Raise ``ValueError`` unless every element of every parameter is in a file; no data are read."""
        for name, shape in self.shapes.items():
            place = 0
            for piece in self._pieces[name]:
                if piece.start > place:
                    self._refuse(name, place, piece.start)
                place = piece.stop
            if place < prod(shape):
                self._refuse(name, place, prod(shape))
            if place > prod(shape):
                raise ValueError(f"{self.folder}: {name} has {prod(shape)} elements, its {self.prefix} files {place}")

    def _refuse(self, name: str, start: int, stop: int) -> NoReturn:
        what = f"elements {start} to {stop} of {name} are in none of the {self.prefix} files"
        raise ValueError(f"{self.folder}: {what}")
