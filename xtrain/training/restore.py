"""Going on from a checkpoint: the newest that verifies, whatever number of ranks and ZeRO stage wrote it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xtrain.checkpoints import TRAINER, CheckpointFolder, Commit, commit_name, damage
from xtrain.errors import Problem, UserError
from xtrain.files import read_json
from xtrain.model.sharded_weights import ShardedWeights
from xtrain.training.agreement import Agreement
from xtrain.training.observer import Events
from xtrain.training.pieces import STATE_KINDS, WEIGHTS, ZeroState


@dataclass(frozen=True)
class Found:
    """The checkpoint to go on from."""

    commit: Commit
    has_best: bool = True
    """Whether the best weights that its selection speaks of are there, if it speaks of any."""


def newest(folder: CheckpointFolder, phase: str, seed: int, agreement: Agreement, observer: Events) -> Found | None:
    """The newest checkpoint of ``phase`` from ``seed`` that all ranks together find whole; collective.

    A broken one is set aside, and said so. A checkpoint needs the best weights that its selection speaks of; where
    they are broken, an older checkpoint that speaks of others is taken. Only if there is none training goes on without
    its best weights so far, and says that too.
    """
    if agreement.rank == 0:
        folder.clean()
        for entry in folder.damaged():
            _set_aside(folder, entry.path.name, "; ".join(entry.damage), observer)
    names = agreement.first([commit.name for commit in reversed(folder.commits())])
    without_best: list[tuple[Commit, str]] = []
    for name in names:
        commit = _verified(folder, name, phase, agreement, observer)
        if commit is None:
            continue
        state = trainer_state(commit.path)
        if int(state["seed"]) != seed:  # of an attempt that collapsed, killed before it was cleared away
            agreement.barrier()
            if agreement.rank == 0:
                _set_aside(folder, name, f"it is of seed {state['seed']}, not {seed}", observer)
            agreement.barrier()
            continue
        best = int(state["selection"]["best_step"])
        if best < 0 or _verified(folder, commit_name("best", best), phase, agreement, observer) is not None:
            return Found(commit)
        without_best.append((commit, commit_name("best", best)))
        observer.event("passed_over", checkpoint=name, missing=without_best[-1][1])
    if not without_best:
        return None
    commit, best_folder = without_best[0]
    observer.event("best_lost", checkpoint=commit.name, missing=best_folder)
    return Found(commit, has_best=False)


def _verified(folder: CheckpointFolder, name: str, phase: str, agreement: Agreement, observer: Events) -> Commit | None:
    """The commit if every file of it has the bytes that were written; ranks share the hashing."""
    commit = folder.find(name)
    if commit is None:
        found = [f"{name} is not there"]
    elif commit.manifest.phase != phase:
        found = [f"it is of phase {commit.manifest.phase}, not {phase}"]
    else:
        own = sorted(commit.manifest.files)[agreement.rank :: agreement.world_size]
        found = damage(commit.path, deep=True, names=own)
    reasons = list(dict.fromkeys(reason for rank in agreement.gather(found) for reason in rank))
    if not reasons:
        folder.vouch(name)
        return commit
    if agreement.rank == 0:
        _set_aside(folder, name, "; ".join(reasons), observer)
    agreement.barrier()
    return None


def _set_aside(folder: CheckpointFolder, name: str, reason: str, observer: Events) -> None:
    if os.path.lexists(folder.path / name):
        moved = folder.set_aside(name, reason).name
        observer.event("checkpoint_broken", checkpoint=name, reason=reason, moved_to=moved)


def fill(state: ZeroState, commit: Commit, num_updates: int) -> None:
    """Bring weights and moments of ``commit`` into the engine; each rank reads what it holds. Collective."""
    _check_parameters(state.shapes(), commit)
    state.make_moments(num_updates)
    kinds = STATE_KINDS if commit.manifest.kind == "full" else (WEIGHTS,)
    for kind in kinds:
        saved = ShardedWeights(commit.path, commit.manifest.parameters, commit.manifest.files, kind)
        for piece in state.held():
            live = state.view(piece, kind)
            assert live is not None
            saved.read(piece.name, piece.start, piece.start + piece.count, live)
    state.spread()


def _check_parameters(shapes: Mapping[str, Sequence[int]], commit: Commit) -> None:
    saved = commit.manifest.parameters
    other = [name for name in {*shapes, *saved} if tuple(shapes.get(name, ())) != tuple(saved.get(name, ()))]
    if other:
        name = min(other)
        raise UserError(
            Problem(
                str(commit.path),
                f"parameter {name} has shape {tuple(saved.get(name, ())) or 'none'}, "
                f"the model {tuple(shapes.get(name, ())) or 'none'}; {len(other)} differ",
                remedy="the base model or the data changed since it was saved: remove the run directory to begin anew",
            )
        )


def trainer_state(folder: Path) -> dict[str, Any]:
    """What ``trainer.json`` of a checkpoint says."""
    state: dict[str, Any] = read_json(folder / TRAINER)
    return state
