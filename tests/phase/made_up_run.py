"""A run directory with phase.toml, shards and committed checkpoints whose weights are made up."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor
from weight_shards import write_shards

from xtrain.checkpoints import CheckpointFolder, FileEntry, Manifest
from xtrain.data.shards import write_shard
from xtrain.phase.file import PhaseFile, ShardEntry
from xtrain.run_directory import RunDirectory
from xtrain.study import Recipe
from xtrain.tasks import TaskSpec

LABELS = ("class0", "class1", "class2")
PLANNED_STEPS = 50
RECIPE = Recipe(max_steps=PLANNED_STEPS, learning_rate=1e-2, weight_decay=0.1, warmup_ratio=0.1, eval_examples=10)
TRAINED_ON, LOOKED_AT = range(10, 60), range(50, 80)  # token ids of the training shard and of the dev shard


def make_run(out: Path, base: Path, **changes: Any) -> RunDirectory:
    """The run directory of a phase on three tasks, two of which share their labels and so their head."""
    entries = []
    for role, ids in (("train", TRAINED_ON), ("dev", LOOKED_AT), ("evaluate", range(80, 200))):
        for task in ("first", "second", "choose"):
            path = f"shards/{task}-{role}"
            tokens = np.array(ids, dtype=np.uint32)
            kept = {"task": task, "format": "f", "language": "en", "split": role, "fields": {"label": "example"}}
            write_shard(out / path, [tokens], [len(tokens)], [1], {"label": [0]}, ["id0"], kept)
            entries.append(ShardEntry(task, task, role, "en", path))
    specs = {name: TaskSpec(name, "classification", ("en",), labels=LABELS) for name in ("first", "second")}
    specs["choose"] = TaskSpec("choose", "multiple_choice", ("en",), options={"num_choices": 3})
    phase = PhaseFile(
        **{
            "kind": "intermediate", "name": "made-up", "hash": "0123456789ab", "study": "s", "seed": 0,
            "base": str(base), "base_folder": str(base), "tasks": tuple(specs), "levels_up": 2, "recipe": RECIPE,
            "shards": tuple(entries), "task": specs, **changes,
        }
    )  # fmt: skip
    run = RunDirectory(out / "intermediate/made-up-0123456789ab").create()
    phase.write(run)
    return run


def commit(run: RunDirectory, name: str, weights: Mapping[str, Tensor], *, ranks: int = 2, updates: int = -1) -> Path:
    """Commit ``weights`` as the checkpoint ``name`` of ``run``, written by ``ranks`` ranks."""
    step = int(name.rpartition("-")[2])
    folder = CheckpointFolder(run.checkpoints).temporary(name)
    folder.mkdir(parents=True)
    files = write_shards(folder, weights, ranks, seed=step)
    return publish(run, name, files, {key: tuple(value.shape) for key, value in weights.items()}, ranks, updates)


def commit_holes(run: RunDirectory, name: str, shapes: Mapping[str, Sequence[int]]) -> Path:
    """Commit zeros of any size as two ranks would have left them; they take no room on the disk."""
    folder = CheckpointFolder(run.checkpoints).temporary(name)
    folder.mkdir(parents=True)
    held: list[dict[str, tuple[int, ...]]] = [{}, {}]
    for key, shape in shapes.items():
        half = prod(shape) // 2
        held[0][f"{key}:0"], held[1][f"{key}:{half}"] = (half,), (prod(shape) - half,)
    files = [f"weights-{rank:05d}-of-00002.safetensors" for rank in range(2)]
    for file, pieces in zip(files, held, strict=True):
        write_holes(folder / file, pieces)
    return publish(run, name, files, shapes, 2, -1)


def publish(
    run: RunDirectory, name: str, files: Sequence[str], shapes: Mapping[str, Sequence[int]], ranks: int, updates: int
) -> Path:
    checkpoints, step = CheckpointFolder(run.checkpoints), int(name.rpartition("-")[2])
    folder = checkpoints.temporary(name)
    state = {"step": step, "planned_steps": PLANNED_STEPS, "num_updates": step if updates < 0 else updates}
    (folder / "trainer.json").write_text(json.dumps(state))
    entries = {file: FileEntry((folder / file).stat().st_size, "0" * 64) for file in (*files, "trainer.json")}
    manifest = Manifest(
        name, step, PhaseFile.read(run).hash, ranks, 2, "weights",
        {key: tuple(shape) for key, shape in shapes.items()}, entries,
    )  # fmt: skip
    assert checkpoints.publish(manifest)
    return run.checkpoints / name


def write_holes(path: Path, shapes: Mapping[str, Sequence[int]]) -> None:
    """A safetensors file of zeros that were never written."""
    header, place = {}, 0
    for name, shape in shapes.items():
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [place, place + 4 * prod(shape)]}
        place += 4 * prod(shape)
    text = json.dumps(header).encode()
    with open(path, "wb") as handle:
        handle.write(len(text).to_bytes(8, "little") + text)
        handle.truncate(8 + len(text) + place)
