"""Safetensors files written and read piece by piece: hashed on the way out, bounded in memory on the way in."""

from __future__ import annotations

import hashlib
import json
import os
from collections import deque
from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from xtrain.checkpoints import FileEntry

# The format: https://github.com/huggingface/safetensors#format. Eight bytes with the length of a JSON header (little
# endian), the header with each tensor's dtype, shape and place, then the tensors' bytes without gaps.
_ITEM = 4  # bytes of an fp32 number; nothing else is written here
DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
"""What weights may be: plain floating-point numbers."""
_CHUNK = 16 * 2**20  # bytes that are hashed and written at once
_HEADER_LIMIT = 100 * 2**20  # as safetensors has it: a longer header is no header


class TensorFileWriter:
    """Writes fp32 tensors, in the order that was announced, into one safetensors file, and hashes them on the way."""

    def __init__(
        self, path: Path, shapes: Mapping[str, Sequence[int]], metadata: Mapping[str, str] | None = None
    ) -> None:
        self.path = path
        self._left = deque((name, prod(shape)) for name, shape in shapes.items())
        self._hash = hashlib.sha256()
        self._bytes = 0
        header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
        place = 0
        for name, shape in shapes.items():
            end = place + prod(shape) * _ITEM
            header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [place, end]}
            place = end
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)  # tensors begin at a multiple of eight, as the format asks
        self._handle = open(path, "wb", buffering=0)  # noqa: SIM115 - closed by close() or by leaving the context
        self._put(len(text).to_bytes(8, "little") + text)

    def __enter__(self) -> TensorFileWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._handle.close()

    def write(self, name: str, piece: Tensor) -> None:
        """Write the next elements of the next tensor: fp32, on any device, of any shape.

        A tensor may come whole or in pieces, in order; it is done when it has the announced number of elements.
        """
        expected, left = self._left[0]
        assert name == expected, f"{name} comes before {expected}"
        assert piece.numel() <= left, f"{piece.numel()} elements of {name}, and {left} are left"
        assert piece.dtype == torch.float32, f"{name} is {piece.dtype}"
        self._left[0] = (expected, left - piece.numel())
        flat = piece.detach().reshape(-1)
        step = _CHUNK // _ITEM
        for start in range(0, len(flat), step):
            self._put(flat[start : start + step].cpu().contiguous().numpy().data.cast("B"))
        if left == piece.numel():
            self._left.popleft()

    def close(self) -> FileEntry:
        """Sync the file to disk; returns its size and hash."""
        assert not self._left, f"{self.path}: {len(self._left)} tensors are missing"
        os.fsync(self._handle.fileno())
        self._handle.close()
        return FileEntry(self._bytes, self._hash.hexdigest())

    def _put(self, data: bytes | memoryview) -> None:
        self._hash.update(data)
        view = memoryview(data)
        while view:
            written = self._handle.write(view)  # a disk that fills up takes a part, and refuses the next
            view = view[written:]
        self._bytes += len(data)


class TensorFile:
    """Reads parts of the tensors of a safetensors file as fp32. Nothing is mapped: memory is what is asked for.

    Raises ``ValueError`` for a file that is not one.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with open(path, "rb") as handle:
            length = int.from_bytes(handle.read(8), "little")
            if not 2 <= length <= min(_HEADER_LIMIT, path.stat().st_size):
                raise ValueError(f"{path} is not a safetensors file")
            text = handle.read(length)
        try:
            header: dict[str, Any] = json.loads(text)
            self.metadata: dict[str, str] = header.pop("__metadata__", {})
            self.shapes: dict[str, tuple[int, ...]] = {name: tuple(entry["shape"]) for name, entry in header.items()}
            self.dtypes: dict[str, str] = {name: str(entry["dtype"]) for name, entry in header.items()}
            self._begin = {name: 8 + length + int(entry["data_offsets"][0]) for name, entry in header.items()}
        except (ValueError, TypeError, KeyError, AttributeError, IndexError) as error:
            raise ValueError(f"{path} is not a safetensors file: its header cannot be read") from error

    def read(self, name: str, start: int = 0, stop: int | None = None, out: Tensor | None = None) -> Tensor:
        """Elements ``start`` to ``stop`` of the flattened tensor, (stop - start,) fp32; into ``out`` if it is given.

        Raises ``ValueError`` for a tensor of integers and for a file that ends too early.
        """
        stop = prod(self.shapes[name]) if stop is None else stop
        dtype = DTYPES.get(self.dtypes[name])
        if dtype is None:
            raise ValueError(f"{self.path}: {name} is {self.dtypes[name]}, not {', '.join(DTYPES)}")
        found = torch.empty(stop - start, dtype=torch.float32) if out is None else out
        direct = dtype == torch.float32 and found.device.type == "cpu" and found.is_contiguous()
        if direct and found.dtype == torch.float32:
            self._fill(found.view(-1), name, start)
            return found
        flat = found.view(-1)
        step = _CHUNK // dtype.itemsize
        for first in range(0, stop - start, step):  # a piece at a time, so that there is no second copy of it all
            piece = torch.empty(min(step, stop - start - first), dtype=dtype)
            self._fill(piece, name, start + first)
            flat[first : first + len(piece)].copy_(piece)
        return found

    def _fill(self, piece: Tensor, name: str, start: int) -> None:
        """Read what ``piece`` (n,) has room for, from element ``start`` on."""
        if not len(piece):
            return
        view = piece.view(torch.uint8).numpy().data
        place = self._begin[name] + start * piece.dtype.itemsize
        with open(self.path, "rb", buffering=0) as handle:
            while view:
                count = os.preadv(handle.fileno(), [view[:_CHUNK]], place)
                if count == 0:
                    raise ValueError(f"{self.path} ends in the middle of {name}")
                view, place = view[count:], place + count
