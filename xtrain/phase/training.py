"""A training phase: shards, encoder and heads into the loop; the selected and the last encoder out of it."""

from __future__ import annotations

import dataclasses
import shutil
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from xtrain.data import JoinedShard, Shard
from xtrain.data.masking import Masking
from xtrain.dispatch.rendezvous import Ranks
from xtrain.evaluation import evaluators
from xtrain.evaluation.evaluators import Setting
from xtrain.evaluation.predict import GroupRanks
from xtrain.files import make_folder, read_json, write_json, writing
from xtrain.model import (
    Encoder,
    Head,
    PhaseModel,
    SavedHead,
    load_encoder,
    load_heads,
    read_word_embeddings,
    save_encoder,
    split_weights,
)
from xtrain.model.heads.mlm import lm_head_weights
from xtrain.model.loading import WORD_EMBEDDINGS
from xtrain.phase.file import PhaseFile, ShardEntry
from xtrain.phase.heads import MASKED, new_head, shared_heads
from xtrain.phase.observer import PhaseObserver
from xtrain.run_directory import RunDirectory
from xtrain.training.checkpoint import Checkpoints
from xtrain.training.engine import TrainEngine, is_offloaded
from xtrain.training.loop import Outcome, Trainer
from xtrain.training.optimizer import missing_build_tools, op_is_built
from xtrain.training.plan import Plan
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
    start = phase.start_folder(run)
    dev = {task: phase.open_shards(run, "dev", task) for task in phase.tasks if phase.recipe.eval_examples}
    plan = _plan(run, phase, start)
    # the softmax of a masked language model touches every row of the table
    partly = phase.engine.used_vocabulary and not plan.maskings
    read = [*plan.shards.values(), *(shard for entries in dev.values() for _, shard in entries)]
    model, filled = _build_model(phase, start, _used_rows(read) if partly else None)
    for line in filled:
        observer.say(f"      {line}")
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


def _plan(run: RunDirectory, phase: PhaseFile, start: Path) -> Plan:
    """The phase's training shards, and in which order they are read."""
    shards = {task: _joined([shard for _, shard in phase.open_shards(run, "train", task)]) for task in phase.tasks}
    specs = {task: phase.task[task] for task in phase.tasks}
    exponents = {task: spec.language_exponent for task, spec in specs.items()}
    maskings = {task: Masking.of(start, spec, phase.seed) for task, spec in specs.items() if spec.format == MASKED}
    return Plan.of(shards, phase.recipe, phase.seed, exponents, maskings)


def _joined(shards: Sequence[Shard]) -> Shard | JoinedShard:
    """Languages of a task, and tasks that are trained as one, as one training set."""
    return shards[0] if len(shards) == 1 else JoinedShard(shards)


def _used_rows(shards: Sequence[Shard | JoinedShard]) -> Tensor:
    """The token ids that training or its dev evaluation can touch, (K,) sorted."""
    return torch.from_numpy(np.unique(np.concatenate([shard.vocabulary().astype(np.int64) for shard in shards])))


def _build_model(phase: PhaseFile, start: Path, kept_rows: Tensor | None) -> tuple[PhaseModel, list[str]]:
    """The encoder of ``start`` with its heads, and what was filled; weights are in fp32, DeepSpeed casts them."""
    encoder, report = load_encoder(start, torch.float32, dropout=phase.recipe.dropout, kept_rows=kept_rows)
    torch.manual_seed(phase.seed)  # heads start from the seed alone, on every rank alike
    said = [str(report)]
    heads: dict[str, Head] = {}
    head_of = shared_heads(phase.tasks, phase.task)
    for name in dict.fromkeys(head_of.values()):
        heads[name] = new_head(phase.task[name], encoder, encoder.hidden_p)
        if phase.head_from:
            heads[name].load_state_dict(dict(load_heads(start)[phase.head_from].weights))
            said.append(f"the head goes on from {phase.head_from}")
        elif phase.task[name].format == MASKED:
            said += _load_base_head(heads[name], start)
    said += [f"{task} and {head_of[task]} share a head: same labels" for task in head_of if head_of[task] != task]
    return PhaseModel(encoder, heads, head_of), said


def _load_base_head(head: Head, start: Path) -> list[str]:
    """The head of a masked language model is the base model's own, where it has one."""
    weights = lm_head_weights(start)
    if weights is None:
        return []
    head.load_state_dict(weights)
    return ["the head of the masked language model is the base model's"]


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

    def __init__(
        self, phase: PhaseFile, shards: Mapping[str, Sequence[tuple[ShardEntry, Shard]]], device: torch.device
    ) -> None:
        self.phase, self.shards, self.device = phase, shards, device

    def __call__(self, model: nn.Module) -> dict[str, float]:
        """All ranks together."""
        assert isinstance(model, PhaseModel)
        values: dict[str, float] = {}
        scores = []
        for task, entries in self.shards.items():
            spec = self.phase.task[task]
            setting = Setting(
                spec, model.encoder, model, task, ranks=GroupRanks.of(), device=self.device,
                tokens_per_batch=self.phase.engine.tokens_per_micro_batch,
            )  # fmt: skip
            parts = {f"{entry.member}-{entry.language}": shard for entry, shard in entries}
            measured = evaluators.get(spec.format).evaluate(setting, parts).languages
            prefix = f"{task}/" if len(self.shards) > 1 else ""
            for name in measured[0].metrics:
                if not name.startswith("majority"):
                    values[prefix + name] = statistics.fmean(part.metrics[name] for part in measured)
            losses = [part.loss for part in measured if part.loss is not None]
            if losses:
                values[f"{prefix}loss"] = statistics.fmean(losses)
            scores.append(statistics.fmean(part.metrics[spec.metric] for part in measured))
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
        saved = {
            # a file holds no tensor twice: a shared head is written for each of its tasks
            task: SavedHead(
                specs[task].format, specs[task].labels, {name: value.clone() for name, value in heads[head].items()}
            )
            for task, head in shared_heads(self.phase.tasks, specs).items()
        }
        save_encoder(encoder, saved, self.encoder.config, self.start, folder)
        write_json(folder / "xtrain.json", {"phase": self.phase.name, "hash": self.phase.hash, "step": step})
