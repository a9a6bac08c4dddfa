"""Read a data set from the Hugging Face hub, or from a folder that is laid out like one."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

from xtrain.errors import Problem, UserError, listed, nearest
from xtrain.file_kinds import FIRST, foreign
from xtrain.files import content_hash
from xtrain.tasks.formats import ProblemList
from xtrain.tasks.hashes import file_hash
from xtrain.tasks.hub_layout import CARD, PARQUET_BRANCH, Choice, Place, choose_files, ending_of
from xtrain.tasks.hub_repository import Repository, locate, scrubbed
from xtrain.tasks.hub_text import ENDINGS, TextFile
from xtrain.tasks.readers import Record, column_names, nested
from xtrain.tasks.spec import LANGUAGE, Source

__all__ = ["PARQUET_BRANCH", "hub_fingerprint", "known_ids", "read_hub"]

_BATCH = 1000  # rows that are converted to Python at a time

# Files come into the hub's own cache (HF_HOME/hub), at the commit that the revision stands for, and only those of
# the wanted configuration and split; there, text is read by our own readers and tables by `datasets`. Its own way of
# loading an id is not used: without a network it takes what it converted last, of any commit.


def read_hub(source: Source, split: str, language: str, problems: ProblemList) -> Iterator[Record]:
    """The rows of a split. What is wrong with a line of a text file goes to ``problems``. Raises :class:`UserError`
    for an unknown id, revision, configuration, split or column, where access is refused, and where there is no
    network and the local cache has not the files.
    """
    where, expression = _name(source, language, split), source.splits[source.base_split(split)]
    place = _place(source)
    choice = choose_files(place, _config(source, language), _parts(expression, where), where)
    info = choice.info(place.fetch([CARD])) if choice.carded else None
    number, checked = 0, False
    for part, files in _files(place, choice, where):
        before = number
        for name, path in files:
            if ending_of(name) in ENDINGS:
                text = TextFile(path, name, choice.options, _classes(info), where)
                columns, records = text.records(source, problems)
            else:
                columns, records = _table(path, name, info, where, number)
            if columns and not checked:
                _check_columns(columns, source, where)
                checked = True
            for record in records:
                number += 1
                yield record
        if not problems.found:
            _check_count(number - before, part, info, where)


def hub_fingerprint(source: Source, split: str, language: str) -> list[Any]:
    """What identifies the data: id, configuration, commit and split; of a local folder its content.

    The commit is the one that the revision stands for now, asked once a process; without a network, the one
    that the local cache last saw. Raises :class:`UserError` as :func:`read_hub` does.
    """
    config, name = _config(source, language), source.splits[source.base_split(split)]
    folder = Path(source.hub).expanduser()
    if not folder.is_dir():
        return [source.hub, config, _repository(source).commit, name]
    files = sorted(path for path in folder.rglob("*") if path.is_file() and ".cache" not in path.parts)
    return [content_hash([[str(path.relative_to(folder)), file_hash(path)] for path in files]), config, name]


@cache
def known_ids() -> tuple[str, ...]:
    """The ids of the catalogue's data sets on the hub."""
    from xtrain.tasks import catalog  # the catalogue's own checks need the formats, and those need readers

    specs = catalog.load().values()
    return tuple(sorted({source.hub for spec in specs for source in spec.sources if source.hub.count("/") == 1}))


def _repository(source: Source) -> Repository:
    return locate(source.hub, "dataset", source.revision, known_ids())


def _place(source: Source) -> Place:
    folder = Path(source.hub).expanduser()
    if folder.is_dir():
        paths = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
        names = sorted(path.as_posix() for path in paths if not any(part.startswith(".") for part in path.parts))
        return Place(source.hub, tuple(names), lambda _: folder, parquet_branch=False)
    repository = _repository(source)
    return Place(source.hub, repository.files, repository.fetch, parquet_branch=source.revision == PARQUET_BRANCH)


def _config(source: Source, language: str) -> str:
    return source.config.replace(LANGUAGE, source.code(language))


def _name(source: Source, language: str, split: str) -> str:
    config = _config(source, language)
    return f"{source.hub}{f' [{config}]' if config else ''} {source.splits[source.base_split(split)]}"


def _parts(expression: str, where: str) -> list[str]:
    parts = [part.strip() for part in expression.split("+")]
    if not all(re.fullmatch(r"[\w.-]+", part) for part in parts):
        allowed = 'names of splits, joined by "+"'
        raise UserError(Problem(where, f"{expression!r} is not a split", allowed, "carve out a part with hash_split"))
    return parts


def _files(place: Place, choice: Choice, where: str) -> Iterator[tuple[str, Iterator[tuple[str, Path]]]]:
    """The wanted splits, each with its files; who reads but the first rows of a Wikipedia does not fetch it all."""
    if not choice.by_name:
        for part in choice.parts:
            yield part, ((name, place.fetch([name]) / name) for name in choice.files[part])
        return
    folder = place.fetch(choice.files[""])
    found = _read(partial(_by_name, folder / choice.folder), where)
    _check_splits([str(part) for part in found], choice, where)
    for part in choice.parts:
        paths = [Path(path) for path in found[part]]
        yield part, ((os.path.relpath(path, folder), path) for path in paths)


def _read(read: Callable[[], Any], where: str) -> Any:
    try:
        return read()
    except UserError:
        raise
    except Exception as error:  # the library raises a dozen kinds of its own and of pyarrow's
        what = f"cannot be read ({type(error).__name__}: {scrubbed(str(error))[:300]})"
        remedy = "check hub, config, revision and splits of the task's source, or fetch the files again"
        raise UserError(Problem(where, what, remedy=remedy)) from error


def _by_name(folder: Path) -> Mapping[str, Sequence[str]]:
    """Split -> its files, by the rules of ``datasets``."""
    import datasets

    found: Mapping[str, Sequence[str]] = datasets.load_dataset_builder(str(folder)).config.data_files
    return found


def _table(path: Path, name: str, info: Any, where: str, before: int) -> tuple[list[str], Iterator[Record]]:
    """The columns and rows of a parquet or Arrow file, converted in the cache of ``datasets`` once."""
    dataset = _read(partial(_by_reader, path, ending_of(name), info.features if info else None), where)

    def records() -> Iterator[Record]:
        number = before
        for batch in dataset.iter(batch_size=_BATCH):
            names = list(batch)
            for values in zip(*batch.values(), strict=True):
                row = dict(zip(names, values, strict=True))
                number += 1
                yield Record(f"{where} row {number}", nested(row), column_names(row))

    return _feature_names(dataset.features), records()


def _by_reader(path: Path, ending: str, features: Any) -> Any:
    import datasets

    if ending == "arrow":
        return datasets.Dataset.from_file(str(path))
    with open(path, "rb") as handle:
        first = handle.read(FIRST)
    problem = None if first.startswith(b"PAR1") else foreign(path, first)
    if problem is not None:
        raise UserError(replace(problem, allowed="a parquet file"))
    return datasets.Dataset.from_parquet(str(path), features=features)


def _classes(info: Any) -> dict[str, Sequence[str]]:
    """Column -> the names of its classes, as far as the card says any."""
    found: dict[str, Sequence[str]] = {}
    for name, feature in (info.features or {}).items() if info else ():
        names = getattr(getattr(feature, "feature", feature), "names", None)
        if names:
            found[name] = list(names)
    return found


def _check_splits(known: list[str], choice: Choice, where: str) -> None:
    for part in choice.parts:
        if part not in known:
            remedy = f"{nearest(part, known)} name the right one in splits of the task's source".strip()
            raise UserError(Problem(where, f"there is no split {part!r}", listed(known), remedy))


def _check_count(count: int, part: str, info: Any, where: str) -> None:
    """The rows are as many as the data set's card says, where it says so."""
    wanted = info.splits[part].num_examples if info and info.splits and part in info.splits else None
    if wanted not in (None, 0, count):
        remedy = "fetch the files again (delete its folder in HF_HOME/hub), or name another revision"
        raise UserError(Problem(where, f"{part} has {count:,} rows, and the card says {wanted:,}", remedy=remedy))


def _check_columns(known: Sequence[str], source: Source, where: str) -> None:
    """Every column that the source names is ``known``; all that are not, in one error."""
    problems = []
    for column, reference in source.columns.items():
        for part in reference if isinstance(reference, tuple) else (reference,):
            if str(part) not in known:
                remedy = f"{nearest(str(part), known)} name the right one in columns: {column} = ...".strip()
                problems.append(Problem(where, f"there is no column {part!r}", listed(known), remedy))
    if problems:
        raise UserError(*problems)


def _feature_names(features: Mapping[str, Any]) -> list[str]:
    names: list[str] = []
    for name, feature in features.items():
        names.append(name)
        if isinstance(feature, Mapping):
            names += [f"{name}.{inner}" for inner in feature]
    return names
