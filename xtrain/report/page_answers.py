"""Answers as the page shows them: figures, a table of the comparisons, and what is said of each in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from xtrain.errors import counted
from xtrain.questions.answer import Answer, Comparison, Verdict, by_group
from xtrain.questions.sentences import p_number
from xtrain.report.answer_figures import MOST_LINES, answer_figure, decimals, details_figure, interval_text
from xtrain.report.figures import data_uri
from xtrain.report.tables import signed

WORDS = {
    Verdict.HIGHER: "higher",
    Verdict.LOWER: "lower",
    Verdict.EQUIVALENT: "equivalent",
    Verdict.OPEN: "open",
    Verdict.UNSUPPORTED: "no claim",
}
COUNTS = ("seeds", "items", "languages", "rows")  # in this order
UNFOLDED = 12  # a table with more comparisons is folded
SPOKEN = 12  # comparisons that a reader who cannot see the figure is told


@dataclass(frozen=True)
class ComparisonLine:
    """One comparison in words."""

    label: str
    estimate: str
    """``+1.3 [+0.4, +2.2]``."""
    p: str
    counts: str
    """``3 / 5,010 / 14``."""
    verdict: str
    tone: str
    """The verdict where it is a claim, else empty."""
    scores: str
    effect: str
    detectable: str
    """Beside what is open: what would have been found."""
    remarks: tuple[str, ...]

    @classmethod
    def of(
        cls, one: Comparison, answer: Answer, digits: int, counts: Sequence[str], shared: Sequence[str]
    ) -> ComparisonLine:
        """The line of ``one`` in a table that has these ``counts``, and under which the ``shared`` remarks stand."""
        within = f" within ±{answer.margin:g}" if one.verdict is Verdict.EQUIVALENT and answer.margin else ""
        would = one.verdict is Verdict.OPEN and one.detectable is not None
        return cls(
            one.label,
            interval_text(one.estimate, digits),
            p_text(one.p_corrected),
            " / ".join(f"{one.counts[name]:,}" if name in one.counts else "–" for name in counts),  # noqa: RUF001
            WORDS[one.verdict] + within,
            str(one.verdict) if one.claimed else "",
            f"{one.scores[0]:.1f}, {one.scores[1]:.1f}" if one.scores else "",
            "" if one.effect_size is None else signed(one.effect_size, 2),
            f"±{one.detectable:.{digits}f}" if would else "",
            tuple(remark for remark in one.remarks if remark not in shared),
        )


@dataclass(frozen=True)
class AnswerView:
    """One answer with all that the page shows of it."""

    answer: Answer
    figure: tuple[str, str] | None
    """What a reader who cannot see it is told, and its data URI."""
    details: tuple[str, str] | None
    groups: Sequence[tuple[str, Sequence[ComparisonLine]]]
    """The comparisons by group; its name is empty where there is but one."""
    counts: str
    """What the numbers of :attr:`ComparisonLine.counts` are: ``seeds / items``."""
    trend: Sequence[str]
    """Of a curve: its trend in words."""
    folded: bool
    """Whether the table is long."""
    shared: Sequence[str]
    """Remarks of all comparisons alike."""

    @classmethod
    def of(cls, answer: Answer) -> AnswerView:
        """All of it drawn and worded."""
        counts = [name for name in COUNTS if any(name in one.counts for one in answer.comparisons)]
        digits = decimals(answer.comparisons)
        shared = _shared_remarks(answer.comparisons)
        main, details = answer_figure(answer), details_figure(answer)
        return cls(
            answer,
            (_spoken(answer.comparisons, answer), data_uri(main)) if main else None,
            (_details_name(answer), data_uri(details)) if details else None,
            [
                (group, [ComparisonLine.of(one, answer, digits, counts, shared) for one in members])
                for group, members in by_group(answer.comparisons).items()
            ],
            " / ".join(counts),
            [_trend(one, digits) for one in answer.comparisons] if answer.kind == "curve" else [],
            len(answer.comparisons) > UNFOLDED,
            shared,
        )

    def has(self, column: str) -> bool:
        """Whether a line has anything in the column: ``scores``, ``effect``, ``counts``."""
        return any(getattr(line, column) for _, lines in self.groups for line in lines)

    @property
    def tally(self) -> str:
        """``2 higher, 1 lower, 7 open``."""
        verdicts = [one.verdict for one in self.answer.comparisons]
        return ", ".join(f"{verdicts.count(one)} {word}" for one, word in WORDS.items() if one in verdicts)


def p_text(p: float | None) -> str:
    """``0.012``, ``< 0.001``; a dash where nothing was tested."""
    return "–" if p is None else p_number(p)  # noqa: RUF001


def _spoken(comparisons: Sequence[Comparison], answer: Answer) -> str:
    """The figure in words."""
    digits = decimals(comparisons)
    told = [
        f"{one.group} {one.label}: {interval_text(one.estimate, digits)}, {WORDS[one.verdict]}"
        for one in comparisons[:SPOKEN]
    ]
    rest = f"; and {len(comparisons) - SPOKEN} more" if len(comparisons) > SPOKEN else ""
    return f"{answer.unit}. {'; '.join(told)}{rest}."


def _shared_remarks(comparisons: Sequence[Comparison]) -> list[str]:
    """What would stand in every line of several."""
    if len(comparisons) < 2:
        return []
    return [remark for remark in comparisons[0].remarks if all(remark in one.remarks for one in comparisons[1:])]


def _details_name(answer: Answer) -> str:
    number = len(answer.details)
    cut = f", the first {MOST_LINES} drawn" if number > MOST_LINES else ""
    return f"In detail: {counted(number, 'line')}{cut}; shown, not claimed"


def _trend(one: Comparison, digits: int) -> str:
    """``per tenfold data: +0.8 [+0.1, +1.5], higher, p 0.030``."""
    tested = "" if one.p_corrected is None else f", p {p_text(one.p_corrected)}"
    return f"{one.label}: {interval_text(one.estimate, digits)}, {WORDS[one.verdict]}{tested}"
