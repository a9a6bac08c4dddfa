"""Typological distances between languages, from URIEL by lang2vec: a package of its own that is never required."""

from __future__ import annotations

import importlib
import math
from collections.abc import Sequence
from typing import Any

from xtrain.errors import Problem, UserError, listed, nearest
from xtrain.language_facts.facts import facts
from xtrain.languages import name_of, names, primary

FEATURE_SETS = {
    "syntactic": "syntax_knn",
    "phonological": "phonology_knn",
    "inventory": "inventory_knn",
    "featural": "syntax_knn+phonology_knn+inventory_knn",
    "genetic": "fam",
}
"""Kind of distance -> the features that it is taken of, as lang2vec names them."""
KINDS = tuple(FEATURE_SETS)
_WHERE = "typological distances"


def typological_distance(code: str, other: str, kind: str) -> float:
    """``1 - cos(u, v)`` of the two languages' features in URIEL (Littell et al. 2017, EACL): from 0 to 1.

    ``kind`` is one of :data:`KINDS`; codes are of any standard that :mod:`xtrain.languages` knows. Raises
    :class:`UserError` if lang2vec cannot be imported, and if it has nothing of a language.
    """
    if kind not in FEATURE_SETS:
        raise UserError(Problem("kind", f"{kind!r} is not known", listed(KINDS), nearest(kind, KINDS)))
    package = _lang2vec()
    one, two = _uriel_code(code, package), _uriel_code(other, package)
    if one == two:
        return 0.0
    vectors = package.get_features([one, two], FEATURE_SETS[kind])
    pairs = [(a, b) for a, b in zip(vectors[one], vectors[two], strict=True) if "--" not in (a, b)]  # "--": not known
    return _cosine_distance([float(a) for a, _ in pairs], [float(b) for _, b in pairs])


def _cosine_distance(u: Sequence[float], v: Sequence[float]) -> float:
    """Between 0 and 1 of features that are; 1 where one language has none of them."""
    shared = math.fsum(a * b for a, b in zip(u, v, strict=True))
    norms = math.hypot(*u) * math.hypot(*v)
    return max(0.0, 1.0 - shared / norms) if norms else 1.0


def _lang2vec() -> Any:
    try:
        return importlib.import_module("lang2vec.lang2vec")
    except ImportError as error:
        what = f"they are taken from lang2vec, which cannot be imported: {error}"
        remedy = "pip install lang2vec 'setuptools<81' (newer ones lack pkg_resources, which it needs)"
        raise UserError(Problem(_WHERE, what, remedy=remedy)) from error


def _uriel_code(code: str, package: Any) -> str:
    """The language's code in URIEL: of ISO 639-3, and of the standard variety where that is a macrolanguage's."""
    line = facts(code)
    name = name_of(code)
    same = [one for one, its_name in names().items() if its_name == name and len(one) == 3] if name else []
    for candidate in (primary(code), *([line.iso639_3] if line else []), *same):
        if candidate in package.URIEL_LANGUAGES:
            return candidate
    what = f"URIEL has nothing of {code!r}" + (f" ({name})" if name else "")
    raise UserError(Problem(_WHERE, what, "a language of lang2vec.lang2vec.URIEL_LANGUAGES"))
