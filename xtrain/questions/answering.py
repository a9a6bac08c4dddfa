"""Answers to all questions of a study: a draft of each, the correction over families of tests, verdicts, sentences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from xtrain.graph import Graph
from xtrain.questions.answer import Answer, Comparison, Verdict, told_apart
from xtrain.questions.components import components
from xtrain.questions.context import Context, Draft, Tested
from xtrain.questions.kinds import KINDS
from xtrain.questions.leaks import Ledger
from xtrain.questions.selection import selection
from xtrain.questions.sentences import advice, limits, sentence
from xtrain.questions.table import Evidence
from xtrain.statistics.chance import ALPHA
from xtrain.statistics.estimate import holm


def answer_questions(graph: Graph, evidence: Evidence, ledger: Ledger) -> list[Answer]:
    """The answers to the study's questions, in its order; and, where last steps were scored, to what choosing cost."""
    contexts = [Context(question, evidence, ledger) for question in graph.study.question]
    drafts = [KINDS[context.question.kind](context) for context in contexts]
    families: dict[str, list[int]] = {}
    for number, draft in enumerate(drafts):
        families.setdefault(draft.question.test_family or f"question {number}", []).append(number)
    found: dict[int, Answer] = {}
    for members in families.values():
        judged = judge([drafts[number].tests for number in members], [drafts[n].question.margin for n in members])
        size = sum(not test.blocked for number in members for test in drafts[number].tests)
        for number, comparisons in zip(members, judged, strict=True):
            found[number] = _answer(contexts[number], drafts[number], comparisons, size)
    chosen = selection(evidence, ledger)
    return [found[number] for number in range(len(drafts))] + ([chosen] if chosen else [])


def judge(questions: Sequence[Sequence[Tested]], margins: Sequence[float | None]) -> list[tuple[Comparison, ...]]:
    """Corrected p-values and verdicts of the tests of one family, which may belong to several questions.

    Tests that nothing may be claimed of are no part of the family. That two things are equal is another family of
    tests, corrected by itself: of one pair, both claims cannot be true.
    """
    flat = [(q, t) for q, tests in enumerate(questions) for t, test in enumerate(tests)]
    open_ones = [(q, t) for q, t in flat if not questions[q][t].blocked and not questions[q][t].corrected]
    different = dict(zip(open_ones, holm([questions[q][t].p for q, t in open_ones]), strict=True))
    with_margin = [(q, t) for q, t in open_ones if margins[q]]
    equal = [questions[q][t].comparison.estimate.p_equivalent(margins[q] or 1.0) for q, t in with_margin]
    equivalent = dict(zip(with_margin, holm(equal), strict=True))
    level = ALPHA / max(1, len(open_ones))
    judged: list[list[Comparison]] = [[] for _ in questions]
    for q, t in flat:
        test = questions[q][t]
        p = test.p if test.corrected else different.get((q, t))
        verdict = _verdict(test, p, equivalent.get((q, t)))
        detectable = None
        if verdict in (Verdict.OPEN, Verdict.EQUIVALENT):
            detectable = test.comparison.estimate.detectable(level)
        judged[q].append(
            replace(
                test.comparison,
                p_corrected=None if test.blocked else p,
                verdict=verdict,
                detectable=detectable,
                remarks=tuple(dict.fromkeys((*test.comparison.remarks, *([test.blocked] if test.blocked else [])))),
            )
        )
    return [tuple(some) for some in judged]


def _verdict(test: Tested, p: float | None, equivalent: float | None) -> Verdict:
    if test.blocked:
        return Verdict.UNSUPPORTED
    found = told_apart(test.comparison.estimate.value, p)
    if found is not Verdict.OPEN:
        return found
    if equivalent is not None and equivalent < ALPHA:
        return Verdict.EQUIVALENT
    return Verdict.OPEN


def _answer(context: Context, draft: Draft, comparisons: tuple[Comparison, ...], size: int) -> Answer:
    question = draft.question
    whole = Answer(
        name=question.name,
        question=question.asks,
        kind=question.kind,
        sentence="",
        unit=context.unit,
        against=draft.against,
        comparisons=comparisons,
        details=draft.details,
        margin=question.margin,
        components=components(context, context.every_row),
        **draft.extra,
    )
    return replace(
        whole,
        sentence=sentence(whole, context.targets, size, draft.lead, draft.headings),
        limits=(*limits(context, whole), *draft.limits),
        advice=advice(whole),
    )
