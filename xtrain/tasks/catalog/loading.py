"""Read the catalogue of tasks, lay a study's own entries over it, and check every entry."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from xtrain.config import build, merged, read_toml
from xtrain.errors import Problem, listed, nearest, raise_if_any
from xtrain.languages import proposed
from xtrain.study import Recipe
from xtrain.tasks import formats
from xtrain.tasks.formats import Format
from xtrain.tasks.spec import EVERY, INDEX_LANGUAGE, LANGUAGE, SEPARATED, SPLITS, Source, TaskSpec

CATALOG = Path(__file__).parent
"""The folder of the catalogue's files."""


def load(extra: Mapping[str, Any] | None = None, where: str = "the study") -> dict[str, TaskSpec]:
    """Every task by its name: the catalogue, with the study's ``[task.NAME]`` entries laid over it.

    ``extra`` is the study's table ``task``, ``where`` its file, for messages. An entry with the name of a
    catalogue task changes the keys it names; a new name is a new task. Raises one :class:`UserError` that
    lists every mistake.
    """
    tables = _catalogue()
    problems: list[Problem] = []
    origin = {name: str(CATALOG / f"{table['format']}.toml") for name, table in tables.items()}
    for name, table in (extra or {}).items():
        if not isinstance(table, Mapping):
            problems.append(Problem(f"{where}: task.{name}", f"{table!r} is not a table", remedy=f"[task.{name}]"))
            continue
        tables = {**tables, name: merged(tables.get(name, {}), table)}
        origin[name] = where
    specs: dict[str, TaskSpec] = {}
    for name, table in tables.items():
        spec = _build(name, table, origin[name], problems)
        if spec is not None:
            specs[name] = spec
    for name, spec in specs.items():
        _check_others(spec, specs, {*tables}, f"{origin[name]}: task.{name}", problems)
    raise_if_any(problems)
    return specs


@cache
def _catalogue() -> dict[str, Mapping[str, Any]]:
    tables: dict[str, Mapping[str, Any]] = {}
    for file in sorted(CATALOG.glob("*.toml")):
        for name, table in read_toml(file)["task"].items():
            assert name not in tables, f"{file}: {name} is in the catalogue already"
            tables[name] = table
    return tables


def _build(name: str, table: Mapping[str, Any], where: str, problems: list[Problem]) -> TaskSpec | None:
    key = f"task.{name}"
    if not re.fullmatch(r"\w[\w-]*", name):
        problems.append(Problem(f"{where}: {key}", "the name is not allowed", "letters, digits, _ and -"))
        return None
    if "name" in table:
        problems.append(Problem(f"{where}: {key}.name", "unknown key", remedy=f"the name is in [{key}]"))
    before = len(problems)
    spec = build(TaskSpec, {**table, "name": name}, where, problems, key)
    if spec is None or len(problems) > before:
        return None
    codes = spec.language_codes
    spec = replace(
        spec, sources=tuple(s if s.language_codes else replace(s, language_codes=codes) for s in spec.sources)
    )
    here = f"{where}: {key}"
    build(Recipe, spec.recipe, where, problems, f"{key}.recipe")
    if spec.format not in formats.names():
        remedy = nearest(spec.format, formats.names())
        problems.append(Problem(f"{here}.format", f"{spec.format!r} is not known", listed(formats.names()), remedy))
        return spec
    format_ = formats.get(spec.format)
    _check_languages(spec, here, problems)
    _check_words(spec, format_, here, problems)
    for n, source in enumerate(spec.sources):
        _check_source(source, spec, format_, f"{here}.sources[{n}]", problems)
    problems += format_.check(spec, here)
    return spec


def _check_words(spec: TaskSpec, format_: Format, here: str, problems: list[Problem]) -> None:
    """The metric and the options are the format's; there is a source, and something to train or score on."""
    if spec.metric not in format_.metrics:
        remedy = nearest(spec.metric, format_.metrics)
        problems.append(Problem(f"{here}.metric", f"{spec.metric!r} is not allowed", listed(format_.metrics), remedy))
    for option in spec.options:
        if option not in format_.options:
            allowed = listed(format_.options) or f"none: {spec.format} has no options"
            problems.append(
                Problem(f"{here}.options.{option}", "unknown key", allowed, nearest(option, format_.options))
            )
    if not spec.sources and not spec.joined:
        remedy = f"add [[task.{spec.name}.sources]] with files or hub"
        problems.append(Problem(f"{here}.sources", "there is none", remedy=remedy))
    if spec.sources and spec.joined:
        problems.append(Problem(here, "has both sources and joined", remedy="remove one of the two"))


def _check_languages(spec: TaskSpec, here: str, problems: list[Problem]) -> None:
    languages = spec.languages
    if not languages or len(set(languages)) < len(languages) or (EVERY in languages and len(languages) > 1):
        problems.append(
            Problem(
                f"{here}.languages",
                f"{list(languages)} is not allowed",
                'different languages, or ["*"] alone',
            )
        )
    spoken = {*languages, *spec.train_languages, INDEX_LANGUAGE}
    for language in {code: None for source in spec.sources for code in source.language_codes}:
        if EVERY not in spoken and language not in spoken:
            what = "is no language of the task: write LANGUAGE = what the source writes for it"
            problems.append(
                Problem(f"{here}.language_codes.{language}", what, listed(languages), proposed(language, languages))
            )
    for n, source in enumerate(spec.sources):
        # of parallel files, one path tells the language and the other may be the English side
        splits = [split for split in source.files if split != "index"]  # one pool for all languages
        groups = [source.paths(split, LANGUAGE) for split in splits] or [(source.config,)]
        if languages == (EVERY,) and (source.hub or not all(LANGUAGE in paths[0] for paths in groups)):
            problems.append(
                Problem(
                    f"{here}.languages",
                    f'["*"] needs files with {LANGUAGE} in every path, and sources[{n}] is otherwise',
                    remedy="list the languages",
                )
            )
        told = all(any(LANGUAGE in path for path in paths) for paths in groups)
        if len(languages) > 1 and not told and not any(LANGUAGE in value for value in source.where.values()):
            patterns = listed(path for paths in groups for path in paths)
            problems.append(
                Problem(
                    f"{here}.sources[{n}]",
                    f"there are {len(languages)} languages, and {LANGUAGE} is not in {patterns!r}",
                    remedy=f"put {LANGUAGE} where the language stands",
                )
            )


def _check_source(source: Source, spec: TaskSpec, format_: Format, here: str, problems: list[Problem]) -> None:
    if bool(source.files) == bool(source.hub):
        what = "has both files and hub" if source.hub else "has neither files nor hub"
        problems.append(Problem(here, what, remedy="one of them; give the other its own [[...sources]]"))
        return
    named = source.files or source.splits
    if source.hub and not source.splits:
        problems.append(Problem(f"{here}.splits", "missing", remedy='add splits = { train = "train" }'))
    for split in {*named, *source.hash_split}:
        if split not in SPLITS:
            problems.append(Problem(f"{here}: {split}", "is not a split", listed(SPLITS), nearest(split, SPLITS)))
    if "" in source.readers:
        problems.append(
            Problem(f"{here}.reader", "missing, and the file's ending does not say it", "jsonl, tsv, csv, lines")
        )
    if source.separator and (len(source.separator) > 1 or source.separator in '"\r\n'):
        what = f"{source.separator!r} is not allowed"
        problems.append(Problem(f"{here}.separator", what, 'one character; " " for any number of blanks'))
    if source.separator and not source.hub and not source.readers <= SEPARATED:
        what = f"is not for the reader {listed(sorted(source.readers - SEPARATED))}"
        problems.append(Problem(f"{here}.separator", what, listed(sorted(SEPARATED)), "remove it"))
    if source.files and source.splits:
        problems.append(Problem(f"{here}.splits", "is for hub", remedy="name the split in files"))
    _check_columns(source, format_, here, problems)
    for split in source.split_columns:
        _check_columns(source.at(split), format_, f"{here}.split_columns.{split}", problems)
    _check_hash_split(source, format_, named, here, problems)


def _check_columns(source: Source, format_: Format, here: str, problems: list[Problem]) -> None:
    known = (*format_.required, *format_.optional, "id")
    for column in source.columns:
        if column not in known:
            problems.append(
                Problem(f"{here}.columns.{column}", "unknown column", listed(known), nearest(column, known))
            )
    for column in format_.required:
        if column not in source.columns:
            problems.append(
                Problem(
                    f"{here}.columns.{column}",
                    "missing",
                    remedy=f'add {column} = "the name of its column in the file"',
                )
            )
    places = {
        isinstance(part, int)
        for reference in source.columns.values()
        for part in (reference if isinstance(reference, tuple) else (reference,))
    }
    if len(places) > 1:
        problems.append(
            Problem(
                f"{here}.columns",
                "has both names and numbers",
                allowed="names for a file with a header line, or places from 0 for one without",
            )
        )
    if places == {True} and (source.hub or "jsonl" in source.readers):
        problems.append(Problem(f"{here}.columns", "has numbers", "names of columns"))
    if places == {False} and "lines" in source.readers:
        problems.append(
            Problem(f"{here}.columns", "has names", "the place of the file, from 0: source = 0, target = 1")
        )


def _check_hash_split(
    source: Source, format_: Format, named: Mapping[str, Any], here: str, problems: list[Problem]
) -> None:
    if not source.hash_split:
        return
    shares = source.hash_split.values()
    if "train" in source.hash_split or "train" not in named or any(not 0 < share < 1 for share in shares):
        problems.append(
            Problem(
                f"{here}.hash_split",
                f"{dict(source.hash_split)} is not allowed",
                allowed="shares between 0 and 1 for dev or test, of a source that names train",
            )
        )
    elif sum(shares) >= 1:
        problems.append(Problem(f"{here}.hash_split", f"nothing is left of train: {dict(source.hash_split)}"))
    for split in source.hash_split:
        if split in named:
            problems.append(
                Problem(f"{here}.hash_split.{split}", f"{split} is named already", remedy="remove one of the two")
            )
    for column in source.hash_by:
        if column not in source.columns:
            remedy = nearest(column, source.columns)
            problems.append(Problem(f"{here}.hash_by", f"{column!r} is not a column", listed(source.columns), remedy))


def _check_others(
    spec: TaskSpec, specs: Mapping[str, TaskSpec], known: set[str], here: str, problems: list[Problem]
) -> None:
    """The tasks in ``train_on`` and ``joined`` are there and are trained; those whose head it uses are alike."""
    trained = spec.format in formats.names() and formats.get(spec.format).trained
    orders = {"train_on": spec.training_tasks()}
    orders |= {f"train_on_in.{benchmark}": spec.training_tasks(benchmark) for benchmark in spec.train_on_in}
    alike = {*spec.joined, *(order[-1] for order in orders.values() if trained and order)}
    named = [(key, name) for key, order in orders.items() for name in order]
    named += [("joined", name) for name in spec.joined]
    for key, name in named:
        other = specs.get(name)
        where = f"{here}.{key}"
        if name not in known:
            problems.append(Problem(where, f"{name!r} is not a task", listed(sorted(known)), nearest(name, known)))
        elif other is None or other.format not in formats.names():
            continue  # its own mistakes are listed
        elif name == spec.name or (key == "joined" and other.joined):
            problems.append(Problem(where, f"{name!r} cannot be named here", "another task, with sources"))
        elif not formats.get(other.format).trained:
            problems.append(Problem(where, f"{name!r} has no training: its format is {other.format}"))
        elif name in alike and (other.format != spec.format or other.labels != spec.labels):
            problems.append(
                Problem(
                    where,
                    f"{name!r} has another format or other labels: {other.format}, {list(other.labels)}",
                    allowed=f"{spec.format}, {list(spec.labels)}",
                )
            )
