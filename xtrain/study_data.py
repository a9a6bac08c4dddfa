"""The data of a whole study: looked at before anything is trained, and prepared on all cores."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from rich.console import Console

from xtrain.data.checking import Checked, check_data_sets
from xtrain.data.prepare import Wanted, prepare_all
from xtrain.graph import Graph, Phase, Reading
from xtrain.tasks.checking import DataSet
from xtrain.tasks.spec import EVERY
from xtrain.tracking import Progress
from xtrain.training.budget import available_memory

PREPARED = "prepared"  # the output folder's folder of tokenised shards
_BYTES_PER_BYTE = 24  # of memory that a process takes for each byte of a file: its text, its rows, its tokens


def check_data(
    graph: Graph, data_root: Path | None, out: Path, console: Console, phases: Iterable[Phase] | None = None,
    workers: int | None = None,
) -> list[Checked]:  # fmt: skip
    """Read and check all that ``phases`` (by default all) read; raises one :class:`UserError` with every problem.

    What was found right before is not read again.
    """
    sets = data_sets(graph, graph.phases.values() if phases is None else phases)
    with Progress("check data", len(sets), "data set", file=console.file) as progress:
        folder, room = out / PREPARED, _room()
        return check_data_sets(
            sets, data_root, folder, before=graph.missing, workers=workers, room=room, progress=progress.advance
        )


def prepare_data(graph: Graph, data_root: Path | None, out: Path, console: Console, phases: Iterable[Phase]) -> None:
    """Tokenise all that ``phases`` read, unless that is done; raises one :class:`UserError` with every problem."""
    wanted = [
        Wanted(_data_set(graph, reading), reading.max_length, reading.sample)
        for reading in dict.fromkeys(reading for phase in phases for reading in phase.readings)
    ]
    with Progress("prepare data", len(wanted), "data set", file=console.file) as progress:
        prepare_all(wanted, graph.base_folder, data_root, out / PREPARED, room=_room(), progress=progress.advance)


def data_sets(graph: Graph, phases: Iterable[Phase]) -> list[DataSet]:
    """What ``phases`` read, each once, in their order."""
    found: dict[tuple[str, str, str], DataSet] = {}
    for phase in phases:
        for reading in phase.readings:
            found.setdefault((reading.member, reading.split, reading.language), _data_set(graph, reading))
    # where labels are taken from training data that are not there, no other set can be held against them
    return [one for one in found.values() if one.spec.labels != (EVERY,) or one.split in ("train", "dev")]


def _data_set(graph: Graph, reading: Reading) -> DataSet:
    return DataSet(graph.specs[reading.member], reading.split, reading.language)


def _room() -> int:
    """Bytes of files that may be worked on at a time."""
    return available_memory() // 2 // _BYTES_PER_BYTE
