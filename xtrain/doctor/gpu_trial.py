"""What the doctor tries on a GPU: python -m xtrain.doctor.gpu_trial FOLDER, one process a GPU; without one, on CPU.

Each trial is the product's own code on random weights and random tokens. Rank 0 writes what came of each to
``FOLDER/trials.json`` as soon as it is over, so that a process that dies leaves word of what it was at.
"""

from __future__ import annotations

import argparse
import collections
import faulthandler
import os
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from xtrain.checkpoints import CheckpointFolder
from xtrain.data import PackedBatch, Shard, collate
from xtrain.data.shards import write_shard
from xtrain.dispatch.rank_process import run_rank
from xtrain.dispatch.rendezvous import from_environment
from xtrain.dispatch.signals import Signals
from xtrain.errors import UserError
from xtrain.files import write_json
from xtrain.model import Encoder, PhaseModel, build_head
from xtrain.model.attention import flash_serves
from xtrain.model.config_file import EncoderConfig
from xtrain.starting import PROJECT, prepare
from xtrain.study import Engine, Recipe
from xtrain.training.agreement import Agreement
from xtrain.training.engine import TrainEngine, initialize_ranks, resolve_ds_config
from xtrain.training.feeding import Feeder
from xtrain.training.guard import Guard
from xtrain.training.health import Health
from xtrain.training.loop import Trainer, seed_dropout
from xtrain.training.plan import Plan
from xtrain.training.saver import Saver
from xtrain.training.watchdog import Watchdog

RESULTS = "trials.json"
ATTENTION, DROPOUT, STEPS, FP16, RANKS = "flash attention", "dropout", "20 steps", "fp16", "two GPUs"
TASK, NUM_LABELS, LONGEST = "trial", 3, 128
NUM_STEPS, SAVE_AFTER = 20, 10
FP16_STEPS, FP16_POWER = 40, 30  # from a scale of 2^30 some twenty steps are skipped
STALL_SECONDS = 300.0
Result = dict[str, Any]


class Impossible(Exception):
    """A trial that cannot be made here, and why."""


@dataclass(frozen=True)
class Size:
    """Of the model that is tried: on a GPU XLM-R Base with a short vocabulary, on a processor next to nothing."""

    hidden: int
    layers: int
    heads: int
    vocabulary: int

    @classmethod
    def on(cls, device: torch.device) -> Size:
        """What takes seconds there."""
        return cls(768, 12, 12, 32_000) if device.type == "cuda" else cls(64, 2, 2, 1_000)

    @property
    def config(self) -> EncoderConfig:
        """The encoder's configuration, as a ``config.json`` would give it."""
        return EncoderConfig.of(
            {
                "model_type": "xlm-roberta", "vocab_size": self.vocabulary, "hidden_size": self.hidden,
                "num_hidden_layers": self.layers, "num_attention_heads": self.heads,
                "intermediate_size": 4 * self.hidden, "max_position_embeddings": 514, "type_vocab_size": 1,
                "layer_norm_eps": 1e-5, "hidden_act": "gelu", "hidden_dropout_prob": 0.1,
                "attention_probs_dropout_prob": 0.1, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2,
            },
            "config.json",
        )  # fmt: skip

    def encoder(self) -> Encoder:
        """With random weights, the same whenever it is made: fp32, on the CPU."""
        encoder = Encoder(self.config).requires_grad_(True)
        encoder.model.to_empty(device="cpu")
        generator = torch.Generator().manual_seed(0)
        norms = {p for module in encoder.modules() if isinstance(module, nn.LayerNorm) for p in module.parameters()}
        with torch.no_grad():
            for name, parameter in encoder.model.named_parameters():
                if parameter in norms or parameter.dim() == 1:
                    parameter.fill_(float(name.endswith("weight")))
                else:
                    parameter.normal_(std=0.02, generator=generator)
        return encoder

    def shard(self, folder: Path) -> Shard:
        """Sentences of random tokens, whose first token says which class they are of."""
        rng = np.random.default_rng(0)
        sizes = rng.integers(8, LONGEST, size=2_000)
        labels = rng.integers(NUM_LABELS, size=len(sizes)).tolist()
        sequences = [rng.integers(10, self.vocabulary, size=size).astype(np.uint32) for size in sizes]
        for sequence, label in zip(sequences, labels, strict=True):
            sequence[0] = 5 + label
        ids = [str(number) for number in range(len(sizes))]
        manifest = {"task": TASK, "format": "classification", "language": "en", "split": "train",
                    "fields": {"label": "example"}}  # fmt: skip
        return write_shard(folder / TASK, sequences, sizes.tolist(), [1] * len(sizes), {"label": labels}, ids, manifest)


@dataclass
class Bench:
    """What all trials are made with."""

    device: torch.device
    size: Size
    shard: Shard
    folder: Path
    agreement: Agreement

    @property
    def batch(self) -> PackedBatch:
        """32 sentences, on the device."""
        return collate(self.shard, np.arange(32), TASK).to(self.device)

    def needs_gpu(self) -> None:
        """Raise where there is none."""
        if self.device.type != "cuda":
            raise Impossible("there is no GPU here")


def compare_attention(bench: Bench) -> Result:
    """Flash attention against padded rows, in bf16, forward and backward: how far they are apart.

    ``cosine`` is the least of the hidden states of a token, ``gradient`` the least of a parameter's gradient.
    """
    bench.needs_gpu()
    if not flash_serves(bench.device, torch.bfloat16, bench.size.hidden // bench.size.heads):
        raise Impossible(f"{torch.cuda.get_device_name(bench.device)} has no flash attention: padded rows serve")
    flash, padded = (_hidden_and_gradients(bench, flash) for flash in (True, False))
    cosine = nn.functional.cosine_similarity
    return {
        "cosine": float(cosine(flash[0], padded[0], dim=-1).min()),
        "gradient": min(
            float(cosine(one.flatten(), other.flatten(), dim=0))
            for one, other in zip(flash[1], padded[1], strict=True)
            if float(other.norm()) > 0
        ),
    }


def _hidden_and_gradients(bench: Bench, flash: bool) -> tuple[Tensor, list[Tensor]]:
    encoder = bench.size.encoder().to(bench.device, torch.bfloat16).eval()
    encoder.flash = flash
    hidden = encoder(bench.batch)
    hidden.float().square().sum().backward()
    return hidden.detach().float(), [p.grad.float() for p in encoder.parameters() if p.grad is not None]


def repeat_dropout(bench: Bench) -> Result:
    """The same seed twice, with gradients and without: the same masks, and so the same numbers; another seed: not.

    A loss over the whole batch has two passes that rest on it.
    """
    encoder = bench.size.encoder().to(bench.device, torch.bfloat16).train()

    def hidden(seed: int) -> Tensor:
        seed_dropout(seed, 0, 0, 0, bench.device)
        found: Tensor = encoder(bench.batch).detach().float()
        return found

    first, again, other = hidden(1), hidden(1), hidden(2)
    with torch.no_grad():
        without = hidden(1)
    return {
        "again": float((first - again).abs().max()),
        "without_gradients": float((first - without).abs().max()),
        "other_seed": float((first - other).abs().max()),
    }


class Listener:
    """Keeps what training says."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.events: list[tuple[str, dict[str, Any]]] = []

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Each step's."""
        if "loss" in values:
            self.losses.append(values["loss"])

    def event(self, kind: str, **fields: Any) -> None:
        """All of them."""
        self.events.append((kind, fields))

    def advanced(self, step: int, values: Mapping[str, float]) -> None:
        """Nothing is shown."""

    def batch_ids(self, step: int, task: str, ids: Sequence[str]) -> None:
        """They are not asked for."""

    def count(self, kind: str) -> int:
        """How many events of a kind there were."""
        return sum(name == kind for name, _ in self.events)


@dataclass
class Training:
    """A training of some steps, saved in its middle, as a phase's: the one way in which trials train."""

    bench: Bench
    name: str
    steps: int
    settings: Engine
    last: int | None = None
    """Train to this step, as one that is cut off there; None: to the end."""
    scale_power: int | None = None
    """fp16's first loss scale, as a power of 2."""
    listener: Listener = field(default_factory=Listener)

    def run(self) -> Listener:
        """Train; goes on from what an earlier training of that name has saved."""
        bench = self.bench
        recipe = Recipe(batch_size=32, max_steps=self.steps, learning_rate=1e-4, warmup_ratio=0.1)
        config, _ = resolve_ds_config(self.settings, PROJECT / "ds_configs", recipe.max_grad_norm)
        if self.scale_power is not None:
            config["fp16"]["initial_scale_power"] = self.scale_power
        encoder = bench.size.encoder()
        torch.manual_seed(0)
        heads = {TASK: build_head("classification", encoder.hidden_size, NUM_LABELS, encoder.hidden_p)}
        model = PhaseModel(encoder, heads)
        plan = Plan.of({TASK: bench.shard}, recipe, seed=3)
        engine = TrainEngine(model, recipe, config, bench.device)
        try:
            self._trainer(engine, plan, recipe, config, model).run()
        except _CutOff:
            pass
        finally:
            engine.close()
        return self.listener

    def _trainer(
        self, engine: TrainEngine, plan: Plan, recipe: Recipe, config: Mapping[str, Any], model: PhaseModel
    ) -> Trainer:
        bench, settings, agreement = self.bench, self.settings, self.bench.agreement
        folder = CheckpointFolder(bench.folder / self.name)
        saver = Saver(engine.state, folder, agreement, self.listener, phase=self.name, stage=engine.stage, keep=2,
                      retry_after=1, copies=True)  # fmt: skip
        feeder = Feeder(
            plan, rank=agreement.rank, world_size=agreement.world_size, num_workers=0, signals=(), with_ids=False,
            tokens_per_micro_batch=settings.tokens_per_micro_batch, on_event=self.listener.event,
        )  # fmt: skip
        guard = Guard(Signals(()), agreement, Watchdog(bench.folder, agreement.rank, agreement.world_size, 600.0))
        health = Health.of(recipe, settings, plan, config, bench.device, model)
        kind = Trainer if self.last is None else _cut_off_at(self.last)
        return kind(engine, plan, recipe, settings, 3, self.listener, saver, feeder, guard, health, None)


class _CutOff(Exception):
    """A training ends as if it were killed."""


def _cut_off_at(step: int) -> type[Trainer]:
    class Cut(Trainer):
        def _boundary(self, reached: int, *, best: bool, begun: bool = True) -> None:
            super()._boundary(reached, best=best, begun=begun)
            if reached == step:
                self.saver.finish()
                raise _CutOff

    return Cut


def engine_settings(precision: str, ds_config: str = "zero1") -> Engine:
    """``[engine]`` of a trial: every step is logged, and a save comes in the middle of 20."""
    return Engine(ds_config, precision=precision, tokens_per_micro_batch=2048, log_every=1, checkpoint_every=SAVE_AFTER)


def count_waits(bench: Bench) -> Result:
    """20 steps in bf16 with a save, in torch's mode that warns of all that waits for the GPU.

    ``waits`` are places with how often they waited, ``losses`` those of the steps.
    """
    training = Training(bench, "steps", NUM_STEPS, engine_settings("bf16"))
    places: collections.Counter[str] = collections.Counter()
    cuda = bench.device.type == "cuda"
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        if cuda:
            torch.cuda.set_sync_debug_mode("warn")
        try:
            listener = training.run()
        finally:
            if cuda:
                torch.cuda.set_sync_debug_mode("default")
    for one in caught:
        if "synchroniz" in str(one.message):
            places[f"{_short(one.filename)}:{one.lineno}"] += 1
    result: Result = {"losses": listener.losses, "saves": listener.count("save"), "waits": dict(places.most_common())}
    if not cuda:
        result["not"] = "waits were not counted: there is no GPU here"
    return result


def _short(path: str) -> str:
    return path.rpartition("site-packages/")[2].removeprefix(f"{PROJECT}/")


def skip_and_resume(bench: Bench) -> Result:
    """fp16 from a loss scale of 2^30: steps are skipped, then it trains; cut off, it goes on as if it had not been.

    ``apart`` is how far the losses of the two trainings are, after the resume.
    """
    settings = replace(engine_settings("fp16", "zero2_fp16"), max_skipped_steps=FP16_STEPS)
    cut = SAVE_AFTER * (FP16_STEPS // SAVE_AFTER - 1)
    try:
        calm = Training(bench, "calm", FP16_STEPS, settings, scale_power=FP16_POWER).run()
    except UserError as error:
        raise Impossible(error.problems[0].what) from error
    for last in (cut, None):
        torn = Training(bench, "torn", FP16_STEPS, settings, last=last, scale_power=FP16_POWER).run()
    apart = max(abs(one - other) for one, other in zip(calm.losses[cut:], torn.losses, strict=True))
    return {"skipped": calm.count("step_skipped"), "resumes": torn.count("resume"), "losses": calm.losses,
            "apart": apart}  # fmt: skip


def train_together(bench: Bench) -> Result:
    """The 20 steps of :func:`count_waits`, with all ranks that there are."""
    return {"losses": Training(bench, "together", NUM_STEPS, engine_settings("bf16")).run().losses}


TRIALS: dict[str, Callable[[Bench], Result]] = {
    ATTENTION: compare_attention,
    DROPOUT: repeat_dropout,
    STEPS: count_waits,
    FP16: skip_and_resume,
    RANKS: train_together,
}


def main(arguments: Sequence[str]) -> None:
    """Make the trials that are named, one after the other; a trial that fails is a result as well."""
    parser = argparse.ArgumentParser(prog="python -m xtrain.doctor.gpu_trial", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("trials", nargs="+", choices=list(TRIALS))
    given = parser.parse_args(arguments)
    os.dup2(2, 1)  # what compilers print is no part of what the doctor prints
    ranks = from_environment()
    device = initialize_ranks(ranks, training=True)
    size = Size.on(device)
    own = given.folder / f"rank-{ranks.rank}"
    bench = Bench(device, size, size.shard(own / "data"), given.folder, Agreement())
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "the processor"
    results: Result = {"device": name, "ranks": ranks.world_size, "trials": {}}
    for trial in given.trials:
        results["trials"][trial] = {"trouble": "the process died in it"}
        _write(given.folder, results, ranks.is_first)
        results["trials"][trial] = _tried(TRIALS[trial], bench)
        _write(given.folder, results, ranks.is_first)


def _tried(trial: Callable[[Bench], Result], bench: Bench) -> Result:
    faulthandler.dump_traceback_later(STALL_SECONDS, exit=True)  # what hangs is in the stacks, and has been named
    try:
        return trial(bench)
    except Impossible as error:
        return {"not": str(error)}
    except Exception as error:  # whatever torch and DeepSpeed say is the finding
        lines = [line for line in str(error).splitlines() if line.strip()]
        return {"trouble": f"{type(error).__name__}: {lines[0] if lines else 'no message'}"[:400]}
    finally:
        faulthandler.cancel_dump_traceback_later()


def _write(folder: Path, results: Result, first: bool) -> None:
    if first:
        write_json(folder / RESULTS, results)


if __name__ == "__main__":
    prepare()
    run_rank(lambda: main(sys.argv[1:]))
