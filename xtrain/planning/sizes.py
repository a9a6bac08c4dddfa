"""How many examples and tokens a phase reads: counted where the data are at hand, else published, else assumed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from xtrain.data.prepare import Wanted
from xtrain.data.shards import Shard
from xtrain.graph import EVALUATE, Graph, Reading
from xtrain.study_data import PREPARED, TRAIN
from xtrain.tasks.checking import DataSet, look
from xtrain.tasks.sources import choose, existing_files
from xtrain.tasks.spec import TaskSpec

SHARD, FILE, PUBLISHED, ASSUMED = "prepared", "the files", "published", "assumed"
_READ = 2**24  # bytes of a file that is counted row by row: below a second or two
_BYTES_PER_TOKEN = 4.0  # of a file: three to four bytes of text a token, and what stands around the text
ASSUMED_EXAMPLES = {TRAIN: 10_000, "dev": 1_000, EVALUATE: 1_000}
"""Of a split of one language that nothing is known of, by what it is read for; 1,000 of all others."""
ASSUMED_TOKENS = {
    "classification": 45, "multiple_choice": 55, "tagging": 35, "span_qa": 190, "mlm": 256,
    "sentence_retrieval": 18, "bitext_mining": 35, "answer_retrieval": 75,
}  # fmt: skip
"""Tokens of a sequence, by the task's format: what XLM-R's tokenizer makes of the catalogue's sets, roughly."""


@dataclass(frozen=True)
class Size:
    """Of one data set in one language, as a phase reads it."""

    examples: float
    tokens: float
    """Of all examples together, special ones included."""
    sequences: float
    """Of all examples together: a question has one for each of its choices, or windows."""
    by: str
    """How ``examples`` is known: SHARD, FILE, PUBLISHED or ASSUMED."""
    tokens_by: str
    """How ``tokens`` is known: SHARD, FILE or ASSUMED."""

    def at_most(self, examples: int | None) -> Size:
        """A sample of it."""
        if examples is None or examples >= self.examples:
            return self
        part = examples / self.examples
        return Size(examples, self.tokens * part, self.sequences * part, self.by, self.tokens_by)


class Sizes:
    """The sizes of what a study reads; each data set is looked at once."""

    def __init__(self, graph: Graph, out: Path, data_root: Path | None) -> None:
        self.graph, self.data_root, self.prepared = graph, data_root, out / PREPARED
        self._found: dict[Reading, Size] = {}
        self._whole: dict[tuple[str, str, str, int], Size] = {}

    def of(self, reading: Reading) -> Size:
        """Of one reading."""
        if reading not in self._found:
            self._found[reading] = self._shard(reading) or self._estimate(reading)
        return self._found[reading]

    def of_all(self, readings: Iterable[Reading]) -> list[Size]:
        """Of several, in their order."""
        return [self.of(reading) for reading in readings]

    def _shard(self, reading: Reading) -> Size | None:
        """By the first base that is at hand: what tokenizers of one family make of a text differs little."""
        folder = next(iter(self.graph.bases.values()), None)
        if folder is None:
            return None
        wanted = Wanted(self._data(reading), reading.max_length, reading.sample)
        if not wanted.is_there(folder, self.data_root, self.prepared):
            return None
        shard = Shard.open(wanted.path(folder, self.data_root, self.prepared))
        return Size(len(shard), shard.num_tokens, int(shard.manifest["sequences"]), SHARD, SHARD)

    def _estimate(self, reading: Reading) -> Size:
        key = (reading.member, reading.split, reading.language, reading.max_length)
        if key not in self._whole:
            self._whole[key] = self._of_files(reading) or self._of_catalogue(reading)
        return self._whole[key].at_most(None if reading.sample is None else reading.sample.examples)

    def _of_files(self, reading: Reading) -> Size | None:
        data = self._data(reading)
        size = data.num_bytes(self.data_root)
        if not size:
            return None
        mean, each = _sequence(data.spec, reading.max_length), _sequences(data.spec)
        if size > _READ:
            tokens = size / _BYTES_PER_TOKEN * self._share(data)
            return Size(tokens / (mean * each), tokens, tokens / mean, FILE, FILE)
        found = look(data, self.data_root)
        if not found.examples:
            return None
        rows = sum(look(DataSet(data.spec, split, data.language), self.data_root).rows for split in self._beside(data))
        tokens = size / _BYTES_PER_TOKEN * min(1.0, found.examples / max(1, rows))
        tokens *= (each + 1) / 2 if data.spec.format == "multiple_choice" else 1  # each choice beside the context
        most = found.examples * each * reading.max_length
        return Size(found.examples, min(tokens, most), found.examples * each, FILE, FILE)

    def _share(self, data: DataSet) -> float:
        """Of the rows of its files, those that are carved out for its split."""
        carved = choose(data.spec, self.data_root).hash_split
        return carved.get(data.split, 1.0 - sum(carved.values()))

    def _beside(self, data: DataSet) -> list[str]:
        """The splits that lie in the same files, ``data.split`` among them."""
        source = choose(data.spec, self.data_root)
        mine = existing_files(data.spec, data.split, data.language, self.data_root)
        paths = {split: source.paths(split, data.language) for split in source.available}
        return [split for split in paths if mine and paths[split] == paths[data.split]]

    def _of_catalogue(self, reading: Reading) -> Size:
        spec = self.graph.specs[reading.member]
        published = spec.examples.get(reading.split)
        if published is None and not _asks_dev(reading):
            published = spec.examples.get({"test": "dev", "dev": "test"}.get(reading.split, ""))
        examples = float(published or ASSUMED_EXAMPLES.get(reading.role, 1_000))
        sequences = examples * _sequences(spec)
        tokens = sequences * _sequence(spec, reading.max_length)
        return Size(examples, tokens, sequences, PUBLISHED if published else ASSUMED, ASSUMED)

    def _data(self, reading: Reading) -> DataSet:
        return DataSet(self.graph.specs[reading.member], reading.split, reading.language)


def _asks_dev(reading: Reading) -> bool:
    """Whether it is a dev set to select on: the published size of a test set says nothing of it."""
    return reading.role == "dev"


def _sequence(spec: TaskSpec, max_length: int) -> float:
    """Tokens of a sequence, assumed."""
    return float(min(ASSUMED_TOKENS[spec.format], max_length))


def _sequences(spec: TaskSpec) -> int:
    """Sequences of an example, before any is known."""
    if spec.format == "multiple_choice":
        return int(spec.options.get("num_choices", 4))
    return 2 if spec.format in ("sentence_retrieval", "answer_retrieval") else 1
