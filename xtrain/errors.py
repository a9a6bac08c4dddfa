"""The one grammar for what the user did wrong: where, what, what is allowed, what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass

EXIT_USER = 2  # the user's mistake: one message, no traceback
EXIT_OURS = 1  # ours: a traceback
EXIT_FAILED = 3  # nobody's: the experiment itself failed (training collapsed), and is recorded as such
EXIT_INTERRUPTED = 130  # Ctrl-C, as shells have it: 128 + SIGINT
EXIT_PREEMPTED = 75  # stopped by a signal, saved; the same command goes on (EX_TEMPFAIL of sysexits.h)
EXIT_FENCED = 76  # a newer attempt at the phase has begun; nobody is to do anything


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong.

    ``where`` names a file, ``file:line``, ``file: key`` or a flag; ``what`` says what is wrong
    and quotes the value; ``allowed`` what would have been right; ``remedy`` what to do now; ``rest`` how many more
    there are of its kind.
    """

    where: str
    what: str
    allowed: str = ""
    remedy: str = ""
    rest: str = ""

    def __post_init__(self) -> None:
        for name in ("where", "what", "allowed", "remedy"):
            object.__setattr__(self, name, printable(getattr(self, name)))

    def __str__(self) -> str:
        lines = [f"{self.where}: {self.what}"]
        if self.allowed:
            lines.append(f"  allowed: {self.allowed}")
        if self.remedy:
            lines.append(f"  to do:   {self.remedy}")
        if self.rest:
            lines.append(f"  and {self.rest}")
        return "\n".join(lines)


class UserError(ValueError):
    """Raised once with every problem found; the command line prints it and exits with 2."""

    def __init__(self, *problems: Problem, rest: str = "") -> None:
        assert problems, "a UserError needs at least one Problem"
        self.problems = problems
        self.rest = rest  # a last line: of what is not listed
        super().__init__(str(self))

    def __str__(self) -> str:
        if len(self.problems) == 1:
            return str(self.problems[0])
        head = f"{'the first ' if self.rest else ''}{len(self.problems)} problems:"
        body = (f"{n}. {str(p).replace(chr(10), chr(10) + '   ')}" for n, p in enumerate(self.problems, 1))
        return "\n".join([head, *body, *([self.rest] if self.rest else [])])


class Fenced(Exception):
    """A newer attempt at this phase has begun: this one can commit nothing more, and leaves with ``EXIT_FENCED``."""


def printable(text: str) -> str:
    """``text`` with halves of surrogate pairs as escapes: no file and no terminal takes them."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode("utf-8")


def raise_if_any(problems: Iterable[Problem]) -> None:
    """Raise one :class:`UserError` with all ``problems``, or return if there are none."""
    found = tuple(problems)
    if found:
        raise UserError(*found)


def nearest(word: str, known: Iterable[str]) -> str:
    """``"did you mean 'x'?"`` for the known word nearest to ``word``, or an empty string."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"did you mean {close[0]!r}?" if close else ""


def listed(words: Iterable[object], most: int = 24) -> str:
    """``a, b, c`` for an ``allowed`` line; beyond ``most`` words, a count of the rest."""
    items = [str(word) for word in words]
    rest = len(items) - most
    return ", ".join(items[:most]) + (f" and {rest} more" if rest > 0 else "")


def counted(number: int, noun: str, plural: str = "") -> str:
    """``1 language``, ``2 languages``, ``1,000 batches``: a number with its noun."""
    if number == 1:
        return f"1 {noun}"
    return f"{number:,} {plural or (noun + ('es' if noun.endswith(('s', 'x', 'ch', 'sh')) else 's'))}"
