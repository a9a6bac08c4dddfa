"""Read all rows of a data set and say everything that is wrong with them, where no tokenizer is needed."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from xtrain.errors import Problem, UserError, counted
from xtrain.files import content_hash
from xtrain.tasks import formats, sources
from xtrain.tasks.formats import Dropped, ProblemList
from xtrain.tasks.spec import TaskSpec

PER_FILE = 5  # problems of a data set that are kept; the others are counted
MOST = 1000  # and so many are enough: the rest of the rows is not read


@dataclass(frozen=True)
class DataSet:
    """What is read at once: a split of a task in one language."""

    spec: TaskSpec
    split: str
    language: str

    def __str__(self) -> str:
        return f"{self.spec.name} {self.split} {self.language}"

    def key(self, data_root: Path | None) -> str:
        """Hash of all that decides what :func:`look` says, its own code among it; :class:`UserError` for no file."""
        source = sources.fingerprint(self.spec, self.split, self.language, data_root)
        return content_hash([_code(), source, self.split, self.language])

    def num_bytes(self, data_root: Path | None) -> int:
        """The size of its files; 0 on the hub, or where one is missing."""
        try:
            paths = sources.existing_files(self.spec, self.split, self.language, data_root)
            return sum(path.stat().st_size for path in paths)
        except (UserError, OSError):
            return 0


@dataclass(frozen=True)
class Look:
    """What was seen of a data set."""

    rows: int
    examples: int
    dropped: Mapping[str, int]
    problems: tuple[Problem, ...] = ()
    more: int = 0
    """How many there are beyond ``problems``."""
    cut: bool = False
    """Whether there may be still more: after so many the rest was not read."""


def look(data: DataSet, data_root: Path | None) -> Look:
    """Read every row of ``data`` and check it as its format does."""
    spec, split, language = data.spec, data.split, data.language
    problems = Counted()
    found, cut = _Seen(), False
    try:
        rows = sources.read(spec, split, language, data_root, problems)
        for item in formats.get(spec.format).read(rows, spec, language, problems):
            found.add(item)
    except Enough:
        cut = True
    except UserError as error:  # what ends the reading; a list that was raised is there already
        problems.add(*(problem for problem in error.problems if problem not in problems.found))
    except Exception as error:
        error.add_note(f"while {data} was read")
        raise
    examples = found.labelled or (found.withheld if split == "test" else 0)
    if not examples and not problems.found:
        problems.add(nothing_left(spec, split, language, found.rows, found.dropped))
    return Look(found.rows, examples, dict(found.dropped), tuple(problems.found), problems.more, cut)


def nothing_left(spec: TaskSpec, split: str, language: str, rows: int, dropped: Mapping[str, int]) -> Problem:
    """The problem that no example can be made of ``rows`` rows."""
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in dropped.items()) or "none were read"
    return Problem(
        f"task.{spec.name}",
        f"no example is left of {split} in {language}: of {counted(rows, 'row')}, {reasons}",
        remedy="check where, hash_split, label_map and columns of the task's source",
    )


@dataclass
class _Seen:
    rows: int = 0
    labelled: int = 0
    withheld: int = 0
    dropped: Counter[str] = field(default_factory=Counter)

    def add(self, item: Any) -> None:
        self.rows += 1
        if isinstance(item, Dropped):
            self.dropped[item.reason] += 1
        elif getattr(item, "withheld", False):
            self.withheld += 1
            self.dropped["unlabelled"] += 1
        else:
            self.labelled += 1


class Enough(Exception):
    """Nobody wants to know of still more problems."""


@dataclass
class Counted(ProblemList):
    """Keeps the first problems and counts the others, so that one broken file does not hide the next."""

    limit: int = PER_FILE
    more: int = 0

    def add(self, *problems: Problem) -> None:
        """Note ``problems``; raises :class:`Enough` when there are MOST more than are kept."""
        room = max(0, self.limit - len(self.found))
        self.found.extend(problems[:room])
        self.more += len(problems[room:])
        if self.more >= MOST:
            raise Enough


@cache
def _code() -> str:
    """Hash of the code that reads and checks rows: what it once found right, other code may not."""
    folder = Path(__file__).parent
    texts = [path.read_bytes() for path in sorted(folder.rglob("*.py"))]
    return hashlib.sha256(b"\0".join(texts)).hexdigest()[:12]
