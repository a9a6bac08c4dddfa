"""What the user writes: a study's TOML file, as frozen dataclasses, with every mistake in one message."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from xtrain.config import UNKNOWN_KEY, belongs, build, dotted_keys, limits, merged, nested, parse_override, read_toml
from xtrain.errors import Problem, UserError, listed, nearest, raise_if_any
from xtrain.study_questions import Factor, Question, check_questions
from xtrain.tracking.settings import TrackingSettings

NO_INTERMEDIATE = "none"  # the name of the base row: no intermediate phase


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
    adam_beta2: float = field(default=0.999, metadata=limits(minimum=0, maximum=1))
    adam_epsilon: float = field(default=1e-8, metadata=limits(above=0))
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
    tokens_per_micro_batch: int = field(default=8192, metadata=limits(minimum=16))
    """Tokens a rank takes at once; smaller needs less memory, larger is faster."""
    checkpoint_every: int = field(default=500, metadata=limits(minimum=1))
    """Steps between sharded checkpoints."""
    keep_checkpoints: int = field(default=2, metadata=limits(minimum=1))
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
    limit: int | None = field(default=None, metadata=limits(minimum=1))
    """At most so many examples a language: a sample, the same in all languages where the set is parallel."""
    last_checkpoint: bool = True
    """Score the last step's weights beside the selected ones, where they differ."""
    embedding_layer: int | str = "protocol"
    """Block whose output is pooled for retrieval: a number, "last", or "protocol" (nearest 14/24)."""


@dataclass(frozen=True)
class Intermediate:
    """A row of the table: the phases before the target phase."""

    name: str
    tasks: tuple[str, ...] = ()
    """One task, or a mixture, in one phase."""
    steps: tuple[tuple[str, ...], ...] = ()
    """Several phases in sequence, each with its tasks."""
    languages: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Task -> the languages that it is trained in; what is not here, in the task's own (mostly English)."""
    factors: Mapping[str, Factor] = field(default_factory=dict)
    """What the study's questions may ask about: ``{ kind = "logic", difficulty = 3 }``. Changes nothing that is
    trained."""

    @property
    def every_factor(self) -> dict[str, Factor]:
        """``factors``, and what can be counted: ``n_tasks`` and ``n_steps``."""
        tasks = {task for names in self.phases for task in names}
        return {"n_tasks": float(len(tasks)), "n_steps": float(len(self.phases)), **self.factors}

    @property
    def phases(self) -> tuple[tuple[str, ...], ...]:
        """The tasks of each intermediate phase in order; empty for the base row."""
        return self.steps or ((self.tasks,) if self.tasks else ())


@dataclass(frozen=True)
class Target:
    """A column of the table: a task to train on in English and to evaluate in every language."""

    task: str
    languages: tuple[str, ...] = ()
    """Evaluated languages; all that the benchmark has of the task if empty."""
    train_languages: tuple[str, ...] = ()
    """Languages of the training set; the task's own (mostly English) if empty."""


@dataclass(frozen=True)
class Study:
    """A whole study."""

    name: str
    base: str
    target: tuple[Target, ...]
    intermediate: tuple[Intermediate, ...] = (Intermediate(NO_INTERMEDIATE),)
    seeds: tuple[int, ...] = (0,)
    sample_seed: int = field(default=0, metadata=limits(minimum=0))
    """Draws other samples where ``limit``, ``eval_examples`` or ``train_examples`` says that one is drawn; the same
    one for all rows and seeds of the study."""
    revision: str = "main"
    """Of a base from the hub: a commit, tag or branch; the commit it resolves to is in the hash."""
    recipe: Mapping[str, Any] = field(default_factory=dict)
    """``[recipe.intermediate]``, ``[recipe.target]``, and per task ``[recipe.target.TASK]``."""
    engine: Engine = Engine()
    evaluation: Evaluation = Evaluation()
    tracking: TrackingSettings = TrackingSettings()
    task: Mapping[str, Any] = field(default_factory=dict)
    """The study's own data sets, in the catalogue's form."""
    question: tuple[Question, ...] = ()
    """What is asked; the answers open the report."""
    variants: Mapping[str, Any] = field(default_factory=dict)
    """Named overrides: ``run STUDY --variant NAME``."""

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks of all rows and columns, sorted."""
        named = {task for row in self.intermediate for tasks in row.phases for task in tasks}
        return tuple(sorted(named | {column.task for column in self.target}))

    def recipe_for(self, kind: str, task: str, catalogue: Mapping[str, Any]) -> Recipe:
        """The recipe of ``task`` in a phase of ``kind``: catalogue, then study, then the study's for the task."""
        table = self.recipe.get(kind, {})
        flat = {key: value for key, value in table.items() if not isinstance(value, Mapping)}
        return Recipe(**merged(merged(catalogue, flat), table.get(task, {})))


def load(path: Path, *, overrides: Sequence[str] = (), variant: str = "", known_tasks: Sequence[str] = ()) -> Study:
    """Read, override and check a study.

    ``overrides`` are the ``KEY=VALUE`` of ``--set``; ``variant`` names a table of ``[variants]``;
    ``known_tasks`` the catalogue's tasks. Raises one :class:`UserError` that lists every mistake.
    """
    where = str(path)
    mapping = resolved(path, overrides=overrides, variant=variant)
    problems: list[Problem] = []
    study = build(Study, mapping, where, problems)
    _check_recipes(mapping.get("recipe", {}), where, problems)
    if study is not None:
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
    return mapping


def _every_key() -> list[str]:
    recipes = [f"recipe.{kind}.{key}" for kind in ("target", "intermediate") for key in recipe_keys()]
    return recipes + [key for key in dotted_keys(Study) if "." in key]


def _with_its_place(problem: Problem) -> Problem:
    """An unknown key that is the end of a known one belongs there, however near another word is."""
    if problem.what != UNKNOWN_KEY:
        return problem
    name = problem.where.rpartition(": ")[2].rpartition(".")[2]
    return dataclasses.replace(problem, remedy=belongs(name, _every_key()) or problem.remedy)


def _check_recipes(table: Any, where: str, problems: list[Problem]) -> None:
    """Every key below ``[recipe]``: a kind of phase, then recipe keys or tasks with recipe keys."""
    if not isinstance(table, Mapping):
        return
    for kind, entries in table.items():
        if kind not in ("intermediate", "target") or not isinstance(entries, Mapping):
            remedy = nearest(kind, ("intermediate", "target")) or f"write [recipe.target] {kind} = ..."
            problems.append(Problem(f"{where}: recipe.{kind}", UNKNOWN_KEY, "intermediate, target", remedy))
            continue
        flat = {key: value for key, value in entries.items() if not isinstance(value, Mapping)}
        build(Recipe, flat, where, problems, f"recipe.{kind}")
        for task, keys in entries.items():
            if isinstance(keys, Mapping):
                build(Recipe, keys, where, problems, f"recipe.{kind}.{task}")


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
    if not study.seeds or len(set(study.seeds)) < len(study.seeds) or min(study.seeds, default=0) < 0:
        problems.append(Problem(f"{where}: seeds", f"{list(study.seeds)} is not allowed", "different numbers >= 0"))
    _check_names([row.name for row in study.intermediate], f"{where}: intermediate", problems)
    _check_names([column.task for column in study.target], f"{where}: target", problems)
    for row in study.intermediate:
        _check_row(row, where, problems)
        for task in {task for tasks in row.phases for task in tasks}:
            _check_task(task, known, f"{where}: intermediate {row.name!r}", problems)
    for column in study.target:
        _check_task(column.task, known, f"{where}: target", problems)
    factors = {row.name: row.every_factor for row in study.intermediate}
    problems += check_questions(study.question, factors, [column.task for column in study.target], where)
    for kind in ("intermediate", "target"):
        for task, keys in study.recipe.get(kind, {}).items():
            if isinstance(keys, Mapping):
                _check_task(task, known, f"{where}: recipe.{kind}", problems)
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


def _check_names(names: Sequence[str], where: str, problems: list[Problem]) -> None:
    for name in sorted({name for name in names if names.count(name) > 1}):
        problems.append(Problem(where, f"{name!r} is there twice", remedy="give each its own name"))


def _check_row(row: Intermediate, where: str, problems: list[Problem]) -> None:
    here = f"{where}: intermediate {row.name!r}"
    if row.tasks and row.steps:
        problems.append(Problem(here, "has both tasks and steps", remedy="tasks for one phase, steps for several"))
    if any(not tasks for tasks in row.steps):
        problems.append(Problem(f"{here}.steps", "has an empty step", remedy="remove it"))
    if not row.phases and row.name != NO_INTERMEDIATE:
        problems.append(
            Problem(
                here,
                "has no tasks",
                remedy=f'add tasks = ["mnli"]; only the row {NO_INTERMEDIATE!r} has none',
            )
        )
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
