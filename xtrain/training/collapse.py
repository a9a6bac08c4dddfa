"""Collapse of training: a model that tells its inputs apart no more, found within a declared number of steps.

Two signs together, so that neither a slow start nor a task that is too hard is taken for it (docs/health.md has the
measurements behind the numbers):

1. *Nothing is learnt.* Over the last ``recipe.*.collapse_window`` steps the mean loss is not better than that of
   always answering with the frequencies of the gold classes. It is summed up as training goes, and costs nothing.
2. *The inputs look alike.* Only then, and without dropout, the head looks at a few of the last examples
   (:mod:`xtrain.training.probe`): the features that its last layer sees are all but the same for all of them. For a
   model that had learnt something before in this run, predicting one class alone is enough.

Or training has diverged: the loss is far above that of equal probabilities. Dimension letters: E examples, C classes.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from xtrain.data import PackedBatch
from xtrain.model import PhaseModel
from xtrain.model.heads.first_token import ClassificationHead, MultipleChoiceHead
from xtrain.study import Recipe
from xtrain.training.plan import Plan
from xtrain.training.probe import Probe
from xtrain.training.schedule import LinearSchedule
from xtrain.training.sums import of_all_ranks, take_back

BLOCKS = 4  # a window is judged at each quarter of it
MIN_EXAMPLES = 128
"""Of a task in a window that is judged: the loss of so many is within a few per cent of the mean. Where the batches are
so small that the window has fewer, it is longer."""
NOT_BETTER = 0.98
"""Share of the loss of always answering the gold frequencies that counts as no better: 2 % are the luck of a window."""
NEARLY_CONSTANT = 0.9  # share of a gold class above which always answering it is what should be learnt first
ALIKE = 0.007
"""Spread of the features below which inputs look alike: collapsed runs have at most 0.002 (rounding in bf16), sound
ones that have learnt nothing yet 0.023 or more."""
ONE_CLASS = 0.99  # share of one class in the predictions without dropout
EQUAL = 0.99  # entropy of the choices, as a share of that of equal probabilities: no choice is preferred
LEARNT = 0.9  # share of the loss of the gold frequencies: a window below it shows that something had been learnt
DIVERGED = 2.0  # times the loss of equal probabilities, for a whole window: no model that trains is there
MOST_CHOICES = 32  # columns of gold places in multiple choice; what is beyond shares the last

_COUNTS = 3  # examples, summed loss, summed entropy of equal probabilities; then the gold classes


@dataclass(frozen=True)
class Window:
    """What a task's examples of some steps came to, over all ranks."""

    num_examples: float
    loss: float
    """Mean; of examples whose loss is a number."""
    chance: float
    """The loss of equal probabilities, log C."""
    gold: tuple[float, ...]
    """Shares of the gold classes (C,); of the places of the right choice, in multiple choice."""

    @classmethod
    def of(cls, sums: list[float]) -> Window:
        """From counts and sums, as :class:`CollapseDetector` gathers them."""
        count, loss, chance, *gold = sums
        return cls(count, loss / count, chance / count, tuple(number / count for number in gold))

    @property
    def baseline(self) -> float:
        """The loss of always answering the gold frequencies: their entropy."""
        entropy = -sum(share * math.log(share) for share in self.gold if share > 0)
        return min(entropy, self.chance)

    @property
    def judged(self) -> bool:
        """Whether it says anything: enough examples, and more than one class to tell apart."""
        return self.num_examples >= MIN_EXAMPLES and max(self.gold) <= NEARLY_CONSTANT


@dataclass(frozen=True)
class Collapse:
    """Training has collapsed."""

    step: int
    """Steps done."""
    window: int
    """Steps that were judged, the last ones."""
    findings: Mapping[str, str]
    """Task -> what was found, in words."""

    @property
    def reason(self) -> str:
        """One sentence."""
        found = "; ".join(f"{task}: {text}" for task, text in self.findings.items())
        return f"in steps {self.step - self.window + 1} to {self.step}, {found}"

    def fields(self) -> dict[str, Any]:
        """For the record of events, with ``step`` apart."""
        return {"window": self.window, "reason": self.reason, "tasks": list(self.findings)}


@dataclass
class CollapseDetector:
    """Watches the tasks of classification and multiple choice; see the module's text for what it looks for.

    Steps are gathered in blocks that end at multiples of :attr:`block`, whatever happens between, so that a resumed
    run decides as an uninterrupted one. A collapse is found at the latest :attr:`latency` steps after it has begun
    (or after the warm-up), where it lasts. In a mixture the encoder is common to all, so training has collapsed
    only when every task that can be judged has; one that is merely too hard is no collapse.
    """

    classes: Mapping[str, int]
    """Watched task -> columns of its gold classes."""
    by_place: frozenset[str]
    """Those of multiple choice: their classes are the places of the choices, of which examples may have fewer."""
    window: int
    """Steps that are judged: a multiple of :attr:`block`."""
    first_step: int
    """The end of the warm-up: no window begins before it."""
    device: torch.device
    found_at: list[int] = field(default_factory=list)
    """The steps at which a collapse was told: several where training goes on all the same."""

    def __post_init__(self) -> None:
        assert self.window % BLOCKS == 0
        columns = _COUNTS + max(self.classes.values(), default=0)
        self._rows = {task: number for number, task in enumerate(self.classes)}
        self._sums = torch.zeros(len(self.classes), columns, dtype=torch.float64, device=self.device)
        self._blocks: deque[list[list[float]]] = deque(maxlen=BLOCKS)  # the last ones, by task, over all ranks
        self._learnt: set[str] = set()
        self._standing = False  # whether the last look found a collapse, which has been told

    @classmethod
    def of(cls, model: PhaseModel, plan: Plan, recipe: Recipe, device: torch.device) -> CollapseDetector:
        """For a phase's tasks; those whose head chooses nothing (tags, spans, vectors) are not watched."""
        classes, by_place = {}, set()
        for task in plan.shards:
            head = model.head(task)
            if isinstance(head, MultipleChoiceHead):
                classes[task] = MOST_CHOICES
                by_place.add(task)
            elif isinstance(head, ClassificationHead):
                classes[task] = head.out_proj.out_features
        enough = math.ceil(MIN_EXAMPLES * max(1, len(classes)) / recipe.batch_size)
        block = math.ceil(max(recipe.collapse_window, enough) / BLOCKS)
        warmup = LinearSchedule.of(recipe.learning_rate, plan.num_steps, recipe.warmup_ratio).num_warmup_steps
        return cls(classes, frozenset(by_place), block * BLOCKS, warmup, device)

    @property
    def block(self) -> int:
        """Steps from one look to the next."""
        return self.window // BLOCKS

    @property
    def latency(self) -> int:
        """Steps within which a collapse is found."""
        return self.window + self.block

    def add(self, task: str, loss_sum: Tensor, batch: PackedBatch) -> None:
        """Take a micro-batch of this rank: ``loss_sum`` (), summed over its examples with their weights.

        Nothing waits for the device. A micro-batch whose loss is not finite is left out; so is a task that is not
        watched.
        """
        if task not in self._rows:
            return
        row = self._sums[self._rows[task]]
        loss = loss_sum.detach().double()
        weights = batch.weights.double() * loss.isfinite()  # (E,)
        row[0] += weights.sum()
        row[1] += torch.where(loss.isfinite(), loss, 0.0)
        columns = self.classes[task]
        if task in self.by_place:
            row[2] += (batch.example_offsets.diff().double().log() * weights).sum()
        else:
            row[2] += math.log(columns) * weights.sum()
        row[_COUNTS:].index_add_(0, batch.fields["label"].clamp(max=columns - 1), weights)

    def check(self, step: int, probe: Callable[[str], Probe]) -> Collapse | None:
        """Whether training has collapsed, after ``step`` steps; to be called after each. Collective.

        Does nothing but at the end of a block. ``probe`` looks at a task's examples without dropout
        (:func:`xtrain.training.probe.probe`); it is called on all ranks, and only where a task learns nothing. A
        collapse that lasts is told once.
        """
        if step % self.block or not self._rows:
            return None
        dist.all_reduce(self._sums)
        self._blocks.append(self._sums.tolist())
        self._sums.zero_()
        if len(self._blocks) < BLOCKS or step - self.window < self.first_step:
            return None
        findings = self._findings(probe)
        told, self._standing = self._standing, bool(findings)
        if not findings or told:
            return None
        self.found_at.append(step)
        return Collapse(step, self.window, findings)

    def _findings(self, probe: Callable[[str], Probe]) -> dict[str, str]:
        """What was found of each task that can be judged; empty unless all of them have collapsed."""
        windows = {}
        for task, row in self._rows.items():
            sums = [sum(column) for column in zip(*(block[row] for block in self._blocks), strict=True)]
            if sums[0] and (window := Window.of(sums)).judged:
                windows[task] = window
        self._learnt |= {task for task, window in windows.items() if window.loss < LEARNT * window.baseline}
        if any(window.loss < NOT_BETTER * window.baseline for window in windows.values()):
            return {}
        found = {task: self._judged(task, window, probe) for task, window in windows.items()}
        return {} if "" in found.values() else found

    def _judged(self, task: str, window: Window, probe: Callable[[str], Probe]) -> str:
        """What is wrong with a task that learns nothing, or nothing where it may yet learn."""
        look = probe(task)
        facts = (
            f"the mean loss is {window.loss:.3f}, always answering the class frequencies has {window.baseline:.3f}; "
            f"without dropout {100 * look.share:.0f} % of {look.num_examples} predictions are one class, with "
            f"{100 * look.entropy:.1f} % of the entropy of equal probabilities, and features differ by "
            f"{100 * look.spread:.2g} %"
        )
        one_answer = look.entropy >= EQUAL if task in self.by_place else look.share >= ONE_CLASS
        if look.spread < ALIKE:
            return f"all inputs look alike to the model: {facts}"
        if task in self._learnt and one_answer:
            return f"the model learnt something and lost it, and gives one answer to all inputs: {facts}"
        if window.loss >= DIVERGED * window.chance:
            return f"training has diverged: {facts}"
        return ""

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps, as JSON has it, the same on every rank; collective."""
        return {
            "blocks": list(self._blocks),
            "sums": of_all_ranks(self._sums),
            "learnt": sorted(self._learnt),
            "standing": self._standing,
            "found_at": list(self.found_at),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take back what :meth:`state` gave, with any number of ranks."""
        self._blocks.clear()
        self._blocks.extend(state["blocks"])
        take_back(self._sums, state["sums"])
        self._learnt = set(state["learnt"])
        self._standing = bool(state["standing"])
        self.found_at = [int(step) for step in state["found_at"]]
