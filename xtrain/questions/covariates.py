"""Covariates of languages: of the table of languages, of what the tokenizer made of the text, or the study's own."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from xtrain.errors import Problem, UserError, listed, nearest
from xtrain.language_facts import LanguageFacts, facts
from xtrain.statistics.measured import Floats

if TYPE_CHECKING:
    from xtrain.questions.context import Context

UNKNOWN = math.nan

FROM_FACTS: Mapping[str, Callable[[LanguageFacts], float | None]] = {
    "cc100_gib": lambda one: one.cc100_gib,
    "log_cc100_gib": lambda one: math.log2(one.cc100_gib) if one.cc100_gib else None,
    "cc100_mtokens": lambda one: one.cc100_mtokens,
    "latin_script": lambda one: float(one.script == "Latn") if one.script else None,
    "indo_european": lambda one: float(one.family == "Indo-European") if one.family else None,
}
"""Name -> what the table of languages says; None where it does not know."""
FROM_TEXT = ("unknown_percent", "subwords_per_word", "subwords_per_character", "truncated_percent")
"""What ``scores.json`` says of the text of each language."""


def known_covariates(own: Mapping[str, Mapping[str, float]]) -> tuple[str, ...]:
    """The names that a question may use; ``own`` are its values."""
    return (*own, *FROM_FACTS, *FROM_TEXT)


def covariate(context: Context, name: str, languages: Sequence[str]) -> Floats:
    """A value for each language, NaN where none is known; raises a :class:`UserError` for a name that nobody knows."""
    own = context.question.values
    if name in own:
        return np.array([own[name].get(language, UNKNOWN) for language in languages])
    if name in FROM_FACTS:
        found = [FROM_FACTS[name](one) if (one := facts(language)) else None for language in languages]
        return np.array([UNKNOWN if value is None else value for value in found])
    if name in FROM_TEXT:
        return np.array([_of_text(context, name, language) for language in languages])
    known = known_covariates(own)
    where = f"question {context.question.name!r}: covariate"
    raise UserError(Problem(where, f"{name!r} is not known", listed(known), nearest(name, known)))


def script_of(language: str) -> str:
    """ISO 15924 code of a language's script."""
    known = facts(language)
    return known.script if known is not None and known.script else "unknown script"


def _of_text(context: Context, name: str, language: str) -> float:
    """The mean over the targets that have the language."""
    values = []
    for run in {run.target: run for run in context.evidence.runs if run.target in context.targets}.values():
        tokens: Mapping[str, Any] = run.directory.read_scores()["protocol"]["tasks"][run.target].get("tokens", {})
        if language in tokens:
            values.append(float(tokens[language][name]))
    return float(np.mean(values)) if values else UNKNOWN
