"""The table of facts about languages: family, genus, script, and how much text of it XLM-R was trained on."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from xtrain.languages import name_of, primary

TABLE = Path(__file__).parent / "languages.tsv"
COLUMNS = (
    "code", "name", "iso639_3", "family", "genus", "script", "cc100_rows", "cc100_gib", "cc100_mtokens", "checked",
)  # fmt: skip
ABSENT = "-"
"""In ``cc100_rows``: the paper's table has no row for it."""
UNTOLD = "?"
"""In ``cc100_rows``: its text may be in the row of another language; the table does not tell."""
_SCRIPT = re.compile(r"[a-z]{4}")
_REGION = re.compile(r"[a-z]{2}|\d{3}")


@dataclass(frozen=True)
class LanguageFacts:
    """What is known of a language, whatever the data at hand. ``docs/languages.md`` has the sources."""

    code: str
    """As in :mod:`xtrain.languages`; with a script, where CC-100 counts it by itself (``zh-Hant``, ``hi-Latn``)."""
    name: str
    iso639_3: str
    """Of the macrolanguage where the code stands for one (``ara``, ``zho``)."""
    family: str
    """As WALS has it; its ``Altaic`` and ``other`` are taken apart into their genera."""
    genus: str
    """As WALS has it."""
    script: str
    """ISO 15924."""
    cc100_rows: str
    """The rows of the paper's table, :data:`ABSENT` or :data:`UNTOLD`."""
    cc100_gib: float | None
    """GiB of text that XLM-R was trained on: 0 if it had none, None where the table does not tell."""
    cc100_mtokens: float | None
    """The same in millions of tokens. Of scripts without white space a token is a clause: compare GiB there."""
    checked: tuple[str, ...] = ()
    """What of it was read in a source (``kin``, ``script``, ``cc100``, ``cc100-misprint``), and not remembered."""

    @property
    def pretrained(self) -> bool | None:
        """Whether XLM-R was trained on text in it; None where the paper's table does not tell."""
        return None if self.cc100_rows == UNTOLD else self.cc100_rows != ABSENT


def facts(code: str) -> LanguageFacts | None:
    """What is known of the language ``code``, of any standard that :mod:`xtrain.languages` knows; None if nothing is.

    ``zh-Hans``, ``pt_BR`` and ``zho_Hans`` are the language in a script or of a region: the line of the script, where
    there is one, else the language's own, with the script that was named. Other parts of a code make it another
    language (``zh-classical`` and ``zh-min-nan`` of Wikipedia): nothing is known of that one.
    """
    table = _table()
    tag = re.split(r"[.@]", code, maxsplit=1)[0].replace("_", "-").lower()
    language, *parts = tag.split("-")
    if not all(_SCRIPT.fullmatch(part) or _REGION.fullmatch(part) for part in parts):
        return None
    own = table.get(language) or _by_name().get(name_of(language))
    if own is None:
        return None
    script = next((part.title() for part in parts if _SCRIPT.fullmatch(part)), "")
    if not script:
        return own
    return table.get(f"{own.code.lower()}-{script.lower()}") or replace(own, script=script)


def all_facts() -> tuple[LanguageFacts, ...]:
    """Every line of the table, by code."""
    return tuple(_table().values())


def families() -> tuple[str, ...]:
    """The families, those with the most languages first: an order for groups that is the same for all data."""
    sizes = Counter(line.family for code, line in _table().items() if primary(code) == code)
    return tuple(sorted(sizes, key=lambda family: (-sizes[family], family)))


def by_family(codes: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """``codes`` in groups, in the order of :func:`families`, by genus and code in each; unknown ones last, under ""."""
    known = {code: facts(code) for code in codes}
    order = {family: n for n, family in enumerate(families())}

    def place(code: str) -> tuple[int, str, str]:
        line = known[code]
        return (len(order), "", code) if line is None else (order[line.family], line.genus, code)

    groups: dict[str, tuple[str, ...]] = {}
    for code in sorted(known, key=place):
        line = known[code]
        family = "" if line is None else line.family
        groups[family] = (*groups.get(family, ()), code)
    return groups


@cache
def _table() -> dict[str, LanguageFacts]:
    """Code in small letters -> its line."""
    rows = [line.split("\t") for line in TABLE.read_text("utf-8").splitlines() if not line.startswith("#")]
    assert tuple(rows[0]) == COLUMNS, f"{TABLE}: the columns are {rows[0]}"
    lines = [_line(dict(zip(COLUMNS, row, strict=True))) for row in rows[1:]]
    assert len({line.code for line in lines}) == len(lines), f"{TABLE}: a code stands there twice"
    return {line.code.lower(): line for line in lines}


@cache
def _by_name() -> dict[str, LanguageFacts]:
    """Name -> the line of the language itself, of its varieties and scripts the first."""
    found: dict[str, LanguageFacts] = {}
    for line in _table().values():
        found.setdefault(line.name, line)
    return found


def _line(row: dict[str, str]) -> LanguageFacts:
    def number(cell: str) -> float | None:
        return float(cell) if cell else None

    return LanguageFacts(
        code=row["code"],
        name=row["name"],
        iso639_3=row["iso639_3"],
        family=row["family"],
        genus=row["genus"],
        script=row["script"],
        cc100_rows=row["cc100_rows"],
        cc100_gib=number(row["cc100_gib"]),
        cc100_mtokens=number(row["cc100_mtokens"]),
        checked=tuple(row["checked"].split()),
    )
