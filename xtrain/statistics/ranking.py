"""Which row is the best: all differences at once, and the rows that cannot be told from the best one.

Seeds are blocks: the noise of rows by seeds is taken to be of one size in all rows (a randomised block design), so
that its mean square has (R - 1)(S - 1) degrees of freedom. The critical value is that of the largest of all
differences, by simulation from the items' covariance and that noise (Hothorn, Bretz & Westfall 2008); rows that no
other row beats by it are a set that has the best one with the stated confidence (Hsu 1996, chapter 4).

Dimension letters: R rows, S seeds, K clusters of items, B draws.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from xtrain.statistics.contrasts import ITEMS, SEEDS
from xtrain.statistics.estimate import LEVEL, Estimate, Source
from xtrain.statistics.measured import Floats, Measured

DRAWS = 20_000


@dataclass(frozen=True)
class Ranking:
    """Rows by their mean over units and seeds."""

    rows: tuple[str, ...]
    means: Floats
    """(R,), percent."""
    differences: dict[tuple[str, str], Estimate]
    """First less second; all intervals hold at once."""
    largest: Floats
    """(B,): the largest ratio of a difference to its error where no rows differ."""

    @property
    def order(self) -> tuple[str, ...]:
        """The best first."""
        return tuple(self.rows[r] for r in np.argsort(-self.means, kind="stable"))

    def p(self, one: str, other: str) -> float:
        """Of a difference, corrected for all of them."""
        found = self.differences[one, other]
        if not found.known or found.se == 0.0:
            return 1.0 if not found.known or found.value == 0.0 else 0.0
        return float((1 + np.sum(self.largest >= abs(found.value) / found.se)) / (1 + len(self.largest)))

    @property
    def best_ones(self) -> tuple[str, ...]:
        """The rows that no other row beats for certain, the best first."""
        beaten = {other for one, other in self.differences if self.differences[one, other].low > 0}
        return tuple(row for row in self.order if row not in beaten)


def rank(table: Measured, units: Floats, level: float = LEVEL, seed: int = 0) -> Ranking:
    """The ranking of all rows of ``table`` by the mean of its units weighted by ``units`` (U,).

    Needs the same seeds of all rows, two at least; seeds that some row lacks are left out.
    """
    part = table.of_rows(range(len(table.rows)))
    num_rows, num_seeds = len(part.rows), len(part.seeds)
    values = np.einsum("u,rsu->rs", units, part.scores)
    items = _items(part, np.asarray(units, dtype=float))
    means = values.mean(axis=1) if num_seeds else np.full(num_rows, np.nan)
    noise, df = 0.0, 0
    if num_seeds > 1 and num_rows > 1:
        left = values - values.mean(axis=1, keepdims=True) - values.mean(axis=0) + values.mean()
        df = (num_rows - 1) * (num_seeds - 1)
        noise = float(np.sum(left**2)) / df / num_seeds
    largest = _largest(items, noise, df, np.random.default_rng(seed)) if df else np.array([np.inf])
    critical = float(np.quantile(largest, level)) if df else np.inf
    differences = {}
    for r, one in enumerate(part.rows):
        for q, other in enumerate(part.rows):
            if r != q:
                variance = max(0.0, float(items[r, r] + items[q, q] - 2 * items[r, q]))
                sources = [Source(ITEMS, variance, max(1, part.num_clusters - 1), part.num_clusters)]
                sources = sources if part.influence else []
                if df:
                    sources.append(Source(SEEDS, 2 * noise, df, num_seeds))
                known = tuple(sources) if df else ()
                differences[one, other] = Estimate(float(means[r] - means[q]), known, critical)
    return Ranking(part.rows, means, differences, largest)


def _items(table: Measured, units: Floats) -> Floats:
    """Covariance of the rows' means from the items, (R, R), without what they do to each run: that is its noise."""
    num_rows, num_seeds, clusters = len(table.rows), len(table.seeds), table.num_clusters
    if not table.influence or not num_seeds:
        return np.zeros((num_rows, num_rows))
    summed = table.of_items(units[None])[:, :, 0]
    mean = summed.mean(axis=1)
    covariance: Floats = mean @ mean.T * (clusters / max(1, clusters - 1))
    if num_seeds < 2 or num_rows < 2:
        return covariance
    left = summed - mean[:, None] - summed.mean(axis=0) + summed.mean(axis=(0, 1))
    of_runs = float(np.sum(left**2)) / ((num_rows - 1) * (num_seeds - 1)) / num_seeds
    sizes, directions = np.linalg.eigh(covariance - of_runs * np.eye(num_rows))
    return directions @ np.diag(np.maximum(sizes, 0.0)) @ directions.T  # type: ignore[no-any-return]


def _largest(items: Floats, noise: float, df: int, rng: np.random.Generator) -> Floats:
    """(B,): the largest absolute ratio over all pairs, where all rows are equal and ``noise`` is an estimate.

    The true noise is drawn around it, ``df / chi2``: without that the critical value would be too small where the
    estimate happens to be (a fiducial distribution, as in the problem of Behrens and Fisher).
    """
    num_rows = len(items)
    root = np.linalg.cholesky(items + 1e-12 * np.eye(num_rows) * max(1.0, float(np.trace(items))))
    deviations = np.sqrt(noise * df / rng.chisquare(df, (DRAWS, 1)))
    drawn = rng.standard_normal((DRAWS, num_rows)) @ root.T + deviations * rng.standard_normal((DRAWS, num_rows))
    largest = np.zeros(DRAWS)
    for r in range(num_rows):
        for q in range(r):
            variance = max(0.0, float(items[r, r] + items[q, q] - 2 * items[r, q])) + 2 * noise
            ratio = np.abs(drawn[:, r] - drawn[:, q]) / np.sqrt(max(variance, 1e-300))
            np.maximum(largest, ratio, out=largest)
    return largest
