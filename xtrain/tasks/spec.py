"""What a task is: its format, its labels and languages, its recipe, and the sources of its data."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import PurePath
from typing import Any

from xtrain.config import limits

SPLITS = ("train", "dev", "test", "index")
"""``index`` holds candidates to search in, for retrieval; its language is ``all``."""
INDEX_LANGUAGE = "all"
READER_NAMES = (
    "jsonl", "tsv", "csv", "lines", "conll", "conllu", "wikiann", "ccg", "squad", "bitext", "mewslix", "text",
)  # fmt: skip
SEPARATED = frozenset({"tsv", "csv", "conll", "wikiann"})  # readers that may be told what stands between columns
EVERY = "*"  # in `languages`: every language whose file is there
LANGUAGE = "{lang}"  # in a path or a configuration: the language

ColumnRef = str | int | tuple[str | int, ...]
"""A column's name (``a.b`` for a key of a nested object), its place from 0, or a list of columns."""


@dataclass(frozen=True)
class Source:
    """One place where a task's data is: files of the user, the starter's texts, or a data set on the hub."""

    files: Mapping[str, str | tuple[str, ...]] = field(default_factory=dict)
    """Split -> path below ``root``, with ``{lang}`` for the language; several paths are read in sequence
    (by the reader ``lines``, side by side)."""
    root: str = field(default="data", metadata=limits(choices=("data", "starter")))
    """Where relative paths begin: the folder given with --data, or the starter's texts."""
    reader: str = field(default="", metadata=limits(choices=("", *READER_NAMES)))
    """How the files are written; by default what the name's ending says."""
    quoted: bool | None = None
    """Whether a tsv or csv file puts quotes around fields, as Python's csv module does. Default: csv only."""
    separator: str = ""
    """What stands between the columns of a line, where the reader's name does not say it; " ": any number of blanks."""
    hub: str = ""
    """Id of a data set on the hub, or a folder laid out like one."""
    config: str = ""
    """Its configuration, with ``{lang}`` for the language."""
    revision: str = "main"
    """Its revision; ``refs/convert/parquet`` for data sets that still have a loading script."""
    splits: Mapping[str, str] = field(default_factory=dict)
    """Split -> the hub's name for it; ``a+b`` joins two."""
    columns: Mapping[str, ColumnRef] = field(default_factory=dict)
    """Column of the format -> the source's column; ``id`` may be named in every format."""
    split_columns: Mapping[str, Mapping[str, ColumnRef]] = field(default_factory=dict)
    """Split -> its columns, where they are others than ``columns`` (queries, and candidates to search in)."""
    label_map: Mapping[str, str] = field(default_factory=dict)
    """Label as the source writes it -> label of the task; what is not in it is taken as it is."""
    language_codes: Mapping[str, str] = field(default_factory=dict)
    """Language -> what the source writes for it in paths or configurations."""
    where: Mapping[str, str] = field(default_factory=dict)
    """Column of the source -> value: only such rows are read; ``{split}`` and ``{lang}`` may stand in it, and a
    value that ends in ``*`` stands for all that begin so."""
    hash_split: Mapping[str, float] = field(default_factory=dict)
    """Split -> share, carved out of ``train`` by a fixed hash; the rest is ``train``."""
    hash_by: tuple[str, ...] = ()
    """Columns of the format that the hash is taken of, so that rows that share them stay together;
    by default all texts of the row."""

    @property
    def available(self) -> tuple[str, ...]:
        """The splits that it offers."""
        named = {*self.files, *self.splits, *self.hash_split}
        return tuple(split for split in SPLITS if split in named)

    def at(self, split: str) -> Source:
        """The source as it is for ``split``: with the columns of that split."""
        return replace(self, columns=self.split_columns[split]) if split in self.split_columns else self

    def base_split(self, split: str) -> str:
        """The split whose files hold ``split``: ``train`` for what is carved out of it."""
        return "train" if split in self.hash_split else split

    def paths(self, split: str, language: str) -> tuple[str, ...]:
        """The paths of ``split`` as written in ``files``, with the language and the home put in."""
        value = self.files.get(self.base_split(split), ())
        patterns = (value,) if isinstance(value, str) else value
        return tuple(os.path.expanduser(pattern.replace(LANGUAGE, self.code(language))) for pattern in patterns)

    def code(self, language: str) -> str:
        """What the source writes for ``language``."""
        return self.language_codes.get(language, language)

    def reader_of(self, path: str) -> str:
        """``reader``, or what the ending of ``path`` says; empty if that says nothing."""
        ending = PurePath(path).suffix.removeprefix(".")
        return self.reader or (ending if ending in ("jsonl", "tsv", "csv") else "")

    @property
    def readers(self) -> set[str]:
        """The readers of all its files; an empty name where it cannot be told."""
        return {self.reader_of(path) for split in self.files for path in self.paths(split, LANGUAGE)}

    def meaning(self, split: str) -> dict[str, Any]:
        """What decides how the rows of ``split`` are read: part of every hash, while paths are not."""
        return {
            "readers": [self.reader_of(path) for path in self.paths(split, LANGUAGE)],
            "quoted": self.quoted,
            **({"separator": self.separator} if self.separator else {}),
            "columns": dict(self.at(split).columns),
            "label_map": dict(self.label_map),
            "where": dict(self.where),
            "hash_split": dict(self.hash_split),
            "hash_by": list(self.hash_by),
        }


@dataclass(frozen=True)
class TaskSpec:
    """One entry of the catalogue."""

    name: str
    format: str
    languages: tuple[str, ...]
    """Evaluated languages, English with them if it counts; ("*",) for every one whose file is there."""
    sources: tuple[Source, ...] = ()
    """In order: the first that applies is used (:func:`xtrain.tasks.sources.choose`)."""
    metric: str = "accuracy"
    """The metric whose mean over the languages is the task's score."""
    labels: tuple[str, ...] = ()
    """Of a classification task, in the order of the head's outputs."""
    train_on: str | tuple[str, ...] = ()
    """The task whose training and dev sets this one trains on, or several that it trains on one after the
    other; itself if empty. A format without training is evaluated as it is, or after these."""
    recipe: Mapping[str, Any] = field(default_factory=dict)
    """Keys of :class:`xtrain.study.Recipe`; a study's own keys go before these."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """What else the format wants to know."""
    language_codes: Mapping[str, str] = field(default_factory=dict)
    """For every source that has none of its own."""
    train_languages: tuple[str, ...] = ()
    """Languages of the training and dev sets, unless the study names others; by default English where the
    task has it, else the first of ``languages``."""
    translated_from: str = ""
    """The language that a training set in other languages was translated from by machine."""
    language_exponent: float = field(default=1.0, metadata=limits(minimum=0, maximum=1))
    """A language of n examples has a share proportional to n to this power in a training set of several."""
    parallel: bool = False
    """Whether examples of one id say the same in every language: then words are counted against English ones."""
    joined: tuple[str, ...] = ()
    """Tasks whose training and dev sets, laid together, are this one's; it then has no sources of its own."""
    obtain: str = ""
    """Where the user gets data that cannot be fetched, and in which form: said where a file is missing."""

    examples: Mapping[str, int] = field(default_factory=dict)
    """Split -> how many examples the published set of one language has, the mean where languages differ; ``xtrain
    plan`` reckons with it where the data are not at hand."""
    train_on_in: Mapping[str, str | tuple[str, ...]] = field(default_factory=dict)
    """Benchmark -> what this one trains on in it, where that is not ``train_on``."""
    benchmarks: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Benchmark -> its languages, where they are not all of ``languages``."""

    def languages_in(self, benchmark: str) -> tuple[str, ...]:
        """The languages that ``benchmark`` evaluates it in."""
        return self.benchmarks.get(benchmark, self.languages)

    def training_tasks(self, benchmark: str = "") -> tuple[str, ...]:
        """The tasks that its target phase trains on, in this order, by the rules of ``benchmark``."""
        named = self.train_on_in.get(benchmark, self.train_on)
        return ((named,) if named else ()) if isinstance(named, str) else named

    @property
    def members(self) -> tuple[str, ...]:
        """The tasks whose data are read where this one's are: itself, or those that it joins."""
        return self.joined or (self.name,)

    @property
    def default_train_languages(self) -> tuple[str, ...]:
        """The languages it is trained in where the study names none."""
        if self.train_languages:
            return self.train_languages
        return ("en",) if "en" in self.languages or self.languages == (EVERY,) else self.languages[:1]

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that some source offers; of a joined task the training and dev sets of its parts."""
        if self.joined:
            return ("train", "dev")
        return tuple(split for split in SPLITS if any(split in source.available for source in self.sources))

    def evaluation_split(self, wanted: str) -> str:
        """``wanted`` (test or dev) if the task has it, else the other one: Tatoeba has but one set."""
        others = [split for split in ("test", "dev") if split in self.splits]
        assert others, f"{self.name} has nothing to evaluate on"
        return wanted if wanted in others else others[0]
