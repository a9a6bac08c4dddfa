"""A shard: the tokenised examples of one task, split and language on disk, immutable and memory-mapped."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from xtrain.errors import Problem, UserError
from xtrain.files import content_hash, make_folder, read_json, sha256, write_json, writing

MANIFEST = "manifest.json"
NOTES = "notes.jsonl"
LAYOUT = 3  # of the files of a shard; raise it when that changes

IntArray = npt.NDArray[np.int64]

# The files of a shard, beside manifest.json. Example e is the sequences example_offsets[e] to
# example_offsets[e + 1]; sequence b is the tokens sequence_offsets[b] to sequence_offsets[b + 1].
#   tokens.npy            (T,) uint32      field-NAME.npy   (E,), (B,) or (T,) int32
#   sequence_offsets.npy  (B + 1,) int64   vocabulary.npy   sorted distinct tokens, uint32
#   example_offsets.npy   (E + 1,) int64   ids.json         E texts
#   notes.jsonl           E lines of JSON, where the format has notes
#   words.npy             (E,) int32, words of each example's text, where they were counted
#   hashes.npy            (E,) uint64, of each example's tokens
# A field has one number an example, a sequence or a token, as the manifest says.


class Shard:
    """Examples on disk. Opening one reads the manifest only; arrays are mapped when they are used."""

    def __init__(self, path: Path, manifest: dict[str, Any]) -> None:
        self.path = path
        self.manifest = manifest

    def __reduce__(self) -> tuple[Any, ...]:
        # Another process maps the files itself: a pickled memory map is a copy of the whole file.
        return Shard, (self.path, self.manifest)

    @classmethod
    def open(cls, path: Path) -> Shard:
        """The shard in the folder ``path``; raises :class:`UserError` if it is missing or damaged."""
        problem = damage(path)
        if problem is not None:
            raise UserError(problem)
        return cls(path, read_json(path / MANIFEST))

    def __len__(self) -> int:
        """E, the number of examples."""
        return int(self.manifest["examples"])

    @property
    def task(self) -> str:
        """The task's name."""
        return str(self.manifest["task"])

    @property
    def format(self) -> str:
        """The task's format."""
        return str(self.manifest["format"])

    @property
    def language(self) -> str:
        """The language of its examples."""
        return str(self.manifest["language"])

    @property
    def fingerprint(self) -> str:
        """Hash of its content: equal for two shards that hold the same examples."""
        return str(self.manifest["fingerprint"])

    @property
    def labelled(self) -> bool:
        """Whether its examples have gold labels; a leaderboard's test set has none."""
        return bool(self.manifest.get("labelled", True))

    @property
    def num_tokens(self) -> int:
        """T, the tokens of all examples."""
        return int(self.manifest["tokens"])

    @cached_property
    def tokens(self) -> npt.NDArray[np.uint32]:
        """All token ids, (T,)."""
        tokens: npt.NDArray[np.uint32] = self._map("tokens")
        return tokens

    @cached_property
    def sequence_offsets(self) -> IntArray:
        """Where each sequence begins in ``tokens``, and T, (B + 1,)."""
        return np.asarray(self._map("sequence_offsets"))

    @cached_property
    def example_offsets(self) -> IntArray:
        """The first sequence of each example, and B, (E + 1,)."""
        return np.asarray(self._map("example_offsets"))

    @cached_property
    def lengths(self) -> IntArray:
        """Tokens of each example, all its sequences together, (E,)."""
        return np.diff(self.sequence_offsets[self.example_offsets])

    @cached_property
    def fields(self) -> dict[str, npt.NDArray[np.int32]]:
        """What the head needs, by name: (E,), (B,) or (T,), one number an example, a sequence or a token."""
        return {name: self._map(f"field-{name}") for name in self.manifest["fields"]}

    @property
    def field_kinds(self) -> Mapping[str, str]:
        """Field -> "example", "sequence" or "token"."""
        kinds: Mapping[str, str] = self.manifest["fields"]
        return kinds

    def ids(self, indices: npt.ArrayLike) -> list[str]:
        """The ids of the examples ``indices``, as the source gives them (else the number of the row)."""
        return [self._ids[index] for index in np.asarray(indices).tolist()]

    def notes(self, indices: npt.ArrayLike) -> list[Any]:
        """The notes of the examples ``indices``; None for each where the format has none."""
        return [self._notes[index] for index in np.asarray(indices).tolist()]

    def hashes(self) -> npt.NDArray[np.uint64]:
        """A hash of each example's tokens, (E,): equal for examples of the same text, in any shard of one tokenizer."""
        return np.asarray(self._map("hashes"))

    def words(self) -> dict[str, int]:
        """Id -> words of the example's text; empty where they were not counted, or cannot be told."""
        if not (self.path / "words.npy").is_file():
            return {}
        return dict(zip(self._ids, np.asarray(self._map("words")).tolist(), strict=True))

    def vocabulary(self) -> npt.NDArray[np.uint32]:
        """The token ids that occur in it, sorted."""
        return np.asarray(self._map("vocabulary"))

    @cached_property
    def _ids(self) -> list[str]:
        ids: list[str] = json.loads((self.path / "ids.json").read_text(encoding="utf-8"))
        return ids

    @cached_property
    def _notes(self) -> list[Any]:
        path = self.path / NOTES
        if not path.is_file():
            return [None] * len(self)
        # only "\n" ends a line: texts may hold other line separators of Unicode
        return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1]]

    def _map(self, name: str) -> Any:
        # an empty array cannot be mapped
        size = os.path.getsize(self.path / f"{name}.npy")
        return np.load(self.path / f"{name}.npy", mmap_mode="r" if size > 128 else None, allow_pickle=False)

    def verify(self) -> None:
        """Compare the SHA-256 of every file with the manifest; a difference is a :class:`UserError`."""
        for name, entry in self.manifest["files"].items():
            if sha256(self.path / name) != entry["sha256"]:
                raise UserError(_damaged(self.path / name, "its content is not what was written"))


def damage(path: Path) -> Problem | None:
    """What is wrong with the shard in ``path`` as far as file sizes tell, or None."""
    if not (path / MANIFEST).is_file():
        return _damaged(path, "is not a finished shard: it has no manifest")
    for name, entry in read_json(path / MANIFEST)["files"].items():
        file = path / name
        if not file.is_file() or file.stat().st_size != entry["bytes"]:
            return _damaged(file, "is missing or has another size than when it was written")
    return None


def _damaged(path: Path, what: str) -> Problem:
    return Problem(str(path), what, remedy="remove the shard's folder and run the same command again")


def write_shard(
    path: Path,
    sequences: Sequence[npt.NDArray[np.uint32]],
    sequence_lengths: Sequence[int],
    sequences_per_example: Sequence[int],
    fields: Mapping[str, Sequence[int]],
    ids: Sequence[str],
    manifest: Mapping[str, Any],
    notes: Sequence[Any] = (),
    words: Sequence[int] = (),
) -> Shard:
    """Write a shard into ``path``, whole or not at all, and open it.

    ``sequences`` are pieces of the token array in order, of any size. ``manifest`` is what else is to be
    noted. A shard that another process has put there in the meantime is kept, and opened.
    """
    work = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    make_folder(path.parent)
    with writing(path):
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
        try:
            tokens = np.concatenate([np.empty(0, np.uint32), *sequences])
            sequence_offsets, example_offsets = _offsets(sequence_lengths), _offsets(sequences_per_example)
            _save(work, "tokens", tokens)
            _save(work, "sequence_offsets", sequence_offsets)
            _save(work, "example_offsets", example_offsets)
            _save(work, "hashes", token_hashes(tokens, sequence_offsets[example_offsets]))
            _save(work, "vocabulary", np.unique(tokens))
            for name, values in fields.items():
                _save(work, f"field-{name}", np.asarray(values, dtype=np.int32))
            if words:
                _save(work, "words", np.asarray(words, dtype=np.int32))
            (work / "ids.json").write_text(json.dumps(list(ids), ensure_ascii=False), encoding="utf-8")
            if any(note is not None for note in notes):
                lines = "".join(json.dumps(note, ensure_ascii=False) + "\n" for note in notes)
                (work / NOTES).write_text(lines, encoding="utf-8")
            files = {
                file.name: {"bytes": file.stat().st_size, "sha256": sha256(file)} for file in sorted(work.iterdir())
            }
            counts = {"examples": len(ids), "sequences": len(sequence_lengths), "tokens": len(tokens)}
            fingerprint = content_hash([LAYOUT, [[name, entry["sha256"]] for name, entry in files.items()]])
            write_json(work / MANIFEST, {**manifest, **counts, "fingerprint": fingerprint, "files": files})
            _publish(work, path)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    return Shard.open(path)


_HASHED_AT_ONCE = 2**16  # examples: what is in between is 64 bits a token


def token_hashes(tokens: npt.NDArray[np.uint32], offsets: IntArray) -> npt.NDArray[np.uint64]:
    """A hash (E,) of each run of ``tokens`` (T,) between two of the ``offsets`` (E + 1,).

    The sum over its tokens, modulo 2^64, of a mix of token and place (the finaliser of SplitMix64, Steele et al. 2014).
    """
    found = np.zeros(len(offsets) - 1, dtype=np.uint64)
    for begin in range(0, len(found), _HASHED_AT_ONCE):
        part = offsets[begin : begin + _HASHED_AT_ONCE + 1]
        place = np.arange(part[0], part[-1]) - np.repeat(part[:-1], np.diff(part))
        mixed = tokens[part[0] : part[-1]].astype(np.uint64) | (place.astype(np.uint64) << np.uint64(32))
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
        sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum(mixed ^ (mixed >> np.uint64(31)), dtype=np.uint64)])
        found[begin : begin + len(part) - 1] = np.diff(sums[part - part[0]])
    return found


def _offsets(lengths: Sequence[int]) -> IntArray:
    return np.concatenate([[0], np.cumsum(np.asarray(lengths, dtype=np.int64))]).astype(np.int64)


def _save(folder: Path, name: str, array: npt.NDArray[Any]) -> None:
    with open(folder / f"{name}.npy", "wb") as handle:
        np.save(handle, array, allow_pickle=False)
        handle.flush()
        os.fsync(handle.fileno())


def _publish(work: Path, path: Path) -> None:
    """Give the finished folder its name, unless a whole shard has it already."""
    if path.exists() and damage(path) is not None:
        shutil.rmtree(path)  # left behind by a full disk or by hand: it can be made again
    try:
        os.rename(work, path)
    except OSError:
        if damage(path) is not None:
            raise
