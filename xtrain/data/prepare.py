"""Tokenise a data set once: rows of a source -> an immutable shard, found again by its content hash."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from xtrain.data.account import Account
from xtrain.data.checking import num_workers, raise_problems, worker_died
from xtrain.data.drawing import Drawn, draw
from xtrain.data.pool import Died, over
from xtrain.data.shards import LAYOUT, Shard, damage, write_shard
from xtrain.errors import Problem, UserError
from xtrain.files import content_hash
from xtrain.language_facts import TextMeasures, TextMeter
from xtrain.tasks import formats, sources
from xtrain.tasks.checking import DataSet, nothing_left
from xtrain.tasks.encoding import PairTokenizer, tokenizer_hash
from xtrain.tasks.formats import Dropped, Encoded, Format, ProblemList, TextCount
from xtrain.tasks.sampling import Sample
from xtrain.tasks.spec import TaskSpec

Progress = Callable[[int], None]
"""Told the number of rows done so far, every now and then."""

_EVERY = 4096  # rows between two calls of the progress callback
_UNMEASURED = ("train", "index")  # splits whose text is not what scores are held against
_VERSION = 2  # of what the formats make of a row; raise it when token ids or fields would change


def prepare(
    spec: TaskSpec,
    split: str,
    language: str,
    encoder_folder: Path,
    max_length: int,
    data_root: Path | None,
    out_root: Path,
    sample: Sample | None = None,
    progress: Progress | None = None,
) -> Shard:
    """The shard of ``split`` of a task in ``language``: opened if it is there, else made.

    ``encoder_folder`` holds the tokenizer, ``max_length`` is in tokens, special ones
    included; ``sample`` draws so many examples, or takes all if there are no more. It is safe to call it from
    several processes at once. Raises one :class:`UserError` with up to 20 problems of the data.
    """
    wanted = Wanted(DataSet(spec, split, language), max_length, sample)
    recipe = wanted.recipe(encoder_folder, data_root)
    path = wanted.place(recipe, out_root)
    if damage(path) is None:
        return Shard.open(path)
    problems = ProblemList()

    def read() -> Iterator[Any]:
        rows = sources.read(spec, split, language, data_root, problems)
        return formats.get(spec.format).read(rows, spec, language, problems)

    drawn = None if sample is None else draw(sample, read(), formats.get(spec.format), split)
    problems.raise_if_any()
    problems.remarks.clear()  # a sample reads the set twice
    tokenizer = _tokenizer(encoder_folder, recipe["tokenizer"])
    meter = None if split in _UNMEASURED else TextMeter(language)
    collected = _collect(drawn, read(), tokenizer, spec, split, max_length, meter, progress)
    problems.raise_if_any()
    collected.check(spec, split, language)
    collected.remarks.update(problems.remarks)
    if progress is not None:
        progress(collected.rows)
    described = {"task": spec.name, "format": spec.format, "split": split, "language": language, **recipe}
    return collected.write(path, described)


@dataclass(frozen=True)
class Wanted:
    """A shard that is to be there."""

    data: DataSet
    max_length: int
    sample: Sample | None = None

    def prepare(self, encoder_folder: Path, data_root: Path | None, out_root: Path) -> tuple[Problem, ...]:
        """Make it, unless it is there; returns what is wrong with its data."""
        data = self.data
        try:
            prepare(
                data.spec, data.split, data.language, encoder_folder, self.max_length, data_root, out_root, self.sample
            )
        except UserError as error:
            return error.problems
        return ()

    def recipe(self, encoder_folder: Path, data_root: Path | None) -> dict[str, Any]:
        """What decides its content: its place is a hash of it."""
        data = self.data
        return {
            "layout": LAYOUT,
            "version": _VERSION,
            "tokenizer": tokenizer_hash(encoder_folder),
            "source": sources.fingerprint(data.spec, data.split, data.language, data_root),
            "max_length": self.max_length,
            "sample": None if self.sample is None else asdict(self.sample),
        }

    def place(self, recipe: Mapping[str, Any], out_root: Path) -> Path:
        """Where it is, or will be, below ``out_root``."""
        data = self.data
        return out_root / data.spec.name / f"{data.split}-{data.language}-{content_hash(recipe)}"

    def path(self, encoder_folder: Path, data_root: Path | None, out_root: Path) -> Path:
        """The same, where its recipe is not needed otherwise."""
        return self.place(self.recipe(encoder_folder, data_root), out_root)

    def is_there(self, encoder_folder: Path, data_root: Path | None, out_root: Path) -> bool:
        """Whether nothing is to be done."""
        try:
            return damage(self.path(encoder_folder, data_root, out_root)) is None
        except UserError:  # a file is missing: who reads it says so
            return False


def prepare_all(
    wanted: Sequence[Wanted],
    encoder_folder: Path,
    data_root: Path | None,
    out_root: Path,
    *,
    workers: int | None = None,
    room: int = 0,
    progress: Progress = lambda number: None,
) -> list[Account]:
    """Every shard of ``wanted``, made on ``workers`` cores (all by default) unless it is there; returns their accounts.

    A shard's bytes depend on none of this. ``room`` is as in :func:`xtrain.data.pool.over`; ``progress`` is told of
    shards that are there. Raises one :class:`UserError` with the problems of all.
    """
    new = [one for one in wanted if not one.is_there(encoder_folder, data_root, out_root)]
    progress(len(wanted) - len(new))
    if new:
        _make(new, encoder_folder, data_root, out_root, workers, room, progress)
    paths = [one.path(encoder_folder, data_root, out_root) for one in wanted]
    return [Account.of(Shard.open(path).manifest) for path in paths]


def _make(
    new: Sequence[Wanted],
    encoder_folder: Path,
    data_root: Path | None,
    out_root: Path,
    workers: int | None,
    room: int,
    progress: Progress,
) -> None:
    _tokenizer(encoder_folder, tokenizer_hash(encoder_folder))  # loaded once: forked processes share it
    sizes = [one.data.num_bytes(data_root) for one in new]
    workers = num_workers(sizes, workers)
    problems: dict[int, tuple[Problem, ...]] = {}

    def make(one: Wanted) -> tuple[Problem, ...]:
        return one.prepare(encoder_folder, data_root, out_root)

    try:
        for number, found in over(new, make, workers=workers, sizes=sizes, room=room):
            problems[number] = found
            progress(1)
    except Died as died:
        raise UserError(worker_died(new[died.index].data, died.how, "prepared")) from None
    raise_problems([problem for _, found in sorted(problems.items()) for problem in found])


def _collect(
    drawn: Drawn | None,
    read: Iterator[Any],
    tokenizer: PairTokenizer,
    spec: TaskSpec,
    split: str,
    max_length: int,
    meter: TextMeter | None,
    progress: Progress | None,
) -> _Collected:
    """What the format makes of what it has read, or of the sample of it."""
    format_ = formats.get(spec.format)
    chosen = drawn.among(read) if drawn is not None and drawn.is_part else read
    made = _Counted(format_.tokenise(chosen, tokenizer, spec, max_length))
    kept = _Counted(made if drawn is None else format_.thinned(made, drawn.sample))
    collected, withheld = _Collected(format_, meter), _Collected(format_, meter, labelled=False)
    for item in kept:
        if isinstance(item, Encoded) and item.withheld:
            if split == "test" and not collected.ids:
                withheld.add(item)
            collected.add(Dropped(item.id, "unlabelled"))
        else:
            collected.add(item)
        if progress is not None and collected.rows % _EVERY == 0:
            progress(collected.rows)
    if withheld.ids and not collected.ids:  # a leaderboard's test set: it can be predicted, not scored
        collected = withheld
    if drawn is not None:
        collected.drawn = drawn.described(made.examples, kept.examples)
        if drawn.is_part:
            collected.rows = drawn.rows
            collected.dropped.update(drawn.dropped)
    return collected


@dataclass
class _Counted:
    """Items that pass by, and how many of them were examples."""

    items: Iterable[Encoded | Dropped]
    examples: int = 0

    def __iter__(self) -> Iterator[Encoded | Dropped]:
        for item in self.items:
            self.examples += isinstance(item, Encoded)
            yield item


@dataclass
class _Collected:
    """What has been encoded so far."""

    format: Format
    meter: TextMeter | None
    labelled: bool = True
    drawn: Mapping[str, Any] | None = None
    """Of a sample: how many examples were drawn, of how many, and how."""
    rows: int = 0
    text: TextCount = TextCount()
    truncated: int = 0
    split: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    remarks: Counter[str] = field(default_factory=Counter)
    ids: list[str] = field(default_factory=list)
    tokens: list[npt.NDArray[np.uint32]] = field(default_factory=list)
    pending: list[Sequence[int]] = field(default_factory=list)
    sequence_lengths: list[int] = field(default_factory=list)
    per_example: list[int] = field(default_factory=list)
    fields: dict[str, array[int]] = field(default_factory=dict)
    """Of C's numbers: those of Python would be ten times as large, and there may be two for each token."""
    notes: list[Any] = field(default_factory=list)
    words: list[int] = field(default_factory=list)

    def add(self, item: Encoded | Dropped) -> None:
        self.rows += 1
        if isinstance(item, Dropped):
            self.dropped[item.reason] += 1
            return
        assert item.fields.keys() == self.format.fields.keys(), f"{self.format.name}: {sorted(item.fields)}"
        lengths = [len(sequence) for sequence in item.sequences]
        for name, values in item.fields.items():
            wanted = {"example": 1, "sequence": len(lengths), "token": sum(lengths)}[self.format.fields[name]]
            assert len(values) == wanted, f"{self.format.name}: {name} has {len(values)} values, not {wanted}"
            self.fields.setdefault(name, array("i")).extend(values)
        self.ids.append(item.id)
        self.text += item.text
        self.truncated += item.truncated
        self.split += item.split
        self.remarks.update(item.remarks)
        self.notes.append(item.note)
        if self.meter is not None:
            self.words.append(self.meter.add(item.texts))
        self.sequence_lengths += lengths
        self.per_example.append(len(lengths))
        self.pending += item.sequences
        if len(self.pending) >= _EVERY:
            self._flush()

    def _flush(self) -> None:
        # lists of Python numbers are ten times as large as the array: they are not kept for the whole set
        self.tokens.append(np.fromiter(chain.from_iterable(self.pending), dtype=np.uint32))
        self.pending = []

    def check(self, spec: TaskSpec, split: str, language: str) -> None:
        """Raise a :class:`UserError` if no example is left."""
        if self.ids:
            return
        raise UserError(nothing_left(spec, split, language, self.rows, self.dropped))

    def write(self, path: Path, described: dict[str, Any]) -> Shard:
        """Write the shard with its manifest."""
        self._flush()
        manifest = {
            **described,
            "fields": dict(self.format.fields),
            "rows": self.rows,
            "dropped": dict(self.dropped),
            "truncated": self.truncated,
            "split_examples": self.split,
            "labelled": self.labelled,
            "drawn": self.drawn,
            "text": asdict(self.text),
            "measures": (TextMeasures() if self.meter is None else self.meter.measures()).as_json(),
            "remarks": dict(self.remarks),
        }
        return write_shard(
            path, self.tokens, self.sequence_lengths, self.per_example, self.fields, self.ids, manifest, self.notes,
            self.words if any(self.words) else (),
        )  # fmt: skip


_tokenizers: dict[str, PairTokenizer] = {}


def _tokenizer(folder: Path, key: str) -> PairTokenizer:
    """The tokenizer of ``folder``, loaded once a process: a study prepares a hundred languages with it."""
    if key not in _tokenizers:
        _tokenizers.clear()
        _tokenizers[key] = PairTokenizer(folder)
    return _tokenizers[key]
