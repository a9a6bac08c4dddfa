"""What an answer is made of: comparisons with estimates and verdicts, a sentence, and what it cannot say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from xtrain.statistics.chance import ALPHA
from xtrain.statistics.estimate import Estimate


class Verdict(StrEnum):
    """What is claimed of a comparison, after the correction for the family of tests."""

    HIGHER = "higher"
    LOWER = "lower"
    EQUIVALENT = "equivalent"
    """Within the margin that the question states (two one-sided tests)."""
    OPEN = "open"
    """Neither: the data do not tell."""
    UNSUPPORTED = "unsupported"
    """No claim whatever the numbers: at chance, not zero-shot, or a single seed. The remarks say which."""


def told_apart(value: float, p: float | None) -> Verdict:
    """Higher or lower where the corrected p says so, else open."""
    if p is None or p >= ALPHA:
        return Verdict.OPEN
    return Verdict.HIGHER if value > 0 else Verdict.LOWER


@dataclass(frozen=True)
class Comparison:
    """One difference (or slope, or synergy) that a question asks for: a line of its forest plot."""

    label: str
    """``mnli``, ``mnli + qqp``, ``Turkic``: what is compared, as the study names it."""
    estimate: Estimate
    """In points, or points per unit of the covariate."""
    group: str = ""
    """What the line belongs to in a plot of several parts: a target, a family of languages; empty for one part."""
    p_corrected: float | None = None
    """Holm's, within the question's family of tests; None for what is shown and not tested."""
    verdict: Verdict = Verdict.OPEN
    scores: tuple[float, float] | None = None
    """The two scores in percent, where it is a difference of two."""
    effect_size: float | None = None
    """Cohen's h of two shares, where the metric is one."""
    detectable: float | None = None
    """Points that the study would have found with 80 % power at the level it is held to."""
    counts: Mapping[str, int] = field(default_factory=dict)
    """The n of it: ``seeds``, ``items``, ``languages``, ``rows``."""
    remarks: tuple[str, ...] = ()
    """What a reader must know of this line: languages at chance, cells that are not zero-shot."""

    @property
    def claimed(self) -> bool:
        """Whether something is said of it; bold, colour and sentences are for these alone."""
        return self.verdict in (Verdict.HIGHER, Verdict.LOWER, Verdict.EQUIVALENT)


@dataclass(frozen=True)
class Point:
    """A point of a curve."""

    x: float
    estimate: Estimate
    label: str = ""


@dataclass(frozen=True)
class Answer:
    """The answer to one ``[[question]]``."""

    name: str
    question: str
    """The sentence that the study asks."""
    kind: str
    """``contrast``, ``interaction``, ``curve``, ``matrix`` or ``choice``."""
    sentence: str
    """The answer in words, with interval, corrected p and n."""
    unit: str
    """What the numbers are: ``accuracy, points``."""
    against: str = ""
    """What the comparisons are to: ``none``."""
    comparisons: tuple[Comparison, ...] = ()
    """The family of tests, in the study's order."""
    details: tuple[Comparison, ...] = ()
    """Shown, not claimed: the same by language or by target."""
    curve: tuple[Point, ...] = ()
    """Of a curve: its points; ``comparisons`` hold its trend."""
    x_name: str = ""
    """Of a curve or of an interaction with a covariate: what lies across."""
    matrix: tuple[tuple[str, ...], tuple[str, ...]] | None = None
    """Of a matrix: the names of its lines and columns; a comparison's group is the line, its label the column."""
    gains: Mapping[tuple[str, str], Comparison] = field(default_factory=dict)
    """Of a matrix: line and column -> what a pair, or on the diagonal a task alone, is above the base row; shown, not
    claimed."""
    limits: tuple[str, ...] = ()
    """What it cannot say: sentences."""
    advice: tuple[str, ...] = ()
    """Where the next run would help most: sentences."""
    margin: float | None = None
    """The equivalence margin in points, where the question states one."""
    components: Mapping[str, float] = field(default_factory=dict)
    """Standard deviation in points of what varies (rows by seeds, by languages ...), by a mixed model over all
    cells."""

    @property
    def claims(self) -> tuple[Comparison, ...]:
        """The comparisons of which something is said."""
        return tuple(one for one in self.comparisons if one.claimed)


def by_group(comparisons: Sequence[Comparison]) -> dict[str, list[Comparison]]:
    """The comparisons of each group, in the order given."""
    groups: dict[str, list[Comparison]] = {}
    for one in comparisons:
        groups.setdefault(one.group, []).append(one)
    return groups
