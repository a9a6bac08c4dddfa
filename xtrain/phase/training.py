"""A training phase: shards, encoder and heads into the loop; the selected and the last encoder out of it."""

from __future__ import annotations

import dataclasses
import gc
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from xtrain.checkpoints import CheckpointFolder, commit_name
from xtrain.data import JoinedShard, Shard
from xtrain.data.masking import Masking
from xtrain.dispatch.time_limits import BUILDING_MINUTES, WRITING_MINUTES
from xtrain.errors import Problem, UserError, raise_if_any
from xtrain.evaluation import evaluators
from xtrain.evaluation.evaluators import Setting
from xtrain.evaluation.predict import GroupRanks
from xtrain.files import read_json
from xtrain.graph import TARGET
from xtrain.model import Encoder, Head, PhaseModel, load_encoder, load_heads
from xtrain.model.heads.mlm import lm_head_weights
from xtrain.phase.disk import check_disk
from xtrain.phase.exporting import export_checkpoint, used_rows
from xtrain.phase.file import PhaseFile, ShardEntry
from xtrain.phase.heads import MASKED, new_head, shared_heads
from xtrain.phase.keeping import NONE
from xtrain.phase.rank import PhaseRank
from xtrain.run_directory import RunDirectory
from xtrain.training.attempts import Attempts, Collapsed
from xtrain.training.budget import RankMemory, snapshot_budget
from xtrain.training.engine import TrainEngine, is_offloaded, read_ds_config
from xtrain.training.feeding import Feeder, num_workers
from xtrain.training.health import Health
from xtrain.training.host_memory import bytes_taken
from xtrain.training.loop import Outcome, Trainer
from xtrain.training.ops import missing_build_tools, op_is_built
from xtrain.training.pieces import MOMENTS, STATE_KINDS
from xtrain.training.plan import Plan
from xtrain.training.saver import Saver


def train_phase(rank: PhaseRank) -> dict[str, Any]:
    """Train, and write ``encoder/`` (and ``encoder-last/``); returns the summary for ``DONE``.

    A training that collapses begins anew with another seed where the recipe says so.
    """
    run, phase, observer, guard = rank.run, rank.phase, rank.observer, rank.guard
    attempts = Attempts.of(run, phase.seed, phase.recipe)
    _look_at_disk(rank)
    while True:
        try:
            trainer, outcome = _trained(rank, attempts.seed)
            break
        except Collapsed as collapsed:
            _begin_anew(rank, attempts, collapsed)
        finally:
            observer.end_progress()
        _free_memory()
    if rank.ranks.is_first:
        with guard.allow("writing the encoder", minutes=WRITING_MINUTES):
            _export(run, outcome)
            if phase.kind != TARGET or phase.engine.keep_encoders != NONE:  # an artifact names files, and copies none
                observer.log_encoder(run.encoder)
    return {
        "steps": outcome.step,
        "planned_steps": trainer.plan.num_steps,
        "selected_step": outcome.best_step,
        "dev_score": outcome.best_score,
        "stopped_early": outcome.stopped_early,
        "skipped_steps": trainer.num_skipped,
        **attempts.summary(trainer.health.detector.found_at),
        "saves": trainer.saver.num_saves,
        "save_stall_seconds": round(trainer.saver.stall_seconds, 3),
        "tokens_per_second": round(trainer.mean_tokens_per_second, 1),
        "training_seconds": round(trainer.training_seconds, 2),
    }


def _look_at_disk(rank: PhaseRank) -> None:
    """Raise the same :class:`UserError` on all ranks where the phase cannot end on this disk."""
    found: tuple[str, tuple[Problem, ...]] = "", ()
    if rank.ranks.is_first:
        try:
            found = check_disk(rank.run, rank.phase), ()
        except UserError as error:
            found = "", error.problems
    warning, problems = rank.guard.agreement.first(found)
    raise_if_any(problems)
    if warning:
        rank.observer.say(f"      warning: {warning}")


def _trained(rank: PhaseRank, seed: int) -> tuple[Trainer, Outcome]:
    trainer = _trainer(rank, seed)
    rank.observer.expect_progress(f"train {rank.phase.name}", trainer.plan.num_steps, "step")
    try:
        return trainer, trainer.run()
    except Collapsed:
        trainer.engine.close()
        raise


def _free_memory() -> None:
    """Give back what a training had that is over: DeepSpeed's engine refers to itself, and would stay for long."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _trainer(rank: PhaseRank, seed: int) -> Trainer:
    """Everything that one training from ``seed`` needs, put together."""
    run, phase, ranks, observer, device = rank.run, rank.phase, rank.ranks, rank.observer, rank.device
    start = phase.start_folder(run)
    dev = {task: phase.open_shards(run, "dev", task) for task in phase.tasks if phase.recipe.eval_examples}
    plan = _plan(run, phase, start, seed)
    # the softmax of a masked language model touches every row of the table
    partly = phase.engine.used_vocabulary and not plan.maskings
    model, filled = _build_model(phase, start, used_rows(run, phase) if partly else None, seed)
    for line in filled:
        observer.say(f"      {line}")
    ds_config = read_ds_config(run.ds_config)
    if not missing_build_tools() and not op_is_built(is_offloaded(ds_config)):
        observer.say("      building DeepSpeed's Adam (once for this type of machine; a minute or two)")
    with rank.guard.allow("building the engine", minutes=BUILDING_MINUTES):
        engine = TrainEngine(model, phase.recipe, ds_config, device)
    rank.environment.update(engine.choices)
    if ranks.is_first:
        run.write_json(run.environment, rank.environment)
    observer.start_wandb(_resolved_configuration(phase, run, rank.environment))
    observer.use_encoder(start, phase.parent)
    encoder = model.encoder
    feeder = Feeder(
        plan, rank=ranks.rank, world_size=ranks.world_size, num_workers=num_workers(phase.engine),
        tokens_per_micro_batch=phase.engine.tokens_per_micro_batch, signals=phase.engine.preemption_signals,
        with_ids=phase.engine.log_example_ids and ranks.is_first, on_event=observer.event,
    )  # fmt: skip
    return Trainer(
        engine=engine,
        plan=plan,
        recipe=phase.recipe,
        settings=phase.engine,
        seed=seed,
        observer=observer,
        saver=_saver(rank, engine),
        feeder=feeder,
        guard=rank.guard,
        health=Health.of(phase.recipe, phase.engine, plan, ds_config, device, model),
        evaluate=DevEvaluation(phase, dev, device) if dev else None,
        encoder_shape=(_matrix_parameters(encoder), encoder.num_layers, encoder.hidden_size),
        environment={**rank.environment, "stage": engine.stage},
    )


def _saver(rank: PhaseRank, engine: TrainEngine) -> Saver:
    """The run's checkpoints; whether there is memory to write them beside training is decided here, for all ranks."""
    phase, agreement, observer = rank.phase, rank.guard.agreement, rank.observer
    settings = phase.engine
    pieces = engine.state.owned()
    copy = len(STATE_KINDS) * bytes_taken(4 * sum(piece.count for piece in pieces), pinned=rank.device.type == "cuda")
    # Adam makes its moments in the first step
    to_come = 4 * len(MOMENTS) * sum(piece.count for piece in pieces if not piece.flat.is_cuda)
    budget = snapshot_budget(settings.snapshot_memory_gib, agreement.gather(RankMemory.of(copy, to_come)))
    beside = settings.background_save and budget.fits
    why = budget.why if settings.background_save else "engine.background_save is off: training stops for each save"
    observer.event("save_mode", beside_training=beside, reason=why)
    if not beside:
        observer.say(f"      {why}")
    return Saver(
        state=engine.state,
        folder=CheckpointFolder(rank.run.checkpoints, rank.run.checkpoint_staging),
        agreement=agreement,
        observer=observer,
        phase=phase.hash,
        stage=engine.stage,
        keep=settings.keep_checkpoints,
        retry_after=max(1, settings.checkpoint_every // 10),
        copies=beside,
    )


def _begin_anew(rank: PhaseRank, attempts: Attempts, collapsed: Collapsed) -> None:
    """Record a collapse, and clear the way for the next seed; raises where the recipe allows no other."""
    try:
        attempts.collapsed(collapsed, rank.observer)
    finally:
        if rank.ranks.is_first:
            CheckpointFolder(rank.run.checkpoints, rank.run.checkpoint_staging).clear()
    rank.observer.begin_anew(attempts.number)
    rank.guard.agreement.barrier()


def _export(run: RunDirectory, outcome: Outcome) -> None:
    """``encoder/`` from the selected step and, if that is another than the last one, ``encoder-last/``."""
    last = run.checkpoints / commit_name("step", outcome.step)
    if outcome.best_step == outcome.step:
        export_checkpoint(run, last, run.encoder)
        return
    export_checkpoint(run, last, run.encoder_last)
    best = run.checkpoints / commit_name("best", outcome.best_step)
    # where its weights are lost (an event says so), the last ones are all there is
    export_checkpoint(run, best if best.is_dir() else last, run.encoder)


def _plan(run: RunDirectory, phase: PhaseFile, start: Path, seed: int) -> Plan:
    """The phase's training shards, and in which order they are read."""
    shards = {task: _joined([shard for _, shard in phase.open_shards(run, "train", task)]) for task in phase.tasks}
    specs = {task: phase.task[task] for task in phase.tasks}
    exponents = {task: spec.language_exponent for task, spec in specs.items()}
    maskings = {task: Masking.of(start, spec, seed) for task, spec in specs.items() if spec.format == MASKED}
    return Plan.of(shards, phase.recipe, seed, exponents, maskings)


def _joined(shards: Sequence[Shard]) -> Shard | JoinedShard:
    """Languages of a task, and tasks that are trained as one, as one training set."""
    return shards[0] if len(shards) == 1 else JoinedShard(shards)


def _build_model(phase: PhaseFile, start: Path, kept_rows: Tensor | None, seed: int) -> tuple[PhaseModel, list[str]]:
    """The encoder of ``start`` with its heads, and what was filled; weights are in fp32, DeepSpeed casts them."""
    encoder, report = load_encoder(start, torch.float32, dropout=phase.recipe.dropout, kept_rows=kept_rows)
    torch.manual_seed(seed)  # heads start from the seed alone, on every rank alike
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
    if weights is None:  # a sentence encoder, a text tower
        return ["the head of the masked language model starts from random weights: the base model has none"]
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

    def __call__(self, model: nn.Module, progress: Callable[[int], None]) -> dict[str, float]:
        """All ranks together; ``progress`` is told the tokens of each micro-step."""
        assert isinstance(model, PhaseModel)
        values: dict[str, float] = {}
        scores = []
        for task, entries in self.shards.items():
            spec = self.phase.task[task]
            setting = Setting(
                spec, model.encoder, model, task, ranks=GroupRanks.of(), device=self.device,
                tokens_per_batch=self.phase.engine.tokens_per_micro_batch, progress=progress,
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
