"""What every kind of answer needs: which rows, units and languages a question means, and one comparison of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from xtrain.errors import listed
from xtrain.language_facts import facts
from xtrain.questions.answer import Comparison, Verdict
from xtrain.questions.leaks import Ledger
from xtrain.questions.table import Evidence
from xtrain.statistics.contrasts import ITEMS, Design, contrast, mean_of
from xtrain.statistics.estimate import Estimate, cohens_h
from xtrain.statistics.measured import Floats, Measured, Unit
from xtrain.statistics.planning import INNER_SEEDS
from xtrain.study import Study
from xtrain.study_questions import FAMILIES, THESE, Factor, Question, level
from xtrain.study_rows import NO_INTERMEDIATE

SHARES = frozenset({"accuracy", "exact_match"})  # metrics that are shares of items, and so have Cohen's h
UNKNOWN_FAMILY = "unknown family"


@dataclass(frozen=True)
class Tested:
    """One test of a question, before the correction."""

    comparison: Comparison
    p: float
    blocked: str = ""
    """Why nothing may be claimed, whatever the numbers; empty: it may."""
    corrected: bool = False
    """Whether ``p`` is corrected for all others already."""


@dataclass(frozen=True)
class Draft:
    """An answer before the correction."""

    question: Question
    tests: tuple[Tested, ...]
    against: str = ""
    details: tuple[Comparison, ...] = ()
    extra: Mapping[str, Any] = field(default_factory=dict)
    """Fields of :class:`~xtrain.questions.answer.Answer` that only this kind has."""
    limits: tuple[str, ...] = ()
    lead: str = ""
    """A first sentence that only this kind has."""
    headings: tuple[str, str] = ("", "")
    """What is said of comparisons above and below 0, where it is not that they are higher or lower."""


@dataclass(frozen=True)
class Context:
    """A question with what can answer it."""

    question: Question
    evidence: Evidence
    ledger: Ledger

    @property
    def study(self) -> Study:
        """The study that asks."""
        return self.evidence.graph.study

    @cached_property
    def factors(self) -> dict[str, dict[str, Factor]]:
        """Row -> factor -> value."""
        return self.study.factors

    @property
    def targets(self) -> tuple[str, ...]:
        """The targets that are meant."""
        return self.question.targets or tuple(column.task for column in self.study.target)

    @property
    def unit(self) -> str:
        """What the numbers are."""
        metrics = dict.fromkeys(self.evidence.metric(target, self.question.metric) for target in self.targets)
        return f"{listed(name.replace('_', ' ') for name in metrics)}, points"

    @property
    def against(self) -> str:
        """What is compared to, in words."""
        return listed(self.question.against or (NO_INTERMEDIATE,))

    @property
    def reference(self) -> list[str]:
        """The rows that are compared to."""
        return [row for name in (self.question.against or (NO_INTERMEDIATE,)) for row in self.rows(name)]

    @property
    def compared(self) -> dict[str, list[str]]:
        """What is compared -> its rows."""
        names = self.question.compare
        if not names:
            of = self.factors.values() if self.question.factor else ()
            levels = dict.fromkeys(level(row[self.question.factor]) for row in of if self.question.factor in row)
            names = tuple(levels if self.question.factor else self.factors)
        reference = set(self.reference)
        found = {name: [row for row in self.rows(name) if row not in reference] for name in names}
        return {name: rows for name, rows in found.items() if rows}

    @property
    def every_row(self) -> list[str]:
        """What is compared to, then what is compared."""
        return [*self.reference, *(row for of in self.compared.values() for row in of)]

    def rows(self, name: str) -> list[str]:
        """The rows of a level, or the one row of that name."""
        if not self.question.factor or name == NO_INTERMEDIATE:
            return [name] if name in self.factors else []
        return [row for row, of in self.factors.items() if level(of.get(self.question.factor, "")) == name]

    @cached_property
    def languages(self) -> tuple[str, ...]:
        """Every language that may count: those of the question, or all that were scored."""
        if self.question.languages:
            return self.question.languages
        runs = [run for run in self.evidence.runs if run.target in self.targets]
        return tuple(sorted({language for run in runs for language in run.scores}))

    def table(self, rows: Sequence[str], languages: Sequence[str], targets: Sequence[str] = ()) -> Measured:
        """The zero-shot units that all of ``rows`` have; a language that the question names counts in any case."""
        found = self.evidence.table(rows, targets or self.targets, languages, self.question.metric)
        return found.of_units([u for u in found.whole_units().tolist() if not self.leak(rows, found.units[u])])

    def contrast(self, table: Measured, weights: Floats, units: Floats, design: Design | None = None) -> Estimate:
        """A contrast of ``table``, whose noise of seeds is learnt from all rows."""
        return contrast(table, weights, units, design, self.pool(table))

    def pool(self, table: Measured) -> Measured:
        """The same units and seeds of all rows: what the noise of seeds is learnt from."""
        languages = list(dict.fromkeys(unit.language for unit in table.units))
        targets = list(dict.fromkeys(unit.target for unit in table.units))
        every = self.evidence.table(list(self.factors), targets, languages, self.question.metric, items=False)
        return every.of_units([every.units.index(unit) for unit in table.units])

    def leak(self, rows: Sequence[str], unit: Unit) -> str:
        """Why a unit is not zero-shot in some of ``rows``; empty where it is, or where the question asks for it.

        It asks for a language, or for a target, by naming it.
        """
        if unit.language in self.question.languages:
            return ""
        named = unit.target in self.question.targets
        reasons = (
            self.ledger.reason(row, unit.target, unit.language)
            or ("" if named else self.ledger.same_task(row, unit.target))
            for row in rows
        )
        return next(filter(None, reasons), "")

    def not_zero_shot(self) -> dict[str, str]:
        """Language -> why it is no new one for some row of the question; all of its targets together."""
        found: dict[str, str] = {}
        for language in self.languages:
            reasons = (self.ledger.reason(row, target, language) for row in self.every_row for target in self.targets)
            if why := next(filter(None, reasons), ""):
                found[language] = why
        return found

    def same_tasks(self) -> dict[str, str]:
        """Target -> which row of the question was trained on its task before, and why; those alone."""
        found: dict[str, str] = {}
        for target in self.targets:
            told = {row: why for row in self.every_row if (why := self.ledger.same_task(row, target))}
            if told:
                found[target] = f"{listed(told)} ({next(iter(told.values()))})"
        return found

    def units(self, table: Measured) -> tuple[Floats, Design | None]:
        """How units make up the mean: of targets over their languages, or of languages where these are a sample."""
        if self.question.over == THESE:
            return target_mean(table.units), None
        names, matrix = language_means(table.units)
        families = [family_of(name) for name in names] if self.question.over == FAMILIES else []
        return matrix, mean_of(len(names), groups=families)

    def compare(
        self,
        label: str,
        positive: Sequence[str],
        negative: Sequence[str],
        *,
        group: str = "",
        languages: Sequence[str] = (),
        targets: Sequence[str] = (),
    ) -> Tested:
        """The mean of some rows less that of others."""
        table = self.table([*positive, *negative], languages or self.languages, targets)
        if set(table.rows) < {*positive, *negative} or not table.units:
            return self.nothing(label, group, self.why_nothing([*positive, *negative], languages, targets))
        weights = row_weights(table.rows, positive, negative)
        units, design = self.units(table)
        estimate = self.contrast(table, weights, units, design)
        return self.tested(label, group, table, estimate, (positive, negative))

    def tested(
        self,
        label: str,
        group: str,
        table: Measured,
        estimate: Estimate,
        sides: tuple[Sequence[str], Sequence[str]] | None = None,
    ) -> Tested:
        """A comparison of an estimate over ``table``, with what a reader must know of it."""
        seeds = len(table.shared_seeds())
        at_chance = [unit for unit in table.units if self._at_chance(table.rows, unit)]
        remarks = self._remarks(table, seeds, at_chance)
        scores = _means(table, *sides) if sides else None
        share = all(self.evidence.metric(unit.target, self.question.metric) in SHARES for unit in table.units)
        comparison = Comparison(
            label,
            estimate,
            group,
            scores=scores,
            effect_size=cohens_h(*scores) if scores and share else None,
            counts={
                "seeds": seeds,
                "items": next((source.n for source in estimate.sources if source.name == ITEMS), 0),
                "languages": len({unit.language for unit in table.units}),
                "rows": len(table.rows),
                **({} if table.runs is None else {INNER_SEEDS: table.runs.shape[2]}),
            },
            remarks=tuple(remarks),
        )
        blocked = ""
        if seeds < 2:
            blocked = "one seed: two runs of one configuration can differ by as much"
        elif at_chance and len(at_chance) == len(table.units):
            blocked = "no score is above chance"
        return Tested(comparison, estimate.p, blocked)

    def nothing(self, label: str, group: str, why: str) -> Tested:
        """A comparison that cannot be made."""
        comparison = Comparison(label, Estimate(float("nan"), ()), group, verdict=Verdict.UNSUPPORTED, remarks=(why,))
        return Tested(comparison, 1.0, why)

    def details(self, label: str, positive: Sequence[str], negative: Sequence[str]) -> list[Comparison]:
        """The same comparison by target and by language: shown, not claimed."""
        found = []
        if len(self.targets) > 1:
            found += [
                self.compare(target, positive, negative, group=f"{label}, by target", targets=[target])
                for target in self.targets
            ]
        if len(self.languages) > 1:
            group = f"{label}, by language"
            found += [self.compare(one, positive, negative, group=group, languages=[one]) for one in self.languages]
        return [replace(one.comparison, verdict=Verdict.UNSUPPORTED if one.blocked else Verdict.OPEN) for one in found]

    def _at_chance(self, rows: Sequence[str], unit: Unit) -> bool:
        """Whether no row is above chance."""
        found = [self.evidence.at_chance(row, unit, self.question.metric) for row in rows]
        return True in found and False not in found

    def _remarks(self, table: Measured, seeds: int, at_chance: Sequence[Unit]) -> list[str]:
        remarks = []
        planned = len(set(self.study.outer_seeds.values()))
        if seeds < planned:
            remarks.append(f"{seeds} of {planned} seeds")
        if at_chance:
            remarks.append(f"at chance in every row: {_named(at_chance, table)}")
        if not table.influence:
            remarks.append("predictions are missing: the interval knows of the seeds alone, not of the items")
        leaks = {unit.language: why for unit in table.units for row in table.rows
                 if (why := self.ledger.reason(row, unit.target, unit.language))}  # fmt: skip
        remarks += [f"not zero-shot: {language} ({why})" for language, why in leaks.items()]
        same = dict.fromkeys(why for unit in table.units for row in table.rows
                             if (why := self.ledger.same_task(row, unit.target)))  # fmt: skip
        remarks += [f"same task: {why}" for why in same]
        return remarks

    def why_nothing(self, rows: Sequence[str], languages: Sequence[str] = (), targets: Sequence[str] = ()) -> str:
        """Why there is no unit to compare ``rows`` in."""
        every = [Unit(target, one) for target in targets or self.targets for one in languages or self.languages]
        leaks = [why for unit in every if (why := self.leak(rows, unit))]
        if leaks and len(leaks) == len(every):
            return f"not zero-shot: {leaks[0]}"
        there = {run.row for run in self.evidence.runs if run.target in (targets or self.targets)}
        missing = [row for row in rows if row not in there]
        return f"no result of {listed(missing)} yet" if missing else "no unit that all rows have"


def row_weights(rows: Sequence[str], positive: Sequence[str], negative: Sequence[str]) -> Floats:
    """(R,): the mean of some rows less the mean of others."""
    weights = np.zeros(len(rows))
    for names, sign in ((positive, 1.0), (negative, -1.0)):
        for name in names:
            weights[rows.index(name)] += sign / len(names)
    return weights


def target_mean(units: Sequence[Unit]) -> Floats:
    """(U,): the mean over targets of the mean over their languages."""
    targets = [unit.target for unit in units]
    return np.array([1.0 / (targets.count(target) * len(set(targets))) for target in targets])


def language_means(units: Sequence[Unit]) -> tuple[list[str], Floats]:
    """The languages, and how units make them up, (L, U): the mean over the targets that have one."""
    names = list(dict.fromkeys(unit.language for unit in units))
    matrix = np.array([[float(unit.language == name) for unit in units] for name in names])
    return names, matrix / matrix.sum(axis=1, keepdims=True)


def family_of(language: str) -> str:
    """The language's family; a language that the table does not know is one of its own."""
    known = facts(language)
    return known.family if known is not None and known.family else f"{UNKNOWN_FAMILY} ({language})"


def _means(table: Measured, positive: Sequence[str], negative: Sequence[str]) -> tuple[float, float]:
    seeds = table.shared_seeds()
    by_row = np.einsum("u,rsu->r", target_mean(table.units), table.scores[:, seeds]) / max(1, len(seeds))
    first, second = (float(np.mean([by_row[table.row(name)] for name in names])) for names in (positive, negative))
    return first, second


def _named(units: Sequence[Unit], table: Measured) -> str:
    targets = {unit.target for unit in table.units}
    return listed(unit.language if len(targets) == 1 else f"{unit.target} {unit.language}" for unit in units)
