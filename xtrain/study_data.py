"""The data of a whole study: looked at before anything is trained, and prepared on all cores."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from rich.console import Console

from xtrain.data.account import Account
from xtrain.data.checking import Checked, check_data_sets
from xtrain.data.prepare import Wanted, prepare_all
from xtrain.data.shards import Shard, damage
from xtrain.graph import Graph, Phase, Reading
from xtrain.study import Base
from xtrain.tasks.checking import DataSet
from xtrain.tasks.encoding import tokenizer_hash
from xtrain.tasks.spec import EVERY
from xtrain.tracking import Progress
from xtrain.training.budget import available_memory

TRAIN = "train"  # the role of a reading
PREPARED = "prepared"  # the output folder's folder of tokenised shards
_BYTES_PER_BYTE = 24  # of memory that a process takes for each byte of a file: its text, its rows, its tokens


def check_data(
    graph: Graph, data_root: Path | None, out: Path, console: Console, phases: Iterable[Phase] | None = None,
    workers: int | None = None,
) -> list[Checked]:  # fmt: skip
    """Read and check all that ``phases`` (by default all) read; raises one :class:`UserError` with every problem.

    What was found right before is not read again, nor what shards are made of that are there.
    """
    chosen = list(graph.phases.values() if phases is None else phases)
    readings = _readings(chosen)
    unprepared = {
        (one.member, one.split, one.language)
        for folder, of in by_tokenizer(graph.bases, chosen).items()
        for one in of
        if not _wanted(graph, one).is_there(folder, data_root, out / PREPARED)
    }
    prepared = set(_by_set(readings)) - unprepared if graph.bases else set()
    sets = [_data_set(graph, of_set[0]) for key, of_set in _by_set(readings).items() if key not in prepared]
    # where labels are taken from training data that are not there, no other set can be held against them
    sets = [one for one in sets if one.spec.labels != (EVERY,) or one.split in ("train", "dev")]
    for remark in graph.remarks:
        console.print(f"note: {remark}", highlight=False, markup=False, soft_wrap=True)
    with Progress("check data", len(sets), "data set", file=console.file) as progress:
        folder, room = out / PREPARED, _room()
        return check_data_sets(
            sets, data_root, folder, before=graph.missing, workers=workers, room=room, progress=progress.advance
        )


def prepare_data(
    graph: Graph,
    data_root: Path | None,
    out: Path,
    console: Console,
    phases: Iterable[Phase],
    folders: Mapping[Base, Path],
) -> list[Account]:
    """Tokenise all that ``phases`` read, unless that is done; raises one :class:`UserError` with every problem.

    ``folders`` are those of the bases, or others that have their tokenizers. Returns what became of each data set.
    """
    wanted = {folder: [_wanted(graph, one) for one in of] for folder, of in by_tokenizer(folders, phases).items()}
    found: list[Account] = []
    with Progress("prepare data", sum(map(len, wanted.values())), "data set", file=console.file) as progress:
        for tokenizer, some in wanted.items():
            found += prepare_all(some, tokenizer, data_root, out / PREPARED, room=_room(), progress=progress.advance)
    return found


def seen_before(graph: Graph, phase: Phase, shard: Shard, data_root: Path | None, out: Path) -> dict[str, int]:
    """Training task -> how many examples of ``shard`` the phases before ``phase`` had among theirs, if any.

    Training sets whose shards are not there any more are passed over.
    """
    found: dict[str, int] = {}
    before = graph.phases.get(phase.parent or "")
    while before is not None:
        for reading in before.readings:
            path = _wanted(graph, reading).path(graph.base_folder(before), data_root, out / PREPARED)
            if reading.role == TRAIN and damage(path) is None:
                count = int(np.isin(shard.hashes(), Shard.open(path).hashes()).sum())
                if count:
                    found[reading.member] = max(count, found.get(reading.member, 0))
        before = graph.phases.get(before.parent or "")
    return found


def _readings(phases: Iterable[Phase]) -> list[Reading]:
    """What ``phases`` read, each once, in their order."""
    return list(dict.fromkeys(reading for phase in phases for reading in phase.readings))


def by_tokenizer(folders: Mapping[Base, Path], phases: Iterable[Phase]) -> dict[Path, list[Reading]]:
    """What ``phases`` read by the tokenizer that it is read with: one folder of each, whatever bases share it."""
    same: dict[str, Path] = {}
    found: dict[Path, dict[Reading, None]] = {}
    for phase in (phase for phase in phases if phase.base in folders):
        folder = folders[phase.base]
        folder = same.setdefault(tokenizer_hash(folder), folder)
        found.setdefault(folder, {}).update(dict.fromkeys(phase.readings))
    return {folder: list(readings) for folder, readings in found.items()}


def _by_set(readings: Iterable[Reading]) -> dict[tuple[str, str, str], list[Reading]]:
    """The readings of each data set: there are several of one of which some phase takes a part."""
    found: dict[tuple[str, str, str], list[Reading]] = {}
    for reading in readings:
        found.setdefault((reading.member, reading.split, reading.language), []).append(reading)
    return found


def _wanted(graph: Graph, reading: Reading) -> Wanted:
    return Wanted(_data_set(graph, reading), reading.max_length, reading.sample)


def _data_set(graph: Graph, reading: Reading) -> DataSet:
    return DataSet(graph.specs[reading.member], reading.split, reading.language)


def _room() -> int:
    """Bytes of files that may be worked on at a time."""
    return available_memory() // 2 // _BYTES_PER_BYTE
