"""English names of language codes, for the reader of a table."""

from __future__ import annotations

import unicodedata

from xtrain.languages import name_of

ENGLISH = "en"  # the language that target tasks are trained on

_VARIANTS = """
cyrl Cyrillic|latn Latin script|hans simplified|hant traditional|cn simplified|tw traditional
ar Argentina|at Austria|au Australia|br Brazil|ca Canada|ch Switzerland|co Colombia|dz Algeria|gb Britain
in India|mx Mexico|ni Nicaragua|pt Portugal|us United States|ve Venezuela
"""


def _read(text: str) -> dict[str, str]:
    entries = text.replace("\n", "|").strip("|").split("|")
    return {code: name for code, _, name in (entry.partition(" ") for entry in entries)}


VARIANT_NAMES = _read(_VARIANTS)


def language_name(code: str) -> str:
    """The English name of ``code``, as ``Portuguese (Brazil)`` for ``pt_BR``; empty if it is not known."""
    parts = code.replace("-", "_").lower().split("_")
    name = name_of(parts[0])
    variants = [VARIANT_NAMES.get(part, part.upper()) for part in parts[1:]]
    return f"{name} ({', '.join(variants)})" if name and variants else name


def ascii_only(text: str) -> str:
    """``text`` without accents, and ``?`` for what ASCII has not, for a log that may not show it."""
    text = text.replace("\N{PLUS-MINUS SIGN}", "+/-").replace("\N{MINUS SIGN}", "-")
    letters = (letter for letter in unicodedata.normalize("NFKD", text) if not unicodedata.combining(letter))
    return "".join(letters).encode("ascii", "replace").decode()


def in_reading_order(codes: set[str]) -> tuple[str, ...]:
    """English, the language that was trained on, first; then the others by code."""
    return tuple(sorted(codes, key=lambda code: (code != ENGLISH, code)))
