"""What a study asks: its ``[[question]]`` tables, and the factors of rows that they speak of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from xtrain.config import limits
from xtrain.errors import Problem, listed, nearest

CONTRAST, INTERACTION, CURVE, MATRIX, CHOICE = "contrast", "interaction", "curve", "matrix", "choice"
THESE, LANGUAGES, FAMILIES = "these", "languages", "families"
COVARIATES = (
    "cc100_gib", "log_cc100_gib", "cc100_mtokens", "latin_script", "indo_european",
    "unknown_percent", "subwords_per_word", "subwords_per_character", "truncated_percent",
    "mean_word_length", "type_token_ratio", "words_against_english",
)  # fmt: skip
"""Properties of languages that an interaction may ask about, beside the study's own ``values``."""
EACH = ("target", "language", "family", "script")
Factor = str | float
"""The value of a row's factor: a word, or a number."""


def level(value: Factor) -> str:
    """A factor's value as questions name it: ``logic``, ``3``, ``1e-05``."""
    return value if isinstance(value, str) else f"{value:g}"


@dataclass(frozen=True)
class Question:
    """One question; its answer opens the report."""

    name: str
    """Of the question, where others speak of it."""
    asks: str
    """The question in a sentence, as the reader gets it."""
    kind: str = field(default=CONTRAST, metadata=limits(choices=(CONTRAST, INTERACTION, CURVE, MATRIX, CHOICE)))
    """``contrast``: differences of rows. ``interaction``: whether a difference depends on the language (``covariate``
    or ``groups``) or on another factor (``within``). ``curve``: scores over a number that rows have (``x``).
    ``matrix``: pairs of tasks beyond the better one of the two. ``choice``: which row is the best, and which cannot be
    told from it.
    """
    compare: tuple[str, ...] = ()
    """Rows, or levels of ``factor``; by default all but those of ``against``."""
    against: tuple[str, ...] = ()
    """What they are compared to: rows (their mean, if several), or levels of ``factor``; by default the row none."""
    factor: str = ""
    """The factor of rows whose levels are meant; empty: rows by name."""
    targets: tuple[str, ...] = ()
    """All of the study by default; each counts the same."""
    languages: tuple[str, ...] = ()
    """All that are zero-shot by default; ``["en"]`` for the ceiling."""
    metric: str = ""
    """Each target's own by default."""
    each: str = field(default="", metadata=limits(choices=("", *EACH)))
    """A comparison for each target, language, family or script instead of one over all."""
    over: str = field(default=THESE, metadata=limits(choices=(THESE, LANGUAGES, FAMILIES)))
    """What the answer is about: these languages, languages of their kind, or families of languages. The wider, the
    larger the interval."""
    margin: float | None = field(default=None, metadata=limits(above=0))
    """Points within which two things count as equal: with it, equality can be shown, not only missed."""
    covariate: str = ""
    """Of an interaction: a column of the languages' table, a measure of their text, or a name of ``values``."""
    controls: tuple[str, ...] = ()
    """Covariates that are held constant."""
    values: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """The study's own covariates: name -> language -> number."""
    groups: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Of an interaction: two groups of languages; the first less the second."""
    within: str = ""
    """Of an interaction: another factor with two levels among the rows."""
    x: str = ""
    """Of a curve: a factor of rows that is a number."""
    logarithmic: bool = False
    """Of a curve: whether points are told for each doubling of ``x``."""
    test_family: str = ""
    """Questions of the same name here are corrected together (Holm); by default each question by itself."""


def check_questions(
    questions: Sequence[Question], factors: Mapping[str, Mapping[str, Factor]], targets: Sequence[str], where: str
) -> list[Problem]:
    """What is wrong with a study's questions. ``factors`` are those of each row, by the row's name."""
    problems = []
    names = [question.name for question in questions]
    for name in dict.fromkeys(name for name in names if names.count(name) > 1):
        problems.append(Problem(f"{where}: question {name!r}", "is there twice", remedy="name one otherwise"))
    for question in questions:
        here = f"{where}: question {question.name!r}"
        problems += _levels(question, factors, here)
        for target in question.targets:
            if target not in targets:
                what = f"{target!r} is no target of the study"
                problems.append(Problem(f"{here}.targets", what, listed(targets), nearest(target, targets)))
        problems += _of_kind(question, factors, here)
    return problems


def lacking(
    question: Question,
    before: Mapping[str, Mapping[str, Factor]],
    after: Mapping[str, Mapping[str, Factor]],
    targets: Sequence[str],
) -> Question | None:
    """A question without the rows and targets that a study leaves out, of which ``after`` are left; None for nothing.

    A name that was wrong ``before`` stays, to be told.
    """
    was, now = (_names(question, factors) for factors in (before, after))
    compare, against = (
        tuple(name for name in names if name in now or name not in was)
        for names in (question.compare, question.against)
    )
    on = tuple(name for name in question.targets if name in targets)
    if (question.compare and not compare) or (question.against and not against) or (question.targets and not on):
        return None
    return replace(question, compare=compare, against=against, targets=on)


def _names(question: Question, factors: Mapping[str, Mapping[str, Factor]]) -> set[str]:
    """What a question can name: rows, or levels of its factor."""
    if not question.factor:
        return set(factors)
    return {level(of_row[question.factor]) for of_row in factors.values() if question.factor in of_row}


def _levels(question: Question, factors: Mapping[str, Mapping[str, Factor]], here: str) -> list[Problem]:
    """Rows and levels that are not there."""
    problems = []
    every = sorted({name for of_row in factors.values() for name in of_row})
    for key in ("factor", "within", "x"):
        name = getattr(question, key)
        if name and name not in every:
            what, remedy = f"no row has the factor {name!r}", nearest(name, every)
            remedy = remedy or f'write factors = {{ {name} = "..." }} into the [[intermediate]] rows'
            problems.append(Problem(f"{here}.{key}", what, listed(every), remedy))
    if question.factor and question.factor not in every:
        return problems
    known = sorted(_names(question, factors))
    for key in ("compare", "against"):
        for name in getattr(question, key):
            if name not in known:
                kind = f"level of {question.factor}" if question.factor else "row"
                what, remedy = f"{name!r} is no {kind}", nearest(name, known)
                problems.append(Problem(f"{here}.{key}", what, listed(known), remedy))
    both = set(question.compare) & set(question.against)
    if both:
        what = f"{listed(sorted(both))} is compared with itself"
        problems.append(Problem(f"{here}.compare", what, remedy="take it out of compare or of against"))
    return problems


def _of_kind(question: Question, factors: Mapping[str, Mapping[str, Factor]], here: str) -> list[Problem]:
    """Keys that the kind of answer needs, and keys of another kind."""
    problems = []
    asked = [key for key in ("covariate", "groups", "within") if getattr(question, key)]
    if question.kind == INTERACTION and len(asked) != 1:
        what = f"an interaction needs one of covariate, groups and within, and has {listed(asked) or 'none'}"
        problems.append(Problem(here, what, remedy='for example covariate = "cc100_gib"'))
    if question.kind != INTERACTION and asked:
        problems.append(
            Problem(f"{here}.{asked[0]}", f"is not for a {question.kind}", remedy='set kind = "interaction"')
        )
    for key in ("covariate", "controls"):
        value = getattr(question, key)
        known = (*question.values, *COVARIATES)
        for name in (value,) if isinstance(value, str) else value:
            if name and name not in known:
                problems.append(Problem(f"{here}.{key}", f"{name!r} is not known", listed(known), nearest(name, known)))
    if question.groups and len(question.groups) != 2:
        problems.append(Problem(f"{here}.groups", f"has {len(question.groups)}", "two groups of languages"))
    if question.kind == CURVE and not question.x:
        problems.append(Problem(f"{here}.x", "is missing", remedy='for example x = "n_tasks"'))
    if question.kind != CURVE and question.x:
        problems.append(Problem(f"{here}.x", f"is not for a {question.kind}", remedy='set kind = "curve"'))
    if question.x:
        words = sorted({str(row[question.x]) for row in factors.values() if isinstance(row.get(question.x), str)})
        if words:
            problems.append(Problem(f"{here}.x", f"{question.x!r} is {listed(words)} in some rows", "numbers"))
    return problems
