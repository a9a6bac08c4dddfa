"""Where the next run would help most: how much narrower an interval gets with more of each thing that was sampled."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from xtrain.statistics.estimate import Estimate, Source

INNER_SEEDS = "seeds within"


@dataclass(frozen=True)
class Gain:
    """More of one source."""

    source: str
    more: int
    """How many there would be."""
    half_width: float
    """Of the 95 % interval then, in points."""


def gains(estimate: Estimate) -> list[Gain]:
    """One more seed, twice the items, half as many languages again: each alone, the most helpful first.

    Where seeds are nested, one more within each as well.
    """
    if not estimate.known:
        return []
    found = [_with(estimate, source, more) for source, more in _steps(estimate)]
    found += [_with_inner(estimate, source) for source in estimate.sources if source.within[1] > 1]
    return sorted(found, key=lambda gain: gain.half_width)


def _steps(estimate: Estimate) -> Iterator[tuple[Source, int]]:
    for source in estimate.sources:
        if source.n > 0:
            more = {"seeds": source.n + 1, "items": 2 * source.n}.get(source.name, math.ceil(1.5 * source.n))
            yield source, more


def _with(estimate: Estimate, source: Source, more: int) -> Gain:
    larger = replace(source, n=more, variance=source.variance * source.n / more, df=source.df + more - source.n)
    return Gain(source.name, more, _half_width(estimate, source, larger))


def _with_inner(estimate: Estimate, source: Source) -> Gain:
    inner, count = source.within
    larger = replace(source, variance=source.variance - inner / (count + 1))
    return Gain(INNER_SEEDS, count + 1, _half_width(estimate, source, larger))


def _half_width(estimate: Estimate, source: Source, larger: Source) -> float:
    planned = Estimate(estimate.value, tuple(larger if one is source else one for one in estimate.sources))
    return planned.critical() * planned.se
