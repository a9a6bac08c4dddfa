"""Read a data set from the Hugging Face hub, or from a folder that is laid out like one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from xtrain.errors import Problem, UserError, listed, nearest
from xtrain.files import content_hash
from xtrain.tasks.hashes import file_hash
from xtrain.tasks.readers import Record, column_names, nested
from xtrain.tasks.spec import LANGUAGE, Source

PARQUET_BRANCH = "refs/convert/parquet"
"""Where the hub keeps a converted copy of every data set; its folders are the configurations."""
_BATCH = 1000  # rows that are converted to Python at a time


def read_hub(source: Source, split: str, language: str) -> Iterator[Record]:
    """The rows of a split. Raises :class:`UserError` for an unknown id, configuration, split or column,
    and where there is no network.
    """
    dataset = _load(source, split, language)
    _check_columns(dataset, source, _name(source, language, split))
    number = 0
    for batch in dataset.iter(batch_size=_BATCH):
        names = list(batch)
        for values in zip(*batch.values(), strict=True):
            row = dict(zip(names, values, strict=True))
            number += 1
            yield Record(f"{_name(source, language, split)} row {number}", nested(row), column_names(row))


def hub_fingerprint(source: Source, split: str, language: str) -> list[Any]:
    """What identifies the data: id, configuration, revision and split; of a local folder its content."""
    folder = Path(source.hub).expanduser()
    config, name = _config(source, language), source.splits[source.base_split(split)]
    if not folder.is_dir():
        return [source.hub, config, source.revision, name]
    files = sorted(path for path in folder.rglob("*") if path.is_file() and ".cache" not in path.parts)
    return [content_hash([[str(path.relative_to(folder)), file_hash(path)] for path in files]), config, name]


def _config(source: Source, language: str) -> str:
    return source.config.replace(LANGUAGE, source.code(language))


def _name(source: Source, language: str, split: str) -> str:
    config = _config(source, language)
    return f"{source.hub}{f' [{config}]' if config else ''} {source.splits[source.base_split(split)]}"


def _load(source: Source, split: str, language: str) -> Any:
    import datasets

    path, config = Path(source.hub).expanduser(), _config(source, language)
    arguments: dict[str, Any] = {"split": source.splits[source.base_split(split)]}
    if path.is_dir():
        # without a card there are no configurations, but their folders
        folders = not (path / "README.md").is_file() and config and (path / config).is_dir()
        arguments |= {"path": str(path), ("data_dir" if folders else "name"): config or None}
    else:
        branch = source.revision == PARQUET_BRANCH
        arguments |= {"path": source.hub, "revision": source.revision}
        arguments["data_dir" if branch else "name"] = config or None
    try:
        return datasets.load_dataset(**arguments)
    except Exception as error:  # the library raises a dozen kinds of its own, of requests and of httpx
        raise UserError(_load_problem(source, split, language, error)) from error


def _load_problem(source: Source, split: str, language: str, error: Exception) -> Problem:
    kind, text = type(error).__name__, " ".join(str(error).split())[:300]
    where = f"{_name(source, language, split)} ({source.revision})"
    if isinstance(error, RuntimeError) and "script" in text:
        remedy = f'add revision = "{PARQUET_BRANCH}" to the source: the hub keeps a copy there without a script'
        return Problem(where, "has a loading script, which is never run", "parquet, json or csv files", remedy)
    if isinstance(error, ConnectionError) or any(word in kind for word in ("Connect", "Offline", "Timeout")):
        remedy = "connect to the network once, or download the files and name them with --data"
        return Problem(where, f"cannot be reached ({kind}: {text})", remedy=remedy)
    remedy = "check hub, config, revision and splits of the task's source, and that you may read the data set"
    return Problem(where, f"cannot be loaded ({kind}: {text})", remedy=remedy)


def _check_columns(dataset: Any, source: Source, where: str) -> None:
    """Every column that the source names is a feature of ``dataset``; all that are not, in one error."""
    known = _feature_names(dataset.features)
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
