"""An evaluation phase: the encoder, with the head that was trained, on every language of one task."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

import xtrain.starter
from xtrain.data import Shard
from xtrain.dispatch.rendezvous import Ranks
from xtrain.errors import Problem, UserError, listed
from xtrain.evaluation import metrics, scores
from xtrain.evaluation.predict import GroupRanks, Predictions, predict, retrieve, write_predictions
from xtrain.evaluation.retrieval import POOLING, SIMILARITY, embedding_layer
from xtrain.files import read_json, write_json
from xtrain.model import Encoder, PhaseModel, build_head, load_encoder, load_heads
from xtrain.phase.file import PhaseFile, ShardEntry
from xtrain.phase.observer import PhaseObserver
from xtrain.run_directory import RunDirectory
from xtrain.tasks import TaskSpec, formats
from xtrain.training.engine import DTYPES

LAST = "last"


def evaluate_phase(
    run: RunDirectory,
    phase: PhaseFile,
    ranks: Ranks,
    device: torch.device,
    observer: PhaseObserver,
    environment: dict[str, Any],
) -> dict[str, Any]:
    """Write ``predictions/`` and ``scores.json``; returns the summary for ``DONE``."""
    if ranks.is_first:
        write_json(run.environment, environment)
    observer.start_wandb({"phase": phase.name, "kind": phase.kind, "study": phase.study, "base": phase.base,
                          "seed": phase.seed, **environment})  # fmt: skip
    observer.use_encoder(phase.start_folder(run), phase.parent)
    evaluator = Evaluator(run, phase, ranks, device, observer)
    result = evaluator.score(phase.start_folder(run), "selected")
    parent = RunDirectory(phase.out(run) / phase.parent) if phase.parent else None
    if phase.evaluation.last_checkpoint and parent is not None and parent.encoder_last.is_dir():
        result[LAST] = evaluator.score(parent.encoder_last, LAST)
    if ranks.is_first:
        write_json(run.scores, result)
        observer.log_scores(result)
    task = phase.tasks[0]
    return {
        "task": task,
        "score": result["tasks"][task]["score"],
        "languages": len(result["tasks"][task]["languages"]),
    }


class Evaluator:
    """Scores one task in all languages with the weights of one folder."""

    def __init__(
        self, run: RunDirectory, phase: PhaseFile, ranks: Ranks, device: torch.device, observer: PhaseObserver
    ) -> None:
        self.run, self.phase, self.ranks, self.device, self.observer = run, phase, ranks, device, observer
        self.spec: TaskSpec = phase.task[phase.tasks[0]]
        self.shards: Sequence[tuple[ShardEntry, Shard]] = phase.open_shards(run, "evaluate")
        self.limit = phase.evaluation.limit

    def score(self, folder: Path, which: str) -> dict[str, Any]:
        """The content of ``scores.json`` for the weights in ``folder``; collective."""
        encoder, report = load_encoder(folder, DTYPES[self.phase.engine.precision])
        encoder = encoder.to(self.device)
        self.observer.say(f"      {report}")
        protocol: dict[str, Any] = {"max_length": self.phase.recipe.max_length}
        model: nn.Module = encoder
        layer = 0
        if formats.get(self.spec.format).trained:
            model = self._with_head(encoder, folder)
        else:
            layer = embedding_layer(self.phase.evaluation.embedding_layer, encoder.num_layers)
            protocol |= {
                "layer": layer,
                "num_layers": encoder.num_layers,
                "pooling": POOLING,
                "search": SIMILARITY,
            }
        languages = self._languages(model.eval(), layer, which)
        info = _selected(folder)
        starter = self.phase.base == "starter"
        return scores.build(
            [
                scores.TaskScores(
                    self.spec, self.spec.evaluation_split(self.phase.evaluation.split), languages, protocol
                )
            ],
            base=self.phase.base,
            step=int(info.get("step", 0)),
            checkpoint=which,
            disclaimer=xtrain.starter.DISCLAIMER if starter else "",
        )

    def _languages(self, model: nn.Module, layer: int, which: str) -> list[scores.LanguageScore]:
        total = sum(int(shard.lengths[: self.limit].sum()) for _, shard in self.shards)
        self.observer.start_progress(f"evaluate {self.phase.name}", total, "tokens")
        results, done = [], 0
        for entry, shard in self.shards:
            predictions = self._predict(model, shard, layer, done)
            gold = {name: values[: len(predictions)] for name, values in shard.fields.items()}
            values = metrics.score(self.spec, predictions.arrays, gold)
            if self.ranks.is_first and which != LAST:
                write_predictions(self.run.predictions, shard, self.spec, entry.language, predictions)
            manifest = shard.manifest
            results.append(
                scores.LanguageScore(
                    entry.language, values, len(predictions), int(manifest["truncated"]), manifest["dropped"]
                )
            )
            done += int(shard.lengths[: self.limit].sum())
            self.observer.advanced(done, {})
        self.observer.end_progress()
        return results

    def _predict(self, model: nn.Module, shard: Shard, layer: int, done: int) -> Predictions:
        tokens = self.phase.engine.tokens_per_micro_batch
        ranks = GroupRanks.of()
        if isinstance(model, PhaseModel):
            task = self.phase.trained_task
            return predict(
                model, shard, task, ranks=ranks, tokens_per_batch=tokens, device=self.device, limit=self.limit
            )
        assert isinstance(model, Encoder)
        return retrieve(
            model, shard, self.spec.name, layer=layer, ranks=ranks, tokens_per_batch=tokens, device=self.device,
            limit=self.limit,
        )  # fmt: skip

    def _with_head(self, encoder: Encoder, folder: Path) -> PhaseModel:
        """The encoder with the head of the task that was trained, from the same folder."""
        task = self.phase.trained_task
        saved = load_heads(folder)[task]
        if saved.format != self.spec.format or saved.labels != self.spec.labels:
            raise UserError(
                Problem(
                    f"task {self.spec.name!r}: train_on",
                    f"{task!r} has the labels {listed(saved.labels)} in format {saved.format!r}",
                    allowed=f"{listed(self.spec.labels)} in format {self.spec.format!r}",
                    remedy="train on a task with the same labels in the same order",
                )
            )
        head = build_head(saved.format, encoder.hidden_size, len(saved.labels), 0.0)
        head.load_state_dict(dict(saved.weights))
        return PhaseModel(encoder, {task: head}).to(self.device, DTYPES[self.phase.engine.precision])


def _selected(folder: Path) -> dict[str, Any]:
    """What the training phase wrote beside an encoder; empty for a base model."""
    path = folder / "xtrain.json"
    info: dict[str, Any] = read_json(path) if path.is_file() else {}
    return info
