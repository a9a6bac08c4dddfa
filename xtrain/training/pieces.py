"""What ZeRO keeps of each parameter on this rank, fp32 weights and Adam's moments, as pieces of flat parameters."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from xtrain.model.sharded_weights import KEY
from xtrain.training.optimizer import lead_to

WEIGHTS, EXP_AVG, EXP_AVG_SQ = "weights", "exp_avg", "exp_avg_sq"
MOMENTS = (EXP_AVG, EXP_AVG_SQ)
STATE_KINDS = (WEIGHTS, *MOMENTS)


@dataclass(frozen=True)
class Piece:
    """Elements ``start`` to ``start + count`` of one flattened parameter, and where they lie on this rank.

    The tensor that a kind of state lies in is ``flat`` for the fp32 weights, and for Adam's moments a tensor of
    the same shape in the optimizer's state; the elements are those from ``offset``.
    """

    name: str
    start: int
    count: int
    flat: Tensor
    offset: int

    @property
    def key(self) -> str:
        """Its name in a file of a checkpoint."""
        return KEY.format(name=self.name, start=self.start)


class ZeroState:
    """The state of DeepSpeed's engine in any of its stages, seen as pieces.

    DeepSpeed's own checkpoints are pickles whose layout depends on the stage and on the number of ranks. These
    pieces depend on neither: what one layout has written, any other can read.
    """

    def __init__(self, engine: Any, stage: int) -> None:
        self._engine, self._stage = engine, stage
        self._module: nn.Module = engine.module

    @property
    def _adam(self) -> torch.optim.Optimizer:
        """The optimizer below DeepSpeed's."""
        adam: torch.optim.Optimizer = self._engine.optimizer if self._stage == 0 else self._engine.optimizer.optimizer
        return adam

    def held(self) -> list[Piece]:
        """Everything that this rank keeps: what it needs back."""
        return list({0: self._replicated, 3: self._partitioned}.get(self._stage, self._sharded)())

    def owned(self) -> list[Piece]:
        """This rank's share of everything: all ranks together have each element once."""
        if self._stage != 0:
            return self.held()
        rank, world_size = dist.get_rank(), dist.get_world_size()
        shares = []
        for piece in self.held():  # every rank has all of it, and each writes a part
            size = -(-piece.count // world_size)
            start = min(rank * size, piece.count)
            count = min(size, piece.count - start)
            if count:
                shares.append(Piece(piece.name, start, count, piece.flat, start))
        return shares

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Trained parameter -> its whole shape."""
        return {
            name: tuple(getattr(parameter, "ds_shape", parameter.shape))
            for name, parameter in self._module.named_parameters()
            if parameter.requires_grad
        }

    def view(self, piece: Piece, kind: str) -> Tensor | None:
        """The live elements of ``piece``, (count,) fp32; None for moments that no step has made yet."""
        whole: Tensor | None = piece.flat if kind == WEIGHTS else self._adam.state.get(piece.flat, {}).get(kind)
        return None if whole is None else whole.detach().reshape(-1).narrow(0, piece.offset, piece.count)

    def make_moments(self, num_updates: int) -> None:
        """Make sure that Adam has its state everywhere, as after ``num_updates`` updates; the moments are zero."""
        adam = self._adam
        for flat in {id(piece.flat): piece.flat for piece in self.held()}.values():
            state = adam.state[flat]
            for kind in MOMENTS:
                state[kind] = torch.zeros_like(flat, memory_format=torch.preserve_format).detach()
            # torch counts in a tensor beside the weights, DeepSpeed's optimizers in an int
            torchs = isinstance(adam, torch.optim.AdamW)
            state["step"] = torch.tensor(float(num_updates), device=flat.device) if torchs else num_updates
        lead_to(adam, num_updates)

    @torch.no_grad()
    def spread(self) -> None:
        """Bring the weights of the model, in whatever precision, in line with the fp32 ones; collective."""
        optimizer = self._engine.optimizer
        if self._stage in (1, 2):
            optimizer.update_lp_params()
        elif self._stage == 3:
            for number, flat in enumerate(optimizer.fp32_partitioned_groups_flat):
                rounded = optimizer.fp16_partitioned_groups_flat[number]
                rounded.data.copy_(flat.data)
                parameters = optimizer.fp16_partitioned_groups[number]
                for partition, part in zip(parameters, optimizer.unflatten(rounded, parameters), strict=True):
                    partition.data = part.data
            if optimizer.persistent_parameters:  # small ones are kept whole on every rank
                optimizer.persistent_parameters[0].partition(optimizer.persistent_parameters)
            optimizer.checkpoint_event_epilogue()

    def _trained(self) -> Iterator[tuple[str, nn.Parameter]]:
        return ((name, p) for name, p in self._module.named_parameters() if p.requires_grad)

    def _replicated(self) -> Iterator[Piece]:
        """Stage 0 (fp32 alone): every rank has every parameter."""
        for name, parameter in self._trained():
            yield Piece(name, 0, parameter.numel(), parameter, 0)

    def _sharded(self) -> Iterator[Piece]:
        """Stages 1 and 2: all parameters of a group end to end, cut into one partition a rank."""
        flats = self._engine.optimizer.single_partition_of_fp32_groups
        for name, parameter in self._trained():
            mapping = parameter._hp_mapping  # type: ignore[attr-defined]
            if mapping is not None:  # otherwise none of it is on this rank
                place, here = mapping.lp_fragment_address, mapping.hp_fragment_address
                yield Piece(name, place.start, place.numel, flats[mapping.param_group_index], here.start)

    def _partitioned(self) -> Iterator[Piece]:
        """Stage 3: each parameter cut into one part a rank, the last one padded."""
        optimizer, rank = self._engine.optimizer, dist.get_rank()
        for name, parameter in self._trained():
            group, offset, size = optimizer.grad_position[optimizer.get_param_id(parameter)]
            start = rank * size
            count = min(size, parameter.ds_numel - start)  # type: ignore[attr-defined]
            if count > 0:
                yield Piece(name, start, count, optimizer.fp32_partitioned_groups_flat[group], offset)
