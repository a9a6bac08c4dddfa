"""Tokens per second and model FLOPs utilisation, on real tokens and dense peak rates only."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import torch

# Dense bf16 peak of a device in FLOP/s, by words of its name (vendors' data sheets, without sparsity). The first whose
# words are all there counts: cards of one chip differ in power, and so in rate. Others have none rather than a guess.
DENSE_BF16_PEAK = (
    ("B200", 2250e12),
    ("GH200", 989e12),
    ("H200 NVL", 835e12),
    ("H200", 989e12),
    ("H100 NVL", 835e12),
    ("H100 PCIe", 756e12),
    ("H100 80GB HBM3", 989e12),
    ("A100", 312e12),
    ("L40S", 362e12),
    ("L40", 181e12),
    ("MI300X", 1307e12),
)


def training_flops(
    num_tokens: int, sum_squared_lengths: int, matrix_parameters: int, num_layers: int, hidden: int
) -> float:
    """FLOPs of forward and backward.

    6 per token and parameter of a matrix (Kaplan et al. 2020, section 2.1), and for attention 12 per layer,
    hidden unit and pair of tokens that meet: two products of 2 * hidden each, three times (forward, and twice in
    backward). Embedding rows are looked up, not multiplied, and so are not counted.
    """
    return 6.0 * matrix_parameters * num_tokens + 12.0 * num_layers * hidden * sum_squared_lengths


def device_peak() -> float | None:
    """The dense bf16 peak of this rank's device in FLOP/s, or None where it is not known."""
    if not torch.cuda.is_available():
        return None
    return peak_of(torch.cuda.get_device_name())


def peak_of(name: str) -> float | None:
    """The same for a device of this name, such as ``NVIDIA H100 PCIe``; parts of a card (MIG) have none."""
    words = name.replace("-", " ").split()
    if "MIG" in words:
        return None
    return next((peak for wanted, peak in DENSE_BF16_PEAK if set(wanted.split()) <= set(words)), None)


@dataclass
class Throughput:
    """Counts tokens and FLOPs between two readings; evaluation and saving are kept out by :meth:`pause`."""

    num_tokens: int = 0
    flops: float = 0.0
    _seconds: float = 0.0
    _since: float | None = field(default_factory=time.perf_counter)  # None while the clock is stopped

    def add(self, num_tokens: int, flops: float) -> None:
        """Count a global step: its real tokens over all ranks."""
        self.num_tokens += num_tokens
        self.flops += flops

    @property
    def seconds(self) -> float:
        """Since the last reading, as far as the clock ran."""
        return self._seconds + (time.perf_counter() - self._since if self._since is not None else 0.0)

    def pause(self) -> None:
        """Stop the clock."""
        self._seconds, self._since = self.seconds, None

    def go_on(self) -> None:
        """Start the clock again."""
        self._since = time.perf_counter()

    def read(self, world_size: int) -> dict[str, float]:
        """Rates since the last reading, and start anew; ``mfu`` in percent where the peak is known."""
        self.pause()
        seconds = max(self._seconds, 1e-9)
        rates = {"tokens_per_second": self.num_tokens / seconds, "seconds": seconds}
        peak = device_peak()
        if peak is not None:
            rates["mfu"] = 100.0 * self.flops / seconds / (peak * world_size)
        self.num_tokens, self.flops, self._seconds = 0, 0.0, 0.0
        self.go_on()
        return rates
