"""From a committed checkpoint to an encoder's folder: on one process, piece by piece, without DeepSpeed."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from xtrain.checkpoints import Manifest, damage, read_manifest
from xtrain.checkpoints.folder import TRAINER
from xtrain.data import Shard
from xtrain.errors import Problem, UserError, listed
from xtrain.files import read_json
from xtrain.model import SavedHead, save_encoder
from xtrain.model.config_file import EncoderConfig, read_config
from xtrain.model.loading import used_vocabulary
from xtrain.model.phase_model import ENCODER_PREFIX, HEADS_PREFIX
from xtrain.model.sharded_weights import ShardedWeights
from xtrain.model.weight_files import WORD_EMBEDDINGS
from xtrain.model.weight_sources import Expanded, LazyTensors, Part, WeightSource, base_table
from xtrain.phase.file import PhaseFile
from xtrain.phase.heads import shared_heads
from xtrain.run_directory import RunDirectory
from xtrain.training.schedule import LinearSchedule


@dataclass(frozen=True)
class Export:
    """What was written."""

    folder: Path
    step: int
    """Optimizer steps done when the weights were saved."""
    bytes: int
    """Of all files together."""
    seconds: float


def export_checkpoint(run: RunDirectory, checkpoint: Path, out: Path) -> Export:
    """Write the encoder and the heads of ``checkpoint`` into ``out``, as a finished run has them in ``encoder/``.

    ``checkpoint`` is a committed folder of the run, full or weights alone; its bytes are not verified here. What else
    is needed is in ``run``: ``phase.toml``, the model that the phase started from and, where it trained the used
    vocabulary alone, the shards that say which rows these are; rows that no batch touched are decayed as AdamW would
    have. Memory is a few blocks of :data:`xtrain.model.export.BLOCK` bytes, whatever the model's size. Raises
    :class:`UserError` where the checkpoint is not one of this run's or is damaged, and where ``out`` cannot be
    written.
    """
    began = time.monotonic()
    phase = PhaseFile.read(run)
    start = phase.start_folder(run)
    config = read_config(start)
    manifest, weights = _open(run, checkpoint)
    if manifest.phase != phase.hash:
        what = f"is of phase {manifest.phase}, and this run is {phase.hash} ({phase.name})"
        raise UserError(Problem(str(checkpoint), what, remedy="name the run directory that it was written in"))
    encoder = _whole_vocabulary(Part(weights, ENCODER_PREFIX), run, phase, checkpoint, config)
    notes = {"phase": phase.name, "hash": phase.hash, "step": manifest.step}
    save_encoder(encoder, _heads(weights, phase), config, start, out, notes, run.staging)
    size = sum(path.stat().st_size for path in out.iterdir())
    return Export(out, manifest.step, size, time.monotonic() - began)


def used_rows(run: RunDirectory, phase: PhaseFile) -> Tensor:
    """The token ids that training or its dev evaluation can touch, (K,) sorted."""
    roles = ("train", "dev") if phase.recipe.eval_examples else ("train",)
    entries = [(role, task) for role in roles for task in phase.tasks]
    shards: list[Shard] = [shard for role, task in entries for _, shard in phase.open_shards(run, role, task)]
    return torch.from_numpy(np.unique(np.concatenate([shard.vocabulary().astype(np.int64) for shard in shards])))


def _open(run: RunDirectory, checkpoint: Path) -> tuple[Manifest, ShardedWeights]:
    """The manifest and the weights of a checkpoint, every element of which is in a file of the right size."""
    found = damage(checkpoint, deep=False)
    if not found:
        try:
            manifest = read_manifest(checkpoint)
            weights = ShardedWeights(checkpoint, manifest.parameters, manifest.files)
            weights.check()
            return manifest, weights
        except (ValueError, OSError) as error:
            found = [str(error)]
    raise UserError(
        Problem(
            str(checkpoint),
            f"is no whole checkpoint: {listed(found, most=3)}",
            remedy=f"python -m xtrain checkpoint verify {run.path} says which are",
        )
    )


def _whole_vocabulary(
    trained: WeightSource, run: RunDirectory, phase: PhaseFile, checkpoint: Path, config: EncoderConfig
) -> WeightSource:
    """The encoder's weights with every word embedding, those included that were not trained."""
    rows = trained.shapes[WORD_EMBEDDINGS][0]
    if rows == config.vocab_size:
        return trained
    vocabulary = used_vocabulary(config, used_rows(run, phase))
    if rows != len(vocabulary):
        what = f"has {rows:,} word embeddings, and the data of the phase use {len(vocabulary):,}"
        remedy = "its data were prepared anew since: remove the run directory and run the study again"
        raise UserError(Problem(str(checkpoint), what, remedy=remedy))
    state = read_json(checkpoint / TRAINER)
    recipe = phase.recipe
    schedule = LinearSchedule.of(recipe.learning_rate, int(state["planned_steps"]), recipe.warmup_ratio)
    decay = schedule.decay_factor(recipe.weight_decay, int(state["num_updates"]))
    return Expanded(trained, vocabulary, base_table(phase.start_folder(run)), decay)


def _heads(weights: WeightSource, phase: PhaseFile) -> dict[str, SavedHead]:
    """The head of each task, read when it is written; tasks that share one have it each."""
    return {
        task: SavedHead(
            phase.task[task].format,
            phase.task[task].labels,
            LazyTensors(Part(weights, f"{HEADS_PREFIX}{head}.")),
        )
        for task, head in shared_heads(phase.tasks, phase.task).items()
    }
