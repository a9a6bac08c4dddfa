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
    """Split (``train``, ``dev``, ``test``, or ``index`` for candidates to search in) -> path; ``{lang}`` stands for the
    language. A list of paths is read in sequence (by the readers ``lines`` and ``bitext``, side by side)."""
    root: str = field(default="data", metadata=limits(choices=("data", "starter")))
    """Where relative paths begin: ``data`` (the folder of ``--data``) or ``starter``."""
    reader: str = field(default="", metadata=limits(choices=("", *READER_NAMES)))
    """How the files are written: docs/adding_a_dataset.md has the readers; by default what the ending says (``jsonl``,
    ``tsv``, ``csv``)."""
    quoted: bool | None = None
    """Whether fields of a tsv or csv file stand in quotation marks as Python's csv module writes them; by default csv
    files only."""
    separator: str = ""
    """The one character between columns, where it is not the reader's own: ``";"`` for a csv file, ``" "`` (any number
    of blanks) for ``conll``; for ``tsv``, ``csv``, ``conll``, ``wikiann``."""
    hub: str = ""
    """The data set's id on the hub, or a folder laid out like one."""
    config: str = ""
    """Its configuration; ``{lang}`` stands for the language."""
    revision: str = "main"
    """Its commit, tag or branch; ``refs/convert/parquet`` for data sets that still have a loading script."""
    splits: Mapping[str, str] = field(default_factory=dict)
    """Split -> the hub's name for it; ``"a+b"`` joins two."""
    columns: Mapping[str, ColumnRef] = field(default_factory=dict)
    """Column of the format -> column of the source: a name (``"a.b"`` for ``b`` inside the object ``a``), a place from
    0 (for files without a header line, and for ``lines`` and ``conll``), or a list of them. ``id`` may be named in
    every format; ids must differ. Without it rows are numbered."""
    split_columns: Mapping[str, Mapping[str, ColumnRef]] = field(default_factory=dict)
    """Split -> its columns, where they are others than ``columns``: those of an ``index``, say."""
    label_map: Mapping[str, str] = field(default_factory=dict)
    """Label as the source writes it -> label of the task, tag by tag where there are several; what is not in it is
    taken as it is. Numbers are written as they are (``1``), booleans as ``true`` and ``false``."""
    language_codes: Mapping[str, str] = field(default_factory=dict)
    """Language -> what this source writes for it in paths or configurations; by default the task's."""
    where: Mapping[str, str] = field(default_factory=dict)
    """Column of the source -> value: only rows that have it are read; ``{split}`` and ``{lang}`` may stand in it;
    ``english*`` stands for every value that begins with ``english``; a column by its place is ``{ "0" = "x" }``; of a
    list (the column of a sentence in ``conll``), one of its values is enough."""
    hash_split: Mapping[str, float] = field(default_factory=dict)
    """Split -> share that is carved out of ``train`` by a fixed hash of the row; the rest stays ``train``."""
    hash_by: tuple[str, ...] = ()
    """Columns of the format to take the hash of: rows that share them land in the same split (questions about one
    passage, say)."""

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
    """One of the formats that docs/adding_a_dataset.md lists, which says what columns and options it knows."""
    languages: tuple[str, ...]
    """The languages it is evaluated in, English included if it counts; ``["*"]`` is every language whose file is there
    (one that has another set and lacks the evaluated one is named). Where a code is not known, the one in use is
    proposed: ``iw`` is ``he``, ``zho`` and ``zh-CN`` are ``zh``."""
    sources: tuple[Source, ...] = ()
    """One or several, in order: the first that applies is used."""
    metric: str = "accuracy"
    """The metric whose mean over the languages is the task's score; the formats have those below, and ``accuracy`` is
    the default."""
    labels: tuple[str, ...] = ()
    """Of ``classification`` and ``tagging``, in the order of the head's outputs; ``["*"]`` for ``tagging``: the tags
    that occur in the training and dev sets."""
    train_on: str | tuple[str, ...] = ()
    """The task whose training and dev sets this one trains on, if not its own, or a list of tasks to train on one after
    the other. The last one's format and labels must be this one's; from one to the next the head is kept where format
    and labels are the same, and begun anew where not. A format without training is evaluated as it is, or after these
    tasks."""
    recipe: Mapping[str, Any] = field(default_factory=dict)
    """How to train on it, over the defaults and under the study's own ``[recipe]``: the keys of ``[recipe.target]``. Of
    mixtures (``size_cap``, ``temperature``) only a study decides."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """What the format wants to know besides: docs/adding_a_dataset.md has each format's."""
    language_codes: Mapping[str, str] = field(default_factory=dict)
    """Language -> what stands for it in paths or configurations, for every source that has none of its own."""
    train_languages: tuple[str, ...] = ()
    """The languages of the training and dev sets, unless the study names others; by default English where the task has
    it, else its first language."""
    translated_from: str = ""
    """The language that the training set was translated from by machine; the report shows it."""
    language_exponent: float = field(default=1.0, metadata=limits(minimum=0, maximum=1))
    """In a training set of several languages (or joined tasks), one of n examples has a share proportional to n to this
    power: 1 (the default) as they are, 0 all alike."""
    parallel: bool = False
    """Whether examples of one id say the same in every language (test sets that were translated): then words are
    counted against English ones."""
    joined: tuple[str, ...] = ()
    """Tasks whose training and dev sets, laid together, are this one's."""
    obtain: str = ""
    """Where the files come from and in which form: said where one is missing."""

    examples: Mapping[str, int] = field(default_factory=dict)
    """Split -> how many examples the published set of one language has, the mean where languages differ; ``xtrain
    plan`` reckons with it where the data are not at hand."""
    train_on_in: Mapping[str, str | tuple[str, ...]] = field(default_factory=dict)
    """``xtreme`` or ``xtreme-r`` -> what it trains on by this benchmark's rules, where that is not ``train_on``."""
    benchmarks: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """``xtreme`` or ``xtreme-r`` -> the languages that this benchmark has of the task, where they are not all of
    ``languages``."""

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
