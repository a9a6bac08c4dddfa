"""Selection on dev: the best step so far, and whether patience has run out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass
class Selection:
    """Early stopping: higher is better; the first of equal scores is kept."""

    patience: int
    best_score: float = float("-inf")
    best_step: int = -1
    num_without_best: int = 0

    def update(self, step: int, score: float) -> bool:
        """Take the score after ``step`` steps; whether it is the best so far."""
        if score > self.best_score:
            self.best_score, self.best_step, self.num_without_best = score, step, 0
            return True
        self.num_without_best += 1
        return False

    def forget_best(self) -> None:
        """The weights of the best step are lost: the next that is evaluated takes its place."""
        self.best_score, self.best_step, self.num_without_best = float("-inf"), -1, 0

    @property
    def exhausted(self) -> bool:
        """Whether training should stop."""
        return self.num_without_best >= self.patience

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {
            "best_score": self.best_score,
            "best_step": self.best_step,
            "num_without_best": self.num_without_best,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take back what :meth:`state` gave."""
        self.best_score = float(state["best_score"])
        self.best_step = int(state["best_step"])
        self.num_without_best = int(state["num_without_best"])
