"""Safetensors files written and read piece by piece: hashed on the way out, bounded in memory on the way in."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

# The format: https://github.com/huggingface/safetensors#format. Eight bytes with the length of a JSON header (little
# endian), the header with each tensor's dtype, shape and place, then the tensors' bytes without gaps.
_ITEM = 4  # bytes of an fp32 number; nothing else is stored here
_CHUNK = 16 * 2**20  # bytes that are hashed and written at once
_HEADER_LIMIT = 100 * 2**20  # as safetensors has it: a longer header is no header


@dataclass(frozen=True)
class FileEntry:
    """What a manifest says of a file."""

    bytes: int
    sha256: str


class TensorFileWriter:
    """Writes fp32 tensors, in the order that was announced, into one safetensors file, and hashes them on the way."""

    def __init__(
        self, path: Path, shapes: Mapping[str, Sequence[int]], metadata: Mapping[str, str] | None = None
    ) -> None:
        self.path = path
        self._left = [(name, prod(shape)) for name, shape in shapes.items()]
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

    def write(self, name: str, tensor: Tensor) -> None:
        """Write the next tensor: fp32, on any device, of any shape with the announced number of elements."""
        expected, count = self._left.pop(0)
        assert (name, tensor.numel()) == (expected, count), f"{name} of {tensor.numel()}, not {expected} of {count}"
        assert tensor.dtype == torch.float32, f"{name} is {tensor.dtype}"
        flat = tensor.detach().reshape(-1)
        step = _CHUNK // _ITEM
        for start in range(0, count, step):
            self._put(memoryview(flat[start : start + step].cpu().contiguous().numpy()).cast("B"))

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
    """Reads parts of the fp32 tensors of a safetensors file. Nothing is mapped: memory is what is asked for.

    Raises ``ValueError`` for a file that is not one.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with open(path, "rb") as handle:
            length = int.from_bytes(handle.read(8), "little")
            if length > min(_HEADER_LIMIT, path.stat().st_size):
                raise ValueError(f"{path} is not a safetensors file")
            header: dict[str, Any] = json.loads(handle.read(length))
        self.metadata: dict[str, str] = header.pop("__metadata__", {})
        self.shapes: dict[str, tuple[int, ...]] = {name: tuple(entry["shape"]) for name, entry in header.items()}
        self._begin = {name: 8 + length + int(entry["data_offsets"][0]) for name, entry in header.items()}
        other = sorted({entry["dtype"] for entry in header.values()} - {"F32"})
        if other:
            raise ValueError(f"{path} holds {other[0]}, not F32")

    def read(self, name: str, start: int = 0, stop: int | None = None, out: Tensor | None = None) -> Tensor:
        """Elements ``start`` to ``stop`` of the flattened tensor, (stop - start,) fp32; into ``out`` if it is given."""
        stop = prod(self.shapes[name]) if stop is None else stop
        found = torch.empty(stop - start, dtype=torch.float32)
        view = memoryview(found.view(torch.uint8).numpy()) if stop > start else memoryview(b"")
        place = self._begin[name] + start * _ITEM
        with open(self.path, "rb", buffering=0) as handle:
            while view:
                count = os.preadv(handle.fileno(), [view[:_CHUNK]], place)
                if count == 0:
                    raise ValueError(f"{self.path} ends in the middle of {name}")
                view, place = view[count:], place + count
        if out is None:
            return found
        out.copy_(found)
        return out
