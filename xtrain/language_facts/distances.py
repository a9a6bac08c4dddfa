"""Typological distances between languages, by lang2vec: a package of its own that is never required."""

from __future__ import annotations

import importlib
from typing import Any

from xtrain.errors import Problem, UserError, listed, nearest
from xtrain.language_facts.facts import facts
from xtrain.languages import name_of, names, primary

KINDS = ("genetic", "geographic", "syntactic", "inventory", "phonological", "featural")
"""The distances of URIEL (Littell et al. 2017), as lang2vec names them; each from 0 to 1."""
_INSTALL = "pip install lang2vec, and 'setuptools<81' where pkg_resources is missing: lang2vec needs it"


def typological_distance(code: str, other: str, kind: str) -> float:
    """The distance of two languages of one of :data:`KINDS`, as URIEL has computed it beforehand.

    Codes are of any standard that :mod:`xtrain.languages` knows. Raises :class:`UserError` if lang2vec or its distances
    are not there, and if it has none of a language.
    """
    if kind not in KINDS:
        raise UserError(Problem("kind", f"{kind!r} is not known", listed(KINDS), nearest(kind, KINDS)))
    package = _lang2vec()
    known = frozenset(package.DISTANCE_LANGUAGES)
    one, two = _uriel_code(code, known), _uriel_code(other, known)
    if one == two:
        return 0.0
    try:
        return float(package.distance(kind, one, two))
    except OSError as error:
        what = "lang2vec is installed without the file of its distances (distances.zip)"
        raise UserError(Problem("typological distances", what, remedy="install lang2vec again, with it")) from error


def _lang2vec() -> Any:
    try:
        return importlib.import_module("lang2vec.lang2vec")
    except ImportError as error:
        what = f"they are lang2vec's, which cannot be imported: {error}"
        raise UserError(Problem("typological distances", what, remedy=_INSTALL)) from error


def _uriel_code(code: str, known: frozenset[str]) -> str:
    """The language's code in URIEL: ISO 639-3, now of a macrolanguage and now of its standard variety."""
    line = facts(code)
    name = name_of(code)
    same = [one for one, its_name in names().items() if its_name == name and len(one) == 3] if name else []
    for candidate in (primary(code), *([line.iso639_3] if line else []), *same):
        if candidate in known:
            return candidate
    what = f"lang2vec has no distances of {code!r}" + (f" ({name})" if name else "")
    raise UserError(Problem("typological distances", what, "a language of lang2vec.DISTANCE_LANGUAGES"))
