"""Several shards as one training set: languages of a task, or tasks that are trained as one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from xtrain.data.shards import Shard
from xtrain.files import content_hash

IntArray = npt.NDArray[np.int64]


class JoinedShard:
    """Shards of one format, laid one behind the other: example e of part p is row ``offsets[p] + e``.

    It has of a :class:`~xtrain.data.shards.Shard` what training reads.
    """

    def __init__(self, parts: Sequence[Shard]) -> None:
        """``parts`` are of one format, with the same fields."""
        assert len({part.format for part in parts}) == 1, "shards of different formats"
        self.parts = tuple(parts)
        self.offsets: IntArray = np.concatenate([[0], np.cumsum([len(part) for part in parts])])

    def __reduce__(self) -> tuple[Any, ...]:
        return JoinedShard, (self.parts,)  # without what was computed from the parts

    def __len__(self) -> int:
        """E, the examples of all parts."""
        return int(self.offsets[-1])

    @property
    def sizes(self) -> tuple[int, ...]:
        """The number of examples of each part."""
        return tuple(len(part) for part in self.parts)

    @property
    def format(self) -> str:
        """The format of all parts."""
        return self.parts[0].format

    @property
    def field_kinds(self) -> dict[str, str]:
        """Field -> "example", "sequence" or "token"."""
        return dict(self.parts[0].field_kinds)

    @property
    def fingerprint(self) -> str:
        """Hash of the content of all parts, in their order."""
        return content_hash([part.fingerprint for part in self.parts])

    @cached_property
    def lengths(self) -> IntArray:
        """Tokens of each example, (E,)."""
        return np.concatenate([part.lengths for part in self.parts])

    def divided(self, indices: npt.ArrayLike) -> Iterator[tuple[Shard, IntArray, IntArray]]:
        """Each part that has some of the rows ``indices``: the part, its rows, and their places in ``indices``."""
        rows = np.asarray(indices, dtype=np.int64)
        owner = np.searchsorted(self.offsets, rows, side="right") - 1
        for number, part in enumerate(self.parts):
            places = np.flatnonzero(owner == number)
            if len(places):
                yield part, rows[places] - self.offsets[number], places

    def ids(self, indices: npt.ArrayLike) -> list[str]:
        """The ids of the rows ``indices``, each with its part's task and language in front of it."""
        rows = np.asarray(indices, dtype=np.int64)
        found = [""] * len(rows)
        for part, local, places in self.divided(rows):
            for place, id_ in zip(places.tolist(), part.ids(local), strict=True):
                found[place] = f"{part.task}/{part.language}/{id_}"
        return found

    def vocabulary(self) -> npt.NDArray[np.uint32]:
        """The token ids that occur in it, sorted."""
        return np.unique(np.concatenate([part.vocabulary() for part in self.parts]))
