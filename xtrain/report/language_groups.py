"""A task's languages in the order of its tables and heat maps: English, then families, then what is not zero-shot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from xtrain.language_facts import facts
from xtrain.report.languages import ENGLISH, language_name
from xtrain.report.statistics import TaskGrid

OTHER_FAMILIES = "Families of one language here"
NOT_KNOWN = "Family not known"
TRAINED_ON = "Not zero-shot"  # in some row, at least
LATIN = "Latn"  # the script that is not worth saying
_SCRIPTS = """
Arab Arabic|Armn Armenian|Beng Bengali|Cyrl Cyrillic|Deva Devanagari|Ethi Ethiopic|Geor Georgian|Grek Greek
Gujr Gujarati|Guru Gurmukhi|Hang Hangul|Hani Han|Hans Han, simplified|Hant Han, traditional|Hebr Hebrew|Jpan Japanese
Khmr Khmer|Knda Kannada|Kore Korean|Laoo Lao|Mlym Malayalam|Mymr Burmese|Orya Odia|Sinh Sinhala|Taml Tamil
Telu Telugu|Thaa Thaana|Thai Thai|Tibt Tibetan
"""
SCRIPT_NAMES = dict(entry.split(" ", 1) for entry in _SCRIPTS.strip().replace("\n", "|").split("|"))
"""Of ISO 15924, those that the benchmarks' languages have."""


@dataclass(frozen=True)
class LanguageGroup:
    """Languages that stand together."""

    name: str
    """A family; empty where there is nothing to say, as of English."""
    languages: tuple[str, ...]
    subtotal: bool = False
    """Whether their mean says something: of two or more of one family."""


def language_groups(task: TaskGrid) -> tuple[LanguageGroup, ...]:
    """English first; families by name, in them languages by script and code; languages alone in theirs; the rest.

    What some row was trained on stands apart, since means leave it out. Where no family is known, there is one group.
    """
    apart = [one for one in task.languages if any(task.not_zero_shot(row, one) for row in task.rows)]
    others = [one for one in task.languages if one != ENGLISH and one not in apart]
    groups = [LanguageGroup("", (ENGLISH,))] if ENGLISH in task.languages else []
    groups += _families(others)
    if apart:
        groups.append(LanguageGroup(TRAINED_ON, tuple(apart)))
    return tuple(groups)


def _families(languages: Sequence[str]) -> list[LanguageGroup]:
    by_family: dict[str, list[str]] = {}
    for language in sorted(languages, key=_place):
        by_family.setdefault(family(language), []).append(language)
    unknown = by_family.pop("", [])
    alone = [members[0] for members in by_family.values() if len(members) == 1]
    named = [LanguageGroup(name, tuple(some), subtotal=True) for name, some in by_family.items() if len(some) > 1]
    if alone:
        named.append(LanguageGroup(OTHER_FAMILIES, tuple(alone)))
    if unknown:
        named.append(LanguageGroup(NOT_KNOWN if named else "", tuple(unknown)))
    return named


def family(code: str) -> str:
    """The language family; empty where it is not known."""
    known = facts(code)
    return known.family if known else ""


def script(code: str) -> str:
    """The script's name, where it is not Latin; empty where it is not known."""
    known = facts(code)
    return SCRIPT_NAMES.get(known.script, known.script) if known and known.script != LATIN else ""


def notes(code: str, group: LanguageGroup) -> str:
    """What is to be said of a language: its family where it is alone in it, its script where its name does not tell."""
    said = [] if group.subtotal or not group.name else [family(code)]
    if script(code) != language_name(code):
        said.append(script(code))
    return ", ".join(filter(None, said)) if code != ENGLISH else ""


def _place(code: str) -> tuple[str, str, str]:
    return family(code), script(code), code
