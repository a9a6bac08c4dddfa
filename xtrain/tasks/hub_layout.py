"""Which files of a data set on the hub hold a configuration's splits: from its card, its folders, or their names."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from xtrain.errors import Problem, UserError, counted, listed
from xtrain.languages import proposed

PARQUET_BRANCH = "refs/convert/parquet"
"""Where the hub keeps a converted copy of every data set: CONFIGURATION/SPLIT/0000.parquet."""
READERS = {
    "parquet": "parquet",
    "jsonl": "json",
    "json": "json",
    "ndjson": "json",
    "csv": "csv",
    "tsv": "csv",
    "txt": "text",
    "arrow": "arrow",
}
"""Ending of a file -> the reader of ``datasets`` for it."""
COMPRESSED = (".gz", ".bz2", ".xz", ".zst", ".lz4")  # `datasets` unpacks these itself
CARD = "README.md"


@dataclass(frozen=True)
class Place:
    """The files of a data set, and the way to have some of them on this disk."""

    name: str
    names: tuple[str, ...]
    fetch: Callable[[Sequence[str]], Path]
    """Makes sure that the files are there, and returns the folder that they are in."""
    parquet_branch: bool


@dataclass(frozen=True)
class Choice:
    """The files of the wanted splits, and how they are read."""

    parts: tuple[str, ...]
    """The splits, in order; one may be named twice."""
    files: Mapping[str, tuple[str, ...]]
    """Split -> its files; everything under "" if ``by_name``."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """What the card says about how the files are read, such as ``sep``."""
    by_name: bool = False
    """The splits are told from the files' names, by the rules of ``datasets``."""
    folder: str = ""
    """Below which they are looked for, if ``by_name``."""
    config: str = ""
    carded: bool = False

    def info(self, folder: Path) -> Any:
        """The ``DatasetInfo`` on the card: features and numbers of rows; None if it has none."""
        from datasets.info import DatasetInfosDict

        return DatasetInfosDict.from_directory(str(folder)).get(self.config)


def choose_files(place: Place, config: str, parts: Sequence[str], where: str) -> Choice:
    """The files that hold the splits ``parts`` of configuration ``config`` (empty: the only or default one).

    Raises :class:`UserError` for an unknown configuration or split, with the nearest one; for a repository
    with a loading script; and for one without files that can be read.
    """
    if place.parquet_branch or all(_below(place.names, f"{config}/{part}/", ".parquet") for part in parts):
        return _by_folders(place, config, parts, where)
    entries = _card_entries(place)
    if entries:
        return _by_card(place, entries, config, parts, where)
    folder = config if config and _below(place.names, f"{config}/") else ""
    if config not in ("", "default", folder):
        folders = sorted({name.split("/")[0] for name in _readable(place.names) if "/" in name})
        _refuse_scripts(place, where)
        raise UserError(_unknown("configuration", config, folders, where))
    return _by_name(place, folder, parts, where)


def _by_folders(place: Place, config: str, parts: Sequence[str], where: str) -> Choice:
    """CONFIGURATION/SPLIT/NAME.parquet."""
    found: dict[str, dict[str, list[str]]] = {}
    for name in place.names:
        if name.endswith(".parquet") and name.count("/") >= 2:
            folder, split, _ = name.rsplit("/", 2)
            found.setdefault(folder, {}).setdefault(split, []).append(name)
    config = config or (next(iter(found)) if len(found) == 1 else "default")
    if config not in found:
        raise UserError(_unknown("configuration", config, sorted(found), where))
    splits = found[config]
    return Choice(tuple(parts), {part: _files(splits, part, where) for part in parts}, config=config)


def _by_card(place: Place, entries: list[Mapping[str, Any]], config: str, parts: Sequence[str], where: str) -> Choice:
    """As ``configs`` on the card (README.md) says."""
    names = [str(entry.get("config_name", "default")) for entry in entries]
    if not config:
        marked = [name for name, entry in zip(names, entries, strict=True) if entry.get("default")]
        config = marked[0] if marked else names[0] if len(names) == 1 else "default"
    if config not in names:
        raise UserError(_unknown("configuration", config, names, where))
    entry = dict(entries[names.index(config)])
    base, patterns = str(entry.get("data_dir") or "").strip("/"), _patterns(entry.get("data_files"))
    if not patterns:
        return _by_name(place, base, parts, where)
    files: dict[str, tuple[str, ...]] = {}
    for part in parts:
        wanted = [f"{base}/{pattern}" if base else pattern for pattern in _files(patterns, part, where)]
        files[part] = tuple(name for pattern in wanted for name in place.names if _matches(name, pattern))
        if not files[part]:
            remedy = "choose another revision; if the files are in the cache only in part, fetch the rest"
            raise UserError(Problem(where, f"no file {listed(wanted)} of {part} is there", remedy=remedy))
        _check_whole(files[part], where)
    keys = ("config_name", "data_files", "data_dir", "default", "description")
    options = {key: value for key, value in entry.items() if key not in keys}
    _check_kinds([name for part in parts for name in files[part]], where)
    return Choice(tuple(parts), files, options, config=config, carded=True)


def _by_name(place: Place, folder: str, parts: Sequence[str], where: str) -> Choice:
    """No card: ``datasets`` tells the splits by the names of files and folders."""
    names = [name for name in _readable(place.names) if not folder or name.startswith(f"{folder}/")]
    if not names:
        _refuse_scripts(place, where)
        remedy = "choose a data set that has such files"
        raise UserError(Problem(where, "has no files that can be read", f"files that end in {listed(READERS)}", remedy))
    _check_whole(names, where)
    return Choice(tuple(parts), {"": tuple(names)}, by_name=True, folder=folder)


def _card_entries(place: Place) -> list[Mapping[str, Any]]:
    """The configurations on the card, in its order."""
    if CARD not in place.names:
        return []
    from huggingface_hub import DatasetCard

    path = place.fetch([CARD]) / CARD
    try:
        entries = DatasetCard.load(path, ignore_metadata_errors=True).data.to_dict().get("configs") or []
    except Exception as error:  # yaml's and the library's own
        remedy = "choose another revision, or correct the card"
        raise UserError(Problem(str(path), f"is not a data set's card: {error}", remedy=remedy)) from None
    return [entry for entry in entries if isinstance(entry, dict)]


def _patterns(value: Any) -> dict[str, list[str]]:
    """``data_files`` in any of its forms -> split: its patterns; without splits all is train."""
    if not value:
        return {}
    if isinstance(value, str):
        return {"train": [value]}
    if isinstance(value, dict):
        return {str(split): [paths] if isinstance(paths, str) else list(paths) for split, paths in value.items()}
    found: dict[str, list[str]] = {}
    for item in value:
        split, paths = (item["split"], item["path"]) if isinstance(item, dict) else ("train", item)
        found.setdefault(str(split), []).extend([paths] if isinstance(paths, str) else paths)
    return found


def _check_whole(names: Sequence[str], where: str) -> None:
    """Of files that are numbered NAME-00000-of-00003, none lacks: another program may have filled the cache."""
    found: dict[tuple[str, str], int] = {}
    for name in names:
        if numbered := re.fullmatch(r"(.+)-\d{5}-of-(\d{5})(-[0-9a-f]+)?\.\w+", name):
            key = (numbered[1], numbered[2])
            found[key] = found.get(key, 0) + 1
    for (name, total), count in found.items():
        if count < int(total):
            what = f"{name} has {counted(int(total), 'file')}, and {count} of them are there"
            raise UserError(Problem(where, what, remedy="fetch the rest where there is a network"))


def _matches(name: str, pattern: str) -> bool:
    """Whether a file's name matches a card's pattern: ``*`` and ``?`` within a folder, ``**`` across them."""
    parts = re.split(r"(\*\*/|\*\*|\*|\?)", pattern.removeprefix("./"))
    meant = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    expression = "".join(meant.get(part, re.escape(part)) for part in parts)
    return re.fullmatch(f"{expression}(?:/.*)?", name) is not None


def _files(splits: Mapping[str, Sequence[str]], part: str, where: str) -> tuple[str, ...]:
    if part not in splits:
        raise UserError(_unknown("split", part, list(splits), where))
    return tuple(splits[part])


def _check_kinds(names: Sequence[str], where: str) -> None:
    """There is one reader for all ``names``."""
    endings = {ending_of(name) for name in names}
    readers = {READERS.get(ending, "") for ending in endings}
    if len(readers) != 1 or "" in readers:
        what = f"its files end in {listed(sorted(endings))}"
        raise UserError(Problem(where, what, f"files of one kind: {listed(READERS)}", "choose another revision"))


def ending_of(name: str) -> str:
    """The ending of a file's name, but for what says that it is compressed."""
    path = PurePosixPath(name)
    return (path.with_suffix("") if path.suffix in COMPRESSED else path).suffix.removeprefix(".").lower()


def _readable(names: Sequence[str]) -> list[str]:
    return [name for name in names if ending_of(name) in READERS and not name.endswith("dataset_infos.json")]


def _below(names: Sequence[str], prefix: str, ending: str = "") -> bool:
    return any(name.startswith(prefix) and name.endswith(ending) for name in names)


def _refuse_scripts(place: Place, where: str) -> None:
    if any(name.endswith(".py") and "/" not in name for name in place.names):
        remedy = f'add revision = "{PARQUET_BRANCH}" to the source: the hub keeps a copy there without a script'
        what = "has a loading script, which is never run"
        raise UserError(Problem(where, what, "parquet, json or csv files", remedy))


def _unknown(kind: str, word: str, known: Sequence[str], where: str) -> Problem:
    key = "config" if kind == "configuration" else "splits"
    remedy = f"{proposed(word, known)} name the right one in {key} of the task's source".strip()
    return Problem(where, f"there is no {kind} {word!r}", listed(known) or "there are none", remedy)
