"""Which source a task is read from, where its files are, what identifies them, and its rows."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from xtrain.errors import Problem, UserError, listed, nearest, printable
from xtrain.files import content_hash
from xtrain.languages import proposed
from xtrain.tasks import formats, hub
from xtrain.tasks.formats import ProblemList, Row, label_word
from xtrain.tasks.hashes import file_hash
from xtrain.tasks.readers import Record, missing_column, read_files, value_in
from xtrain.tasks.spec import EVERY, LANGUAGE, Source, TaskSpec

_NEARBY = 50  # folders below --data that are looked into where it has not what it should have
_LABELS = frozenset({"label", "tags"})  # columns of the formats that hold a label, or a list of them

# The rule, as docs/adding_a_dataset.md gives it to users:
#   1. Of the sources with files that can be found (below --data, in the starter, or at an absolute path),
#      the first whose training file is there is taken; of one without a training set, any file counts.
#   2. If none is there, but --data is given and the task has files for it, that is an error that names the
#      paths. The hub is never a silent replacement for files that were promised.
#   3. Otherwise the first source on the hub is taken.


def choose(spec: TaskSpec, data_root: Path | None) -> Source:
    """The source that ``spec`` is read from; the same for every split and language.

    ``data_root`` is the folder of --data. Raises :class:`UserError` if it is missing, or if none of the
    files are there; the message names the paths that were looked for.
    """
    if data_root is not None and not data_root.is_dir():
        raise UserError(no_folder(data_root))
    missed: list[Path] = []
    for source in spec.sources:
        if not source.files or not _findable(source, data_root):
            continue
        if _is_there(source, spec, data_root):
            return source
        split = "train" if "train" in source.files else next(iter(source.files))
        language = spec.default_train_languages[0] if split == "train" else spec.languages[0]
        if spec.languages == (EVERY,):
            language = LANGUAGE  # the pattern is what was looked for
        missed += _resolve(source, split, language, data_root)
    on_hub = [source for source in spec.sources if source.hub]
    if missed or not on_hub:
        raise UserError(_none_there(spec, missed, bool(on_hub), data_root))
    return on_hub[0]


def no_folder(data_root: Path) -> Problem:
    """The problem that the folder of --data is none."""
    what = "no such folder" if not data_root.exists() else "is not a folder"
    hint = nearest(data_root.name, (path.name for path in _folders_in(data_root.parent)))
    allowed = "the folder that holds xnli/, pawsx/, ..."
    return Problem(f"--data {data_root}", what, allowed, f"{hint} name the folder that holds the data sets".strip())


def nearby(spec: TaskSpec, data_root: Path | None) -> Path | None:
    """A folder above or below ``data_root`` that has the task's files where ``data_root`` should have them."""
    if data_root is None or not data_root.is_dir():
        return None
    for folder in (*_folders_in(data_root)[:_NEARBY], *list(data_root.absolute().parents)[:2]):
        if any(_is_there(source, spec, folder) for source in _below_data(spec)):
            return folder
    return None


def _folders_in(folder: Path) -> list[Path]:
    """The folders in ``folder``, as far as it lets itself be read, without hidden ones."""
    try:
        found = sorted(path for path in folder.iterdir() if not path.name.startswith(".") and path.is_dir())
        return [path for path in found if os.access(path, os.R_OK | os.X_OK)]
    except OSError:
        return []


def _is_file(path: Path) -> bool:
    """Whether there is a file; one that may not be looked at is taken for one, so that who reads it says why not."""
    try:
        return path.is_file()
    except OSError:
        return True


def _below_data(spec: TaskSpec) -> list[Source]:
    """The sources whose files lie below --data."""
    return [
        source
        for source in spec.sources
        if source.root == "data"
        and source.files
        and not any(Path(path).is_absolute() for split in source.files for path in source.paths(split, LANGUAGE))
    ]


def misplaced(specs: Iterable[TaskSpec], data_root: Path | None) -> Problem | None:
    """The problem that ``data_root`` is a level too high or too low: it has no files of any of ``specs``."""
    specs = [spec for spec in specs if _below_data(spec)]
    if data_root is None or any(_is_there(one, spec, data_root) for spec in specs for one in _below_data(spec)):
        return None
    for spec in specs:
        folder = nearby(spec, data_root)
        if folder is not None:
            what = f"no data of {listed([spec.name for spec in specs], 6)}; those of {spec.name} are in {folder}"
            return Problem(f"--data {data_root}", what, remedy=f"did you mean --data {folder}?")
    return None


def looked_for(spec: TaskSpec, split: str, language: str, data_root: Path | None) -> tuple[Path, ...]:
    """The files of a split, there or not; none on the hub. ``{lang}`` as the language gives their pattern."""
    source = choose(spec, data_root)
    return () if source.hub else _resolve(source, split, language, data_root)


def languages_of(spec: TaskSpec, split: str, data_root: Path | None) -> tuple[str, ...]:
    """The task's languages; those whose file of ``split`` is there if the task says ("*",)."""
    if spec.languages != (EVERY,):
        return spec.languages
    source = choose(spec, data_root)
    _offer(source, spec, split)
    return _languages_there(source, split, data_root)


def fingerprint(spec: TaskSpec, split: str, language: str, data_root: Path | None) -> str:
    """Hash of everything that decides the rows: the files' content (or the hub's id, configuration, revision
    and split), how they are read, and what the labels are. Where the files are is not part of it.

    Raises :class:`UserError` for a missing file. Files are hashed once a process unless they change.
    """
    source = choose(spec, data_root)
    _offer(source, spec, split)
    if source.hub:
        content = hub.hub_fingerprint(source, split, language)
    else:
        content = [file_hash(path) for path in existing_files(spec, split, language, data_root)]
    return content_hash(
        {
            "content": content,
            "split": split if source.hash_split or source.where else "",
            "language": language if source.where else "",
            "meaning": source.meaning(split),
            "format": spec.format,
            "labels": list(spec.labels),
            "options": dict(spec.options),
        }
    )


def existing_files(spec: TaskSpec, split: str, language: str, data_root: Path | None) -> tuple[Path, ...]:
    """The files of a split; empty on the hub. A missing one is a :class:`UserError` with its path."""
    source = choose(spec, data_root)
    _offer(source, spec, split)
    if source.hub:
        return ()
    paths = _resolve(source, split, language, data_root)
    missing = [path for path in paths if not _is_file(path)]
    # a leaderboard withholds the gold of its test sets: where that has a file of its own, it is the last
    if split == "test" and len(paths) > 1 and missing == [paths[-1]] and formats.get(spec.format).gold_file:
        return paths[:-1]
    if missing:
        raise UserError(*(_missing_file(spec, split, language, path, data_root) for path in missing))
    return paths


def read(
    spec: TaskSpec, split: str, language: str, data_root: Path | None, problems: ProblemList | None = None
) -> Iterator[Row]:
    """The rows of a split in order, with the format's names for their columns.

    What is wrong with a line goes to ``problems`` (at the end of the rows the caller raises it); a missing
    file or column, or a file without rows, is raised at once.
    """
    problems = ProblemList() if problems is None else problems
    source = choose(spec, data_root).at(split)
    paths = existing_files(spec, split, language, data_root)
    records = hub.read_hub(source, split, language, problems) if source.hub else read_files(source, paths, problems)
    withheld = formats.get(spec.format).gold if split == "test" else ()
    seen: dict[str, str] = {}
    number = -1
    for number, record in enumerate(records):
        values = _values(record, source, problems, withheld, first=number == 0)
        if values is None or not _wanted(record, source, split, language):
            continue
        if broken := [column for column, value in values.items() if not _is_whole(value)]:
            problems.add(*(_half(record, column) for column in broken))
            continue
        if source.hash_split and split != _hashed_split(values, source):
            continue
        row = Row(record.where, _id(values, number), values, owed=split in ("test", "index"))
        if "id" in values and seen.setdefault(row.id, row.where) != row.where:
            problems.add(
                Problem(
                    f"{row.where}: id",
                    f"{row.id!r} was there already, at {seen[row.id]}",
                    allowed="a different id in every row",
                    remedy="remove one of the rows, or do not map id: rows are numbered then",
                )
            )
        yield row
    if number < 0 and not problems.found:
        where = str(paths[0]) if paths else f"{source.hub} {split}"
        raise UserError(Problem(where, "has no rows", remedy=f"fill it, or remove {split} from the task's source"))


def _values(
    record: Record, source: Source, problems: ProblemList, withheld: Sequence[str], *, first: bool
) -> dict[str, Any] | None:
    """Column of the format -> value; None (and problems) if the record lacks a column not in ``withheld``.

    If the first record lacks one, all are likely to: that is raised at once instead of twenty times.
    """
    values: dict[str, Any] = {}
    for column, reference in source.columns.items():
        try:
            values[column] = value_in(record, reference)
        except KeyError:
            if column in withheld:
                values[column] = None
            else:
                problems.add(missing_column(record, column, reference))
    if len(values) == len(source.columns):
        for column in _LABELS & values.keys() if source.label_map else ():
            values[column] = _mapped(values[column], source.label_map)
        return values
    if first:
        problems.raise_if_any()
    return None


def _is_whole(value: Any) -> bool:
    """Whether ``value`` (a text, or lists of them) can be written as UTF-8: it holds no half of a surrogate pair."""
    if isinstance(value, str):
        return printable(value) == value
    return not isinstance(value, (list, tuple)) or all(map(_is_whole, value))


def _half(record: Record, column: str) -> Problem:
    return Problem(
        f"{record.where}: {column}",
        "holds half of a surrogate pair (JSON's \\ud800 to \\udfff stand for a character only in pairs)",
        allowed="whole characters",
        remedy="write the file again where it comes from, not cut within a character; or remove the row",
    )


def _mapped(value: Any, label_map: Mapping[str, str]) -> Any:
    """A label, or each label of a list, as the task writes it."""
    if isinstance(value, (list, tuple)):
        return [_mapped(item, label_map) for item in value]
    word = label_word(value)
    return label_map.get(word, word)


def _wanted(record: Record, source: Source, split: str, language: str) -> bool:
    for column, pattern in source.where.items():
        value = pattern.replace("{split}", split).replace(LANGUAGE, source.code(language))
        try:
            found = record.value(column)
        except KeyError:
            remedy = f"{nearest(column, record.columns)} name the right one in where of the task's source".strip()
            allowed = f"the columns there are: {listed(record.columns)}"
            raise UserError(Problem(record.where, f"there is no column {column!r}", allowed, remedy)) from None
        # of a sentence that stands in several lines, a column is a list: one of them is enough
        words = [label_word(item) for item in (found if isinstance(found, (list, tuple)) else [found])]
        if not any(word.startswith(value[:-1]) if value.endswith("*") else word == value for word in words):
            return False
    return True


def _hashed_split(values: dict[str, Any], source: Source) -> str:
    """The split of a row, from the SHA-256 of its texts: the same on every machine, for ever."""
    columns = source.hash_by or tuple(sorted(set(values) - {*_LABELS, "id"}))
    text = "\x1f".join(str(values[column]) for column in columns)
    place = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64
    for split, share in source.hash_split.items():
        if place < share:
            return split
        place -= share
    return "train"


def _id(values: dict[str, Any], number: int) -> str:
    return label_word(values["id"]) if "id" in values else str(number)


def _findable(source: Source, data_root: Path | None) -> bool:
    """Whether it is known where the source's files should be."""
    if source.root == "starter" or data_root is not None:
        return True
    return all(Path(path).is_absolute() for split in source.files for path in source.paths(split, LANGUAGE))


def _root(source: Source, data_root: Path | None) -> Path:
    if source.root == "starter":
        from xtrain.starter import texts_folder

        return texts_folder()
    return data_root if data_root is not None else Path("/")


def _resolve(source: Source, split: str, language: str, data_root: Path | None) -> tuple[Path, ...]:
    root = _root(source, data_root)
    return tuple(root / path for path in source.paths(split, language))


def _is_there(source: Source, spec: TaskSpec, data_root: Path | None) -> bool:
    if source.root == "starter":
        return True  # made on first use; a language that it lacks is told when it is read
    for split in ("train",) if "train" in source.files else source.files:
        if spec.languages == (EVERY,):
            if _languages_there(source, split, data_root):
                return True
        elif any(_is_file(path) for lang in spec.languages for path in _resolve(source, split, lang, data_root)):
            return True
    return False


def _languages_there(source: Source, split: str, data_root: Path | None) -> tuple[str, ...]:
    """The languages whose (first) file of ``split`` is there."""
    root, names = (
        _root(source, data_root),
        {code: language for language, code in source.language_codes.items()},
    )
    pattern = source.paths(split, LANGUAGE)[0]
    before, *others = pattern.split(LANGUAGE)
    # the language may stand there more than once, and is the same everywhere
    expression = re.compile(re.escape(before) + "([^/]+)" + r"\1".join(re.escape(part) for part in others))
    found = []
    for path in root.glob(pattern.replace(LANGUAGE, "*")):
        match = expression.fullmatch(path.relative_to(root).as_posix())
        if match and path.is_file():
            found.append(names.get(match[1], match[1]))
    return tuple(sorted(found))


def _offer(source: Source, spec: TaskSpec, split: str) -> None:
    if split not in source.available:
        raise UserError(
            Problem(
                f"task.{spec.name}",
                f"its data has no {split} set",
                allowed=listed(source.available),
                remedy=f"choose another split, or add {split} to the task's source",
            )
        )


def _none_there(spec: TaskSpec, missed: list[Path], on_hub: bool, data_root: Path | None) -> Problem:
    if not missed:
        paths = [path for source in spec.sources for split in source.files for path in source.paths(split, LANGUAGE)]
        remedy = f"give the folder that holds {listed(paths[:3])} with --data DIR"
        remedy += f". {spec.obtain}" if spec.obtain else ""
        return Problem(f"task.{spec.name}", "its data is in files, and --data is not given", remedy=remedy)
    where = f"--data {data_root}" if data_root is not None else f"task.{spec.name}"
    folder = nearby(spec, data_root)
    remedy = f"did you mean --data {folder}? Else " if folder is not None else ""
    remedy += f"put the files of {spec.name} there, or name where they are in [task.{spec.name}]"
    remedy += "; without --data it is read from the hub" if on_hub else ""
    remedy += f". {spec.obtain}" if spec.obtain else ""
    return Problem(where, f"no data of {spec.name}: looked for {listed(missed)}", remedy=remedy)


def _missing_file(spec: TaskSpec, split: str, language: str, path: Path, data_root: Path | None) -> Problem:
    remedy = "put it there, check the folder of --data, or leave out the language or split in the study"
    source = choose(spec, data_root)
    there = _languages_there(source, split, data_root) if LANGUAGE in source.paths(split, LANGUAGE)[0] else ()
    hint = proposed(language, there)
    if hint:
        remedy = f"{hint} Else {remedy}"
    elif split in ("train", "dev") and there:
        remedy = f"name languages whose files are there in train_languages (of the [[target]] or the task), or {remedy}"
    remedy += f". {spec.obtain}" if spec.obtain else ""
    allowed = f"of {split} there is {listed(there)}" if there else ""
    return Problem(str(path), f"no such file ({spec.name}, {split}, {language})", allowed, remedy)
