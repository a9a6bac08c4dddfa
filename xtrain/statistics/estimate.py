"""An estimate with its uncertainty: where its variance comes from, its interval, its test, what it could have found."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from scipy import optimize, stats

LEVEL = 0.95
POWER = 0.8
TINY = 1e-60  # the smallest tail that is told from none


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
        normal = float(stats.norm.isf(tail))
        return normal + math.fsum(
            _weight(self.share(source), source.df) * (float(stats.t.isf(tail, source.df)) - normal)
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

        The non-central t with the degrees of freedom whose critical value is ours. NaN where nothing is known.
        """
        if not self.known:
            return math.nan
        critical, df = self.critical(1.0 - alpha), self.df(alpha)

        def missing(effect: float) -> float:
            found = stats.nct.sf(critical, df, effect) if df < 1e6 else stats.norm.sf(critical - effect)
            return float(found) - power

        upper = 4.0 * critical + 4.0
        while missing(upper) < 0:
            upper *= 2.0
        return float(optimize.brentq(missing, 0.0, upper)) * self.se

    def df(self, alpha: float = 1.0 - LEVEL) -> float:
        """Degrees of freedom of the Student's t that has our critical value at ``alpha``."""
        critical = self.critical(1.0 - alpha)
        if critical <= float(stats.norm.isf(alpha / 2)) * (1.0 + 1e-9):
            return math.inf
        least = min(source.df for source in self.sources)
        return float(
            optimize.brentq(
                lambda df: float(stats.t.isf(alpha / 2, df)) - critical,
                min(least, 1.0) * 0.5,
                1e9,
                xtol=1e-6,
                rtol=1e-9,
            )
        )


def _weight(share: float, df: float) -> float:
    """How far the critical value is on its way from the normal's to Student's, by a source's share of the variance.

    0 and 1 at the ends. Satterthwaite's interval, the usual choice, holds the truth in as few as 87 % of studies where
    one degree of freedom (two seeds) has most of the variance, and Cochran and Cox's, which takes the share itself, in
    98 % where it has little. This is between them, chosen so that any share gives 93.5 to 96.6 % at one degree of
    freedom, and 95 to 96.1 % from two on (by integration, where the other sources are known; ``benchmarks/coverage.py``
    has whole tables).
    """
    return float(1.0 - (1.0 - min(share, 1.0) ** 2) ** (1.0 + 3.0 / df))


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
