"""``phase.toml``: everything that one phase needs to run, and to run again."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tomli_w

from xtrain.config import build, read_toml
from xtrain.data import Shard
from xtrain.errors import Problem, UserError, raise_if_any
from xtrain.files import write_text
from xtrain.run_directory import RunDirectory
from xtrain.study import Engine, Evaluation, Recipe
from xtrain.tasks import TaskSpec
from xtrain.tracking import TrackingSettings


@dataclass(frozen=True)
class ShardEntry:
    """A prepared shard that the phase reads."""

    task: str  # the phase's task that it is read for
    member: str  # the task whose data it is: another one where several are joined
    role: str  # "train", "dev", "evaluate", or what a format asks for beside
    language: str
    path: str  # relative to the output folder


@dataclass(frozen=True)
class PhaseFile:
    """The content of ``phase.toml``. Paths are relative to the output folder, so that it can be moved."""

    kind: str
    name: str
    hash: str
    study: str
    seed: int
    base: str  # as the study names it
    base_folder: str  # absolute: a model's folder outside the output folder
    tasks: tuple[str, ...]
    levels_up: int  # from the run directory to the output folder
    parent: str = ""  # the run directory that it starts from; empty: the base
    trained_task: str = ""  # of an evaluation: the task whose head predicts
    head_from: str = ""  # the task of the parent whose head is trained on; empty: a new head
    recipe: Recipe = Recipe()
    engine: Engine = Engine()
    evaluation: Evaluation = Evaluation()
    tracking: TrackingSettings = TrackingSettings()
    shards: tuple[ShardEntry, ...] = ()
    task: Mapping[str, TaskSpec] = field(default_factory=dict)

    def write(self, run: RunDirectory) -> None:
        """Write ``phase.toml`` into ``run``."""
        write_text(run.phase_file, tomli_w.dumps(_plain(dataclasses.asdict(self))))

    @classmethod
    def read(cls, run: RunDirectory) -> PhaseFile:
        """Read ``phase.toml`` of ``run``; raises a :class:`UserError` where it is no run directory."""
        if not run.phase_file.is_file():
            raise UserError(
                Problem(
                    str(run.path),
                    "is not a run directory: it has no phase.toml",
                    remedy="python -m xtrain run STUDY makes the run directories of a study",
                )
            )
        problems: list[Problem] = []
        phase = build(cls, read_toml(run.phase_file), str(run.phase_file), problems)
        raise_if_any(problems)
        assert phase is not None
        return phase

    def out(self, run: RunDirectory) -> Path:
        """The output folder that ``run`` lies in."""
        return run.path.absolute().parents[self.levels_up - 1]

    def start_folder(self, run: RunDirectory) -> Path:
        """The folder of the encoder that the phase starts from."""
        return RunDirectory(self.out(run) / self.parent).encoder if self.parent else Path(self.base_folder)

    def open_shards(self, run: RunDirectory, role: str, task: str = "") -> list[tuple[ShardEntry, Shard]]:
        """The phase's shards of one role, and of one task if it is named, mapped into memory."""
        return [
            (entry, Shard.open(self.out(run) / entry.path))
            for entry in self.shards
            if entry.role == role and task in ("", entry.task)
        ]


def _plain(value: Any) -> Any:
    """``value`` without what TOML cannot say: keys without a value are left out, tuples are lists."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items() if item is not None}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value
