"""Read gettext message catalogues (.po): which message is translated by what."""

from __future__ import annotations

import ast
import gettext
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from xtrain.errors import Problem, UserError

# One line of an entry: a keyword with its string, or a string that goes on. `msgstr[2]` has an index.
_STRING = r'(?P<string>"(?:[^"\\]|\\.)*")'
_LINE = re.compile(rf"(?:(?P<keyword>msgctxt|msgid_plural|msgid|msgstr)(?:\[(?P<index>\d+)\])?\s*)?{_STRING}")
_PLURAL = re.compile(r"plural\s*=\s*([^;\n]+)")


@dataclass
class Entry:
    """One entry of a catalogue."""

    fuzzy: bool = False
    """A guess of the translation tools that nobody has confirmed."""
    strings: dict[tuple[str, int], str] = field(default_factory=dict)
    """``(keyword, index)`` -> text; the index is 0 but for the further plural forms of ``msgstr``."""

    @property
    def key(self) -> tuple[str, str]:
        """Context (mostly empty) and English text: what identifies a message."""
        return self.strings.get(("msgctxt", 0), ""), self.strings.get(("msgid", 0), "")


def entries(text: str, where: str) -> Iterator[Entry]:
    """The entries of a ``.po`` file's ``text``, the header (an empty ``msgid``) among them.

    Obsolete ones (``#~``) are comments, and left out. Raises :class:`UserError` with ``where`` and the
    line for a line that is no part of a catalogue.
    """
    entry = Entry()
    last: tuple[str, int] | None = None
    for number, line in enumerate(text.splitlines(), 1):
        line = line.strip()
        if line.startswith("#"):
            if last is not None and last[0] == "msgstr":  # the next entry's comments
                yield entry
                entry, last = Entry(), None
            if line.startswith("#,"):
                entry.fuzzy |= "fuzzy" in line
            continue
        if not line:
            continue
        match = _LINE.fullmatch(line)
        if match is None or (match["keyword"] is None and last is None):
            raise UserError(Problem(f"{where}:{number}", f"is no line of a message catalogue: {line!r}"))
        if match["keyword"] is not None:
            if match["keyword"] in ("msgctxt", "msgid") and last is not None and last[0] == "msgstr":
                yield entry
                entry = Entry()
            last = (match["keyword"], int(match["index"] or 0))
        assert last is not None
        # The escapes of a .po string are C's, which Python's literals have too.
        entry.strings[last] = entry.strings.get(last, "") + str(ast.literal_eval(match["string"]))
    if last is not None:
        yield entry


def messages(text: str, where: str) -> dict[tuple[str, str], str]:
    """``(context, English text) -> translation`` for every message of a ``.po`` file, in its order.

    Of a message with plural forms it is the form for one thing, which the header's rule names (in Arabic,
    for one, it is not the first). An untranslated message has an empty translation; a fuzzy one counts as
    untranslated, the header not as a message. Raises :class:`UserError` as :func:`entries` does.
    """
    found: dict[tuple[str, str], str] = {}
    singular = 0
    for entry in entries(text, where):
        if entry.key == ("", ""):
            rule = _PLURAL.search(entry.strings.get(("msgstr", 0), ""))
            singular = int(gettext.c2py(rule[1].strip())(1)) if rule else 0
            continue
        index = singular if ("msgid_plural", 0) in entry.strings else 0
        found[entry.key] = "" if entry.fuzzy else entry.strings.get(("msgstr", index), "")
    return found
