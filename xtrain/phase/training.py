"""A training phase: shards, encoder and heads into the loop; the selected and the last encoder out of it."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from xtrain.data import Shard
from xtrain.dispatch.rendezvous import Ranks
from xtrain.evaluation import metrics
from xtrain.evaluation.predict import GroupRanks, predict
from xtrain.files import make_folder, read_json, write_json, writing
from xtrain.model import (
    Encoder,
    PhaseModel,
    SavedHead,
    build_head,
    load_encoder,
    read_word_embeddings,
    save_encoder,
    split_weights,
)
from xtrain.model.loading import WORD_EMBEDDINGS
from xtrain.phase.file import PhaseFile
from xtrain.phase.observer import PhaseObserver
from xtrain.run_directory import RunDirectory
from xtrain.training.checkpoint import Checkpoints
from xtrain.training.engine import TrainEngine, is_offloaded
from xtrain.training.loop import Outcome, Plan, Trainer
from xtrain.training.optimizer import missing_build_tools, op_is_built
from xtrain.training.schedule import LinearSchedule


def train_phase(
    run: RunDirectory,
    phase: PhaseFile,
    ranks: Ranks,
    device: torch.device,
    observer: PhaseObserver,
    environment: dict[str, Any],
) -> dict[str, Any]:
    """Train, and write ``encoder/`` (and ``encoder-last/``); returns the summary for ``DONE``."""
    shards = {entry.task: shard for entry, shard in phase.open_shards(run, "train")}
    dev = {entry.task: shard for entry, shard in phase.open_shards(run, "dev")}
    plan = Plan.of(shards, phase.recipe, phase.seed)
    start = phase.start_folder(run)
    kept_rows = _used_rows([*shards.values(), *dev.values()]) if phase.engine.used_vocabulary else None
    model, filled = _build_model(phase, start, kept_rows)
    observer.say(f"      {filled}")
    ds_config = read_json(run.ds_config)
    if not missing_build_tools() and not op_is_built(is_offloaded(ds_config)):
        observer.say("      building DeepSpeed's Adam (once on this machine; a minute or two)")
    engine = TrainEngine(model, phase.recipe, ds_config, device)
    environment |= engine.choices
    if ranks.is_first:
        write_json(run.environment, environment)
    observer.start_wandb(_resolved_configuration(phase, run, environment))
    observer.use_encoder(start, phase.parent)
    encoder = model.encoder
    keeper = WeightKeeper(run, phase, engine, plan, start, encoder)
    trainer = Trainer(
        engine=engine,
        plan=plan,
        recipe=phase.recipe,
        settings=phase.engine,
        seed=phase.seed,
        observer=observer,
        checkpoints=Checkpoints(run.checkpoints, phase.engine.keep_checkpoints),
        evaluate=DevEvaluation(phase, dev, device) if dev else None,
        keep_best=keeper.keep,
        encoder_shape=(_matrix_parameters(encoder), encoder.num_layers, encoder.hidden_size),
    )
    observer.start_progress(f"train {phase.name}", plan.num_steps, "step")
    outcome = trainer.run()
    observer.end_progress()
    keeper.finish(outcome)
    if ranks.is_first:
        observer.log_encoder(run.encoder)
        shutil.rmtree(run.checkpoints, ignore_errors=True)  # the phase is finished: nothing resumes from them
    return {
        "steps": outcome.step,
        "planned_steps": plan.num_steps,
        "selected_step": outcome.best_step,
        "dev_score": outcome.best_score,
        "stopped_early": outcome.stopped_early,
        "skipped_steps": trainer.num_skipped,
        "tokens_per_second": round(trainer.mean_tokens_per_second, 1),
        "training_seconds": round(trainer.training_seconds, 2),
    }


def _used_rows(shards: list[Shard]) -> Tensor:
    """The token ids that training or its dev evaluation can touch, (K,) sorted."""
    return torch.from_numpy(np.unique(np.concatenate([shard.vocabulary().astype(np.int64) for shard in shards])))


def _build_model(phase: PhaseFile, start: Path, kept_rows: Tensor | None) -> tuple[PhaseModel, str]:
    """The encoder of ``start`` with a new head a task; weights are in fp32, DeepSpeed casts them."""
    encoder, report = load_encoder(start, torch.float32, dropout=phase.recipe.dropout, kept_rows=kept_rows)
    torch.manual_seed(phase.seed)  # heads start from the seed alone, on every rank alike
    heads = {
        task: build_head(spec.format, encoder.hidden_size, len(spec.labels), encoder.hidden_p)
        for task, spec in ((task, phase.task[task]) for task in phase.tasks)
    }
    return PhaseModel(encoder, heads), str(report)


def _matrix_parameters(encoder: Encoder) -> int:
    """Parameters that every token is multiplied with: the blocks' matrices."""
    return sum(parameter.numel() for parameter in encoder.model.encoder.parameters() if parameter.dim() == 2)


def _resolved_configuration(phase: PhaseFile, run: RunDirectory, environment: Mapping[str, Any]) -> dict[str, Any]:
    """What W&B shows as the run's configuration."""
    return {
        "phase": phase.name,
        "kind": phase.kind,
        "study": phase.study,
        "base": phase.base,
        "seed": phase.seed,
        "tasks": list(phase.tasks),
        "recipe": dataclasses.asdict(phase.recipe),
        "engine": dataclasses.asdict(phase.engine),
        "ds_config": read_json(run.ds_config),
        "environment": dict(environment),
    }


class DevEvaluation:
    """The dev metrics of each task, and the mean of their scores to select by."""

    def __init__(self, phase: PhaseFile, shards: Mapping[str, Shard], device: torch.device) -> None:
        self.phase, self.shards, self.device = phase, shards, device

    def __call__(self, model: nn.Module) -> dict[str, float]:
        """All ranks together."""
        assert isinstance(model, PhaseModel)
        values: dict[str, float] = {}
        scores = []
        for task, shard in self.shards.items():
            spec = self.phase.task[task]
            tokens = self.phase.engine.tokens_per_micro_batch
            found = predict(model, shard, task, ranks=GroupRanks.of(), tokens_per_batch=tokens, device=self.device)
            measured = metrics.score(spec, found.arrays, shard.fields)
            prefix = f"{task}/" if len(self.shards) > 1 else ""
            values |= {f"{prefix}{name}": value for name, value in measured.items() if name != "majority"}
            if found.loss is not None:
                values[f"{prefix}loss"] = found.loss
            scores.append(measured[spec.metric])
        values["score"] = sum(scores) / len(scores)
        return values


class WeightKeeper:
    """Keeps the best weights while training goes on, and writes the encoders when it has ended."""

    def __init__(
        self,
        run: RunDirectory,
        phase: PhaseFile,
        engine: TrainEngine,
        plan: Plan,
        start: Path,
        encoder: Encoder,
    ) -> None:
        self.run, self.phase, self.engine, self.start, self.encoder = run, phase, engine, start, encoder
        recipe = phase.recipe
        self.schedule = LinearSchedule.of(recipe.learning_rate, plan.num_steps, recipe.warmup_ratio)
        self.folder = run.checkpoints / "best"
        self.kept_step = -1

    def keep(self, step: int) -> None:
        """Keep the weights after ``step`` steps as the best; collective. Only trained rows are written."""
        weights = self.engine.gathered_weights()
        if dist.get_rank() == 0:
            make_folder(self.folder)
            path = self.folder / f"step-{step}.safetensors"
            with writing(path):
                save_file(weights, path)
                for old in self.folder.glob("step-*.safetensors"):
                    if old != path:
                        old.unlink()
        self.kept_step = step

    def finish(self, outcome: Outcome) -> None:
        """Write ``encoder/`` from the best step and, if that is another, ``encoder-last/``; collective."""
        last = self.engine.gathered_weights()
        if dist.get_rank() == 0:
            best = self.folder / f"step-{outcome.best_step}.safetensors"
            if outcome.best_step != outcome.step and best.is_file():
                self._write(load_file(best), outcome.best_step, self.run.encoder)
                self._write(last, outcome.step, self.run.encoder_last)
            else:
                self._write(last, outcome.step, self.run.encoder)
        dist.barrier()

    def _write(self, weights: Mapping[str, Tensor], step: int, folder: Path) -> None:
        """The whole encoder and the heads: rows that no batch touched are decayed as AdamW would have."""
        encoder, heads = split_weights(weights)
        vocabulary = self.encoder.vocabulary
        if vocabulary is not None:
            decay = self.schedule.decay_factor(self.phase.recipe.weight_decay, step)
            before = read_word_embeddings(self.start)
            encoder[WORD_EMBEDDINGS] = vocabulary.expand(encoder[WORD_EMBEDDINGS], before, decay)
        specs = self.phase.task
        saved = {task: SavedHead(specs[task].format, specs[task].labels, head) for task, head in heads.items()}
        save_encoder(encoder, saved, self.encoder.config, self.start, folder)
        write_json(folder / "xtrain.json", {"phase": self.phase.name, "hash": self.phase.hash, "step": step})
