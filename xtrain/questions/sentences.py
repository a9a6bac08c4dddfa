"""The words of an answer: what is claimed with its interval, p and n; what is not; and what would help."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from xtrain.errors import counted, listed
from xtrain.questions.answer import Answer, Comparison, Verdict
from xtrain.statistics.contrasts import ITEMS, LANGUAGES, ROWS, SEEDS
from xtrain.statistics.estimate import Estimate
from xtrain.statistics.planning import INNER_SEEDS, Gain, gains
from xtrain.study_questions import CHOICE, CURVE, FAMILIES, INTERACTION, MATRIX, THESE

if TYPE_CHECKING:
    from xtrain.questions.context import Context

MOST = 4  # comparisons of one verdict that are spelt out; the figure and the table have all
FEW_SEEDS = 3
WORTH = 0.05  # share by which an interval has to shrink for an advice


def number(value: float, precision: float) -> str:
    """``+1.3`` with as many digits as an interval of half width ``precision`` allows."""
    digits = 1 if not math.isfinite(precision) or precision >= 0.5 else 2
    return format_difference(value, digits)


def format_difference(points: float, decimals: int = 1) -> str:
    """``+1.3``, ``-0.4``, and ``0.0`` for what rounds to nothing."""
    text = f"{points:+.{decimals}f}"
    return text if float(text) else text[1:]


def half_width(estimate: Estimate) -> float:
    """Of the 95 % interval."""
    return (estimate.high - estimate.low) / 2


def with_p(one: Comparison) -> str:
    """``+0.6 to +3.0, p = 0.004``; without a p where it was not tested."""
    half = half_width(one.estimate)
    text = f"{number(one.estimate.low, half)} to {number(one.estimate.high, half)}"
    if one.p_corrected is None:
        return text
    p = p_number(one.p_corrected)
    return f"{text}, p {p}" if p.startswith("<") else f"{text}, p = {p}"


def p_number(p: float) -> str:
    """``0.004``, ``0.24``, ``< 0.001``."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"


def sentence(
    answer: Answer, targets: Sequence[str], tests: int, lead: str = "", headings: tuple[str, str] = ("", "")
) -> str:
    """The answer in words."""
    above, below = headings
    said = {Verdict.HIGHER: above, Verdict.LOWER: below}
    parts = [f"{lead}."] if lead else []
    by_verdict: dict[Verdict, list[Comparison]] = {verdict: [] for verdict in Verdict}
    for one in answer.comparisons:
        by_verdict[one.verdict].append(one)
    for verdict in (Verdict.HIGHER, Verdict.LOWER, Verdict.EQUIVALENT, Verdict.OPEN):
        if some := by_verdict[verdict]:
            told = "; ".join(_told(answer, one) for one in some[:MOST])
            more = f"; and {len(some) - MOST} more" if len(some) > MOST else ""
            heading = said.get(verdict) or _heading(answer, verdict)
            parts.append(f"{heading}: {told}{more}.{_detectable(some)}")
    if by_verdict[Verdict.UNSUPPORTED]:
        parts.append(f"Nothing is claimed of {_unsupported(by_verdict[Verdict.UNSUPPORTED])}.")
    if not answer.comparisons:
        parts.append("There is nothing to compare yet.")
    elif len(by_verdict[Verdict.UNSUPPORTED]) < len(answer.comparisons):
        parts.append(_basis(answer, targets, tests))
    return " ".join(parts)


def _heading(answer: Answer, verdict: Verdict) -> str:
    """What is said of all comparisons of one verdict."""
    if verdict is Verdict.OPEN:
        return "Cannot be told"
    if verdict is Verdict.EQUIVALENT:
        return f"Within {answer.margin:g} points of {answer.against}"
    higher = verdict is Verdict.HIGHER
    if answer.kind == CURVE:
        return "Scores rise" if higher else "Scores fall"
    return f"{'Higher' if higher else 'Lower'} than {answer.against}"


def _told(answer: Answer, one: Comparison) -> str:
    """``mnli +1.8 (+0.6 to +3.0, p = 0.004)``."""
    value = number(one.estimate.value, half_width(one.estimate))
    return f"{name_of(answer, one)} {value} ({with_p(one)})"


def name_of(answer: Answer, one: Comparison) -> str:
    """What is compared: ``mnli``, ``mnli on xnli``, ``mnli + qqp``."""
    if not one.group:
        return one.label
    return f"{one.group} + {one.label}" if answer.kind == MATRIX else f"{one.group} on {one.label}"


def _detectable(some: Sequence[Comparison]) -> str:
    """What would have been found of comparisons that stay open."""
    sizes = sorted(one.detectable for one in some if one.detectable is not None and math.isfinite(one.detectable))
    if not sizes or some[0].verdict is not Verdict.OPEN:
        return ""
    low, high = f"{sizes[0]:.1f}", f"{sizes[-1]:.1f}"
    size = f"a difference of {low} points" if low == high else f"differences of {low} to {high} points"
    return f" With 80 % power, {size} would have been found."


def _unsupported(some: Sequence[Comparison]) -> str:
    """``a and b (one seed)``, by reason."""
    reasons: dict[str, list[str]] = {}
    for one in some:
        name = f"{one.group} on {one.label}" if one.group else one.label
        reasons.setdefault(one.remarks[-1] if one.remarks else "", []).append(name)
    return "; of ".join(f"{listed(names)} ({why})" for why, names in reasons.items())


def _basis(answer: Answer, targets: Sequence[str], tests: int) -> str:
    """On what it rests: metric, targets, n, correction."""
    counts = [one.counts for one in answer.comparisons if one.counts and one.verdict is not Verdict.UNSUPPORTED]
    parts = [f"Points of {answer.unit.removesuffix(', points')} on {listed(targets)} with their 95 % interval"]
    for key, noun in ((SEEDS, "seed"), ("items", "item"), (LANGUAGES, "language")):
        values = sorted({of[key] for of in counts if key in of})
        if values and values[-1]:
            span = f"{values[0]:,} to {values[-1]:,} {noun}s" if len(values) > 1 else counted(values[0], noun)
            inner = max((of.get(INNER_SEEDS, 1) for of in counts), default=1)
            parts.append(f"{span} with {inner} of the target phase in each" if key == SEEDS and inner > 1 else span)
    if answer.kind == CHOICE:
        parts.append("intervals and p of all differences at once")
    elif tests > 1:
        parts.append(f"p corrected for {tests} tests (Holm)")
    return f"{', '.join(parts)}."


def limits(context: Context, answer: Answer) -> list[str]:
    """What the answer cannot say."""
    found: list[str] = []
    known = [one for one in answer.comparisons if one.estimate.known]
    if not known:
        return found
    seeds = min((one.counts.get(SEEDS, 0) for one in known), default=0)
    if 1 < seeds < FEW_SEEDS:
        found.append(f"{seeds} seeds tell little of how runs differ: the intervals are as wide as that makes them")
    if context.question.over == THESE and answer.kind != INTERACTION:
        languages = max(one.counts.get(LANGUAGES, 0) for one in known)
        found.append(f"it is about what was scored ({counted(languages, 'language')}), not about languages in general")
    if context.question.over == FAMILIES:
        found.append("families differ in how many of their languages were scored; each family is one draw")
    if any(not any(source.name == ITEMS for source in one.estimate.sources) for one in known):
        found.append(
            "where predictions are missing, the interval knows of the seeds alone: other items could differ more"
        )
    if any(base.name == "starter" for base in context.study.bases):
        found.append("the starter is a small model: no number here says anything of XLM-R Large")
    chance = dict.fromkeys(
        remark for one in answer.comparisons for remark in one.remarks if remark.startswith("at chance")
    )
    found += [f"{remark}: no claim there" for remark in chance]
    leaks = context.not_zero_shot()
    left_out = [f"{language} ({why})" for language, why in leaks.items() if language not in context.question.languages]
    counted_anyway = [
        f"{language} ({why})" for language, why in leaks.items() if language in context.question.languages
    ]
    if left_out:
        found.append(f"not zero-shot, and in no mean: {listed(left_out, 8)}")
    if counted_anyway:
        found.append(f"not zero-shot, and counted since the question names it: {listed(counted_anyway, 8)}")
    for target, rows in context.same_tasks().items():
        named = target in context.question.targets
        counted_so = "counted since the question names it" if named else "in no mean of theirs"
        found.append(f"no transfer from another task, and {counted_so}: {target} after {rows}")
    return found


def advice(answer: Answer) -> tuple[str, ...]:
    """Where the next run would help most, for the open comparison that is nearest to being told; and what varies."""
    told = []
    undecided = [one for one in answer.comparisons if one.verdict is Verdict.OPEN and one.estimate.known]
    if undecided:
        nearest = min(undecided, key=lambda one: one.p_corrected if one.p_corrected is not None else 1.0)
        half = half_width(nearest.estimate)
        helpful = [gain for gain in gains(nearest.estimate) if gain.half_width < (1 - WORTH) * half]
        if helpful:
            steps = "; ".join(f"{_more(gain)} to ±{gain.half_width:.1f}" for gain in helpful)
            name = name_of(answer, nearest)
            told.append(f"The interval of {name} is ±{half:.1f} points. What helps most first: {steps}.")
    if answer.components:
        sizes = sorted(answer.components.items(), key=lambda entry: -entry[1])
        sizes_told = ", ".join(f"{name} {size:.1f}" for name, size in sizes)
        told.append(f"What varies, as standard deviations in points by a mixed model of all scores: {sizes_told}.")
    return tuple(told)


def _more(gain: Gain) -> str:
    return {
        SEEDS: f"a seed more ({gain.more}) brings it",
        INNER_SEEDS: f"a target seed more in each ({gain.more}) brings it",
        ITEMS: f"twice as many items ({gain.more:,}) bring it",
        LANGUAGES: f"half as many languages again ({gain.more}) bring it",
        ROWS: f"half as many rows again ({gain.more}) bring it",
    }.get(gain.source, f"{gain.more} {gain.source} bring it")
