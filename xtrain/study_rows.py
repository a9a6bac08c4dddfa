"""The rows of a study's table: what is trained before the target, and patterns that stand for many rows."""

from __future__ import annotations

import dataclasses
import itertools
import math
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from xtrain.config import limits
from xtrain.errors import Problem, counted, listed, nearest
from xtrain.study_questions import Factor

NO_INTERMEDIATE = "none"  # the name of the base row: no intermediate phase
MOST_ROWS = 2000  # of one pattern: more is a slip
TASKS = "tasks"  # the placeholder of what a subset or an order has
_PLACEHOLDER = re.compile(r"\{(\w+)\}")
_TRIES = 200  # of a balanced sample, of which the best is taken
Value = str | int | float
"""What a placeholder stands for."""


@dataclass(frozen=True)
class BaseModel:
    """One of several models that every row of a study starts from."""

    name: str
    """What the rows are called by: ``mnli, altclip``; those of the first model keep their names."""
    model: str
    """A hub id, a local directory, or "starter"."""
    revision: str = "main"
    """Of a model from the hub: a commit, tag or branch."""
    factors: Mapping[str, Factor] = field(default_factory=dict)
    """Factors of all rows that start from it; ``base`` is its name."""


@dataclass(frozen=True)
class Subsets:
    """All subsets of some tasks, or a balanced sample of them, each a row that trains on its tasks at once."""

    of: tuple[str, ...]
    """The tasks."""
    sizes: tuple[int, ...]
    """How many tasks a subset has; each size for itself."""
    most: int | None = field(default=None, metadata=limits(minimum=1))
    """At most so many subsets of each size: a sample in which each task is in as many as any other, or one more. All
    by default."""
    seed: int = field(default=0, metadata=limits(minimum=0))
    """Draws another sample."""

    def every(self) -> Iterator[tuple[str, ...]]:
        """The subsets, size after size."""
        for size in self.sizes:
            if self.most is None or math.comb(len(self.of), size) <= self.most:
                yield from itertools.combinations(self.of, size)
            else:
                yield from balanced(self.of, size, self.most, self.seed)


@dataclass(frozen=True)
class Intermediate:
    """A row of the table: the phases before the target phase, and whatever else sets it apart.

    With ``each``, ``subsets`` or ``orders`` it is a pattern: one row for every combination of their values. ``{NAME}``
    in any text of the row is then the value of that name, and ``{tasks}`` what the subset or the order has.
    """

    name: str
    """Of the row, as the table has it; ``none`` is the base row, without tasks, which differences are taken to."""
    tasks: tuple[str, ...] = ()
    """One task, or a mixture, in one phase."""
    steps: tuple[tuple[str, ...], ...] = ()
    """Several phases in sequence, each with its tasks."""
    languages: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Task -> the languages that it is trained in; what is not here, in the task's own (mostly English)."""
    base: str = ""
    """What the row starts from, where that is another model than the study's ``base``."""
    revision: str = ""
    """Of a base from the hub; by default ``main``, or the study's where the base is the study's."""
    recipe: Mapping[str, Any] = field(default_factory=dict)
    """The row's own recipe over the study's: ``{ intermediate = { learning_rate = 3e-5 }, target = { ... } }``."""
    factors: Mapping[str, Factor] = field(default_factory=dict)
    """What the study's questions may ask about: ``{ kind = "logic", difficulty = 3 }``. Changes nothing that is
    trained. The values of ``each`` are factors already."""
    each: Mapping[str, tuple[Value, ...]] = field(default_factory=dict)
    """A pattern: name -> the values that ``{name}`` takes, one row for every combination."""
    subsets: Subsets | None = None
    """A pattern: one row for each subset of some tasks."""
    orders: tuple[str, ...] = ()
    """A pattern: one row for each order of these tasks, trained one after the other."""

    @property
    def every_factor(self) -> dict[str, Factor]:
        """``factors``, and what can be counted: ``n_tasks`` and ``n_steps``."""
        tasks = {task for names in self.phases for task in names}
        return {"n_tasks": float(len(tasks)), "n_steps": float(len(self.phases)), **self.factors}

    @property
    def phases(self) -> tuple[tuple[str, ...], ...]:
        """The tasks of each intermediate phase in order; empty where there is none."""
        return self.steps or ((self.tasks,) if self.tasks else ())

    @property
    def is_pattern(self) -> bool:
        """Whether it stands for other rows."""
        return bool(self.each or self.subsets or self.orders)

    @property
    def stands_apart(self) -> bool:
        """Whether it says more than its tasks: a base, a revision or a recipe of its own."""
        return bool(self.base or self.revision or self.recipe)


def expanded(rows: Sequence[Intermediate], where: str, problems: list[Problem]) -> tuple[Intermediate, ...]:
    """``rows`` with each pattern's rows in its place; what is wrong with a pattern goes to ``problems``."""
    found: list[Intermediate] = []
    for row in rows:
        if not row.is_pattern:
            found.append(row)
            continue
        wrong = _wrong_pattern(row, f"{where}: intermediate {row.name!r}")
        problems += wrong
        if not wrong:
            found += _rows(row)
    return tuple(found)


def crossed(rows: Sequence[Intermediate], bases: Sequence[BaseModel]) -> tuple[Intermediate, ...]:
    """Every row from each of ``bases``; a row with a base of its own starts from that one alone."""
    found = []
    for number, base in enumerate(bases):
        for row in rows:
            if not row.base:
                name = f"{row.name}, {base.name}" if number else row.name
                factors = {"base": base.name, **base.factors, **row.factors}
                found.append(
                    dataclasses.replace(row, name=name, base=base.model, revision=base.revision, factors=factors)
                )
            elif number == 0:
                found.append(row)
    return tuple(found)


def _rows(row: Intermediate) -> Iterator[Intermediate]:
    names = list(row.each)
    for values in itertools.product(*row.each.values()):
        chosen = dict(zip(names, values, strict=True))
        factors = {name: value if isinstance(value, str) else float(value) for name, value in chosen.items()}
        plain = dataclasses.replace(row, each={}, subsets=None, orders=(), factors={**factors, **row.factors})
        for tasks, steps, said in _sets(row):
            known = {**chosen, TASKS: said} if said else chosen
            whole = dataclasses.replace(plain, tasks=tasks or row.tasks, steps=steps or row.steps)
            yield dataclasses.replace(
                whole, **{item.name: _filled(getattr(whole, item.name), known, item.name in ("recipe", "factors"))
                          for item in dataclasses.fields(whole) if item.name != "subsets"}
            )  # fmt: skip


def _sets(row: Intermediate) -> Iterator[tuple[tuple[str, ...], tuple[tuple[str, ...], ...], str]]:
    """Tasks, steps, and both in words, of each subset or order; one of nothing where there are none."""
    if row.subsets is not None:
        for subset in row.subsets.every():
            yield subset, (), " + ".join(subset)
    elif row.orders:
        for order in itertools.permutations(row.orders):
            yield (), tuple((task,) for task in order), ", then ".join(order)
    else:
        yield (), (), ""


def _filled(value: Any, known: Mapping[str, Value], typed: bool) -> Any:
    """``value`` with its placeholders filled; one that is the whole of a text keeps its type where it is ``typed``."""
    if isinstance(value, str):
        whole = _PLACEHOLDER.fullmatch(value)
        if whole and typed and whole[1] in known:
            return known[whole[1]]
        return _PLACEHOLDER.sub(lambda match: str(known.get(match[1], match[0])), value)
    if isinstance(value, Mapping):
        return {_filled(key, known, False): _filled(inner, known, typed) for key, inner in value.items()}
    if isinstance(value, (tuple, list)):
        return tuple(_filled(inner, known, typed) for inner in value)
    return value


def _wrong_pattern(row: Intermediate, here: str) -> list[Problem]:
    """What is wrong with a pattern by itself; its rows are checked like any others."""
    problems = []
    if row.subsets and row.orders:
        problems.append(Problem(here, "has both subsets and orders", remedy="write two rows"))
    if (row.subsets or row.orders) and (row.tasks or row.steps):
        key = "subsets" if row.subsets else "orders"
        problems.append(Problem(f"{here}.{key}", "says the row's tasks, and so does the row", remedy="remove tasks"))
    if row.subsets is not None:
        problems += _wrong_subsets(row.subsets, f"{here}.subsets")
    for name, values in row.each.items():
        if not values or len(set(values)) < len(values):
            problems.append(Problem(f"{here}.each.{name}", f"{list(values)} is not allowed", "different values"))
    if problems:
        return problems
    used = {name for item in dataclasses.fields(row) if item.name not in ("each", "subsets", "orders")
            for name in _placeholders(getattr(row, item.name))}  # fmt: skip
    known = [*row.each, *([TASKS] if row.subsets or row.orders else [])]
    for name in sorted(used - set(known)):
        problems.append(Problem(here, f"{{{name}}} has no value", listed(known), nearest(name, known)))
    count = math.prod(len(values) for values in row.each.values()) * sum(1 for _ in itertools.islice(_sets(row), 10**5))
    if count > MOST_ROWS:
        problems.append(Problem(here, f"stands for {counted(count, 'row')}", f"at most {MOST_ROWS:,}", "set most"))
    return problems


def _wrong_subsets(subsets: Subsets, here: str) -> list[Problem]:
    problems = []
    if len(set(subsets.of)) < len(subsets.of):
        problems.append(Problem(f"{here}.of", "names a task twice", "different tasks", "remove one"))
    if not subsets.sizes or len(set(subsets.sizes)) < len(subsets.sizes):
        problems.append(Problem(f"{here}.sizes", f"{list(subsets.sizes)} is not allowed", "different numbers"))
    for size in subsets.sizes:
        if not 1 <= size <= len(subsets.of):
            allowed = f"1 to {len(subsets.of)}, the number of tasks"
            problems.append(Problem(f"{here}.sizes", f"{size} is not allowed", allowed))
    return problems


def _placeholders(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield from _PLACEHOLDER.findall(value)
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from (*_placeholders(key), *_placeholders(inner))
    elif isinstance(value, (tuple, list)):
        for inner in value:
            yield from _placeholders(inner)


def balanced(of: Sequence[str], size: int, most: int, seed: int) -> list[tuple[str, ...]]:
    """``most`` different subsets of ``size``, each member in as many as any other, or one more, where that can be.

    Of such samples one in which pairs meet about equally often. The same ``seed`` gives the same sample on every
    machine. Where more than half of all subsets are wanted, those that are left out are drawn.
    """
    every = math.comb(len(of), size)
    if most > every // 2 and every - most < most:
        left_out = set(balanced(of, size, every - most, seed)) if most < every else set()
        return [subset for subset in itertools.combinations(of, size) if subset not in left_out]
    rng = random.Random(1000 * seed + size)  # its random() is the same in every version of Python
    samples = (_sample(len(of), size, most, rng) for _ in range(_TRIES))
    best = min(samples, key=lambda sample: _unevenness(sample, len(of)))
    return [tuple(of[member] for member in subset) for subset in sorted(best)]


def _sample(count: int, size: int, most: int, rng: random.Random) -> set[tuple[int, ...]]:
    """Subsets of the members that were taken least so far, and of these of such that have met least."""
    taken, met = [0] * count, [[0] * count for _ in range(count)]
    found: set[tuple[int, ...]] = set()
    while len(found) < most:
        subset: list[int] = []
        for _ in range(size):
            rest = [one for one in range(count) if one not in subset]
            subset.append(min(rest, key=lambda one: (taken[one], sum(met[one][two] for two in subset), rng.random())))
        if tuple(sorted(subset)) in found:  # the least taken have all met: any other will do
            subset = sorted(range(count), key=lambda _: rng.random())[:size]
        if tuple(sorted(subset)) in found:
            continue
        found.add(tuple(sorted(subset)))
        for one in subset:
            taken[one] += 1
            for two in subset:
                met[one][two] += one != two
    return found


def _unevenness(sample: set[tuple[int, ...]], count: int) -> tuple[int, int]:
    """How much members, then pairs, differ in how often they are there."""
    taken = [sum(one in subset for subset in sample) for one in range(count)]
    pairs = [sum(one in subset and two in subset for subset in sample)
             for one, two in itertools.combinations(range(count), 2)]  # fmt: skip
    return max(taken) - min(taken), sum(number**2 for number in pairs)
