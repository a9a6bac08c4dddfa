"""Draw a sample of a data set: one look through all rows, without tokenising, says what it is made of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from xtrain.tasks.formats import Dropped, Format
from xtrain.tasks.sampling import Sample


@dataclass(frozen=True)
class Drawn:
    """A sample, and the data set that it is drawn from."""

    sample: Sample
    format: Format
    ids: frozenset[str]
    """Of the examples that were drawn."""
    of: int
    """How many could have been."""
    rows: int
    """Of the whole set."""
    dropped: Mapping[str, int]
    """Of the whole set, by reason: a dropped row is never drawn."""

    @property
    def is_part(self) -> bool:
        """Whether it is less than the whole set."""
        return self.of > len(self.ids)

    def among(self, read: Iterable[Any]) -> Iterator[Any]:
        """Of what the format reads, the sample, in the order of the data set."""
        for item in read:
            if not isinstance(item, Dropped) and (item.id in self.ids or self.format.always(item)):
                yield item

    def described(self, made: int, kept: int) -> dict[str, Any] | None:
        """What a manifest and a score's protocol say of it, if ``kept`` of ``made`` examples are in the shard.

        None where that is the whole set.
        """
        if not self.is_part and kept == made:
            return None
        count, of = (len(self.ids), self.of) if self.is_part else (kept, made)
        return {"examples": count, "of": of, "seed": self.sample.seed, "how": self.format.sampling}


def draw(sample: Sample, read: Iterable[Any], format_: Format, split: str) -> Drawn:
    """Draw ``sample`` from ``read``, all that the format reads of a split.

    Where a test set withholds all of its labels, it is drawn from what has none, as elsewhere from what has one.
    """
    labelled, withheld = format_.draw(sample), format_.draw(sample)
    dropped: Counter[str] = Counter()
    rows = 0
    for item in read:
        rows += 1
        if isinstance(item, Dropped):
            dropped[item.reason] += 1
        elif not format_.always(item):
            (withheld if getattr(item, "withheld", False) else labelled).offer(item)
    found = labelled
    if split == "test" and not labelled.offered:
        found = withheld
    else:
        dropped["unlabelled"] += withheld.offered
    return Drawn(sample, format_, found.ids(), found.offered, rows, +dropped)
