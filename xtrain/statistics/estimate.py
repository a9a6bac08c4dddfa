"""An estimate with its uncertainty: where its variance comes from, its interval, its test, what it could have found."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy import optimize, special

from xtrain.statistics.measured import Floats

LEVEL = 0.95
POWER = 0.8
TINY = 1e-60  # the smallest tail that is told from none
KNOWN_DF = 200  # from so many degrees of freedom on a variance is as good as known
GRID = 4096  # points at which the spread of the other variances is looked at


@dataclass(frozen=True)
class Source:
    """One thing that was sampled, and what it adds to the variance of an estimate."""

    name: str
    """``seeds``, ``items``, ``languages``, ``rows``."""
    variance: float
    """In the square of the estimate's unit; what other sources count already is not in it."""
    df: float
    """Degrees of freedom of ``variance``."""
    n: int
    """How many of them were sampled."""
    within: tuple[float, int] = (0.0, 1)
    """Of seeds with others nested in them: how much of ``variance`` is from these, and how many each has."""


@dataclass(frozen=True)
class Estimate:
    """A number in points (or points per unit of a covariate), and how well it is known."""

    value: float
    sources: tuple[Source, ...]
    """What was sampled; empty where nothing is known of the uncertainty (one seed)."""
    at_once: float | None = None
    """Of one of several intervals that hold together with 95 %: half its width, in standard errors."""

    @property
    def known(self) -> bool:
        """Whether there is an interval: without one, nothing is claimed."""
        return bool(self.sources) and math.isfinite(self.se)

    @property
    def variance(self) -> float:
        """Of the estimate; NaN where it is not known."""
        return sum(source.variance for source in self.sources) if self.sources else math.nan

    @property
    def se(self) -> float:
        """Standard error."""
        return math.sqrt(self.variance) if self.sources else math.nan

    def share(self, source: Source) -> float:
        """Of the variance, between 0 and 1."""
        return source.variance / self.variance if self.variance > 0 else 0.0

    def critical(self, level: float = LEVEL) -> float:
        """Half the width of the interval of ``level``, in standard errors.

        The normal quantile, and for each source a part of the way to Student's quantile with its degrees of freedom
        that grows with its share of the variance (:func:`_weight`). Exact where one source has all of the variance.
        """
        if self.at_once is not None and level == LEVEL:
            return self.at_once
        return self._upper_quantile((1.0 - level) / 2)

    def _upper_quantile(self, tail: float) -> float:
        normal = -float(special.ndtri(tail))
        return normal + math.fsum(
            float(_weight(np.asarray(self.share(source)), source.df))
            * (-float(special.stdtrit(source.df, tail)) - normal)
            for source in self.sources
            if math.isfinite(source.df)
        )

    def interval(self, level: float = LEVEL) -> tuple[float, float]:
        """Two-sided, around the value; NaN where nothing is known."""
        half = self.critical(level) * self.se if self.known else math.nan
        return self.value - half, self.value + half

    @property
    def low(self) -> float:
        """Lower end of the 95 % interval."""
        return self.interval()[0]

    @property
    def high(self) -> float:
        """Upper end of the 95 % interval."""
        return self.interval()[1]

    @cached_property
    def p(self) -> float:
        """Two-sided, against 0: the smallest alpha whose interval leaves 0 out; 1 where nothing is known."""
        return self.p_against(0.0)

    def p_against(self, value: float) -> float:
        """Two-sided p that the truth is ``value``."""
        if not self.known:
            return 1.0
        return min(1.0, 2.0 * self._tail(abs(self.value - value)))

    def p_above(self, value: float) -> float:
        """One-sided p against a truth of at most ``value``."""
        if not self.known:
            return 1.0
        tail = self._tail(abs(self.value - value))
        return tail if self.value > value else 1.0 - tail

    def p_equivalent(self, margin: float) -> float:
        """TOST: the larger p of two one-sided tests against -``margin`` and ``margin`` (Schuirmann 1987)."""
        assert margin > 0, margin
        if not self.known:
            return 1.0
        below = self._tail(abs(margin - self.value))
        return max(self.p_above(-margin), below if self.value < margin else 1.0 - below)

    def _tail(self, distance: float) -> float:
        """The one-sided tail beyond ``distance``, at most a half."""
        if self.se == 0.0:
            return 0.5 if distance == 0.0 else 0.0
        wanted = distance / self.se
        if wanted <= 0.0:
            return 0.5
        if self._upper_quantile(TINY) <= wanted:
            return TINY
        root = optimize.brentq(
            lambda log_tail: self._upper_quantile(math.exp(log_tail)) - wanted,
            math.log(TINY),
            math.log(0.5),
            xtol=1e-10,
        )
        return math.exp(float(root))

    def detectable(self, alpha: float = 1.0 - LEVEL, power: float = POWER) -> float:
        """The smallest true effect that a study of this size finds with ``power`` at ``alpha``, two-sided.

        The variances that such a study would find are spread as chi-squared around ours, and with them its critical
        value. NaN where nothing is known.
        """
        if not self.known:
            return math.nan
        if self.se == 0.0:
            return 0.0
        wanted = self._spread_of_widths(alpha / 2) / self.se  # what an estimate has to be beyond, in true errors

        def missing(effect: float) -> float:
            return float(np.mean(special.ndtr(effect - wanted))) - power

        return float(optimize.brentq(missing, -10.0, float(wanted.max()) + 10.0)) * self.se

    def _spread_of_widths(self, tail: float) -> Floats:
        """Half widths that studies like this one would have, each as likely as any other."""
        loose = [source for source in self.sources if source.df < KNOWN_DF and source.variance > 0]
        points = int(GRID ** (1 / max(1, len(loose))))
        middles = (np.arange(points) + 0.5) / points
        grid = np.meshgrid(*(source.variance * special.chdtri(source.df, 1 - middles) / source.df for source in loose))
        drawn = dict(zip(map(id, loose), (axis.ravel() for axis in grid), strict=True))
        variances = [drawn.get(id(source), np.float64(source.variance)) for source in self.sources]
        whole = np.asarray(sum(variances))
        normal = -float(special.ndtri(tail))
        critical = np.full(whole.shape, normal)
        for source, variance in zip(self.sources, variances, strict=True):
            if math.isfinite(source.df):
                longer = -float(special.stdtrit(source.df, tail)) - normal
                critical += _weight(variance / whole, source.df) * longer
        widths: Floats = critical * np.sqrt(whole)
        return widths


def _weight(share: Floats, df: float) -> Floats:
    """How far the critical value is on its way from the normal's to Student's, by a source's share of the variance.

    0 and 1 at the ends. Satterthwaite's interval, the usual choice, holds the truth in as few as 87 % of studies where
    one degree of freedom (two seeds) has most of the variance, and Cochran and Cox's, which takes the share itself, in
    98 % where it has little. This is between them, chosen so that any share gives 93.5 to 96.6 % at one degree of
    freedom, and 95 to 96.1 % from two on (by integration, where the other sources are known; ``benchmarks/coverage.py``
    has whole tables).
    """
    weight: Floats = 1.0 - (1.0 - np.minimum(share, 1.0) ** 2) ** (1.0 + 3.0 / df)
    return weight


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's (1979) corrected p-values of a family of tests, in the order given."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    corrected, highest = [1.0] * len(p_values), 0.0
    for rank, i in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[i]))
        corrected[i] = highest
    return corrected


def cohens_h(one: float, other: float) -> float:
    """Effect size of two shares in percent: ``2 asin sqrt(p1) - 2 asin sqrt(p2)`` (Cohen 1988)."""
    first, second = (2 * math.asin(math.sqrt(min(max(x / 100.0, 0.0), 1.0))) for x in (one, other))
    return first - second
