"""What a study says about tracking, and how it meets the environment (WANDB_MODE, WANDB_PROJECT)."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field

from xtrain.config import limits

MODES = ("auto", "online", "offline", "off")
DEFAULT_PROJECT = "xtrain"
FINISH_SECONDS = "XTRAIN_TRACKING_FINISH_SECONDS"  # environment variable over finish_timeout_seconds

# How much of the run leaves this process: the more private of two wishes is the smaller number.
_PRIVACY = {"off": 0, "offline": 1, "auto": 2, "online": 3}
_WANDB_MODES = {
    "disabled": "off",
    "offline": "offline",
    "dryrun": "offline",
    "online": "online",
    "run": "online",
}


@dataclass(frozen=True)
class TrackingSettings:
    """The ``[tracking]`` table of a study: W&B behind ``metrics.jsonl``."""

    mode: str = field(default="auto", metadata=limits(choices=MODES))
    # auto: online where W&B finds a key, else offline; WANDB_MODE can only make it more private
    project: str = ""
    # empty: WANDB_PROJECT, else "xtrain"
    entity: str = ""
    # empty: WANDB_ENTITY, else the key's own
    encoders: bool = True
    # each phase's encoder as a weights-only artifact; false saves the quota
    finish_timeout_seconds: float = field(default=30.0, metadata=limits(minimum=0.0))
    # how long the end of a phase waits for the upload (longer where an encoder is uploaded)
    answer_timeout_seconds: float = field(default=15.0, metadata=limits(above=0.0))
    # a server that has not answered by then counts as away: an event says so, and the end does not wait


def chosen_mode(settings: TrackingSettings, environ: Mapping[str, str]) -> str:
    """``auto``, ``online``, ``offline`` or ``off``: the more private of the study's mode and ``WANDB_MODE``.

    ``auto`` gives way to whatever ``WANDB_MODE`` says.
    """
    wish = _WANDB_MODES.get(environ.get("WANDB_MODE", "").strip().lower())
    if wish is None:
        return settings.mode
    if settings.mode == "auto":
        return wish
    return min(settings.mode, wish, key=_PRIVACY.__getitem__)


def finish_seconds(settings: TrackingSettings) -> float:
    """The time that the end of a phase may wait for W&B, in seconds."""
    try:
        return max(0.0, float(os.environ[FINISH_SECONDS]))
    except (KeyError, ValueError):
        return settings.finish_timeout_seconds
