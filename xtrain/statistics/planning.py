"""Where the next run would help most: how much narrower an interval gets with more of each thing that was sampled."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from xtrain.statistics.estimate import Estimate, Source


@dataclass(frozen=True)
class Gain:
    """More of one source."""

    source: str
    more: int
    """How many there would be."""
    half_width: float
    """Of the 95 % interval then, in points."""


def gains(estimate: Estimate) -> list[Gain]:
    """One more seed, twice the items, half as many languages again: each alone, the most helpful first."""
    if not estimate.known:
        return []
    found = [_with(estimate, source, more) for source, more in _steps(estimate)]
    return sorted(found, key=lambda gain: gain.half_width)


def _steps(estimate: Estimate) -> Iterator[tuple[Source, int]]:
    for source in estimate.sources:
        if source.n > 0:
            more = {"seeds": source.n + 1, "items": 2 * source.n}.get(source.name, math.ceil(1.5 * source.n))
            yield source, more


def _with(estimate: Estimate, source: Source, more: int) -> Gain:
    larger = replace(source, n=more, variance=source.variance * source.n / more, df=source.df + more - source.n)
    planned = Estimate(estimate.value, tuple(larger if one is source else one for one in estimate.sources))
    return Gain(source.name, more, planned.critical() * planned.se)
