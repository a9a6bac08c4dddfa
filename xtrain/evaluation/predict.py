"""Predictions and sentence vectors of one shard, computed on all ranks, by example, each exactly once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist

from xtrain.data import Shard, collate, eval_batches
from xtrain.data.batches import PackedBatch, ranges
from xtrain.errors import Problem, UserError
from xtrain.evaluation.metrics import Array, Arrays
from xtrain.model import Encoder, PhaseModel, sentence_vectors

Transform = Callable[[PackedBatch], PackedBatch]  # done to each batch before the model sees it
Progress = Callable[[int], None]  # told the tokens of each finished micro-step, of all ranks together


class Ranks(Protocol):
    """Who takes part; anything with these three will do."""

    @property
    def rank(self) -> int:
        """This process."""

    @property
    def world_size(self) -> int:
        """How many processes take part."""

    def gather(self, value: Any) -> list[Any]:
        """The ``value`` of every rank, in the order of ranks, on every rank."""


@dataclass(frozen=True)
class GroupRanks:
    """The ranks of a process group; it has to be a CPU group (Gloo), for objects travel through it."""

    rank: int = 0
    world_size: int = 1
    group: dist.ProcessGroup | None = None

    @classmethod
    def of(cls, group: dist.ProcessGroup | None = None) -> GroupRanks:
        """The ranks of ``group`` (``None``: the default one), or a single rank if there is no group."""
        if not (dist.is_available() and dist.is_initialized()):
            return cls()
        return cls(dist.get_rank(group), dist.get_world_size(group), group)

    def gather(self, value: Any) -> list[Any]:
        """The ``value`` of every rank, in the order of ranks, on every rank."""
        if self.world_size == 1:
            return [value]
        gathered: list[Any] = [None] * self.world_size
        dist.all_gather_object(gathered, value, group=self.group)
        return gathered


SINGLE = GroupRanks()


@dataclass(frozen=True)
class Predictions:
    """What was predicted for the examples of a shard, in the shard's order, the same on every rank."""

    arrays: Arrays
    """What the head predicts, by name, (E, ...)."""
    loss: float
    """Mean loss an example."""

    def __len__(self) -> int:
        """E."""
        return len(next(iter(self.arrays.values())))


def predict(
    model: PhaseModel,
    shard: Shard,
    task: str,
    *,
    ranks: Ranks = SINGLE,
    tokens_per_batch: int = 16384,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
    transform: Transform | None = None,
) -> Predictions:
    """What the head of ``task`` predicts for the examples of ``shard``.

    Every rank must call this, and all get the same result; each runs the same number of forward passes,
    as ZeRO-3 needs. The model's training mode is restored. Raises :class:`UserError` if a logit is not
    a number.
    """
    part = predict_part(
        model, shard, task, ranks=ranks, tokens_per_batch=tokens_per_batch, device=device,
        progress=progress, transform=transform,
    )  # fmt: skip
    gathered = ranks.gather(part)
    arrays = _by_example(gathered, len(shard))
    return Predictions(arrays, sum(part[2] for part in gathered) / len(shard))


def predict_part(
    model: PhaseModel,
    shard: Shard,
    task: str,
    *,
    ranks: Ranks = SINGLE,
    tokens_per_batch: int = 16384,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
    transform: Transform | None = None,
) -> tuple[npt.NDArray[np.int64], dict[str, Array], float]:
    """What :func:`predict` gathers: the rows of this rank's examples, their predictions, and their summed loss.

    For what is too large to be on every rank. Each example is on one rank, in no order.
    """
    found: list[tuple[npt.NDArray[np.int64], dict[str, Array]]] = []
    loss_sum = 0.0
    head = model.head(task)
    with _inference(model):
        for batch in _micro_steps(shard, task, ranks, tokens_per_batch, device, progress, transform):
            loss, logits = model(batch)
            _check_numbers(torch.isnan(logits).any(), task, shard)
            loss_sum += float(loss)
            found.append(_of_weight_one(batch, head.predictions(logits, batch)))
    return *_joined(found), loss_sum


def vectors(
    encoder: Encoder,
    shard: Shard,
    task: str,
    *,
    layer: int,
    ranks: Ranks = SINGLE,
    tokens_per_batch: int = 16384,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
) -> npt.NDArray[np.float32]:
    """Vectors of the sequences of ``shard``, in its order, (B, H) fp32.

    A vector is the mean over all tokens of the output of block ``layer`` (from 1). As :func:`predict`
    in everything else.
    """
    found: list[tuple[npt.NDArray[np.int64], dict[str, Array]]] = []
    with _inference(encoder):
        for batch in _micro_steps(shard, task, ranks, tokens_per_batch, device, progress):
            pooled = sentence_vectors(encoder(batch, num_layers=layer), batch).float()  # (B, H)
            _check_numbers(torch.isnan(pooled).any(), task, shard)
            per_example = batch.host.example_offsets.diff().numpy()  # (E,)
            kept = np.repeat(batch.host.weights.numpy() > 0, per_example)  # (B,)
            rows = ranges(shard.example_offsets[batch.indices.numpy()], per_example)  # (B,) in the shard
            found.append((rows[kept], {"vectors": pooled.cpu().numpy()[kept]}))
    arrays = _by_example(ranks.gather(_joined(found)), int(shard.example_offsets[-1]))
    return arrays["vectors"].astype(np.float32, copy=False)


def embed(
    encoder: Encoder, shard: Shard, task: str, **how: Any
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Vectors of the sources and of the targets of a shard of pairs, both (E, H) fp32; as :func:`vectors`."""
    found = vectors(encoder, shard, task, **how)
    assert (np.diff(shard.example_offsets) == 2).all(), "an example is one source and one target"
    return found[0::2], found[1::2]


class _inference:
    """Evaluation mode and no gradients inside; the training mode that was set is back afterwards."""

    def __init__(self, module: torch.nn.Module) -> None:
        self.module, self.training = module, module.training
        # not inference_mode: ZeRO-3 gathers parameters in the forward pass and keeps what it made
        self.no_grad = torch.no_grad()

    def __enter__(self) -> None:
        self.module.eval()
        self.no_grad.__enter__()

    def __exit__(self, *exception: Any) -> None:
        self.no_grad.__exit__(*exception)
        self.module.train(self.training)


def _micro_steps(
    shard: Shard,
    task: str,
    ranks: Ranks,
    tokens_per_batch: int,
    device: torch.device | str,
    progress: Progress | None,
    transform: Transform | None = None,
) -> Iterator[PackedBatch]:
    """This rank's batches, as many as every other rank's."""
    lengths = shard.lengths
    assert len(lengths), f"no examples of {task} to predict"
    for micro_step in eval_batches(lengths, ranks.world_size, tokens_per_batch):
        positions, weights = micro_step[ranks.rank]
        batch = collate(shard, positions, task, weights)
        yield (batch if transform is None else transform(batch)).to(torch.device(device))
        if progress is not None:
            progress(sum(int(lengths[p[w > 0]].sum()) for p, w in micro_step))


def _check_numbers(bad: torch.Tensor, task: str, shard: Shard) -> None:
    if bool(bad):
        raise UserError(
            Problem(
                f"{task} on {shard.path}",
                "the encoder's output is not a number",
                remedy="the weights have diverged: train again with a lower learning rate, or in bf16 instead of fp16",
            )
        )


def _of_weight_one(batch: PackedBatch, arrays: Mapping[str, Array]) -> tuple[npt.NDArray[np.int64], dict[str, Array]]:
    """Row numbers and arrays of the examples that count; the others only filled this rank's batch."""
    kept = batch.weights.cpu().numpy() > 0  # (E,)
    return batch.indices.cpu().numpy()[kept], {name: np.asarray(value)[kept] for name, value in arrays.items()}


def _joined(
    parts: Sequence[tuple[npt.NDArray[np.int64], Mapping[str, Array]]],
) -> tuple[npt.NDArray[np.int64], dict[str, Array]]:
    """Batches of one rank, or the parts of all ranks, end to end."""
    parts = [part for part in parts if len(part[0])] or list(parts[:1])
    names = list(parts[0][1])
    return np.concatenate([part[0] for part in parts]), {n: _stacked([part[1][n] for part in parts]) for n in names}


def _stacked(arrays: Sequence[Array]) -> Array:
    """End to end; where questions have different numbers of choices, scores are padded with -inf."""
    if arrays[0].ndim == 2:
        width = max(array.shape[1] for array in arrays)
        arrays = [
            array
            if array.shape[1] == width
            else np.pad(array, ((0, 0), (0, width - array.shape[1])), constant_values=-np.inf)
            for array in arrays
        ]
    return np.concatenate(arrays)


def _by_example(gathered: Sequence[Sequence[Any]], count: int) -> dict[str, Array]:
    """The ranks' parts in the shard's order; each of ``count`` examples has to be there exactly once."""
    indices, arrays = _joined([(part[0], part[1]) for part in gathered])
    order = np.argsort(indices, kind="stable")
    assert np.array_equal(indices[order], np.arange(count)), "an example is missing, or was predicted twice"
    return {name: value[order] for name, value in arrays.items()}
