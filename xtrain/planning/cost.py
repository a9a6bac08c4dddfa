"""The work of every phase of a study, what it takes of devices and hours, and the longest chain of phases."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from xtrain.data.sampler import mixing_shares
from xtrain.dispatch.cluster import Profile
from xtrain.graph import EVALUATE, INTERMEDIATE, TARGET, Graph, Phase
from xtrain.phase.disk import Model, selects_last
from xtrain.planning.rates import Rate
from xtrain.planning.sizes import Size, Sizes
from xtrain.study import Base
from xtrain.study_data import TRAIN
from xtrain.training.plan import planned
from xtrain.training.throughput import training_flops

_HOUR = 3600.0
KINDS = (INTERMEDIATE, TARGET, EVALUATE)


@dataclass(frozen=True)
class Work:
    """What is computed in a phase, or in several."""

    steps: int = 0
    """Optimizer steps, as if none ended early."""
    trained: float = 0.0
    """Tokens that go forward and backward."""
    forward: float = 0.0
    """Tokens that go forward alone: dev sets while training, and evaluations."""
    flops: float = 0.0

    @property
    def tokens(self) -> float:
        """All tokens."""
        return self.trained + self.forward

    def __add__(self, other: Work) -> Work:
        return Work(
            self.steps + other.steps,
            self.trained + other.trained,
            self.forward + other.forward,
            self.flops + other.flops,
        )


@dataclass(frozen=True)
class PhaseCost:
    """One phase."""

    phase: Phase
    done: bool
    work: Work
    device_hours: float
    devices: int
    """That a job of it asks for."""

    @property
    def hours(self) -> float:
        """Of wall time, if its devices share the work evenly."""
        return self.device_hours / self.devices


@dataclass(frozen=True)
class Cost:
    """A whole study."""

    phases: Mapping[str, PhaseCost]
    """By hash, in the graph's order."""
    rates: Mapping[Base, Rate]
    """Of the phases of each base."""
    chain: tuple[PhaseCost, ...]
    """Of the phases that start from each other, those that take the longest together, in their order."""

    @property
    def to_do(self) -> list[PhaseCost]:
        """The phases that are not done."""
        return [one for one in self.phases.values() if not one.done]

    @property
    def device_hours(self) -> float:
        """Of all that is to do."""
        return sum(one.device_hours for one in self.to_do)

    @property
    def chain_hours(self) -> float:
        """The least that what is to do takes, however many nodes there are."""
        return sum(one.hours for one in self.chain)

    def of_kind(self, kind: str) -> list[PhaseCost]:
        """The phases of a kind."""
        return [one for one in self.phases.values() if one.phase.kind == kind]


def cost_of(
    graph: Graph,
    models: Mapping[Base, Model],
    rates: Mapping[Base, Rate],
    out: Path,
    sizes: Sizes,
    profile: Profile | None,
) -> Cost:
    """The reckoning of a study, of each base at its rate.

    Jobs have the devices that ``profile`` asks for, or one without it.
    """
    phases = {}
    for phase in graph.phases.values():
        model, rate = models[phase.base], rates[phase.base]
        work = (
            _trained(graph, phase, model, sizes) if phase.kind != EVALUATE else _evaluated(graph, phase, model, sizes)
        )
        hours = rate.seconds(work.trained, work.forward, work.flops) / _HOUR
        batch = 0 if phase.kind == EVALUATE else phase.recipe.batch_size
        devices = profile.resources(phase.kind, batch).num_ranks if profile is not None else 1
        phases[phase.hash] = PhaseCost(phase, phase.run_directory(out).done, work, hours, devices)
    return Cost(phases, rates, _longest(phases))


def steps_of(phase: Phase, sizes: Sizes) -> int:
    """The optimizer steps of a training phase, as if it did not end early."""
    return planned(_examples(phase, sizes), phase.recipe)[1]


def _examples(phase: Phase, sizes: Sizes) -> dict[str, int]:
    """The training examples of each task of a phase."""
    return {
        task: max(1, round(sum(size.examples for size in _sizes(phase, task, TRAIN, sizes)))) for task in phase.tasks
    }


def _sizes(phase: Phase, task: str, role: str, sizes: Sizes) -> list[Size]:
    return sizes.of_all(one for one in phase.readings if one.role == role and one.task == task)


def _trained(graph: Graph, phase: Phase, model: Model, sizes: Sizes) -> Work:
    recipe, examples = phase.recipe, _examples(phase, sizes)
    drawn, steps = planned(examples, recipe)
    if recipe.max_steps is not None or len(examples) > 1:
        drawn = steps * recipe.batch_size
    shares = mixing_shares(list(examples.values()), recipe.size_cap, recipe.temperature)
    found = Work(steps)
    for task, share in zip(examples, shares.tolist(), strict=True):
        parts = _sizes(phase, task, TRAIN, sizes)
        tokens, sequences = _means(parts, graph.specs[task].language_exponent)
        found += _work(model, drawn * share * tokens, tokens / sequences, trained=True)
        looks = math.ceil(steps / recipe.eval_every)
        dev = _sizes(phase, task, "dev", sizes)
        found += _work(model, looks * sum(one.tokens for one in dev), _length(dev), trained=False)
    return found


def _evaluated(graph: Graph, phase: Phase, model: Model, sizes: Sizes) -> Work:
    read = sizes.of_all(phase.readings)
    times = 1
    parent = graph.phases.get(phase.parent or "")
    if graph.study.evaluation.last_checkpoint and parent is not None:
        times += not selects_last(parent.recipe, steps_of(parent, sizes))
    return _work(model, times * sum(one.tokens for one in read), _length(read), trained=False)


def _means(parts: Iterable[Size], exponent: float) -> tuple[float, float]:
    """Tokens and sequences of an example of several languages, each drawn by its size to the power of ``exponent``."""
    weights = [(part.examples**exponent, part) for part in parts]
    total = sum(weight for weight, _ in weights)
    tokens = sum(weight * part.tokens / part.examples for weight, part in weights) / total
    return tokens, sum(weight * part.sequences / part.examples for weight, part in weights) / total


def _length(parts: Iterable[Size]) -> float:
    """The mean length of a sequence, in tokens; 0 of nothing."""
    parts = list(parts)
    sequences = sum(part.sequences for part in parts)
    return sum(part.tokens for part in parts) / sequences if sequences else 0.0


def _work(model: Model, tokens: float, length: float, *, trained: bool) -> Work:
    """``tokens`` in sequences of ``length`` tokens each: each of them meets the ``length`` tokens of its sequence."""
    flops = training_flops(round(tokens), round(tokens * length), model.matrices, model.layers, model.width)
    return Work(trained=tokens, flops=flops) if trained else Work(forward=tokens, flops=flops / 3.0)


def _longest(phases: Mapping[str, PhaseCost]) -> tuple[PhaseCost, ...]:
    """The chain of phases to do that takes the most hours; of equal ones the one of more phases."""
    ends: dict[str, tuple[float, int]] = {}
    for key, one in phases.items():  # a parent stands before what starts from it
        hours, count = ends.get(one.phase.parent or "", (0.0, 0))
        ends[key] = (hours, count) if one.done else (hours + one.hours, count + 1)
    last = max(ends, key=lambda key: ends[key], default=None)
    chain = []
    while last is not None:
        one = phases[last]
        chain.append(one)
        last = one.phase.parent
    return tuple(one for one in reversed(chain) if not one.done)
