"""The learning rate as a pure function of the optimizer step, and what follows from it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from xtrain.model import untouched_decay


@dataclass(frozen=True)
class LinearSchedule:
    """Linear warm-up from 0 to ``peak``, then linear decay to 0 (as jiant and transformers have it)."""

    peak: float
    num_steps: int
    num_warmup_steps: int

    @classmethod
    def of(cls, peak: float, num_steps: int, warmup_ratio: float) -> LinearSchedule:
        """The schedule of a run of ``num_steps`` that warms up over a share of them (rounded up)."""
        return cls(peak, num_steps, math.ceil(num_steps * warmup_ratio))

    def __call__(self, step: int) -> float:
        """The rate that optimizer step ``step`` (from 0) uses."""
        if step < self.num_warmup_steps:
            return self.peak * step / max(1, self.num_warmup_steps)
        left = max(0, self.num_steps - step)
        return self.peak * left / max(1, self.num_steps - self.num_warmup_steps)

    def decay_factor(self, weight_decay: float, step: int) -> float:
        """What ``step`` steps of AdamW's decoupled decay leave of a weight that never has a gradient.

        AdamW multiplies a weight by (1 - rate * decay) before its update (Loshchilov and Hutter 2019,
        algorithm 2); with no gradient ever, both moments are 0 and so is the update.
        """
        return untouched_decay((self(n) for n in range(step)), weight_decay)
