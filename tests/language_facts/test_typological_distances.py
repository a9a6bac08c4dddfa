"""Typological distances: what is asked of lang2vec, and what is said where it, or a language, is not there."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import pytest

from xtrain.errors import UserError
from xtrain.language_facts import KINDS, typological_distance


class Package(ModuleType):
    """As lang2vec.lang2vec: the names and the call that are used of it."""

    DISTANCE_LANGUAGES = ("eng", "deu", "arb", "cmn", "fas")

    def distance(self, kind: str, *codes: str) -> Any:
        self.asked = (kind, codes)
        return 0.25


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch) -> Package:
    made = Package("lang2vec.lang2vec")
    monkeypatch.setitem(sys.modules, "lang2vec", ModuleType("lang2vec"))
    monkeypatch.setitem(sys.modules, "lang2vec.lang2vec", made)
    return made


@pytest.mark.parametrize(
    ("code", "asked"), [("de", "deu"), ("ar", "arb"), ("zh-Hans", "cmn"), ("fa", "fas"), ("pes", "fas")]
)
def test_a_language_is_asked_for_by_the_code_that_uriel_has(package: Package, code: str, asked: str) -> None:
    assert typological_distance(code, "en", "syntactic") == 0.25
    assert package.asked == ("syntactic", (asked, "eng"))


def test_a_language_is_at_no_distance_from_itself(package: Package) -> None:
    assert typological_distance("zh-Hans", "zh-Hant", "genetic") == 0.0


def test_a_language_without_distances_is_named(package: Package) -> None:
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


def test_without_the_distances_it_is_said_which_file_is_missing(
    package: Package, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(kind: str, *codes: str) -> float:
        raise FileNotFoundError(2, "No such file or directory", "distances.zip")

    monkeypatch.setattr(package, "distance", missing)
    with pytest.raises(UserError, match=r"distances\.zip"):
        typological_distance("de", "en", "syntactic")
