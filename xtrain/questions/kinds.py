"""The kinds of answers: contrasts, interactions, curves, matrices of pairs, and choices."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from xtrain.errors import counted, listed
from xtrain.questions.answer import Comparison, Point, Verdict
from xtrain.questions.context import Context, Draft, Tested, family_of, language_means, row_weights, target_mean
from xtrain.questions.covariates import covariate, script_of
from xtrain.statistics.bootstrap import draw, probability_best
from xtrain.statistics.contrasts import LANGUAGES, ROWS, Design, across_rows
from xtrain.statistics.measured import Measured
from xtrain.statistics.ranking import Ranking, rank
from xtrain.statistics.shapley import Subset, sampled_weights
from xtrain.study_questions import CHOICE, CONTRAST, CURVE, INTERACTION, MATRIX, THESE, Question, level
from xtrain.study_rows import NO_INTERMEDIATE

LEAST_LANGUAGES = 3  # beyond the coefficients of a regression over languages


def contrasts(context: Context) -> Draft:
    """Each of what is compared against the reference, over all or for each target, language, family or script."""
    tests: list[Tested] = []
    details: list[Comparison] = []
    for name, rows in context.compared.items():
        if not context.question.each:
            tests.append(context.compare(name, rows, context.reference))
            details += context.details(name, rows, context.reference)
            continue
        for part, where in _parts(context).items():
            tests.append(context.compare(part, rows, context.reference, group=name, **where))
    return Draft(context.question, tuple(tests), context.against, tuple(details))


def _parts(context: Context) -> dict[str, dict[str, list[str]]]:
    """The parts that a question asks for one by one: name -> its languages or targets."""
    each = context.question.each
    if each == "target":
        return {target: {"targets": [target]} for target in context.targets}
    names: dict[str, Callable[[str], str]] = {"language": str, "family": family_of, "script": script_of}
    name_of = names[each]
    parts: dict[str, dict[str, list[str]]] = {}
    for language in context.languages:
        parts.setdefault(name_of(language), {"languages": []})["languages"].append(language)
    return dict(sorted(parts.items()))


def interactions(context: Context) -> Draft:
    """Whether differences depend on a covariate of languages, on their group, or on another factor of rows."""
    question = context.question
    if question.within:
        return _within(context)
    tests, details = [], []
    for name, rows in context.compared.items():
        table = context.table([*rows, *context.reference], context.languages)
        if set(table.rows) < {*rows, *context.reference} or not table.units:
            tests.append(context.nothing(name, "", context.why_nothing([*rows, *context.reference])))
            continue
        tests.append(_by_covariate(context, name, rows, table) if question.covariate else
                     _by_group(context, name, rows, table))  # fmt: skip
        details += context.details(name, rows, context.reference)
    limits = ["a relation over languages is no cause: what goes along with the covariate may be what counts"]
    x_name = question.covariate or " against ".join(question.groups)
    return Draft(question, tuple(tests), context.against, tuple(details), {"x_name": x_name}, tuple(limits),
                 headings=_of_languages(question))  # fmt: skip


def _of_languages(question: Question) -> tuple[str, str]:
    """What is said where a difference is larger, or smaller, by languages."""
    if question.covariate:
        name = question.covariate
        unit = f"each doubling of {name.removeprefix('log_')}" if name.startswith("log_") else f"one more {name}"
        return f"The difference grows with {unit}", f"The difference shrinks with {unit}"
    first, second = question.groups
    return (
        f"The difference is larger in {first} than in {second}",
        f"The difference is smaller in {first} than in {second}",
    )


def _by_covariate(context: Context, name: str, rows: Sequence[str], table: Measured) -> Tested:
    """The slope of the difference over a covariate, others held constant."""
    question = context.question
    names, units = language_means(table.units)
    columns = [covariate(context, one, names) for one in (question.covariate, *question.controls)]
    known = [i for i in range(len(names)) if all(math.isfinite(column[i]) for column in columns)]
    if len(known) < len(columns) + 1 + LEAST_LANGUAGES:
        return context.nothing(name, "", f"{question.covariate} is known of {counted(len(known), 'language')}: too few")
    centred = [column[known] - column[known].mean() for column in columns]
    design = Design(np.column_stack([*centred, np.ones(len(known))]), 0, LANGUAGES)
    if np.linalg.matrix_rank(design.columns) < design.columns.shape[1]:
        return context.nothing(name, "", f"{question.covariate} cannot be told from {listed(question.controls)}")
    weights = row_weights(table.rows, rows, context.reference)
    found = context.tested(name, "", table, context.contrast(table, weights, units[known], design))
    unknown = [one for i, one in enumerate(names) if i not in known]
    remark = (f"{question.covariate} is not known of {listed(unknown)}",) if unknown else ()
    return replace(found, comparison=replace(found.comparison, remarks=(*found.comparison.remarks, *remark)))


def _by_group(context: Context, name: str, rows: Sequence[str], table: Measured) -> Tested:
    """The difference in the first group of languages less that in the second."""
    question = context.question
    first, second = question.groups.values()
    names, units = language_means(table.units)
    known = [i for i, one in enumerate(names) if one in first or one in second]
    member = np.array([float(names[i] in first) for i in known])
    if not 0 < member.sum() < len(known):
        return context.nothing(name, "", "a group has no language that was scored")
    design = Design(np.column_stack([member, np.ones(len(known))]), 0, LANGUAGES)
    weights = row_weights(table.rows, rows, context.reference)
    if question.over == THESE:
        estimate = context.contrast(table, weights, design.weights @ units[known])
    else:
        estimate = context.contrast(table, weights, units[known], design)
    return context.tested(name, "", table, estimate)


def _within(context: Context) -> Draft:
    """The difference at one level of another factor less that at the other."""
    question, factor = context.question, context.question.within
    levels = list(dict.fromkeys(level(of[factor]) for of in context.factors.values() if factor in of))
    tests = []
    for name, rows in context.compared.items():
        at = {
            one: tuple([row for row in side if level(context.factors[row].get(factor, "")) == one]
                       for side in (rows, context.reference))
            for one in levels
        }  # fmt: skip
        if len(levels) != 2 or not all(all(sides) for sides in at.values()):
            tests.append(context.nothing(name, "", f"needs rows of both at two levels of {factor}: {listed(levels)}"))
            continue
        every = [row for sides in at.values() for side in sides for row in side]
        table = context.table(every, context.languages)
        if set(table.rows) < set(every) or not table.units:
            tests.append(context.nothing(name, "", context.why_nothing(every)))
            continue
        (a, b), (c, d) = at.values()
        weights = row_weights(table.rows, a, b) - row_weights(table.rows, c, d)
        tests.append(context.tested(name, "", table, context.contrast(table, weights, *context.units(table))))
    than = f"where {factor} is {' than where it is '.join(levels)}"
    headings = f"The difference is larger {than}", f"The difference is smaller {than}"
    extra = {"x_name": f"{factor}: {' less '.join(levels)}"}
    return Draft(question, tuple(tests), context.against, extra=extra, headings=headings)


def curves(context: Context) -> Draft:
    """The trend of scores over a number that rows have, its points, and what each task adds."""
    question = context.question
    named = context.compared
    rows = [row for of in named.values() for row in of if question.x in context.factors[row]]
    numbers = {row: float(context.factors[row][question.x]) for row in rows}
    table = context.table(rows, context.languages)
    missing = [row for row in rows if row not in table.rows]
    xs = sorted({numbers[row] for row in table.rows})
    if len(xs) < 2 or not table.units:
        why = f"{question.x} has one value" if table.units and not missing else context.why_nothing(rows)
        return Draft(question, (context.nothing("trend", "", why),), context.against)
    across = np.array([numbers[row] for row in table.rows])
    steps = np.log2(across) if question.logarithmic else across
    design = Design(np.column_stack([steps - steps.mean(), np.ones(len(steps))]), 0, ROWS)
    estimate = across_rows(table, target_mean(table.units), design)
    label = f"each doubling of {question.x}" if question.logarithmic else f"one more of {question.x}"
    trend = context.tested(label, "", table, estimate)
    if design.df == 0:
        limit = f"each {question.x} has one row: its number and its choice of tasks cannot be told apart"
    else:
        limit = f"rows of one {question.x} differ by their tasks: that is in the interval, as if they were a sample"
    points = tuple(
        Point(x, context.compare("", [row for row in table.rows if numbers[row] == x], context.reference)
              .comparison.estimate)
        for x in xs
    )  # fmt: skip
    notes = [limit] + ([f"not finished: {listed(missing)}"] if missing else [])
    extra = {"curve": points, "x_name": question.x}
    return Draft(question, (trend,), context.against, tuple(_shapley(context)), extra, tuple(notes))


def _shapley(context: Context) -> list[Comparison]:
    """What each task adds on average, where the rows are mixtures of one list of tasks with none and all among them."""
    mixtures = {Subset(row.phases[0]) if row.phases else Subset(): row.name
                for row in context.study.intermediate if len(row.phases) <= 1}  # fmt: skip
    players = sorted({task for subset in mixtures for task in subset})
    table = context.table(list(mixtures.values()), context.languages)
    there = {subset: name for subset, name in mixtures.items() if name in table.rows}
    try:
        weights = sampled_weights(players, there) if len(players) > 1 and table.units else {}
    except ValueError:
        return []
    found = []
    for player, of in weights.items():
        rows = np.zeros(len(table.rows))
        for subset, weight in of.items():
            rows[table.row(there[subset])] += weight
        tested = context.tested(player, "Shapley value", table, context.contrast(table, rows, *context.units(table)))
        found.append(replace(tested.comparison, verdict=Verdict.UNSUPPORTED if tested.blocked else Verdict.OPEN))
    return found


def matrices(context: Context) -> Draft:
    """Pairs of tasks against the better one of their two: what the pair has that neither has alone."""
    sets = {row.name: frozenset(row.phases[0]) for row in context.study.intermediate if len(row.phases) == 1}
    wanted = {row for rows in context.compared.values() for row in rows}
    single = {next(iter(tasks)): name for name, tasks in sets.items() if len(tasks) == 1}
    tests, gains = [], {}
    for name, tasks in sets.items():
        if len(tasks) != 2 or name not in wanted or not tasks <= set(single):
            continue
        one, other = sorted(tasks)
        tests.append(_synergy(context, name, one, other, single))
        gains[other, one] = name
    gains |= {(task, task): row for task, row in single.items()}
    shown = {place: context.compare(row, [row], context.reference, group=f"gain over {context.against}").comparison
             for place, row in gains.items()}  # fmt: skip
    names = tuple(sorted({name for test in tests for name in (test.comparison.group, test.comparison.label)}))
    limits = () if tests else ("no pair of tasks with both of its tasks alone among the rows",)
    return Draft(context.question, tuple(tests), "the better one of the two", tuple(shown.values()),
                 {"matrix": (names, names), "gains": shown}, limits)  # fmt: skip


def _synergy(context: Context, pair: str, one: str, other: str, single: Mapping[str, str]) -> Tested:
    """A pair less the better one of its two.

    It is above both, or it has none: the larger p of the two counts (an intersection-union test); that it is below the
    better one is a union, and the smaller p counts twice.
    """
    both = [context.compare(other, [pair], [single[task]], group=one) for task in (one, other)]
    if any(test.comparison.estimate.value != test.comparison.estimate.value for test in both):
        return both[0]
    lower = min(both, key=lambda test: test.comparison.estimate.value)
    above = lower.comparison.estimate.value > 0
    p = max(test.p for test in both) if above else min(1.0, 2 * lower.p)
    better = one if lower is both[0] else other
    remarks = (f"the better one is {better}", *lower.comparison.remarks)
    comparison = replace(lower.comparison, label=other, group=one, remarks=remarks)
    return Tested(comparison, p, next((test.blocked for test in both if test.blocked), ""))


def choices(context: Context) -> Draft:
    """Which row is the best, which cannot be told from it, and what choosing by English would lose."""
    rows = [row for of in context.compared.values() for row in of]
    if NO_INTERMEDIATE in context.reference and not context.question.against:
        rows = [NO_INTERMEDIATE, *rows]
    table = context.table(rows, context.languages)
    if len(table.rows) < 2 or not table.units:
        return Draft(context.question, (context.nothing("the best", "", context.why_nothing(rows)),))
    ranking = rank(table, target_mean(table.units))
    best = ranking.order[0]
    drawn = np.einsum("u,bru->br", target_mean(table.units), draw(table.of_rows(range(len(table.rows)))))
    shares = dict(zip(table.rows, probability_best(drawn), strict=True))
    tests = []
    for row in ranking.order[1:]:
        part = context.table([row, best], context.languages)
        tested = context.tested(row, "", part, ranking.differences[row, best], ([row], [best]))
        remark = f"best in {100 * shares[row]:.0f} % of bootstrap draws"
        comparison = replace(tested.comparison, remarks=(remark, *tested.comparison.remarks))
        tests.append(Tested(comparison, ranking.p(row, best), tested.blocked, corrected=True))
    missing = [row for row in rows if row not in table.rows]
    limits = [f"not finished: {listed(missing)}"] if missing else []
    return Draft(context.question, tuple(tests), best, tuple(_regrets(context, table, ranking)),
                 limits=tuple(limits), lead=_best(ranking, shares[best]))  # fmt: skip


def _best(ranking: Ranking, share: float) -> str:
    best, together = ranking.order[0], ranking.best_ones
    score = float(ranking.means[ranking.rows.index(best)])
    if len(together) == 1:
        return f"{best} is the best row ({score:.1f})"
    rest = listed(row for row in together if row != best)
    draws = f"best in {100 * share:.0f} % of bootstrap draws"
    return f"{best} has the highest score ({score:.1f}, {draws}), and cannot be told from {rest}"


def _regrets(context: Context, table: Measured, ranking: Ranking) -> list[Comparison]:
    """What one loses who chooses the row by its English score."""
    english = context.evidence.table(table.rows, context.targets, ["en"], context.question.metric)
    if not english.units or set(english.rows) != set(table.rows) or np.isnan(english.scores).any():
        return []
    by_row = english.scores.mean(axis=(1, 2))
    chosen, best = english.rows[int(np.argmax(by_row))], ranking.order[0]
    if chosen == best:
        return []
    weights = row_weights(table.rows, [chosen], [best])
    tested = context.tested(chosen, "chosen by English", table, context.contrast(table, weights, *context.units(table)))
    return [tested.comparison]


KINDS: Mapping[str, Callable[[Context], Draft]] = {
    CONTRAST: contrasts,
    INTERACTION: interactions,
    CURVE: curves,
    MATRIX: matrices,
    CHOICE: choices,
}
"""Kind of answer -> what makes it."""
