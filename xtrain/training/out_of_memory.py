"""Out of memory, told by the batch that was too large and the setting that makes it smaller."""

from __future__ import annotations

import contextlib
import errno
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from xtrain.data import JoinedShard, Shard
from xtrain.data.batches import ranges
from xtrain.errors import Problem, UserError, listed
from xtrain.study import Engine as EngineSettings
from xtrain.training.budget import available_memory, size_in_words
from xtrain.training.plan import GlobalBatch, Plan

# What torch, CUDA, cuBLAS, cuDNN, NCCL and C++ say where they raise no class of their own.
_SAYINGS = re.compile(
    r"out of memory|can(no|')t allocate memory|not enough memory|_ALLOC_FAILED|MemoryAllocation|std::bad_alloc",
    re.IGNORECASE,
)
_ASKED = re.compile(r"(?:tried|unable) to allocate ([\d.,]+) (bytes|[KMGTPE]iB)", re.IGNORECASE)
_SMALLEST = 16  # what engine.tokens_per_micro_batch may be
_ROUND = 64  # a suggestion is a multiple of it
_SHOWN_IDS = 8
_STAGES = ("zero3", "zero3_offload")  # of ds_configs/: what takes less memory, and what takes least


def is_out_of_memory(error: BaseException) -> bool:
    """Whether ``error`` says that a device or the host has no memory left. A full disk is something else."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, RuntimeError) and _SAYINGS.search(str(error)) is not None


@dataclass(frozen=True)
class MicroBatch:
    """Which micro-batch a rank is at. Making one costs nothing; what it holds is looked up when it has failed."""

    step: int
    """Optimizer steps done before it."""
    number: int
    """Its number in the step, from 0."""
    count: int
    """How many the step has."""
    rank: int
    plan: Plan
    positions: np.ndarray
    """Of its examples in the global batch of ``step``, (E,)."""

    @property
    def where(self) -> str:
        """Its place in training; steps count from 1, as in ``metrics.jsonl``."""
        return f"step {self.step + 1}, micro-batch {self.number + 1} of {self.count} on rank {self.rank}"

    @property
    def num_tokens(self) -> int:
        """T, the tokens in it."""
        return int(self._lengths.sum())

    @property
    def longest_example(self) -> int:
        """Tokens of its longest example, which has to stay in one micro-batch."""
        return int(self._lengths.max())

    def __str__(self) -> str:
        shard, indices = self._whole.shard, self._whole.indices[self.positions]
        sizes = _sequence_lengths(shard, indices)
        return (
            f"{self.num_tokens:,} tokens in {len(sizes):,} sequences, the longest of {int(sizes.max()):,} "
            f"(task {self._whole.task}, examples {listed(shard.ids(indices), _SHOWN_IDS)})"
        )

    @cached_property
    def _whole(self) -> GlobalBatch:
        return self.plan.batch(self.step)

    @property
    def _lengths(self) -> np.ndarray:
        lengths: np.ndarray = self._whole.lengths[self.positions]  # (E,)
        return lengths


@contextlib.contextmanager
def naming_batch(batch: MicroBatch, settings: EngineSettings, device: torch.device) -> Iterator[None]:
    """Turn running out of memory inside into a :class:`UserError` that names the batch and a smaller setting."""
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise UserError(_batch_problem(batch, settings, device, error)) from error


@contextlib.contextmanager
def naming_work(where: str, work: str, settings: EngineSettings, device: torch.device) -> Iterator[None]:
    """The same where no batch is to blame: ``where`` as of a Problem, ``work`` such as "the optimizer's update"."""
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        what = f"out of memory in {work}; {_memory(device, error)}"
        raise UserError(Problem(where, what, remedy="; or ".join(_less_state(settings, device)))) from error


def smaller_budget(num_tokens: int, longest_example: int) -> int | None:
    """The ``engine.tokens_per_micro_batch`` to try after ``num_tokens`` were too many; None where none is smaller.

    Half, rounded down to a multiple of 64, but not below the longest example: that one is never cut.
    """
    if num_tokens <= max(longest_example, _SMALLEST):
        return None
    half = num_tokens // 2
    half -= half % _ROUND if half > _ROUND else 0
    return max(half, longest_example, _SMALLEST)


def _batch_problem(batch: MicroBatch, settings: EngineSettings, device: torch.device, error: BaseException) -> Problem:
    memory = _memory(device, error)
    try:
        what, tokens, longest = str(batch), batch.num_tokens, batch.longest_example
    except Exception:  # no memory left, not even for this: better half a message than none
        return Problem(batch.where, f"out of memory; {memory}", remedy="lower engine.tokens_per_micro_batch")
    budget = smaller_budget(tokens, longest)
    if budget is None:
        first = f"lower recipe.*.max_length (one example, of {longest:,} tokens, is the smallest micro-batch there is)"
    else:
        now = settings.tokens_per_micro_batch
        first = f"set engine.tokens_per_micro_batch = {budget} (now {now}): the same steps in more micro-batches"
    remedy = "; or ".join([first, *_fragments(device), *_less_state(settings, device)])
    return Problem(batch.where, f"out of memory with {what}; {memory}", remedy=remedy)


def _sequence_lengths(shard: Shard | JoinedShard, indices: np.ndarray) -> np.ndarray:
    """Tokens of each sequence of the examples ``indices``, (B,)."""
    if isinstance(shard, JoinedShard):
        return np.concatenate([_sequence_lengths(part, local) for part, local, _ in shard.divided(indices)])
    first = shard.example_offsets[indices]
    sequences = ranges(first, shard.example_offsets[indices + 1] - first)
    lengths: np.ndarray = shard.sequence_offsets[sequences + 1] - shard.sequence_offsets[sequences]
    return lengths


def _less_state(settings: EngineSettings, device: torch.device) -> list[str]:
    """How the model and the optimizer's state take less of each rank's memory."""
    now = settings.ds_config
    if device.type == "cuda":
        smaller = _STAGES[_STAGES.index(now) + 1 :] if now in _STAGES else _STAGES
        more = "use more GPUs: the optimizer's state is divided among them"
    else:  # there is nowhere to offload to
        smaller = () if now in _STAGES else _STAGES[:1]
        more = "use more nodes, or a job with more memory"
    names = " or ".join(f'"{name}"' for name in smaller)
    return [f"set engine.ds_config = {names}", more] if names else [more]


def _memory(device: torch.device, error: BaseException) -> str:
    """What was asked for, and what there is."""
    said = []
    asked = _ASKED.search(str(error))
    if asked is not None:
        number, unit = asked.groups()
        size = size_in_words(int(number.replace(",", ""))) if unit == "bytes" else f"{number} {unit}"
        said.append(f"{size} more were asked for")
    # An error of the driver's can make every later call fail, and a host without memory cannot read files.
    with contextlib.suppress(Exception):
        # with a GPU, too, the host's memory can run out
        host = isinstance(error, (MemoryError, OSError)) or "DefaultCPUAllocator" in str(error)
        said.append(_host_memory() if host or device.type != "cuda" else _device_memory(device))
    return ", and ".join(said) or str(error).partition("\n")[0]


def _device_memory(device: torch.device) -> str:
    free, total = torch.cuda.mem_get_info(device)
    allocated, reserved = torch.cuda.memory_allocated(device), torch.cuda.memory_reserved(device)
    return (
        f"{device} has {size_in_words(free)} free of {size_in_words(total)} (this process: "
        f"{size_in_words(allocated)} in use, {size_in_words(reserved)} reserved)"
    )


def _host_memory() -> str:
    used = re.search(r"VmRSS:\s+(\d+) kB", Path("/proc/self/status").read_text("utf-8"))
    taken = f" (this process takes {size_in_words(int(used.group(1)) * 1024)})" if used else ""
    return f"the host has {size_in_words(available_memory())} left{taken}"


def _fragments(device: torch.device) -> list[str]:
    """Where much of a GPU is reserved in pieces that are too small, the setting that lets them grow together."""
    if device.type != "cuda":
        return []
    with contextlib.suppress(Exception):
        idle = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        if idle > torch.cuda.mem_get_info(device)[1] // 10:
            return [f"export PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True ({size_in_words(idle)} lie idle)"]
    return []
