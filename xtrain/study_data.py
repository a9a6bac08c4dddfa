"""The data of a whole study: looked at before anything is trained, and prepared on all cores."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from rich.console import Console

from xtrain.data.account import Account
from xtrain.data.checking import Checked, check_data_sets
from xtrain.data.prepare import Wanted, prepare_all
from xtrain.data.shards import Shard, damage
from xtrain.graph import Graph, Phase, Reading
from xtrain.tasks.checking import DataSet
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
    readings = _readings(graph.phases.values() if phases is None else phases)
    prepared = {
        key
        for key, of_set in _by_set(readings).items()
        if graph.base_folder != Path()
        and all(_wanted(graph, one).is_there(graph.base_folder, data_root, out / PREPARED) for one in of_set)
    }
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
    graph: Graph, data_root: Path | None, out: Path, console: Console, phases: Iterable[Phase], tokenizer: Path
) -> list[Account]:
    """Tokenise all that ``phases`` read, unless that is done; raises one :class:`UserError` with every problem.

    ``tokenizer`` is the base's folder, or one that has its tokenizer. Returns what became of each data set.
    """
    wanted = [_wanted(graph, reading) for reading in _readings(phases)]
    with Progress("prepare data", len(wanted), "data set", file=console.file) as progress:
        folder, room = out / PREPARED, _room()
        return prepare_all(wanted, tokenizer, data_root, folder, room=room, progress=progress.advance)


def seen_before(graph: Graph, phase: Phase, shard: Shard, data_root: Path | None, out: Path) -> dict[str, int]:
    """Training task -> how many examples of ``shard`` the phases before ``phase`` had among theirs, if any.

    Training sets whose shards are not there any more are passed over.
    """
    found: dict[str, int] = {}
    before = graph.phases.get(phase.parent or "")
    while before is not None:
        for reading in before.readings:
            path = _wanted(graph, reading).path(graph.base_folder, data_root, out / PREPARED)
            if reading.role == TRAIN and damage(path) is None:
                count = int(np.isin(shard.hashes(), Shard.open(path).hashes()).sum())
                if count:
                    found[reading.member] = max(count, found.get(reading.member, 0))
        before = graph.phases.get(before.parent or "")
    return found


def _readings(phases: Iterable[Phase]) -> list[Reading]:
    """What ``phases`` read, each once, in their order."""
    return list(dict.fromkeys(reading for phase in phases for reading in phase.readings))


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
