"""What a study says about tracking, and how it meets the switches of W&B's users: an opt-out always wins."""

from __future__ import annotations

import configparser
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from xtrain.config import limits

MODES = ("auto", "online", "offline", "off")
DEFAULT_PROJECT = "xtrain"
FINISH_SECONDS = "XTRAIN_TRACKING_FINISH_SECONDS"  # environment variable over finish_timeout_seconds

# How much of the run leaves this process: the more private of two wishes is the smaller number.
_PRIVACY = {"off": 0, "offline": 1, "auto": 2, "online": 3}
_WANDB_MODES = {
    **dict.fromkeys(("disabled", "disable", "off", "none", "no", "false", "0"), "off"),
    **dict.fromkeys(("offline", "dryrun"), "offline"),
    **dict.fromkeys(("online", "run", "shared"), "online"),
}
_NO = ("", "0", "false", "no", "off", "n", "f")  # what a switch is when it is not set


@dataclass(frozen=True)
class TrackingSettings:
    """The ``[tracking]`` table of a study: W&B behind ``metrics.jsonl``."""

    mode: str = field(default="auto", metadata=limits(choices=MODES))
    """``auto``: online where W&B finds a key, else offline. W&B's own switches can only make it more private."""
    project: str = ""
    """By default ``WANDB_PROJECT``, else ``xtrain``."""
    entity: str = ""
    """By default ``WANDB_ENTITY``, else the key's own."""
    encoders: bool = True
    """Each phase's encoder as a weights-only artifact; false saves the quota."""
    finish_timeout_seconds: float = field(default=30.0, metadata=limits(minimum=0.0))
    """How long the end of a phase waits for the upload (longer where an encoder is uploaded)."""
    answer_timeout_seconds: float = field(default=15.0, metadata=limits(above=0.0))
    """A server that has not answered by then counts as away: an event says so, and the end does not wait."""


@dataclass(frozen=True)
class Chosen:
    """What becomes of W&B for one run."""

    mode: str
    """``auto``, ``online``, ``offline`` or ``off``."""
    why: str = ""
    """The switch that made it so, such as ``WANDB_DISABLED=true``; empty where it is the study's own mode."""
    encoders: bool = True
    """Whether encoders become artifacts."""
    silent: bool = False
    """Whether W&B shall say nothing on the terminal."""


def chosen(settings: TrackingSettings, environ: Mapping[str, str], folder: Path) -> Chosen:
    """What the study and the user's environment say together, for a process in ``folder``.

    The more private wish wins, whoever has it: ``WANDB_DISABLED``, ``WANDB_MODE``, and what ``wandb disabled``,
    ``wandb offline`` and ``wandb online`` have left in W&B's settings files. ``auto`` gives way to all of them.
    """
    mode, why = settings.mode, ""
    for wish, said in _wishes(environ, folder):
        if (mode == "auto" and wish != "auto") or _PRIVACY[wish] < _PRIVACY[mode]:
            mode, why = wish, said
    uploads = _word(environ, "WANDB_LOG_MODEL") not in _NO[1:]  # transformers' switch for models as artifacts
    return Chosen(mode, why, settings.encoders and uploads, _word(environ, "WANDB_SILENT") not in _NO)


def _wishes(environ: Mapping[str, str], folder: Path) -> Iterator[tuple[str, str]]:
    """Every mode that a switch asks for, and the switch."""
    if _word(environ, "WANDB_DISABLED") not in _NO:
        yield "off", f"WANDB_DISABLED={environ['WANDB_DISABLED']}"
    if wish := _word(environ, "WANDB_MODE"):  # W&B stops at a mode that it does not know: then nothing leaves
        yield _WANDB_MODES.get(wish, "offline"), f"WANDB_MODE={environ['WANDB_MODE']}"
        return  # as W&B has it, the variable goes before the files, and the nearer file before the other
    for path in _settings_files(environ, folder):
        values = _file_values(path)
        if values.get("disabled", "").strip().lower() not in _NO:
            yield "off", f"disabled = {values['disabled']} in {path}"
        if wish := values.get("mode", "").strip().lower():
            yield _WANDB_MODES.get(wish, "offline"), f"mode = {values['mode']} in {path}"
            return


def _settings_files(environ: Mapping[str, str], folder: Path) -> list[Path]:
    """Where ``wandb disabled`` and ``wandb offline`` leave it: in this folder, and in the user's home."""
    root = folder / os.path.expanduser(environ.get("WANDB_DIR", ""))
    above = os.path.expanduser(environ.get("WANDB_CONFIG_DIR", "") or "~/.config/wandb")
    return [root / ".wandb" / "settings", root / "wandb" / "settings", Path(above) / "settings"]


def _file_values(path: Path) -> dict[str, str]:
    parser = configparser.ConfigParser(interpolation=None)
    try:
        parser.read(path, encoding="utf-8")
        return dict(parser.items("default"))
    except (OSError, configparser.Error, UnicodeDecodeError):
        return {}


def _word(environ: Mapping[str, str], name: str) -> str:
    return environ.get(name, "").strip().lower()


def finish_seconds(settings: TrackingSettings) -> float:
    """The time that the end of a phase may wait for W&B, in seconds."""
    try:
        return max(0.0, float(os.environ[FINISH_SECONDS]))
    except (KeyError, ValueError):
        return settings.finish_timeout_seconds
