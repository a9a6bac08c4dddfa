"""Tensors out of a file that torch.save wrote: the one place where a pickle is opened, and nothing in it can run."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from xtrain.errors import Problem, UserError, listed

PICKLED = (".bin", ".pt", ".pth")
"""What the names of such files end in."""
_SAVE = "safetensors.torch.save_file(state_dict, 'model.safetensors')"
_REMEDY = (
    f"where its sender is trusted, load it with the code that it was saved with, save the weights alone ({_SAVE}), "
)
_REMEDY += "and put that file in its place"
_POINTER = b"version https://git-"  # of Git LFS


def read_pickled(path: Path) -> dict[str, Tensor]:
    """The tensors in ``path`` by name, on the CPU; what torch 1.6 or later saved is mapped and read when it is used.

    ``weights_only`` knows how to make tensors and containers of them: a name of any other class or function in the
    file ends the reading before it is looked up. Raises :class:`UserError` for a file that holds more than tensors by
    name, or is damaged.
    """
    try:
        found = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except OSError as error:
        raise UserError(Problem(str(path), f"cannot be read: {error.strerror or error}")) from None
    except (
        Exception
    ) as error:  # of the pickle module, of torch's reader of zip files, and whatever else bytes can cause
        raise UserError(_unreadable(path, error)) from None
    tensors = {name: value for name, value in found.items() if isinstance(value, Tensor)} if _named(found) else {}
    if not isinstance(found, Mapping) or len(tensors) < len(found) or not tensors:
        others = [str(name) for name in found if name not in tensors] if isinstance(found, Mapping) else []
        what = f"holds {listed(others, most=5)} beside tensors" if others else "holds no tensors by name"
        raise UserError(Problem(str(path), what, "the weights alone, tensors by name", f"save these: {_SAVE}"))
    return tensors


def _named(found: object) -> bool:
    return isinstance(found, Mapping) and all(isinstance(name, str) for name in found)


def _unreadable(path: Path, error: Exception) -> Problem:
    """What to say of a file that torch refuses: that it needs code, or that it is damaged."""
    with open(path, "rb") as handle:
        if handle.read(len(_POINTER)) == _POINTER:
            return Problem(str(path), "is a Git LFS pointer, not the file", remedy=f"git lfs pull in {path.parent}")
    text = " ".join(str(error).split())
    needed = re.search(r"GLOBAL (\S+)|(unrecognized function|[Cc]an only (?:build|create))", text)
    if needed:
        what = "holds more than tensors, and would run code when read" + (f": {needed[1]}" if needed[1] else "")
        return Problem(str(path), what, "a pickle of tensors alone, or safetensors", _REMEDY)
    text = text.rpartition("WeightsUnpickler error:")[2]  # without torch's advice to read it all the same
    text = text.partition("Check the documentation")[0].strip()[:150]
    what = f"cannot be read as torch's weights ({type(error).__name__}: {text})"
    return Problem(str(path), what, "a file that torch.save wrote, or safetensors", "fetch or copy the file again")
