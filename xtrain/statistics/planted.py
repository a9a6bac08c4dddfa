"""Made-up tables whose truth is known, in the form that the engine takes: for its simulations, and to plan a study.

Each item is right or wrong by a threshold on a sum of normal parts: the row's and language's mean, and deviations of
seeds, items (shared by languages), items in a language, items in a row, languages in a row, and rows. So scores are
shares of right items with correlated errors, and their expectation is a normal probability with a known argument.

Dimension letters: R rows, S seeds, L languages, I items.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

from xtrain.statistics.measured import Floats, Measured, Unit


@dataclass(frozen=True)
class Spread:
    """Standard deviations on the scale of the threshold, where an item's own noise has 1.

    Near 50 % right, 0.025 is about one point of accuracy.
    """

    seed: float = 0.04
    """Of each row's runs."""
    shared_seed: float = 0.02
    """Of what the runs of one seed have in common in all rows."""
    inner_seed: float = 0.0
    """Of runs within a seed, where seeds are nested."""
    item: float = 1.0
    item_in_language: float = 0.5
    item_in_row: float = 0.4
    language: float = 0.0
    """Of languages within a row: only where languages are a sample of more."""
    row: float = 0.0
    """Of rows around their mean: only where rows are a sample of more."""

    @property
    def total(self) -> float:
        """Of all parts of one item's threshold."""
        parts = (
            self.seed,
            self.shared_seed,
            self.inner_seed,
            self.item,
            self.item_in_language,
            self.item_in_row,
            self.language,
            self.row,
        )
        return math.sqrt(1.0 + sum(part**2 for part in parts))


def expected(means: Floats, spread: Spread) -> Floats:
    """(R, L) means -> expected scores in percent: over seeds and items, and over languages and rows where these
    vary."""
    scores: Floats = 100.0 * stats.norm.cdf(means / spread.total)
    return scores


def mean_for(score: Floats | float, spread: Spread) -> Floats:
    """The inverse of :func:`expected`."""
    means: Floats = stats.norm.ppf(np.asarray(score, dtype=float) / 100.0) * spread.total
    return means


def answers(
    means: Floats,
    spread: Spread,
    *,
    seeds: int,
    items: int,
    rng: np.random.Generator,
    parallel: bool = True,
    inner: int = 1,
) -> npt.NDArray[np.bool_]:
    """(R, S, L, I): which items are right, of ``means`` (R, L); the same items in all languages where ``parallel``.

    With ``inner`` runs within each seed there are S = ``seeds`` x ``inner`` runs, those of a seed side by side.
    """
    rows, languages = means.shape
    shared = 1 if parallel else languages

    def normal(size: tuple[int, ...], deviation: float) -> Floats:
        return rng.standard_normal(size) * deviation

    threshold = (
        means[:, None, :, None]
        + normal((1, 1, shared, items), spread.item)
        + normal((1, 1, languages, items), spread.item_in_language)
        + normal((rows, 1, shared, items), spread.item_in_row)
        + normal((rows, 1, languages, 1), spread.language)
        + normal((rows, 1, 1, 1), spread.row)
        + np.repeat(normal((rows, seeds, 1, 1), spread.seed), inner, axis=1)
        + np.repeat(normal((1, seeds, 1, 1), spread.shared_seed), inner, axis=1)
    )
    if inner > 1:
        threshold = threshold + normal((rows, seeds * inner, 1, 1), spread.inner_seed)
    right: npt.NDArray[np.bool_] = rng.standard_normal((rows, seeds * inner, languages, items)) < threshold
    return right


def table(
    means: Floats,
    spread: Spread,
    *,
    seeds: int,
    items: int,
    rng: np.random.Generator,
    parallel: bool = True,
    inner: int = 1,
) -> Measured:
    """One study that might have been run, with the :func:`answers` that it would have; nested where ``inner`` > 1."""
    right = answers(means, spread, seeds=seeds, items=items, rng=rng, parallel=parallel, inner=inner)
    rows, languages = means.shape
    scores = 100.0 * right.mean(axis=3)
    influence = (100.0 * right - scores[..., None]) / items
    numbers = np.arange(items)
    made = Measured(
        tuple(f"row {r}" for r in range(rows)),
        tuple(range(seeds * inner)),
        tuple(Unit("planted", f"l{number}") for number in range(languages)),
        scores,
        tuple(influence[:, :, one].astype(np.float32) for one in range(languages)),
        tuple(numbers if parallel else numbers + one * items for one in range(languages)),
    )
    return made.nested([run // inner for run in range(seeds * inner)])
