"""Covariates of languages: of the table of languages, of what the tokenizer made of the text, or the study's own."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

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
"""Name -> what the table of languages says; None where it does not know. The others of
:data:`~xtrain.study_questions.COVARIATES` are what ``scores.json`` says of the text of each language."""


def covariate(context: Context, name: str, languages: Sequence[str]) -> Floats:
    """A value for each language, NaN where none is known; ``name`` was checked with the study."""
    own = context.question.values
    if name in own:
        return np.array([own[name].get(language, UNKNOWN) for language in languages])
    if name in FROM_FACTS:
        found = [FROM_FACTS[name](one) if (one := facts(language)) else None for language in languages]
        return np.array([UNKNOWN if value is None else value for value in found])
    return np.array([_of_text(context, name, language) for language in languages])


def script_of(language: str) -> str:
    """ISO 15924 code of a language's script."""
    known = facts(language)
    return known.script if known is not None and known.script else "unknown script"


def _of_text(context: Context, name: str, language: str) -> float:
    """The mean over the targets that have the language."""
    runs = {run.target: run for run in context.evidence.runs if run.target in context.targets}.values()
    values = [float(run.tokens[language][name]) for run in runs if name in run.tokens.get(language, {})]
    return float(np.mean(values)) if values else UNKNOWN
