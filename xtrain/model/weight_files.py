"""The safetensors of a model's folder: which they are, and whether an encoder can be filled from what they hold."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from xtrain.errors import Problem, UserError, counted, listed, raise_if_any
from xtrain.files import read_json
from xtrain.model.config_file import UNQUANTISED, EncoderConfig
from xtrain.model.tensor_files import DTYPES, TensorFile

WORD_EMBEDDINGS = "embeddings.word_embeddings.weight"
INDEX = "model.safetensors.index.json"
_FETCH = "fetch or export the model again; an encoder is never trained from weights that were not loaded"


@dataclass(frozen=True)
class Placed:
    """Where a tensor is, and what its header says."""

    path: Path
    dtype: str  # as safetensors writes it: "F32", "I8"
    shape: tuple[int, ...]


@dataclass(frozen=True)
class EncoderTensors:
    """The tensors of an encoder in a folder, all there, of floating-point numbers and of the right shape."""

    folder: Path
    prefix: str
    """What stands before the encoder's names in the files, such as "roberta."."""
    shapes: Mapping[str, tuple[int, ...]]
    """By the encoder's own names, in its order."""
    places: Mapping[str, Placed]
    """Every tensor of the files, by its whole name."""

    @property
    def unused(self) -> tuple[str, ...]:
        """What in the files is no part of the encoder."""
        return tuple(sorted(set(self.places) - {self.prefix + name for name in self.shapes}))

    def by_file(self) -> Iterator[tuple[Path, list[str]]]:
        """Each file and the encoder's tensors in it, by the encoder's names."""
        of = {name: self.places[self.prefix + name].path for name in self.shapes}
        for path in sorted(set(of.values())):
            yield path, [name for name in of if of[name] == path]


def find_encoder(folder: Path, config: EncoderConfig) -> EncoderTensors:
    """The tensors of the encoder of ``config`` in ``folder``; headers are read, and no weights.

    Raises one :class:`UserError` with all that is wrong: tensors that are missing, of another shape than ``config``
    says or no floating-point numbers, and such as belong to the blocks and that no encoder has.
    """
    places = read_places(folder)
    prefix = _prefix(places, folder)
    shapes = encoder_shapes(config)
    problems = _other_numbers(places, prefix, shapes) + _of_other_blocks(places, prefix, shapes, config, folder)
    problems += _missing(places, prefix, shapes, folder)
    raise_if_any(problems)
    for path in sorted({places[prefix + name].path for name in shapes}):
        _check_whole(path)
    return EncoderTensors(folder, prefix, shapes, places)


def encoder_shapes(config: EncoderConfig) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor of an encoder, in the order of its parameters."""
    hidden, inner = config.hidden_size, config.intermediate_size

    def linear(name: str, inputs: int, outputs: int) -> dict[str, tuple[int, ...]]:
        return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}

    def norm(name: str) -> dict[str, tuple[int, ...]]:
        return {f"{name}.weight": (hidden,), f"{name}.bias": (hidden,)}

    shapes: dict[str, tuple[int, ...]] = {
        WORD_EMBEDDINGS: (config.vocab_size, hidden),
        "embeddings.token_type_embeddings.weight": (config.type_vocab_size, hidden),
        **norm("embeddings.LayerNorm"),
        "embeddings.position_embeddings.weight": (config.max_position_embeddings, hidden),
    }
    for number in range(config.num_hidden_layers):
        block = f"encoder.layer.{number}"
        for name in ("query", "key", "value"):
            shapes |= linear(f"{block}.attention.self.{name}", hidden, hidden)
        shapes |= linear(f"{block}.attention.output.dense", hidden, hidden)
        shapes |= norm(f"{block}.attention.output.LayerNorm")
        shapes |= linear(f"{block}.intermediate.dense", hidden, inner)
        shapes |= linear(f"{block}.output.dense", inner, hidden)
        shapes |= norm(f"{block}.output.LayerNorm")
    return shapes


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of the model in ``folder``, sorted."""
    if (folder / "model.safetensors").is_file():
        return [folder / "model.safetensors"]
    if (folder / INDEX).is_file():
        files = sorted({folder / file for file in _weight_map(folder).values()})
        raise_if_any(
            Problem(str(file), "missing, though the index names it", remedy="fetch the model again")
            for file in files
            if not file.is_file()
        )
        return files
    pickled = sorted(path.name for path in folder.glob("*.bin"))
    raise UserError(no_safetensors(str(folder), pickled, f"{folder}-safe"))


def no_safetensors(where: str, pickled: Sequence[str], copy: str) -> Problem:
    """What to say of a model without safetensors; ``copy`` is where a converted one may go."""
    remedy = "name a directory or a hub repository that has model.safetensors"
    if pickled:
        remedy = (
            "convert it, for it may run code when read: python -c 'from transformers import AutoModel; "
            f'AutoModel.from_pretrained("{where}").save_pretrained("{copy}")\', '
            "and copy the tokenizer's files beside it"
        )
    what = "no model.safetensors" + (f", only {listed(pickled, most=3)}" if pickled else "")
    return Problem(where, what, "weights as safetensors", remedy)


def read_places(folder: Path) -> dict[str, Placed]:
    """Every tensor in ``folder`` by name; of several files, in the one that the index names for it."""
    files = weight_files(folder)
    index = _weight_map(folder) if files[0].name != "model.safetensors" else {}
    places: dict[str, Placed] = {}
    for path in files:
        for name, (dtype, shape) in header(path).items():
            if not index or index.get(name) == path.name:
                places[name] = Placed(path, dtype, shape)
    lost = sorted(set(index) - set(places))
    if lost:
        what = f"names {counted(len(lost), 'tensor')} of which the files know nothing: {listed(lost)}"
        raise UserError(Problem(str(folder / INDEX), what, remedy="fetch the model again"))
    return places


def checked(tensor: Tensor, name: str, path: Path, dtype: torch.dtype | None = None) -> Tensor:
    """``tensor``, as ``dtype`` if one is given; a :class:`UserError` if a value is not finite, or does not fit."""
    if tensor.numel():
        low, high = (float(value) for value in torch.aminmax(tensor))
        if not (-float("inf") < low and high < float("inf")):  # NaN is neither
            count = int((~torch.isfinite(tensor)).sum())
            what = f"{name}: {count:,} of {tensor.numel():,} values are not finite (NaN or infinity)"
            raise UserError(Problem(str(path), what, "finite weights", "the file is damaged or its training diverged: "
                                    "take another base, or fetch the model again"))  # fmt: skip
        if dtype is not None and max(-low, high) > torch.finfo(dtype).max:
            what = f"{name}: a value of {max(-low, high):g} does not fit into {str(dtype).removeprefix('torch.')}"
            raise UserError(Problem(str(path), what, remedy='set engine.precision to "bf16" or "fp32"'))
    return tensor if dtype is None else tensor.to(dtype, copy=True)


def check_values(tensors: EncoderTensors) -> None:
    """Read all weights of the encoder and raise a :class:`UserError` if one is no finite number."""
    for path, names in tensors.by_file():
        with safe_open(path, framework="pt") as file:
            for name in names:
                checked(file.get_tensor(tensors.prefix + name), tensors.prefix + name, path)


def check_float(places: Mapping[str, Placed]) -> None:
    """Raise a :class:`UserError` if one of ``places`` holds no floating-point numbers."""
    raise_if_any(_other_numbers(places, "", dict.fromkeys(places, ())))


def _weight_map(folder: Path) -> dict[str, str]:
    """Which file of ``folder`` each tensor is in, as the index says."""
    index = read_json(folder / INDEX)
    found = index.get("weight_map") if isinstance(index, dict) else None
    plain = re.compile(r"[^/\\]+\.safetensors")
    if (
        not isinstance(found, dict)
        or not found
        or not all(isinstance(file, str) and plain.fullmatch(file) for file in found.values())
    ):
        allowed = '{"weight_map": {"TENSOR": "FILE.safetensors", ...}} with files of the same folder'
        raise UserError(Problem(str(folder / INDEX), "has no weight_map", allowed, "fetch the model again"))
    return found


def header(path: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Dtype and shape of each tensor of a safetensors file; a :class:`UserError` if it is none."""
    try:
        file = TensorFile(path)
    except ValueError as error:
        raise UserError(_no_file(path, error)) from None
    except OSError as error:
        raise UserError(Problem(str(path), f"cannot be read: {error.strerror}")) from None
    return {name: (file.dtypes[name], file.shapes[name]) for name in file.shapes}


def _no_file(path: Path, error: Exception) -> Problem:
    with open(path, "rb") as handle:
        if handle.read(20) == b"version https://git-":
            return Problem(str(path), "is a Git LFS pointer, not the file", remedy=f"git lfs pull in {path.parent}")
    return Problem(str(path), f"not safetensors: {error}", remedy="fetch or copy the file again")


def _check_whole(path: Path) -> None:
    """The library's own check: places without gaps, and a file of that size."""
    try:
        with safe_open(path, framework="pt"):
            pass
    except SafetensorError as error:
        raise UserError(_no_file(path, error)) from None


def _prefix(places: Mapping[str, Any], folder: Path) -> str:
    """What stands before the encoder's names in the file, such as "roberta."; nothing if nothing is found."""
    table = re.compile(r"(.*?)embeddings\.word_embeddings\.")  # not its weight alone: a packed one has other names
    found = sorted({match[1] for name in places if (match := table.match(name))})
    if len(found) > 1:
        problem = Problem(str(folder), f"holds {len(found)} encoders, under {listed(map(repr, found))}", "one encoder")
        raise UserError(problem)
    return found[0] if found else ""


def _other_numbers(places: Mapping[str, Placed], prefix: str, shapes: Mapping[str, Any]) -> list[Problem]:
    """Tensors that are no plain floating-point numbers, a problem for each file and kind."""
    kinds: dict[tuple[Path, str], list[str]] = {}
    for name in shapes:
        place = places.get(prefix + name)
        if place is not None and place.dtype not in DTYPES:
            kinds.setdefault((place.path, place.dtype), []).append(prefix + name)
    return [
        Problem(
            str(path),
            f"{counted(len(names), 'tensor')} of {dtype} where weights are to be: {listed(names, most=8)}",
            allowed=listed(DTYPES),
            remedy=f"8-bit, 4-bit and packed numbers are what a quantised model holds: {UNQUANTISED}",
        )
        for (path, dtype), names in sorted(kinds.items())
    ]


def _of_other_blocks(
    places: Mapping[str, Placed], prefix: str, shapes: Mapping[str, Any], config: EncoderConfig, folder: Path
) -> list[Problem]:
    """Tensors inside the encoder's blocks and modules that no encoder has: it would run without them."""
    modules = {name.rpartition(".")[0] + "." for name in shapes}
    known = {prefix + name for name in shapes}
    found, beyond = [], set()
    for name in sorted(set(places) - known):
        if not name.startswith(prefix):
            continue
        own = name.removeprefix(prefix)
        block = re.match(r"encoder\.layer\.(\d+)\.", own)
        if block and int(block[1]) >= config.num_hidden_layers:
            beyond.add(int(block[1]))
        elif block or any(own.startswith(module) for module in modules):
            found.append(name)
    problems = []
    if beyond:
        what = f"{config.num_hidden_layers}, and the weights are of {counted(max(beyond) + 1, 'block')}"
        problems.append(Problem(f"{folder / 'config.json'}: num_hidden_layers", what, str(max(beyond) + 1), _FETCH))
    if found:
        what = f"{counted(len(found), 'tensor')} beside the weights say that they mean something else"
        what += f": {listed(found, most=8)}"
        remedy = f"scales, adapters and packed weights: {UNQUANTISED}, with adapters merged into the weights"
        problems.append(Problem(str(places[found[0]].path), what, "the weights of the encoder alone", remedy))
    return problems


def _missing(
    places: Mapping[str, Placed], prefix: str, shapes: Mapping[str, tuple[int, ...]], folder: Path
) -> list[Problem]:
    """Tensors that are not there or have another shape."""
    missing = [name for name in shapes if prefix + name not in places]
    other = [
        f"{name} {list(places[prefix + name].shape)}, not {list(shapes[name])}"
        for name in shapes
        if name not in missing and places[prefix + name].shape != shapes[name]
    ]
    of, problems = f"of the encoder's {len(shapes)} tensors", []
    if missing:
        verb = "is" if len(missing) == 1 else "are"
        problems.append(Problem(str(folder), f"{len(missing)} {of} {verb} missing: {listed(missing)}", remedy=_FETCH))
    if other:
        verb = "has" if len(other) == 1 else "have"
        what = f"{len(other)} {of} {verb} another shape than config.json says: {listed(other)}"
        problems.append(Problem(str(folder), what, remedy=_FETCH))
    return problems


def num_parameters(shapes: Mapping[str, tuple[int, ...]]) -> int:
    """How many numbers tensors of ``shapes`` hold."""
    return sum(prod(shape) for shape in shapes.values())
