"""Sharded checkpoints in ``checkpoints/step-N``: written aside, renamed when all ranks are done."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch.distributed as dist

from xtrain.errors import Problem, UserError
from xtrain.files import make_folder, read_json, write_json, writing
from xtrain.training.engine import TrainEngine

_NAME = re.compile(r"step-(\d+)")


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints of one run."""

    folder: Path
    keep: int

    def steps(self) -> list[int]:
        """The steps of the finished checkpoints, oldest first."""
        if not self.folder.is_dir():
            return []
        found = [_NAME.fullmatch(path.name) for path in self.folder.iterdir() if (path / "info.json").is_file()]
        return sorted(int(match.group(1)) for match in found if match)

    def save(self, engine: TrainEngine, step: int, state: Mapping[str, Any]) -> None:
        """Save all ranks' shards after ``step`` steps, then drop the oldest beyond ``keep``."""
        temporary, final = self.folder / f"step-{step}.tmp", self.folder / f"step-{step}"
        first = dist.get_rank() == 0
        if first:
            make_folder(self.folder)
            shutil.rmtree(temporary, ignore_errors=True)
        dist.barrier()
        with writing(temporary):
            engine.save_shards(self.folder, temporary.name, state)
        dist.barrier()  # every rank's shard is written before the name says so
        if first:
            with writing(temporary):
                write_json(temporary / "info.json", {"step": step, "world_size": dist.get_world_size()})
                shutil.rmtree(final, ignore_errors=True)
                temporary.rename(final)
            for old in self.steps()[: -self.keep]:
                shutil.rmtree(self.folder / f"step-{old}", ignore_errors=True)
        dist.barrier()

    def load_newest(self, engine: TrainEngine) -> dict[str, Any] | None:
        """Load the newest finished checkpoint into ``engine`` and return its state, or None if there is none."""
        steps = self.steps()
        if not steps:
            return None
        name = f"step-{steps[-1]}"
        written_by = int(read_json(self.folder / name / "info.json")["world_size"])
        if written_by != dist.get_world_size():
            raise UserError(
                Problem(
                    str(self.folder / name),
                    f"was written by {written_by} ranks, and now there are {dist.get_world_size()}",
                    allowed=f"{written_by} ranks",
                    remedy=f"resume with --ranks {written_by}, or remove {self.folder} to begin anew",
                )
            )
        return engine.load_shards(self.folder, name)
