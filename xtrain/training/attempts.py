"""What becomes of a collapsed training: it begins anew with another seed, or has failed; either is on record."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch.distributed as dist

from xtrain.files import read_json
from xtrain.run_directory import RunDirectory
from xtrain.study import Recipe
from xtrain.training.collapse import Collapse
from xtrain.training.observer import Events

STOP, RESEED, CONTINUE = "stop", "reseed", "continue"  # recipe.*.on_collapse


class Collapsed(Exception):
    """Training has collapsed; raised on all ranks after the same step."""

    def __init__(self, collapse: Collapse) -> None:
        self.collapse = collapse
        super().__init__(collapse.reason)


class TrainingFailed(Exception):
    """The experiment itself failed, by no mistake of anyone's: it is recorded, and ends with ``EXIT_FAILED``."""

    def __init__(self, reason: str, step: int) -> None:
        self.reason, self.step = reason, step
        super().__init__(reason)


@dataclass(frozen=True)
class Attempt:
    """A training that collapsed."""

    attempt: int
    """From 0."""
    seed: int
    collapsed_at: int
    """Optimizer steps done when that was found."""
    reason: str


@dataclass
class Attempts:
    """The trainings of a phase that collapsed, oldest first: ``attempts.json`` of its run directory.

    Every rank has it, and rank 0 alone writes.
    """

    run: RunDirectory
    phase_seed: int
    recipe: Recipe
    gone: list[Attempt] = field(default_factory=list)

    @classmethod
    def of(cls, run: RunDirectory, phase_seed: int, recipe: Recipe) -> Attempts:
        """What is on record.

        Where that was all that the policy allows, and yet the phase is run, its ``FAILED`` was taken away to have it
        repeated: then it begins at the first attempt.
        """
        attempts = cls(run, phase_seed, recipe)
        if run.attempts.is_file():
            attempts.gone = [Attempt(**entry) for entry in read_json(run.attempts)]
        if not attempts.another:
            attempts.gone = []
        return attempts

    @property
    def number(self) -> int:
        """The attempt under way, from 0."""
        return len(self.gone)

    @property
    def seed(self) -> int:
        """The seed of the attempt under way: the phase's own, then ones derived from it."""
        return attempt_seed(self.phase_seed, self.number)

    @property
    def another(self) -> bool:
        """Whether the policy allows attempt :attr:`number`: the first always, then ``max_reseeds`` more."""
        return not self.number or (self.recipe.on_collapse == RESEED and self.number <= self.recipe.max_reseeds)

    def collapsed(self, collapsed: Collapsed, observer: Events) -> None:
        """Record that the attempt under way collapsed; on all ranks.

        Raises :class:`TrainingFailed`, on all ranks, where the policy allows no other; the phase is then marked as
        failed. Else :attr:`seed` is the next attempt's.
        """
        collapse, seed, first = collapsed.collapse, self.seed, dist.get_rank() == 0
        observer.event("collapse", step=collapse.step, attempt=self.number, seed=seed, **collapse.fields())
        self.gone.append(Attempt(self.number, seed, collapse.step, collapse.reason))
        tried = f", as did {self.number - 1} before it" if self.number > 1 else ""
        reason = f"training collapsed{tried}: {collapse.reason}"
        if first and not self.another:
            self.run.mark_failed(reason, collapse.step)  # first: a phase with this marker is not begun again
        if first:
            self.run.write_json(self.run.attempts, [asdict(attempt) for attempt in self.gone])
        if not self.another:
            raise TrainingFailed(reason, collapse.step)
        observer.event("reseed", attempt=self.number, seed=self.seed, max_reseeds=self.recipe.max_reseeds)

    def summary(self, ignored: Sequence[int] = ()) -> dict[str, Any]:
        """What ``DONE`` says of it: ``reseeds``, and the steps at which collapses were found.

        ``ignored`` are those of the last attempt, where ``on_collapse = "continue"`` went on all the same.
        """
        return {"reseeds": self.number, "collapses": [*(attempt.collapsed_at for attempt in self.gone), *ignored]}


def attempt_seed(seed: int, attempt: int) -> int:
    """The seed of an attempt: ``seed`` itself for the first, one derived from both for later ones."""
    if attempt == 0:
        return seed
    return int(np.random.SeedSequence([seed, attempt]).generate_state(1)[0])
