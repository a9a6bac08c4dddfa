"""An evaluation phase: the encoder, with the head that was trained, on every language of one task."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import xtrain.starter
from xtrain.data import Shard
from xtrain.data.account import Account
from xtrain.errors import Problem, UserError, listed
from xtrain.evaluation import evaluators, scores
from xtrain.evaluation.benchmark import layout
from xtrain.evaluation.evaluators import Evaluation, LanguageResult, Setting
from xtrain.evaluation.predict import GroupRanks
from xtrain.evaluation.retrieval import embedding_layer
from xtrain.evaluation.scores import LAST, SELECTED
from xtrain.files import make_folder, read_json
from xtrain.graph import EVALUATE, TARGET
from xtrain.language_facts import words_against
from xtrain.model import Encoder, PhaseModel, load_encoder, load_heads
from xtrain.phase.file import PhaseFile
from xtrain.phase.heads import new_head
from xtrain.phase.keeping import NONE, lost_last
from xtrain.phase.observer import PhaseObserver
from xtrain.phase.rank import PhaseRank
from xtrain.run_directory import RunDirectory
from xtrain.tasks import TaskSpec, formats
from xtrain.training.engine import DTYPES
from xtrain.training.guard import Guard


def evaluate_phase(rank: PhaseRank) -> dict[str, Any]:
    """Write ``predictions/``, ``predictions-last/`` and ``scores.json``; returns the summary for ``DONE``."""
    run, phase, ranks, observer = rank.run, rank.phase, rank.ranks, rank.observer
    if ranks.is_first:
        run.write_json(run.environment, rank.environment)
    observer.start_wandb({"phase": phase.name, "kind": phase.kind, "study": phase.study, "base": phase.base,
                          "seed": phase.seed, **rank.environment})  # fmt: skip
    parent = RunDirectory(phase.out(run) / phase.parent) if phase.parent else None
    if phase.engine.keep_encoders != NONE or parent is None or PhaseFile.read(parent).kind != TARGET:
        observer.use_encoder(phase.start_folder(run), phase.parent)  # by its files, which must stay
    evaluator = PhaseEvaluator(rank)
    result = evaluator.score(phase.start_folder(run), SELECTED)
    if phase.evaluation.last_checkpoint and parent is not None and lost_last(parent):
        observer.say(f"      note: the last step's weights were deleted (engine.keep_encoders): {parent.encoder_last}")
    if phase.evaluation.last_checkpoint and parent is not None and parent.encoder_last.is_dir():
        result[LAST] = evaluator.score(parent.encoder_last, LAST)
    if ranks.is_first:
        run.write_json(run.scores, result)
        observer.log_scores(result)
    task = phase.tasks[0]
    return {
        "task": task,
        "score": result["tasks"][task]["score"],
        "languages": len(result["tasks"][task]["languages"]),
    }


class PhaseEvaluator:
    """Scores one task in all languages with the weights of one folder."""

    def __init__(self, rank: PhaseRank) -> None:
        self.run, self.phase, self.ranks, self.device = rank.run, rank.phase, rank.ranks, rank.device
        self.observer, self.guard, phase, run = rank.observer, rank.guard, rank.phase, rank.run
        self.spec: TaskSpec = phase.task[phase.tasks[0]]
        self.shards: dict[str, dict[str, Shard]] = {}  # role -> language -> shard
        for role in dict.fromkeys(entry.role for entry in phase.shards):
            self.shards[role] = {entry.language: shard for entry, shard in phase.open_shards(run, role)}

    def score(self, folder: Path, which: str) -> dict[str, Any]:
        """The content of ``scores.json`` for the weights in ``folder``; collective."""
        phase, spec = self.phase, self.spec
        encoder, report = load_encoder(folder, DTYPES[phase.engine.precision])
        encoder = encoder.to(self.device)
        self.observer.say(f"      {report}")
        trained = formats.get(spec.format).trained
        setting = Setting(
            spec,
            encoder.eval(),
            self._with_head(encoder, folder) if trained else None,
            phase.trained_task,
            ranks=GroupRanks.of(),
            tokens_per_batch=phase.engine.tokens_per_micro_batch,
            device=self.device,
            layer=0 if trained else embedding_layer(phase.evaluation.embedding_layer, encoder.num_layers),
            progress=_Counted(self.observer, self.guard),
        )
        evaluator = evaluators.get(spec.format)
        companions = {role: shards for role, shards in self.shards.items() if role != EVALUATE}
        shards = self.shards[EVALUATE]
        total = sum(int(shard.lengths.sum()) for shard in shards.values())
        total += sum(int(shard.lengths.sum()) for some in companions.values() for shard in some.values())
        self.observer.start_progress(f"evaluate {phase.name}", total, "tokens")
        found = evaluator.evaluate(setting, shards, companions)
        self.observer.end_progress()
        if self.ranks.is_first:
            self._write(found.languages, which)
        return self._scores(folder, which, found, evaluator.definitions)

    def _write(self, languages: Sequence[LanguageResult], which: str) -> None:
        """``predictions/{task}/{language}.jsonl``, an object a line, and ``outcomes.npz``."""
        from xtrain.evaluation.outcome_files import pack  # scipy takes a moment, and no other rank needs it

        last = which == LAST
        folder = make_folder((self.run.predictions_last if last else self.run.predictions) / self.spec.name)
        for one in languages:
            lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in one.rows)
            self.run.write_text(folder / f"{one.language}.jsonl", lines)
        packed = pack(self.spec, {one.language: (one.rows, one.metrics) for one in languages})
        self.run.write_bytes(self.run.outcomes_last if last else self.run.outcomes, packed)

    def _scores(self, folder: Path, which: str, found: Evaluation, definitions: Mapping[str, str]) -> dict[str, Any]:
        phase, spec = self.phase, self.spec
        languages, shards = [], self.shards[EVALUATE]
        english = shards["en"].words() if spec.parallel and "en" in shards else {}
        for result in found.languages:
            shard = shards[result.language]
            languages.append(
                scores.LanguageScore(
                    result.language,
                    result.metrics,
                    result.num_examples,
                    Account.of(shard.manifest),
                    protocol=result.protocol,
                    words_against_english=words_against(shard.words(), english),
                )
            )
        protocol = {
            "benchmark": _benchmark(spec, phase.evaluation.benchmark),
            "max_length": phase.recipe.max_length,
            **found.protocol,
        }
        split = spec.evaluation_split(phase.evaluation.split)
        return scores.build(
            [scores.TaskScores(spec, split, languages, definitions, protocol)],
            base=phase.base,
            step=int(_selected(folder).get("step", 0)),
            checkpoint=which,
            disclaimer=xtrain.starter.DISCLAIMER if phase.base == "starter" else "",
        )

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
        head = new_head(self.spec, encoder, dropout=0.0)
        head.load_state_dict(dict(saved.weights))
        return PhaseModel(encoder, {task: head}).to(self.device, DTYPES[self.phase.engine.precision])


def _benchmark(spec: TaskSpec, wanted: str) -> str | None:
    """The version of the benchmark that the score is one of: the study's, or the one that has the task."""
    versions = [name for name, known in layout.BENCHMARKS.items() if spec.name in known.tasks]
    return wanted if wanted in versions else versions[0] if versions else None


class _Counted:
    """Tokens done in one micro-step after the other, to the progress bar.

    A signal to any rank ends the evaluation, and so does a newer attempt.
    """

    def __init__(self, observer: PhaseObserver, guard: Guard) -> None:
        self.observer, self.guard, self.done = observer, guard, 0

    def __call__(self, tokens: int) -> None:
        self.done += tokens
        self.guard.tick(f"evaluation, {self.done:,} tokens done")
        self.observer.advanced(self.done, {})
        if self.guard.signalled():
            preempted = self.guard.preempted(0)
            self.observer.event("preempted", signal=preempted.signal_name, seconds=round(preempted.seconds, 3))
            raise preempted


def _selected(folder: Path) -> dict[str, Any]:
    """What the training phase wrote beside an encoder; empty for a base model."""
    path = folder / "xtrain.json"
    info: dict[str, Any] = read_json(path) if path.is_file() else {}
    return info
