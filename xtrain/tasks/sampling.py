"""A sample of a data set: drawn by a hash of the ids, so the same in every language, and of each label its share."""

from __future__ import annotations

import hashlib
import heapq
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Sample:
    """How many examples are wanted of a split in one language, and which of all such samples."""

    examples: int
    seed: int = 0

    def rank(self, id_: str) -> int:
        """A number of 64 bits; the examples with the lowest ones are drawn. The id and the seed alone decide."""
        text = f"{self.seed}\x1f{id_}".encode("utf-8", "surrogatepass")
        return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest())


def _own_id(item: Any) -> str:
    return str(item.id)


def _no_label(item: Any) -> int:
    return 0


class Draw:
    """A sample while its data set passes by; of each label it keeps no more than the sample could take."""

    def __init__(
        self, sample: Sample, key: Callable[[Any], str] = _own_id, label: Callable[[Any], int] = _no_label
    ) -> None:
        """Examples are drawn by their ``key``, of each ``label`` as many as its share of the whole set."""
        self.sample, self.key, self.label = sample, key, label
        self._counts: Counter[int] = Counter()
        # label -> (minus the rank, id) of its lowest ranks, as a heap with the highest rank on top
        self._lowest: dict[int, list[tuple[int, str]]] = {}

    def offer(self, item: Any) -> None:
        """One example of the data set, as its format reads it."""
        label = self.label(item)
        self._counts[label] += 1
        entry = (-self.sample.rank(self.key(item)), str(item.id))
        heap = self._lowest.setdefault(label, [])
        if len(heap) < self.sample.examples:
            heapq.heappush(heap, entry)
        else:
            heapq.heappushpop(heap, entry)

    @property
    def offered(self) -> int:
        """How many examples there were."""
        return self._counts.total()

    def ids(self) -> frozenset[str]:
        """The examples that are drawn."""
        shares = largest_remainders(self._counts, self.sample.examples)
        return frozenset(
            id_ for label, share in shares.items() for _, id_ in heapq.nlargest(share, self._lowest[label])
        )


def largest_remainders(counts: Mapping[int, int], wanted: int) -> dict[int, int]:
    """How many of each label make up ``wanted`` in the proportions of ``counts``; all, if there are no more.

    What the whole parts leave goes to the largest fractions; of equal ones to the lower label.
    """
    total = sum(counts.values())
    if wanted >= total:
        return dict(counts)
    shares = {label: wanted * count // total for label, count in counts.items()}
    left = wanted - sum(shares.values())
    for label in sorted(counts, key=lambda label: (-(wanted * counts[label] % total), label))[:left]:
        shares[label] += 1
    return shares
