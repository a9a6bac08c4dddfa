"""Which examples meet in which global batch: a function of the seed and the step, and of nothing else."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from xtrain.data.draws import EPOCH, MIXTURE, PART, WINDOW, draw

IntArray = npt.NDArray[np.int64]


def _permutation(seed: int, purpose: int, number: int, count: int) -> IntArray:
    """A permutation of 0 to count - 1, (count,)."""
    return np.argsort(draw(seed, purpose, number, count), kind="stable")


class GlobalBatches:
    """The global batches of one task.

    The examples form an endless stream: epoch after epoch, each in an order drawn from (seed, epoch). The
    stream is cut into windows of ``window_batches`` batches. Inside a window the examples are sorted by
    length (ties stay in the order drawn), cut into batches of similar lengths, and the batches are put
    into an order drawn from (seed, window). A window may hold the end of an epoch and the beginning of the
    next, and with it an example twice. Every step but the last has ``batch_size`` examples.

    Where the examples are of several parts (languages), an epoch holds each part in proportion to its size to
    the power of ``exponent`` (Conneau and Lample 2019, arXiv 1901.07291): a small one more than once, a large
    one in part, and the rest of it in the epochs after.

    Memory is O(examples) for the two epochs used last; ``batch`` costs O(window) for the first step in a
    window, nothing for the others, and O(n log n) once an epoch.
    """

    def __init__(
        self,
        lengths: npt.ArrayLike,
        batch_size: int,
        seed: int,
        num_examples_total: int,
        window_batches: int = 0,
        parts: Sequence[int] = (),
        exponent: float = 1.0,
    ) -> None:
        """``lengths`` (E,) are the tokens of each example, ``num_examples_total`` is how many are drawn
        in all (epochs times E, or steps times ``batch_size``); 0 or 1 ``window_batches`` for no grouping.
        ``parts`` are the sizes of the parts, which lie one behind the other, E in all; none for one part.
        """
        self.lengths: IntArray = np.asarray(lengths, dtype=np.int64)
        assert self.lengths.size > 0
        assert min(batch_size, num_examples_total, window_batches + 1) > 0
        assert not parts or sum(parts) == self.lengths.size
        self.parts = tuple(parts) if exponent != 1.0 else ()
        self.shares = _shares(self.parts, exponent)
        self.batch_size, self.seed, self.total = batch_size, seed, num_examples_total
        self.window_batches = max(1, window_batches)
        self._keep_last()

    def _keep_last(self) -> None:
        self._epoch = lru_cache(maxsize=2)(self._draw_epoch)
        self._window = lru_cache(maxsize=2)(self._draw_window)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in ("_epoch", "_window")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._keep_last()

    @property
    def num_steps(self) -> int:
        """How many global batches there are."""
        return -(-self.total // self.batch_size)

    def batch(self, step: int) -> IntArray:
        """The examples of global step ``step`` (from 0), at most ``batch_size``, (E,)."""
        assert 0 <= step < self.num_steps, f"step {step} of {self.num_steps}"
        window, place = divmod(step, self.window_batches)
        return self._window(window)[place]

    def stream(self, begin: int, end: int) -> IntArray:
        """The examples at positions ``begin`` to ``end`` of the stream, before any grouping."""
        size = len(self.lengths)
        parts = []
        for epoch in range(begin // size, -(-end // size)):
            first, last = max(begin - epoch * size, 0), min(end - epoch * size, size)
            parts.append(self._epoch(epoch)[first:last])
        return np.concatenate(parts)

    def _draw_epoch(self, epoch: int) -> IntArray:
        order = _permutation(self.seed, EPOCH, epoch, len(self.lengths))
        if not self.parts:
            return order
        drawn, offset = [], 0
        for number, (size, share) in enumerate(zip(self.parts, self.shares, strict=True)):
            drawn.append(offset + self._of_part(number, size, epoch * share, (epoch + 1) * share))
            offset += size
        return np.concatenate(drawn)[order]

    def _of_part(self, number: int, size: int, begin: int, end: int) -> IntArray:
        """Positions ``begin`` to ``end`` of a part's own endless stream of permutations."""
        turns = range(begin // size, -(-end // size))
        rounds = [_permutation(self.seed, PART, (number << 32) | turn, size) for turn in turns]
        first = begin - turns.start * size
        return np.concatenate([np.empty(0, np.int64), *rounds])[first : first + end - begin]

    def _draw_window(self, window: int) -> list[IntArray]:
        examples = self.window_batches * self.batch_size
        indices = self.stream(window * examples, min((window + 1) * examples, self.total))
        if self.window_batches > 1:
            indices = indices[np.argsort(self.lengths[indices], kind="stable")]
        full = len(indices) // self.batch_size
        batches = [indices[n * self.batch_size : (n + 1) * self.batch_size] for n in range(full)]
        order = _permutation(self.seed, WINDOW, window, full)
        rest = indices[full * self.batch_size :]  # only at the very end
        return [batches[n] for n in order] + ([rest] if len(rest) else [])


def _shares(sizes: Sequence[int], exponent: float) -> tuple[int, ...]:
    """How many examples of each part an epoch has: proportional to size ** exponent, as many as before in all."""
    if not sizes:
        return ()
    powers = np.array(sizes, dtype=np.float64) ** exponent
    exact = powers / powers.sum() * sum(sizes)
    shares = np.floor(exact).astype(np.int64)
    for part in np.argsort(shares - exact, kind="stable")[: sum(sizes) - int(shares.sum())]:
        shares[part] += 1  # the largest remainders
    return tuple(int(share) for share in shares)


def mixing_shares(sizes: Sequence[int], cap: int, temperature: float) -> npt.NDArray[np.float64]:
    """The share of all steps that each task of a mixture has, (tasks,), by the examples ``sizes`` of each."""
    capped: npt.NDArray[np.float64] = np.minimum(np.array(sizes, dtype=np.float64), cap) ** (1.0 / temperature)
    shares: npt.NDArray[np.float64] = capped / capped.sum()
    return shares


class Mixture:
    """Which task has which global step, when several are trained at once.

    A task's share is p(task) = min(n, K)^(1/T) / sum over tasks of the same, where n is the number of
    examples, K ``cap`` and T ``temperature`` (Phang et al. 2020, as jiant implements it: K = 2^17, T = 1).
    The steps are drawn in strata and not one by one: the k-th step of a task comes at a place drawn from
    [k, k + 1) / p, so that after any number of steps each task has had its share but for a few.
    One task is the trivial case.
    """

    def __init__(
        self, sizes: Mapping[str, int], num_steps: int, seed: int, cap: int = 2**17, temperature: float = 1.0
    ) -> None:
        """``sizes`` are the training examples of each task, ``num_steps`` the optimizer steps in all."""
        assert min(sizes.values()) > 0
        assert min(num_steps, cap, temperature) > 0
        self.tasks = tuple(sizes)
        self.probabilities = mixing_shares(list(sizes.values()), cap, temperature)  # (tasks,)
        places, owners = [], []
        for number, share in enumerate(self.probabilities):
            # the first num_steps places lie below num_steps + tasks, and hold no more of this task
            count = math.ceil(share * (num_steps + len(self.tasks))) + 2
            uniform = (draw(seed, MIXTURE, number, count) >> np.uint64(11)) * 2.0**-53  # in [0, 1)
            places.append((np.arange(count) + uniform) / share)
            owners.append(np.full(count, number))
        order = np.argsort(np.concatenate(places), kind="stable")[:num_steps]
        self._task: IntArray = np.concatenate(owners)[order]  # (steps,)
        self._task_step = np.empty(num_steps, dtype=np.int64)
        for number in range(len(self.tasks)):
            mine = self._task == number
            self._task_step[mine] = np.arange(int(mine.sum()))

    @property
    def num_steps(self) -> int:
        """Steps of all tasks together."""
        return len(self._task)

    def at(self, step: int) -> tuple[str, int]:
        """The task of ``step``, and which of this task's own steps it is, both from 0."""
        return self.tasks[int(self._task[step])], int(self._task_step[step])

    def steps(self, task: str) -> int:
        """How many of all steps belong to ``task``: its :class:`GlobalBatches` needs this many."""
        return int((self._task == self.tasks.index(task)).sum())
