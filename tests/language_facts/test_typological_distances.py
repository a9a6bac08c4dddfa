"""Typological distances: what is asked of lang2vec, and what is said where it, or a language, is not there."""

from __future__ import annotations

import math
import sys
from types import ModuleType

import pytest

from xtrain.errors import UserError
from xtrain.language_facts import KINDS, typological_distance

VECTORS: dict[str, list[float | str]] = {
    "eng": [1.0, 1.0, 0.0, 1.0],
    "deu": [1.0, 0.0, 0.0, "--"],
    "arb": [0.0, 0.0, 1.0, 0.0],
    "cmn": [1.0, 1.0, 0.0, 1.0],
    "fas": [0.0, 0.0, 0.0, 0.0],
}


class Package(ModuleType):
    """As lang2vec.lang2vec 1.1.2: the set and the call that are used of it."""

    URIEL_LANGUAGES = frozenset(VECTORS)

    def get_features(self, languages: list[str], feature_set: str) -> dict[str, list[float | str]]:
        self.asked = (languages, feature_set)
        return {language: VECTORS[language] for language in languages}


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch) -> Package:
    made = Package("lang2vec.lang2vec")
    monkeypatch.setitem(sys.modules, "lang2vec", ModuleType("lang2vec"))
    monkeypatch.setitem(sys.modules, "lang2vec.lang2vec", made)
    return made


@pytest.mark.parametrize(
    ("code", "asked", "distance"),
    [
        ("de", "deu", 1 - 1 / math.sqrt(2)),  # of the three features that both have
        ("ar", "arb", 1.0),
        ("zh-Hans", "cmn", 0.0),
        ("fa", "fas", 1.0),
        ("pes", "fas", 1.0),
    ],
)
def test_the_cosine_of_what_uriel_has(package: Package, code: str, asked: str, distance: float) -> None:
    assert typological_distance(code, "en", "syntactic") == pytest.approx(distance)
    assert package.asked == ([asked, "eng"], "syntax_knn")


def test_a_language_is_at_no_distance_from_itself(package: Package) -> None:
    assert typological_distance("zh-Hans", "zh-Hant", "genetic") == 0.0


def test_a_language_that_uriel_lacks_is_named(package: Package) -> None:
    with pytest.raises(UserError, match=r"'eo' \(Esperanto\)"):
        typological_distance("eo", "en", KINDS[0])


def test_the_kinds_are_told(package: Package) -> None:
    with pytest.raises(UserError, match="did you mean 'syntactic'"):
        typological_distance("de", "en", "syntaktic")


def test_without_the_package_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lang2vec", None)
    monkeypatch.setitem(sys.modules, "lang2vec.lang2vec", None)
    with pytest.raises(UserError, match="pip install lang2vec"):
        typological_distance("de", "en", "syntactic")
