"""PROVISIONAL, to be replaced by the module of the branch on languages: knows no facts of any language."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class LanguageFacts:
    """What is known of a language."""

    family: str
    genus: str
    script: str


def facts(code: str) -> LanguageFacts | None:
    """What is known of the language with the code; nothing yet."""
    return None
