"""One rank of a phase: all that training and evaluation are given."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from xtrain.dispatch.rendezvous import Ranks
from xtrain.phase.file import PhaseFile
from xtrain.phase.observer import PhaseObserver
from xtrain.run_directory import RunDirectory
from xtrain.training.guard import Guard


@dataclass(frozen=True)
class PhaseRank:
    """What a rank knows when its work begins."""

    run: RunDirectory
    phase: PhaseFile
    ranks: Ranks
    device: torch.device
    observer: PhaseObserver
    guard: Guard
    environment: dict[str, Any]
    """Versions, device and ranks; choices that are made on the way are added."""
