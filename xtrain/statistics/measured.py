"""What was measured: a score for each row, seed and unit, and how much each item adds to it.

Dimension letters: R rows, S seeds, T runs within a seed, U units (a language of a target), I items of a unit, M parts
of a metric, K clusters.
"""

from __future__ import annotations

import warnings
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Outcomes:
    """What one run did with each item of one unit, as the sums that its metric is made of.

    A metric is the mean over its parts of a ratio of two sums over the items. An accuracy has one part, with 0 or 1
    above and 1 below; the F1 of chunks one, with twice the right ones above and predicted plus gold ones below; a
    macro F1 one part a class.
    """

    ids: Sequence[str]
    """Items of the same id are one cluster, whatever the language: they are sampled together."""
    above: Floats
    """(I, M)."""
    below: Floats
    """(I, M)."""

    def __post_init__(self) -> None:
        assert self.above.shape == self.below.shape == (len(self.ids), self.above.shape[1]), "an item is missing"

    def of(self, ids: Sequence[str]) -> Outcomes:
        """The same of these items, in their order."""
        if list(ids) == list(self.ids):
            return self
        place = {id_: n for n, id_ in enumerate(self.ids)}
        kept = [place[id_] for id_ in ids]
        return Outcomes(list(ids), self.above[kept], self.below[kept])

    @property
    def score(self) -> float:
        """The metric in percent."""
        return 100.0 * float(np.mean(_ratios(self.above, self.below)))

    def influence(self) -> Floats:
        """What each item adds to the score, (I,): the score's derivative by the item's weight; the sum is 0."""
        below = self.below.sum(axis=0)
        ratios = _ratios(self.above, self.below)
        safe = np.where(below > 0, below, 1.0)
        parts: Floats = np.where(below > 0, (self.above - ratios * self.below) / safe, 0.0)
        influence: Floats = 100.0 * parts.mean(axis=1)
        return influence


def _ratios(above: Floats, below: Floats) -> Floats:
    """Of the sums over the items, (M,); 0 where there is nothing below, as F1 has it."""
    high, low = above.sum(axis=0), below.sum(axis=0)
    ratios: Floats = np.divide(high, low, out=np.zeros_like(high), where=low > 0)
    return ratios


@dataclass(frozen=True)
class Unit:
    """What is scored by itself: a language of a target."""

    target: str
    language: str


@dataclass(frozen=True)
class Measured:
    """A table of scores with the influences behind them; the engine's input.

    Scores are NaN where a run is missing, influences where its predictions are. Where only scores are known,
    ``influence`` is empty: then nothing is known of how the items vary, and an estimate says so by having no source of
    that name.
    """

    rows: tuple[str, ...]
    seeds: tuple[Hashable, ...]
    units: tuple[Unit, ...]
    scores: Floats
    """(R, S, U), percent."""
    influence: tuple[npt.NDArray[np.float32], ...] = ()
    """A unit each, (R, S, I)."""
    clusters: tuple[Ints, ...] = ()
    """A unit each, (I,): the number of each item's cluster, from 0 over all units."""
    runs: Floats | None = None
    """(R, S, T, U): where seeds are nested, the scores of the runs within each seed, of which ``scores`` are the means.
    """

    def __post_init__(self) -> None:
        assert self.scores.shape == (len(self.rows), len(self.seeds), len(self.units)), self.scores.shape
        assert len(self.influence) == len(self.clusters), "influences without clusters"
        assert not self.influence or len(self.influence) == len(self.units), "a unit without influences"

    @property
    def num_clusters(self) -> int:
        """K: items that are sampled by themselves."""
        return 1 + max((int(numbers.max(initial=-1)) for numbers in self.clusters), default=-1)

    def row(self, name: str) -> int:
        """The row's place."""
        return self.rows.index(name)

    def of_units(self, wanted: Sequence[int]) -> Measured:
        """The same of some units, by their places."""
        return Measured(
            self.rows,
            self.seeds,
            tuple(self.units[u] for u in wanted),
            self.scores[:, :, list(wanted)],
            tuple(self.influence[u] for u in wanted) if self.influence else (),
            tuple(self.clusters[u] for u in wanted) if self.clusters else (),
            None if self.runs is None else self.runs[..., list(wanted)],
        )

    def with_rows(self, wanted: Sequence[int]) -> Measured:
        """The same of some rows, with all seeds."""
        chosen = list(wanted)
        return Measured(
            tuple(self.rows[r] for r in chosen),
            self.seeds,
            self.units,
            self.scores[chosen],
            tuple(one[chosen] for one in self.influence),
            self.clusters,
            None if self.runs is None else self.runs[chosen],
        )

    def of_rows(self, wanted: Sequence[int]) -> Measured:
        """The same of some rows, and of the seeds that all of them have; without influences where one lacks them."""
        part = self.with_rows(wanted)
        seeds = part.shared_seeds()
        influence = tuple(np.take(one, seeds, axis=1) for one in part.influence)
        known = not any(np.isnan(one).any() for one in influence)
        return Measured(
            part.rows,
            tuple(self.seeds[s] for s in seeds),
            self.units,
            np.take(part.scores, seeds, axis=1),
            influence if known else (),
            self.clusters if known else (),
            None if part.runs is None else np.take(part.runs, seeds, axis=1),
        )

    def nested(self, outer: Sequence[Hashable]) -> Measured:
        """The means over runs that share an ``outer`` seed, (S,): what is sampled by itself where seeds are nested.

        A mean is over the runs that are there; all outer seeds have the same number of runs to have.
        """
        names = tuple(dict.fromkeys(outer))
        if len(names) == len(self.seeds):
            return self
        places = np.array([[s for s, one in enumerate(outer) if one == name] for name in names])  # (S', T)
        runs = self.scores[:, places]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # a mean of nothing is NaN, as it should be
            influence = tuple(np.nanmean(one[:, places], axis=2) for one in self.influence)
            scores = np.nanmean(runs, axis=2)
        return Measured(self.rows, names, self.units, scores, influence, self.clusters, runs)

    def shared_seeds(self) -> Ints:
        """The places of the seeds that every row has a score of."""
        seeds: Ints = np.flatnonzero(~np.isnan(self.scores).all(axis=2).any(axis=0))
        return seeds

    def whole_units(self) -> Ints:
        """The places of the units that every row has in each of the :meth:`shared_seeds`."""
        units: Ints = np.flatnonzero(~np.isnan(self.scores[:, self.shared_seeds()]).any(axis=(0, 1)))
        return units

    def combined(self, rows: Floats) -> Measured:
        """One row in place of all: the sum of them weighted by ``rows`` (R,)."""
        return Measured(
            ("",),
            self.seeds,
            self.units,
            np.einsum("r,rsu->su", rows, self.scores)[None],
            tuple(np.einsum("r,rsi->si", rows, one, dtype=float)[None] for one in self.influence),
            self.clusters,
        )

    def of_items(self, units: Floats) -> Floats:
        """(R, S, G, K): what each cluster adds to each run's sums over the units, weighted by ``units`` (G, U)."""
        clusters = self.num_clusters
        added = np.zeros((len(self.rows), len(self.seeds), len(units), clusters))
        for weights, influence, numbers in zip(units.T, self.influence, self.clusters, strict=True):
            used = np.flatnonzero(weights)
            for r, of_row in enumerate(influence):
                for s, one in enumerate(of_row):
                    added[r, s, used] += weights[used, None] * np.bincount(numbers, one, clusters)
        return added


def measured(
    rows: Sequence[str],
    seeds: Sequence[Hashable],
    units: Sequence[Unit],
    scores: Mapping[tuple[str, Hashable, Unit], float],
    outcomes: Mapping[tuple[str, Hashable, Unit], Outcomes],
) -> Measured:
    """The table of these runs. Items that the runs of a unit do not share (a changed data set) are left out."""
    table = np.full((len(rows), len(seeds), len(units)), np.nan)
    row_of, seed_of = ({name: n for n, name in enumerate(names)} for names in (rows, seeds))
    unit_of = {unit: n for n, unit in enumerate(units)}
    for (row, seed, unit), score in scores.items():
        table[row_of[row], seed_of[seed], unit_of[unit]] = score
    by_unit: dict[Unit, dict[tuple[int, int], Outcomes]] = {unit: {} for unit in units}
    for (row, seed, unit), one in outcomes.items():
        by_unit[unit][row_of[row], seed_of[seed]] = one
    numbers: dict[tuple[str, str], int] = {}
    influence, clusters = [], []
    for unit, runs in by_unit.items():
        ids = _shared([one.ids for one in runs.values()])
        clusters.append(np.array([numbers.setdefault((unit.target, id_), len(numbers)) for id_ in ids], dtype=np.int64))
        influence.append(np.full((len(rows), len(seeds), len(ids)), np.nan, dtype=np.float32))
        for place, one in runs.items():
            influence[-1][place] = one.of(ids).influence()
    return Measured(tuple(rows), tuple(seeds), tuple(units), table, tuple(influence), tuple(clusters))


def joined(tables: Sequence[Measured]) -> Measured:
    """The units of several tables of the same rows and seeds, side by side; their items are different ones."""
    assert len({(one.rows, one.seeds) for one in tables}) == 1, "other rows or seeds"
    influence: list[npt.NDArray[np.float32]] = []
    clusters: list[Ints] = []
    shift = 0
    for one in tables:
        influence += one.influence
        clusters += [numbers + shift for numbers in one.clusters]
        shift += one.num_clusters
    return Measured(
        tables[0].rows,
        tables[0].seeds,
        tuple(unit for one in tables for unit in one.units),
        np.concatenate([one.scores for one in tables], axis=2),
        tuple(influence),
        tuple(clusters),
        np.concatenate([one.runs for one in tables], axis=3) if all(one.runs is not None for one in tables) else None,
    )


def _shared(ids: Sequence[Sequence[str]]) -> list[str]:
    """The ids that all have, in the order of the first."""
    if not ids:
        return []
    common = set(ids[0]).intersection(*ids[1:])
    return [id_ for id_ in ids[0] if id_ in common]
