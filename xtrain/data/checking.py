"""Look at all data sets of a study at once: each is read once, and what was found right is not read again."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from xtrain.data.pool import Died, over
from xtrain.dispatch.local import available_cores
from xtrain.errors import Problem, UserError
from xtrain.files import make_folder, write_json
from xtrain.tasks.checking import DataSet, Look, look

RECORD = "checked.json"
AT_ONCE = 50  # problems that are listed; the others are counted by file
SMALL = 2**21  # bytes of data that are read sooner than processes are started
FROM_HUB = 8  # processes that ask the hub for files at a time


@dataclass(frozen=True)
class Checked:
    """A data set that is as it should be."""

    data: DataSet
    rows: int
    examples: int


def check_data_sets(
    data: Sequence[DataSet],
    data_root: Path | None,
    folder: Path,
    *,
    before: Sequence[Problem] = (),
    workers: int | None = None,
    room: int = 0,
    progress: Callable[[int], None] = lambda number: None,
) -> list[Checked]:
    """Every one of ``data``, read and checked; raises one :class:`UserError` with the problems of all of them.

    ``before`` are problems that are known already. What is right is noted in ``folder`` by its content, so that the
    next look takes no more than hashing. ``progress`` is told of data sets that have been looked at.
    """
    record = _Record(folder / RECORD)
    problems = list(before)
    keys: dict[int, str] = {}
    for number, one in enumerate(data):
        try:
            keys[number] = one.key(data_root)
        except UserError as error:
            problems += [problem for problem in error.problems if problem not in problems]
    looks = {number: known for number, key in keys.items() if (known := record.known(key)) is not None}
    progress(len(looks) + len(data) - len(keys))
    new = [number for number in keys if number not in looks]
    sets = [data[number] for number in new]
    sizes = [one.num_bytes(data_root) for one in sets]
    workers = num_workers(sizes, workers)
    try:
        for place, found in over(sets, lambda one: look(one, data_root), workers=workers, sizes=sizes, room=room):
            number = new[place]
            looks[number] = found
            if not found.problems:
                record.add(keys[number], data[number], found)
            progress(1)
    except Died as died:
        raise UserError(worker_died(sets[died.index], died.how, "read")) from None
    finally:
        record.write()
    broken = [(data[number], found) for number, found in sorted(looks.items()) if found.problems]
    raise_problems(problems, broken)
    return [Checked(one, looks[number].rows, looks[number].examples) for number, one in enumerate(data)]


def num_workers(sizes: Sequence[int], workers: int | None) -> int:
    """How many processes work on data sets of ``sizes`` in bytes (0: on the hub) where ``workers`` may."""
    most = workers or available_cores()
    if not all(sizes):
        return min(most, FROM_HUB)
    return 1 if sum(sizes) < SMALL else most


def worker_died(data: DataSet, how: str, verb: str) -> Problem:
    """The problem that the process died which ``verb`` (read, prepared) a data set."""
    return Problem(
        str(data),
        f"the process that {verb} it ended with {how}",
        remedy="give the same command again; if it was memory (SIGKILL often is), on a machine with more of it, or "
        "where fewer cores may be used (taskset, or cpus_per_task of the job)",
    )


def raise_problems(problems: Sequence[Problem], broken: Sequence[tuple[DataSet, Look]] = ()) -> None:
    """Raise ``problems`` and those of data sets as one :class:`UserError`; no more than AT_ONCE are listed.

    Several data sets may lie in one file: its problems count once.
    """
    files: dict[str, list[tuple[DataSet, Look]]] = {}
    for data, found in broken:
        files.setdefault(_file(found.problems[0]), []).append((data, found))
    listed = list(problems)
    for file, looks in files.items():
        own = list(dict.fromkeys(problem for _, found in looks for problem in found.problems))
        kept = own[: max(len(found.problems) for _, found in looks)]
        more = max(max(len(found.problems) + found.more for _, found in looks), len(own)) - len(kept)
        kept = _alike(kept, file)
        if more:
            least = "at least " if len(looks) > 1 or any(found.cut for _, found in looks) else ""
            said = f"{kept[-1].rest}; " if kept[-1].rest else ""
            kept[-1] = replace(kept[-1], rest=f"{said}{least}{more:,} more in {file}")
        listed += kept
    listed = list(dict.fromkeys(listed))
    if not listed:
        return
    left: dict[str, int] = {}
    for problem in listed[AT_ONCE:]:
        left[_file(problem)] = left.get(_file(problem), 0) + 1
    rest = "; ".join(f"{count} more in {file}" for file, count in left.items())
    raise UserError(*listed[:AT_ONCE], rest=f"and {rest}" if rest else "")


def _alike(problems: Sequence[Problem], file: str) -> list[Problem]:
    """``problems`` of one file, each kind once, with the places of the others."""
    kinds: dict[tuple[str, str], list[Problem]] = {}
    for problem in problems:
        kinds.setdefault((problem.what, problem.allowed), []).append(problem)
    found = []
    for first, *others in kinds.values():
        places = [other.where.removeprefix(file).strip(": ").partition(":")[0] for other in others]
        found.append(replace(first, rest=f"the same at {', '.join(places)}") if others else first)
    return found


def _file(problem: Problem) -> str:
    """The file that a problem is in; what its ``where`` begins with."""
    return re.sub(r" row \d+$", "", problem.where.partition(":")[0])


class _Record:
    """``checked.json``: key -> what a data set was found to hold that is as it should be."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._new: dict[str, Any] = {}
        self._known = self._read()

    def _read(self) -> dict[str, Any]:
        try:
            found = json.loads(self._path.read_bytes())
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def known(self, key: str) -> Look | None:
        try:
            entry = self._known[key]
            return Look(entry["rows"], entry["examples"], entry["dropped"])
        except (KeyError, TypeError):
            return None

    def add(self, key: str, data: DataSet, found: Look) -> None:
        entry = {"rows": found.rows, "examples": found.examples, "dropped": dict(found.dropped)}
        self._new[key] = {"data": str(data), **entry}

    def write(self) -> None:
        """Another command may have written it meanwhile: what it found stays. Where nothing can be written, the next
        look is no quicker."""
        with contextlib.suppress(UserError):
            if self._new:
                make_folder(self._path.parent)
                write_json(self._path, {**self._read(), **self._new})
