"""The manifest of a checkpoint: what it is, and the size and hash of each of its files. Read as strictly as written."""

from __future__ import annotations

import hashlib
import json
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from xtrain.files import sha256

MANIFEST = "manifest.json"
UNFINISHED = ".tmp"  # the ending of a folder that does not exist yet, or no longer
SET_ASIDE = ".broken"  # the ending of one that was found damaged
REASON = "set-aside.txt"  # in it: why
Kind = Literal["full", "weights"]
"""``full``: weights and the optimizer's state; ``weights``: weights alone."""
Series = Literal["step", "best"]
"""``step-N``: what training goes on from; ``best-step-N``: the weights of step N, the best on dev when it was saved."""

_FORMAT = 2  # of the manifest and of trainer.json: raised when an older version's cannot be gone on from
_PREFIX: Mapping[Series, str] = {"step": "step-", "best": "best-step-"}
_NAME = re.compile(r"(step-|best-step-)(0|[1-9][0-9]{0,17})")
_NO_COMMIT = re.compile(rf"({_NAME.pattern})(?:-\d+)?({re.escape(UNFINISHED)}|{re.escape(SET_ASIDE)})")
_PLAIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,199}")  # no folder, no "..", nothing hidden
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class FileEntry:
    """What a manifest says of a file."""

    bytes: int
    sha256: str

    @classmethod
    def of(cls, path: Path) -> FileEntry:
        """The entry of a small file that is there already."""
        return cls(path.stat().st_size, sha256(path))


@dataclass(frozen=True)
class Manifest:
    """What ``manifest.json`` says: what the commit is, and the size and hash of each of its files."""

    name: str
    """The commit's folder: ``step-N`` or ``best-step-N``."""
    step: int
    """Optimizer steps done."""
    phase: str
    """The content hash of the phase that wrote it."""
    world_size: int
    """Ranks that wrote it; any number can read it."""
    stage: int
    """ZeRO stage it was written in; any stage can read it."""
    kind: Kind
    parameters: Mapping[str, tuple[int, ...]]
    """Shape of every parameter that the files hold."""
    files: Mapping[str, FileEntry]
    """Every file but the manifest, by its plain name."""

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical JSON of all the rest: vouches for the manifest itself."""
        return hashlib.sha256(_canonical(self._content())).hexdigest()

    def encode(self) -> bytes:
        """The bytes of ``manifest.json``; there is one way only to write a manifest."""
        return _canonical({**self._content(), "digest": self.digest})

    def _content(self) -> dict[str, Any]:
        return {
            "format": _FORMAT,
            "name": self.name,
            "step": self.step,
            "phase": self.phase,
            "world_size": self.world_size,
            "stage": self.stage,
            "kind": self.kind,
            "parameters": {name: list(shape) for name, shape in self.parameters.items()},
            "files": {name: {"bytes": entry.bytes, "sha256": entry.sha256} for name, entry in self.files.items()},
        }


def parse_name(name: str) -> tuple[Series, int] | None:
    """Series and step of a commit's folder name, or None if it is no such name."""
    match = _NAME.fullmatch(name)
    if match is None:
        return None
    return ("step" if match.group(1) == _PREFIX["step"] else "best"), int(match.group(2))


def parse_other_name(name: str) -> tuple[Series, int, str] | None:
    """Series, step and ending of the name of a folder that was or is to be a commit, or None."""
    match = _NO_COMMIT.fullmatch(name)
    named = parse_name(match.group(1)) if match else None
    return (*named, match.groups()[-1]) if match and named else None


def commit_name(series: Series, step: int) -> str:
    """The folder of a commit: ``step-N`` or ``best-step-N``."""
    return f"{_PREFIX[series]}{step}"


def decode(data: bytes) -> Manifest:
    """The manifest that was written as ``data``; ``ValueError`` says what is wrong with it.

    Strict: nothing is skipped or converted, and the bytes must be those that :meth:`Manifest.encode` gives.
    """
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        raise ValueError("is not JSON") from None
    fields = {"format", "name", "step", "phase", "world_size", "stage", "kind", "parameters", "files", "digest"}
    if not isinstance(value, dict) or set(value) != fields:
        raise ValueError("does not have a manifest's fields")
    if value["format"] != _FORMAT:
        raise ValueError(f"is of format {value['format']!r}, and this version reads {_FORMAT}")
    if not _is_sound(value):
        raise ValueError("holds values that no manifest has")
    manifest = Manifest(
        name=value["name"],
        step=value["step"],
        phase=value["phase"],
        world_size=value["world_size"],
        stage=value["stage"],
        kind=value["kind"],
        parameters={name: tuple(shape) for name, shape in value["parameters"].items()},
        files={name: FileEntry(entry["bytes"], entry["sha256"]) for name, entry in value["files"].items()},
    )
    if manifest.digest != value["digest"] or manifest.encode() != data:
        raise ValueError("was changed after it was written: its digest does not match")
    return manifest


def read_manifest(folder: Path) -> Manifest:
    """The manifest in ``folder``, which must carry the folder's name; ``ValueError`` says what is wrong."""
    path = folder / MANIFEST
    try:
        if not stat.S_ISREG(path.lstat().st_mode):
            raise ValueError("is not a plain file")
        data = path.read_bytes()
    except FileNotFoundError:
        raise ValueError("is missing") from None
    except OSError as error:
        raise ValueError(f"cannot be read: {error.strerror}") from None
    manifest = decode(data)
    if manifest.name != folder.name:
        raise ValueError(f"is that of {manifest.name}")
    return manifest


def _canonical(value: Mapping[str, Any]) -> bytes:
    """JSON in one spelling: sorted keys, no blanks, ASCII, one line."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii") + b"\n"


def _is_count(value: object, least: int = 0) -> bool:
    return type(value) is int and value >= least  # not isinstance: True is an int as well


def _is_sound(value: Mapping[str, Any]) -> bool:
    """Whether the fields of a manifest have the types and ranges that they must have."""
    parameters, files = value["parameters"], value["files"]
    return (
        isinstance(value["name"], str)
        and isinstance(value["phase"], str)
        and isinstance(value["digest"], str)
        and _is_count(value["step"])
        and (parse_name(value["name"]) or ("", None))[1] == value["step"]
        and value["kind"] in get_args(Kind)
        and _is_count(value["world_size"], 1)
        and _is_count(value["stage"])
        and isinstance(parameters, dict)
        and all(isinstance(shape, list) and all(map(_is_count, shape)) for shape in parameters.values())
        and isinstance(files, dict)
        and all(_is_plain(name) and _is_entry(entry) for name, entry in files.items())
    )


def _is_plain(name: str) -> bool:
    return _PLAIN.fullmatch(name) is not None and name != MANIFEST


def _is_entry(entry: object) -> bool:
    return (
        isinstance(entry, dict)
        and set(entry) == {"bytes", "sha256"}
        and _is_count(entry["bytes"])
        and isinstance(entry["sha256"], str)
        and _SHA256.fullmatch(entry["sha256"]) is not None
    )
