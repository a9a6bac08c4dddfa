"""How much runs of one row differ by their seed, when a row has two or three: rows learn from each other.

The variance of each row's runs has few degrees of freedom, and a comparison that happens to have a small one would
look certain. So it is moderated (Smyth 2004, "limma"): each row's variance is taken to be drawn around a common one,
s0, whose weight d0, in degrees of freedom, is estimated from how much more the rows' variances differ than chance
would have it. Where they differ no more, all rows have one variance; where they differ much, each keeps nearly its
own.

Dimension letters: R rows, S seeds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import optimize, special

from xtrain.statistics.measured import Floats

LEAST_ROWS = 4  # fewer say nothing of how variances differ
SMALLEST = 1e-4  # of the median: a variance of 0 is a rounding of a small one


@dataclass(frozen=True)
class Noise:
    """Of one row's value from seed to seed."""

    variance: float
    """The common one, in points squared."""
    df: float
    """What it weighs beside a row's own; 0: nothing is known, infinite: all rows have the same."""
    most: float
    """Degrees of freedom of all rows together."""

    def moderated(self, own: float, own_df: float, squares: float) -> tuple[float, float]:
        """A comparison's variance by seed with its degrees of freedom, from its ``own``; ``squares``: of its
        weights."""
        if self.df == 0:
            return own, own_df
        if math.isinf(self.df):
            return self.variance * squares, self.most
        total = self.df + own_df
        return (self.df * self.variance * squares + own_df * own) / total, min(total, self.most)


NOTHING_KNOWN = Noise(0.0, 0.0, 0.0)


def noise_of(values: Floats) -> Noise:
    """Of (R, S) values: what is left of them without the means of rows and of seeds."""
    rows, seeds = values.shape
    if rows < LEAST_ROWS or seeds < 2 or not np.isfinite(values).all():
        return NOTHING_KNOWN
    left = values - values.mean(axis=1, keepdims=True) - values.mean(axis=0) + values.mean()
    own = np.sum(left**2, axis=1) / ((seeds - 1) * (1 - 1 / rows))
    most = float((rows - 1) * (seeds - 1))
    middle = float(np.median(own))
    if middle == 0.0:
        return Noise(float(own.mean()), math.inf, most)
    df = float(seeds - 1)
    logs = np.log(np.maximum(own, SMALLEST * middle)) - special.digamma(df / 2) + math.log(df / 2)
    beyond = float(np.var(logs, ddof=1)) - float(special.polygamma(1, df / 2))
    if beyond <= 0:
        return Noise(float(own.mean()), math.inf, most)
    weight = 2.0 * _inverse_trigamma(beyond)
    common = math.exp(float(logs.mean()) + float(special.digamma(weight / 2)) - math.log(weight / 2))
    return Noise(common, weight, most)


def _inverse_trigamma(value: float) -> float:
    """x with trigamma(x) = ``value`` > 0."""
    found = optimize.brentq(lambda log_x: float(special.polygamma(1, math.exp(log_x))) - value, -20.0, 20.0)
    return math.exp(float(found))
