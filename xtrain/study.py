"""What the user writes: a study's TOML file, as frozen dataclasses, with every mistake in one message."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from xtrain.config import UNKNOWN_KEY, belongs, build, dotted_keys, limits, merged, nested, parse_override, read_toml
from xtrain.errors import Problem, UserError, listed, nearest, raise_if_any
from xtrain.files import content_hash
from xtrain.study_questions import Factor, Question, check_questions, lacking
from xtrain.study_rows import NO_INTERMEDIATE, BaseModel, Intermediate, crossed, expanded
from xtrain.tracking.settings import TrackingSettings

_NO_SETTING = ("engine.", "tracking.")  # how --set begins where it changes how the work is done, and not what
_LONGEST_LABEL = 80
INNER_SEEDS = 1000
"""The target phase of intermediate seed i and target seed t is trained with seed i + 1000 t: those of t = 0 are the
runs of a study whose seeds are a plain list, and are found again."""


class Base(NamedTuple):
    """A model to start from, as a study names it."""

    name: str
    revision: str = "main"

    def __str__(self) -> str:
        return self.name if self.revision == "main" else f"{self.name} ({self.revision})"


@dataclass(frozen=True)
class Recipe:
    """How one phase trains. Everything here changes the result, so all of it is in the phase's hash."""

    epochs: float = field(default=3.0, metadata=limits(above=0))
    """Passes over the training set; may be a fraction."""
    train_examples: int | None = field(default=None, metadata=limits(minimum=1))
    """At most so many training examples: a sample, of several languages or joined tasks the same number of each."""
    max_steps: int | None = field(default=None, metadata=limits(minimum=1))
    """Optimizer steps, instead of epochs."""
    batch_size: int = field(default=32, metadata=limits(minimum=1))
    """Examples in a global batch, whatever the number of ranks."""
    learning_rate: float = field(default=1e-5, metadata=limits(above=0, maximum=1))
    """Peak learning rate; linear warm-up to it, then linear decay to 0."""
    warmup_ratio: float = field(default=0.1, metadata=limits(minimum=0, maximum=1))
    """Share of all steps that warm up."""
    weight_decay: float = field(default=0.01, metadata=limits(minimum=0))
    """AdamW's decoupled decay; biases and LayerNorm have none."""
    max_grad_norm: float = field(default=1.0, metadata=limits(minimum=0))
    """Gradient norm to clip to; 0 for no clipping."""
    adam_beta1: float = field(default=0.9, metadata=limits(minimum=0, maximum=1))
    """How much of the mean of gradients a step keeps."""
    adam_beta2: float = field(default=0.999, metadata=limits(minimum=0, maximum=1))
    """How much of the mean of squared gradients a step keeps."""
    adam_epsilon: float = field(default=1e-8, metadata=limits(above=0))
    """What is added to the root of that mean, which gradients are divided by."""
    dropout: float | None = field(default=None, metadata=limits(minimum=0, maximum=0.9))
    """Hidden and attention dropout; by default what the base model's configuration says."""
    max_length: int = field(default=256, metadata=limits(minimum=8, maximum=8192))
    """Tokens in a sequence, special tokens included; longer ones are truncated, and counted."""
    window_batches: int = field(default=50, metadata=limits(minimum=0))
    """Global batches in the seeded window within which examples of similar length meet; 0 for none."""
    eval_every: int = field(default=1000, metadata=limits(minimum=1))
    """Steps between evaluations on the dev set."""
    eval_examples: int = field(default=500, metadata=limits(minimum=0))
    """At most so many dev examples are evaluated, a sample; 0 for no selection on dev."""
    patience: int = field(default=30, metadata=limits(minimum=1))
    """Evaluations without a new best before training stops early."""
    size_cap: int = field(default=2**17, metadata=limits(minimum=1))
    """K of the mixing rule p(task) = min(n, K)^(1/T) / sum of min(n, K)^(1/T)."""
    temperature: float = field(default=1.0, metadata=limits(minimum=1))
    """T of the mixing rule: 1 for shares proportional to the (capped) sizes, larger for more even ones."""
    on_collapse: str = field(default="stop", metadata=limits(choices=("stop", "reseed", "continue")))
    """What to do when training collapses to one class: end the phase as failed, begin anew with another seed, or
    only record it."""
    max_reseeds: int = field(default=2, metadata=limits(minimum=1))
    """How often ``on_collapse = "reseed"`` begins anew before the phase has failed."""
    collapse_window: int = field(default=200, metadata=limits(minimum=2))
    """Steps, after the warm-up, over which nothing is learnt before a model to which all inputs look alike counts as
    collapsed (docs/health.md)."""


@dataclass(frozen=True)
class Engine:
    """How the work is cut and computed; only ``precision`` changes the result beyond float order."""

    ds_config: str = "zero1"
    """A file of ``ds_configs/`` by its name (its README says which to choose), or a path to a DeepSpeed JSON file."""
    precision: str = field(default="bf16", metadata=limits(choices=("bf16", "fp16", "fp32")))
    """Of the forward and backward pass; weights and moments are updated in fp32. fp16 needs a GPU."""
    tokens_per_micro_batch: int = field(default=8192, metadata=limits(minimum=16))
    """Tokens a rank takes at once; smaller needs less memory, larger is faster."""
    checkpoint_every: int = field(default=500, metadata=limits(minimum=1))
    """Steps between sharded checkpoints."""
    keep_checkpoints: int = field(default=2, metadata=limits(minimum=1))
    """So many of the newest stay until the phase is done; then none is needed."""
    background_save: bool = True
    """Copy the state beside the next step and write it beside training; otherwise training waits for each save."""
    snapshot_memory_gib: float | None = field(default=None, metadata=limits(above=0))
    """Host memory of a node that copies of the state may take; half of what is free by default. Less than a copy
    needs: training waits for each save."""
    preemption_signals: tuple[str, ...] = ("SIGTERM", "SIGUSR1", "SIGUSR2")
    """Signals to any rank upon which all save together and leave."""
    stall_minutes: float = field(default=30.0, metadata=limits(above=0))
    """Without any progress for so long, every rank's Python stack is written to ``logs/`` and the phase ends."""
    max_skipped_steps: int = field(default=20, metadata=limits(minimum=1))
    """Steps in a row whose gradient is not finite before the phase ends with an error; each is skipped, counted, and
    left out of the learning rate's schedule."""
    data_workers: int | None = field(default=None, metadata=limits(minimum=0, maximum=16))
    """Processes a rank that put batches together ahead of training; 1 with a GPU and 0 without by default."""
    log_every: int = field(default=10, metadata=limits(minimum=1))
    """Steps between lines of metrics."""
    log_example_ids: bool = False
    """Write the example ids of every global batch to ``batches.jsonl``."""
    keep_encoders: str = field(default="all", metadata=limits(choices=("all", "selected", "none")))
    """Of target phases, once all that starts from them is done: both encoders, that of the selected step alone
    (``encoder/``, without ``encoder-last/``), or neither."""
    used_vocabulary: bool = True
    """Train only the embedding rows that a batch can touch: exact, and much less work."""


@dataclass(frozen=True)
class Evaluation:
    """How zero-shot evaluation is done; part of every score's protocol."""

    benchmark: str = field(default="xtreme", metadata=limits(choices=("xtreme", "xtreme-r")))
    """The version of the benchmark: what a target is evaluated in where it names no languages, and its rules."""
    split: str = field(default="test", metadata=limits(choices=("test", "dev")))
    """The set that is scored; a task that has not this one is scored on the other."""
    limit: int | None = field(default=None, metadata=limits(minimum=1))
    """At most so many examples a language: a sample, the same in all languages where the set is parallel."""
    last_checkpoint: bool = True
    """Score the last step's weights beside the selected ones, where they differ."""
    embedding_layer: int | str = "protocol"
    """Block whose output is pooled for retrieval: a number, "last", or "protocol" (nearest 14/24)."""


@dataclass(frozen=True)
class Target:
    """A column of the table: a task to train on in English and to evaluate in every language."""

    task: str
    """A task of the catalogue, or one of the study's own."""
    languages: tuple[str, ...] = ()
    """Evaluated languages; all that the benchmark has of the task if empty."""
    train_languages: tuple[str, ...] = ()
    """Languages of the training set; the task's own (mostly English) if empty."""


@dataclass(frozen=True)
class Seeds:
    """Nested seeds: every intermediate phase with each of its seeds, and from each every target phase with its own."""

    intermediate: tuple[int, ...] = (0,)
    """Of the intermediate phases; below 1000. These are what is sampled."""
    target: tuple[int, ...] = (0,)
    """Of the target phases from each of them; below 1000."""


@dataclass(frozen=True)
class Study:
    """A whole study."""

    name: str
    """Of the study, in its report, its jobs and W&B: letters, digits, spaces and ``. , + - _``."""
    base: str | tuple[BaseModel, ...]
    """A hub id, a local directory, or "starter"; or several, as ``[[base]]`` tables: every row starts from each."""
    target: tuple[Target, ...]
    """The columns of the table."""
    intermediate: tuple[Intermediate, ...] = (Intermediate(NO_INTERMEDIATE),)
    """The rows of the table, and patterns of rows."""
    seeds: tuple[int, ...] | Seeds = (0,)
    """Each seed trains all phases of a run; or, nested, ``{ intermediate = [0, 1, 2], target = [0, 1] }``."""
    sample_seed: int = field(default=0, metadata=limits(minimum=0))
    """Draws other samples where ``limit``, ``eval_examples`` or ``train_examples`` says that one is drawn; the same
    one for all rows and seeds of the study."""
    revision: str = "main"
    """Of a base from the hub: a commit, tag or branch; the commit it resolves to is in the hash."""
    recipe: Mapping[str, Any] = field(default_factory=dict)
    """``[recipe.intermediate]``, ``[recipe.target]``, and per task ``[recipe.target.TASK]``."""
    engine: Engine = Engine()
    """How the work is cut and computed."""
    evaluation: Evaluation = Evaluation()
    """What is scored, and how."""
    tracking: TrackingSettings = TrackingSettings()
    """W&B."""
    task: Mapping[str, Any] = field(default_factory=dict)
    """The study's own data sets, in the catalogue's form."""
    question: tuple[Question, ...] = ()
    """What is asked; the answers open the report."""
    leave_out: tuple[str, ...] = ()
    """What cannot be had: rows by name, and tasks. Rows that train on such a task and targets of that name are left
    out, and with them what questions say of them."""
    variants: Mapping[str, Any] = field(default_factory=dict)
    """Named overrides: ``run STUDY --variant NAME``."""
    setting: str = ""
    """The variant and the ``--set`` that were laid on the study; written by the command that does it, so that two
    settings in one folder keep their reports apart."""

    @property
    def title(self) -> str:
        """The name, and the setting where there is one."""
        return f"{self.name} ({self.setting})" if self.setting else self.name

    @property
    def label(self) -> str:
        """The title as a part of a file's name."""
        plain = re.sub(r"[^A-Za-z0-9_.+]+", "-", self.title).strip("-.")
        return plain if len(plain) <= _LONGEST_LABEL else f"{plain[:_LONGEST_LABEL]}-{content_hash(self.title)[:6]}"

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks of all rows and columns, sorted."""
        named = {task for row in self.intermediate for tasks in row.phases for task in tasks}
        return tuple(sorted(named | {column.task for column in self.target}))

    @property
    def runs(self) -> tuple[tuple[int, int], ...]:
        """The seeds of the intermediate and of the target phases of each run of a row."""
        if not isinstance(self.seeds, Seeds):
            return tuple((seed, seed) for seed in self.seeds)
        return tuple((i, i + INNER_SEEDS * t) for i in self.seeds.intermediate for t in self.seeds.target)

    @property
    def outer_seeds(self) -> dict[int, int]:
        """A run's seed (its target phase's) -> that of its intermediate phases, which is sampled by itself."""
        return {target: intermediate for intermediate, target in self.runs}

    @property
    def seeds_in_words(self) -> str:
        """``3 (0, 1, 2)``, or ``3 x 2 (0, 1, 2; in each 0, 1)``."""
        if not isinstance(self.seeds, Seeds):
            return f"{len(self.seeds)} ({', '.join(map(str, self.seeds))})"
        outer, inner = self.seeds.intermediate, self.seeds.target
        return f"{len(outer)} x {len(inner)} ({', '.join(map(str, outer))}; in each {', '.join(map(str, inner))})"

    def base_of(self, row: Intermediate) -> Base:
        """What a row starts from; :func:`load` has told every row of several bases its own."""
        default = self.revision if row.base in ("", self.base) else "main"
        name = row.base or self.base
        assert isinstance(name, str), "rows of several bases without one of their own"
        return Base(name, row.revision or default)

    @property
    def bases(self) -> tuple[Base, ...]:
        """What the rows start from, each once, in their order."""
        return tuple(dict.fromkeys(self.base_of(row) for row in self.intermediate))

    @property
    def factors(self) -> dict[str, dict[str, Factor]]:
        """Row -> factor -> value: what questions may speak of."""
        return {row.name: {"base": self.base_of(row).name, **row.every_factor} for row in self.intermediate}

    def recipe_for(self, kind: str, task: str, catalogue: Mapping[str, Any], row: Intermediate | None = None) -> Recipe:
        """The recipe of ``task`` in a phase of ``kind``: catalogue, study, study for the task, and so for the row."""
        found = dict(catalogue)
        for of in (self.recipe, row.recipe if row else {}):
            table = of.get(kind, {})
            flat = {key: value for key, value in table.items() if not isinstance(value, Mapping)}
            found = merged(merged(found, flat), table.get(task, {}))
        return Recipe(**found)


def load(path: Path, *, overrides: Sequence[str] = (), variant: str = "", known_tasks: Sequence[str] = ()) -> Study:
    """Read, override and check a study.

    ``overrides`` are the ``KEY=VALUE`` of ``--set``; ``variant`` names a table of ``[variants]``;
    ``known_tasks`` the catalogue's tasks. Raises one :class:`UserError` that lists every mistake.
    """
    where = str(path)
    mapping = resolved(path, overrides=overrides, variant=variant)
    problems: list[Problem] = []
    study = build(Study, mapping, where, problems)
    _check_recipes(mapping.get("recipe", {}), "recipe", where, problems)
    if study is not None:
        rows = expanded(study.intermediate, where, problems)
        if not isinstance(study.base, str):
            _check_bases(study.base, where, problems)
            rows = crossed(rows, study.base)
        study = without(dataclasses.replace(study, intermediate=rows), where, problems)
        _check(study, {*known_tasks, *study.task}, where, problems)
    raise_if_any(map(_with_its_place, problems))
    assert study is not None
    return study


def resolved(path: Path, *, overrides: Sequence[str] = (), variant: str = "") -> dict[str, Any]:
    """The study's mapping with a variant and the ``KEY=VALUE`` of ``--set`` laid on it; not checked yet."""
    mapping = read_toml(path)
    if variant:
        variants = mapping.get("variants", {})
        if variant not in variants:
            remedy = nearest(variant, variants)
            raise UserError(Problem(f"--variant {variant}", f"{path} has no such variant", listed(variants), remedy))
        mapping = merged(mapping, variants[variant])
    for text in overrides:
        keys, value = parse_override(text)
        if len(keys) > 1 and isinstance(mapping.get(keys[0]), list):
            remedy = belongs(keys[-1], _every_key()) or "write it into the study"
            raise UserError(Problem(f"--set {text}", f"{keys[0]} is a list of tables, not one", "a key", remedy))
        mapping = merged(mapping, nested(keys, value))
    said = [variant] if variant else []
    said += [text for text in overrides if not text.strip().startswith(_NO_SETTING)]
    return {**mapping, "setting": ", ".join(said)} if said else mapping


def without(study: Study, where: str, problems: list[Problem]) -> Study:
    """The study without what it leaves out; questions that would have nothing to compare are left out as well."""
    gone = set(study.leave_out)
    if not gone:
        return study
    rows = tuple(row for row in study.intermediate if row.name not in gone and not gone & set(sum(row.phases, ())))
    targets = tuple(column for column in study.target if column.task not in gone)
    known = {*study.tasks, *(row.name for row in study.intermediate)}
    for name in sorted(gone - known):
        remedy = nearest(name, known) or "name a row or a task of the study"
        problems.append(Problem(f"{where}: leave_out", f"{name!r} is not there", listed(sorted(known)), remedy))
    smaller = dataclasses.replace(study, intermediate=rows, target=targets)
    if not targets or not rows:
        problems.append(Problem(f"{where}: leave_out", f"leaves no {'row' if targets else 'target'}"))
        return smaller
    left = (lacking(one, study.factors, smaller.factors, [column.task for column in targets]) for one in study.question)
    return dataclasses.replace(smaller, question=tuple(question for question in left if question is not None))


def _every_key() -> list[str]:
    recipes = [f"recipe.{kind}.{key}" for kind in ("target", "intermediate") for key in recipe_keys()]
    return recipes + [key for key in dotted_keys(Study) if "." in key]


def _with_its_place(problem: Problem) -> Problem:
    """An unknown key that is the end of a known one belongs there, however near another word is."""
    if problem.what != UNKNOWN_KEY:
        return problem
    name = problem.where.rpartition(": ")[2].rpartition(".")[2]
    return dataclasses.replace(problem, remedy=belongs(name, _every_key()) or problem.remedy)


def _check_recipes(table: Any, key: str, where: str, problems: list[Problem]) -> None:
    """Every key below the table ``key``: a kind of phase, then recipe keys or tasks with recipe keys."""
    if not isinstance(table, Mapping):
        return
    for kind, entries in table.items():
        if kind not in ("intermediate", "target") or not isinstance(entries, Mapping):
            remedy = nearest(kind, ("intermediate", "target")) or f"write [recipe.target] {kind} = ..."
            problems.append(Problem(f"{where}: {key}.{kind}", UNKNOWN_KEY, "intermediate, target", remedy))
            continue
        flat = {name: value for name, value in entries.items() if not isinstance(value, Mapping)}
        build(Recipe, flat, where, problems, f"{key}.{kind}")
        for task, keys in entries.items():
            if isinstance(keys, Mapping):
                build(Recipe, keys, where, problems, f"{key}.{kind}.{task}")


def _check(study: Study, known: set[str], where: str, problems: list[Problem]) -> None:
    """What the fields allow one by one but not together."""
    for key, name in [
        ("name", study.name),
        *((f"intermediate {r.name!r}: name", r.name) for r in study.intermediate),
    ]:
        if not re.fullmatch(r"[\w][\w .,+-]*", name):
            problems.append(
                Problem(f"{where}: {key}", f"{name!r} is not allowed", "letters, digits, spaces and . , + - _")
            )
    if not study.target:
        problems.append(Problem(f"{where}: target", "there is none", remedy='add [[target]] with task = "xnli"'))
    _check_seeds(study.seeds, where, problems)
    _check_names([row.name for row in study.intermediate], f"{where}: intermediate", problems)
    _check_names([column.task for column in study.target], f"{where}: target", problems)
    for row in study.intermediate:
        _check_row(row, where, problems)
        for task in {task for tasks in row.phases for task in tasks}:
            _check_task(task, known, f"{where}: intermediate {row.name!r}", problems)
    for column in study.target:
        _check_task(column.task, known, f"{where}: target", problems)
    problems += check_questions(study.question, study.factors, [column.task for column in study.target], where)
    tables = {"recipe": study.recipe}
    for row in study.intermediate:
        if row.recipe:
            tables[f"intermediate {row.name!r}: recipe"] = row.recipe
            _check_recipes(row.recipe, f"intermediate {row.name!r}: recipe", where, problems)
    for key, table in tables.items():
        for kind in ("intermediate", "target"):
            of_kind = table.get(kind, {})
            for task, keys in of_kind.items() if isinstance(of_kind, Mapping) else ():
                if isinstance(keys, Mapping):
                    _check_task(task, known, f"{where}: {key}.{kind}", problems)
    if isinstance(study.evaluation.embedding_layer, str) and study.evaluation.embedding_layer not in (
        "last",
        "protocol",
    ):
        value = study.evaluation.embedding_layer
        problems.append(
            Problem(
                f"{where}: evaluation.embedding_layer",
                f"{value!r} is not allowed",
                'a number, "last", "protocol"',
            )
        )


def _check_bases(bases: Sequence[BaseModel], where: str, problems: list[Problem]) -> None:
    if not bases:
        problems.append(Problem(f"{where}: base", "there is none", remedy="add [[base]] with name and model"))
    _check_names([base.name for base in bases], f"{where}: base", problems)


def _check_seeds(seeds: tuple[int, ...] | Seeds, where: str, problems: list[Problem]) -> None:
    lists: dict[str, tuple[int, ...]] = {}
    most = None
    if isinstance(seeds, Seeds):
        lists, most = {"seeds.intermediate": seeds.intermediate, "seeds.target": seeds.target}, INNER_SEEDS - 1
    else:
        lists = {"seeds": seeds}
    for key, some in lists.items():
        if not some or len(set(some)) < len(some) or min(some) < 0 or (most is not None and max(some) > most):
            allowed = "different numbers >= 0" if most is None else f"different numbers from 0 to {most}"
            problems.append(Problem(f"{where}: {key}", f"{list(some)} is not allowed", allowed))


def _check_names(names: Sequence[str], where: str, problems: list[Problem]) -> None:
    for name in sorted({name for name in names if names.count(name) > 1}):
        problems.append(Problem(where, f"{name!r} is there twice", remedy="give each its own name"))


def _check_row(row: Intermediate, where: str, problems: list[Problem]) -> None:
    here = f"{where}: intermediate {row.name!r}"
    if row.tasks and row.steps:
        problems.append(Problem(here, "has both tasks and steps", remedy="tasks for one phase, steps for several"))
    if any(not tasks for tasks in row.steps):
        problems.append(Problem(f"{here}.steps", "has an empty step", remedy="remove it"))
    if not row.phases and row.name != NO_INTERMEDIATE and not row.stands_apart:
        remedy = f'add tasks = ["mnli"]; only the row {NO_INTERMEDIATE!r}, or one with a base or a recipe, has none'
        problems.append(Problem(here, "has no tasks", remedy=remedy))
    if row.phases and row.name == NO_INTERMEDIATE:
        problems.append(
            Problem(here, "has tasks", remedy=f"{NO_INTERMEDIATE!r} is the base row; name this one otherwise")
        )
    for tasks in row.phases:
        _check_names(tasks, f"{here}.tasks", problems)
    trained = {task for tasks in row.phases for task in tasks}
    for task, languages in row.languages.items():
        if task not in trained:
            remedy = nearest(task, trained)
            problems.append(Problem(f"{here}.languages", f"{task!r} is no task of this row", listed(trained), remedy))
        if not languages:
            problems.append(Problem(f"{here}.languages.{task}", "names no language", remedy="remove it"))
        _check_names(languages, f"{here}.languages.{task}", problems)


def _check_task(task: str, known: set[str], where: str, problems: list[Problem]) -> None:
    if known and task not in known:
        problems.append(Problem(where, f"{task!r} is not a known task", listed(sorted(known)), nearest(task, known)))


def recipe_keys() -> tuple[str, ...]:
    """The keys of a recipe, as the catalogue may use them."""
    return tuple(item.name for item in dataclasses.fields(Recipe))
