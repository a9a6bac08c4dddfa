"""Contrasts of a table of scores, and the variance that seeds, items, and languages or rows add to them.

Seeds, items and languages are crossed: each contrast has one value a seed and unit, and one influence an item. Its
variance is put together from the mean squares of that table as the analysis of variance of a crossed design has it
(Searle, Casella & McCulloch 1992, chapter 4); for clusters of items that several languages share it is the multiway
clustered variance of Cameron, Gelbach & Miller (2011), interactions counted once.

Dimension letters: R rows, S seeds, U units, I items of a unit, K clusters, P columns of a design.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from xtrain.statistics.estimate import Estimate, Source
from xtrain.statistics.measured import Floats, Measured
from xtrain.statistics.noise import NOTHING_KNOWN, Noise, noise_of

SEEDS, ITEMS, LANGUAGES, ROWS = "seeds", "items", "languages", "rows"


@dataclass(frozen=True)
class Design:
    """A regression over units (languages or rows) of which one coefficient is asked for."""

    columns: Floats
    """(U, P)."""
    coefficient: int = 0
    """Which of the columns."""
    name: str = LANGUAGES
    """What the units are a sample of."""
    groups: Sequence[str] = ()
    """A unit each: what they are clustered in (families); empty: each unit by itself."""

    @property
    def weights(self) -> Floats:
        """What each unit's value counts in the coefficient, (U,)."""
        weights: Floats = np.linalg.pinv(self.columns)[self.coefficient]
        return weights

    @property
    def df(self) -> int:
        """Units that are left to vary."""
        return len(self.columns) - int(np.linalg.matrix_rank(self.columns))

    def residuals(self, values: Floats) -> Floats:
        """(..., U) -> what the regression leaves of it, the same shape."""
        fitted: Floats = values - values @ np.linalg.pinv(self.columns).T @ self.columns.T
        return fitted


def mean_of(count: int, name: str = LANGUAGES, groups: Sequence[str] = ()) -> Design:
    """The design whose coefficient is the plain mean of ``count`` units."""
    return Design(np.ones((count, 1)), 0, name, groups)


def contrast(
    table: Measured, rows: Floats, units: Floats, random: Design | None = None, pool: Measured | None = None
) -> Estimate:
    """The sum of all scores weighted by ``rows`` (R,) and ``units`` (U,), the mean over the seeds.

    These units count and no others, unless ``random`` says that they stand for more of their kind: then ``units`` is
    (G, U), how the table's units make up those of the design (a language, the mean over its targets), and the design
    weighs them. Seeds count that every row with a weight has. The value is NaN where there is none.

    ``pool`` has the same units for more rows, from which the noise of seeds is learnt; by default ``table`` itself.
    """
    used = np.flatnonzero(rows)
    part = table.of_rows([int(r) for r in used])
    coefficients = np.asarray(rows, dtype=float)[used]
    units = np.atleast_2d(np.asarray(units, dtype=float))
    there = np.flatnonzero(units.any(axis=0))
    values = np.einsum("r,gu,rsu->sg", coefficients, units[:, there], part.scores[:, :, there])
    influence = None
    if part.influence:
        influence = part.of_units(there.tolist()).combined(coefficients).of_items(units[:, there])[0]
    weights = np.ones(len(units)) if random is None else random.weights
    noise = _noise(table if pool is None else pool, weights @ units, part.seeds)
    found = estimate(values, weights, influence, random, noise, float(np.sum(coefficients**2)))
    return _with_runs(found, part, coefficients, weights @ units)


def _with_runs(found: Estimate, part: Measured, rows: Floats, units: Floats) -> Estimate:
    """What of the seeds' variance is from runs within a seed, where seeds are nested and all runs are there."""
    if part.runs is None:
        return found
    there = np.flatnonzero(units)
    values = np.einsum("r,u,rstu->st", rows, units[there], part.runs[..., there])
    count = values.shape[1]
    if not np.isfinite(values).all() or count < 2:
        return found
    inner = float(np.var(values, axis=1, ddof=1).mean()) / values.size
    sources = (
        replace(one, within=(min(inner, one.variance), count)) if one.name == SEEDS else one for one in found.sources
    )
    return replace(found, sources=tuple(sources))


def _noise(pool: Measured, units: Floats, seeds: Sequence[Hashable]) -> Noise:
    """Of the rows that have all of these seeds and units."""
    chosen = [pool.seeds.index(seed) for seed in seeds]
    there = np.flatnonzero(units)
    values = np.einsum("u,rsu->rs", units[there], pool.scores[:, chosen][:, :, there])
    whole = np.isfinite(values).all(axis=1)
    return noise_of(values[whole])


def across_rows(table: Measured, units: Floats, design: Design) -> Estimate:
    """A coefficient of a regression over the rows of ``table``, each the mean over units weighted by ``units`` (U,).

    The rows stand for more of their kind where the design has degrees of freedom left: what the regression leaves of
    them counts as a source of variance.
    """
    part = table.of_rows(range(len(table.rows)))
    values = np.einsum("u,rsu->sr", units, part.scores)
    influence = np.swapaxes(part.of_items(units[None])[:, :, 0], 0, 1) if part.influence else None
    noise = _noise(part, units, part.seeds)
    squares = float(np.sum(design.weights**2))
    return estimate(values, design.weights, influence, design, noise, squares)


def estimate(
    values: Floats,
    weights: Floats,
    influence: Floats | None,
    random: Design | None = None,
    noise: Noise = NOTHING_KNOWN,
    squares: float = 1.0,
) -> Estimate:
    """A weighted sum of units, the mean over seeds, with its sources of variance.

    ``values`` are (S, U), ``influence`` (S, U, K) or None. With ``random``, the units are a sample as well. ``noise``
    is what other rows tell of the seeds, and ``squares`` the sum of the squared weights of rows.

    What two sources do together is in the mean squares of both, and counts once: it is taken from the one with more
    degrees of freedom. Taken from the other, it would often leave nothing of what one or two of them tell, and the
    interval would be far too short.
    """
    by_seed = values @ weights
    num_seeds = len(by_seed)
    if not num_seeds or np.isnan(by_seed).any():
        return Estimate(math.nan, ())
    seeds, df, units, df_units, of_units = 0.0, 0.0, 0.0, 0.0, 0.0
    if num_seeds > 1:
        between, df = noise.moderated(float(np.var(by_seed, ddof=1)), num_seeds - 1, squares)
        seeds = between / num_seeds
    if random is not None and random.df > 0:
        df_units = _df(random)
        units, of_seeds, of_units = _units(values, influence, random)
        seeds, units = (seeds - of_seeds, units) if df_units < df else (seeds, units - of_seeds)
    sources = []
    if influence is not None:
        variance, of_seeds, count = _items(influence, weights)
        sources.append(Source(ITEMS, max(0.0, variance - of_seeds - of_units), max(1, count - 1), count))
    if df:
        sources.append(Source(SEEDS, max(0.0, seeds), df, num_seeds))
    if random is not None and df_units:
        sources.append(Source(random.name, max(0.0, units), df_units, values.shape[1]))
    return Estimate(float(by_seed.mean()), tuple(sources))


def _items(influence: Floats, weights: Floats) -> tuple[float, float, int]:
    """Variance that the clusters add, that of their interaction with the seeds, and how many there are."""
    num_seeds = len(influence)
    by_seed = np.einsum("u,suk->sk", weights, influence)
    mean = by_seed.mean(axis=0)
    present = np.any(influence != 0.0, axis=(0, 1))
    count = int(present.sum())
    variance = float(np.sum(mean**2)) * (count / (count - 1) if count > 1 else 1.0)
    if num_seeds < 2:
        return variance, 0.0, count
    return variance, float(np.sum((by_seed - mean) ** 2)) / (num_seeds * (num_seeds - 1)), count


def _units(values: Floats, influence: Floats | None, design: Design) -> tuple[float, float, float]:
    """Variance that the units add, and how much of it seeds and items do to each of them."""
    num_seeds, df = len(values), design.df
    squares = float(np.sum(design.weights**2))
    mean = design.residuals(values.mean(axis=0))
    if design.groups:
        between = _clustered(mean * design.weights, design.groups)
    else:
        between = float(np.sum(mean**2)) / df * squares
    of_seeds = 0.0
    if num_seeds > 1:
        left = design.residuals(values) - mean
        of_seeds = float(np.sum(left**2)) / ((num_seeds - 1) * df) * squares / num_seeds
    if influence is None:
        return between, of_seeds, 0.0
    items = influence.mean(axis=0)  # (U, K)
    of_items = float(np.sum(design.residuals(items.T) ** 2)) / df * squares
    if num_seeds > 1:
        left = design.residuals(np.swapaxes(influence - items, 1, 2))
        of_items -= float(np.sum(left**2)) / ((num_seeds - 1) * df) * squares / num_seeds
    return between, of_seeds, of_items


def _clustered(parts: Floats, groups: Sequence[str]) -> float:
    """Variance of a sum whose ``parts`` (U,) vary together within their groups."""
    names = sorted(set(groups))
    sums = np.array([sum(part for part, name in zip(parts, groups, strict=True) if name == one) for one in names])
    return float(np.sum(sums**2)) * len(names) / max(1, len(names) - 1)


def _df(design: Design) -> float:
    """Degrees of freedom of the units; of clusters of unequal size as many as equal ones would have (Kish)."""
    if not design.groups:
        return design.df
    sizes = np.array([list(design.groups).count(name) for name in sorted(set(design.groups))], dtype=float)
    return max(1.0, float(np.sum(sizes**2) ** 2 / np.sum(sizes**4)) - 1.0)
