"""The text tower of a multimodal model, made an ordinary XLM-R's folder in the cache: once, whole or not at all."""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from xtrain import starter
from xtrain.errors import Problem, UserError, counted, listed, raise_if_any
from xtrain.files import content_hash, read_json
from xtrain.model.config_file import ARCHITECTURES, EncoderConfig
from xtrain.model.export import save_encoder
from xtrain.model.loading import TOKENIZER_FILES, snapshot_commit
from xtrain.model.pickled_weights import PICKLED, read_pickled
from xtrain.model.tensor_files import DTYPES, TensorFile
from xtrain.model.tower_layouts import CONFIG_FILES, Layout, layout_of, text_only
from xtrain.model.weight_files import INDEX, Placed, checked, encoder_shapes, header, num_parameters, read_places
from xtrain.model.weight_sources import InMemory, WeightSource
from xtrain.starter.cache import made_once
from xtrain.tasks import encoding
from xtrain.tasks.hashes import file_hash
from xtrain.tasks.hub_repository import locate

MANIFEST = "tower.json"
"""What the made folder says of itself: where its tensors are from, what was left out."""
_VERSION = 1  # raise it when another folder would be made of the same files
_TOKEN_TYPES = "embeddings.token_type_embeddings.weight"
_KINDS = (  # of weights, the preferred first: what their names end in, and names that are never doubted
    ((".safetensors",), ("open_clip_model.safetensors", "model.safetensors", INDEX)),
    (PICKLED, ("open_clip_pytorch_model.bin", "pytorch_model.bin")),
)
_OTHERS = ("training_args.bin", "optimizer.bin", "optimizer.pt", "scheduler.pt", "scaler.pt", "rng_state.pth")
_FETCH = "fetch the model again; an encoder is never trained from weights that were not loaded"


@dataclass(frozen=True)
class Tower:
    """What the configuration of a multimodal model says of its text tower."""

    layout: Layout
    file: Path
    """The file that says it."""
    config: EncoderConfig
    """The tower's, as an XLM-R."""
    text_only: str
    """The hub's id of the XLM-R whose tokenizer it has."""


@dataclass(frozen=True)
class _Weights:
    """The tensors of a model's files, whatever the files are."""

    places: Mapping[str, Placed]
    source: WeightSource

    @property
    def files(self) -> list[Path]:
        return sorted({place.path for place in self.places.values()})


def configured(folder: Path) -> Tower | None:
    """The tower that the configuration in ``folder`` promises; None for an ordinary base, or no configuration.

    Where the layout has a marker, the weights have the last word. Raises :class:`UserError` if it is of a known kind
    whose text tower is no XLM-R.
    """
    for name in CONFIG_FILES:
        path = folder / name
        values: Any = read_json(path) if path.is_file() else None
        layout = layout_of(name, values)
        if layout is not None:
            where = str(path)
            found = {"model_type": "xlm-roberta", **layout.configure(values, where)}
            config = EncoderConfig.of(found, f"{where}: {layout.section}" if layout.section else where)
            return Tower(layout, path, config, text_only(values))
        if isinstance(values, Mapping) and values.get("model_type") in list(ARCHITECTURES):
            return None
    return None


def plain(folder: Path) -> Path:
    """``folder``, or, if a text tower lies in it, an XLM-R's folder with the tower's weights.

    That is made in the cache when it is asked for first, and is named by the files that it is made of. Every tensor of
    these must be the tower's or a known part of the model that is left out. Raises :class:`UserError` if one is neither
    or is missing, if reading the file would run code, or if a tokenizer is not to be had.
    """
    tower = configured(folder)
    if tower is None:
        return folder
    layout = tower.layout
    if layout.marker and not _marked(folder, layout.marker):
        return folder
    names = weight_names(_names(folder), str(folder))
    beside = [name for name in TOKENIZER_FILES if (folder / name).is_file()]
    files = [tower.file, *(folder / name for name in [*names, *beside])]
    content = snapshot_commit(folder) or [file_hash(path) for path in files]
    key = content_hash([_VERSION, layout.name, [path.name for path in files], content], 16)
    target = starter.cache_folder() / "towers" / f"{re.sub('[^a-z0-9]+', '-', layout.name.lower())}-{key}"

    def make(work: Path, out: Path) -> dict[str, Any]:
        tokenizer = folder if has_tokenizer(beside) else fetched_tokenizer(tower.text_only, str(folder))
        weights = _open(folder, names)
        matched = _match(tower, weights)
        save_encoder(_Matched(weights, matched, encoder_shapes(tower.config)), {}, tower.config, tokenizer, out)
        left_out = Counter(_part(name, layout) for name in sorted(set(weights.places) - set(matched.values())))
        hashes = {path.name: file_hash(path) for path in weights.files}
        _say(_report(tower, folder, target, left_out, hashes))
        return {
            "layout": layout.name,
            "from": str(folder),
            "sha256": hashes,
            "tokenizer": str(tokenizer),
            "tensors": len(matched),
            "left_out": left_out,
        }

    return made_once(target, _VERSION, make, _say, MANIFEST)


def weight_names(names: Iterable[str], where: str) -> list[str]:
    """Those of the files ``names`` of a model that hold its weights: safetensors, a pickle only where there are none.

    Raises :class:`UserError` if there are none, or several that could be them.
    """
    top = sorted(name for name in names if "/" not in name and name not in _OTHERS)
    for endings, certain in _KINDS:
        of_kind = [name for name in top if name.endswith(endings)]
        for name in certain:
            if name in top:
                return [name, *of_kind] if name == INDEX else [name]
        if len(of_kind) > 1:
            what = f"{counted(len(of_kind), 'file')} could be the weights: {listed(of_kind)}"
            raise UserError(Problem(where, what, "one file of weights", "move the others to another folder"))
        if of_kind:
            return of_kind
    allowed = f"model.safetensors, or one file that ends in {listed(PICKLED)}"
    raise UserError(Problem(where, "has no weights", allowed, "fetch the model's weights into it"))


def has_tokenizer(names: Iterable[str]) -> bool:
    """Whether a file that defines a tokenizer is among the files ``names`` of a model."""
    return not set(encoding.TOKENIZER_FILES).isdisjoint(names)


def fetched_tokenizer(base: str, where: str) -> Path:
    """A folder of the hub's cache with the tokenizer of ``base``; a :class:`UserError` if it is not to be had.

    ``where`` is the model that comes without one.
    """
    try:
        repository = locate(base, "model", "main")
        return repository.fetch([name for name in repository.files if name in TOKENIZER_FILES])
    except UserError as error:
        what = f"has no tokenizer, and that of {base}, which it has, is not to be had: {error.problems[0].what}"
        remedy = f"copy tokenizer.json and tokenizer_config.json of {base} into the model's folder, or run the same "
        remedy += "command once where there is a network, with the same HF_HOME"
        allowed = listed(encoding.TOKENIZER_FILES)
        raise UserError(Problem(where, what, allowed, remedy)) from None


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.is_file())


def _marked(folder: Path, marker: str) -> bool:
    """Whether the weights in ``folder`` have the tensor ``marker``; not where it is not plain which they are."""
    try:
        names = weight_names(_names(folder), str(folder))
    except UserError:
        return False
    return marker in _open(folder, names).places


def _open(folder: Path, names: list[str]) -> _Weights:
    """The tensors of the files ``names`` in ``folder``: their headers, and nothing of what they hold."""
    path = folder / names[0]
    if path.name in ("model.safetensors", INDEX):
        places = read_places(folder)
    elif path.suffix == ".safetensors":
        places = {name: Placed(path, dtype, shape) for name, (dtype, shape) in header(path).items()}
    else:
        tensors = read_pickled(path)
        kinds = {dtype: name for name, dtype in DTYPES.items()}
        places = {
            name: Placed(path, kinds.get(value.dtype, str(value.dtype)) if _is_plain(value) else "packed",
                         tuple(value.shape))
            for name, value in tensors.items()
        }  # fmt: skip
        return _Weights(places, InMemory(tensors))
    return _Weights(places, _Files(places))


def _is_plain(value: Tensor) -> bool:
    return value.layout == torch.strided and not value.is_quantized


class _Files:
    """The tensors of one or several safetensors files as a source."""

    def __init__(self, places: Mapping[str, Placed]) -> None:
        self.places = places
        self.shapes = {name: place.shape for name, place in places.items()}
        self.files = {path: TensorFile(path) for path in {place.path for place in places.values()}}

    def read(self, name: str, start: int, stop: int) -> Tensor:
        """Elements ``start`` to ``stop`` of the flattened tensor."""
        return self.files[self.places[name].path].read(name, start, stop)


class _Matched:
    """A tower's tensors by XLM-R's names, each looked at for what is no finite number on the way."""

    def __init__(self, weights: _Weights, matched: Mapping[str, str], shapes: Mapping[str, tuple[int, ...]]) -> None:
        self.weights, self.matched, self.shapes = weights, matched, shapes

    def read(self, name: str, start: int, stop: int) -> Tensor:
        """Elements ``start`` to ``stop`` of the flattened tensor; of several token types they are the first's."""
        own = self.matched[name]
        return checked(self.weights.source.read(own, start, stop), own, self.weights.places[own].path)


def _match(tower: Tower, weights: _Weights) -> dict[str, str]:
    """XLM-R's name -> the model's own, of each of the tower's tensors; a :class:`UserError` has all that is wrong."""
    layout, shapes = tower.layout, encoder_shapes(tower.config)
    matched: dict[str, str] = {}
    strange, blocks = [], set()
    for own in sorted(weights.places):
        if layout.left_out.fullmatch(own):
            continue
        name = layout.rename(own.removeprefix(layout.prefix)) if own.startswith(layout.prefix) else ""
        block = re.match(r"encoder\.layer\.(\d+)\.", name)
        if name in shapes and name not in matched:
            matched[name] = own
        elif block and int(block[1]) >= tower.config.num_hidden_layers:
            blocks.add(int(block[1]))
        else:
            strange.append(own)
    where = listed(weights.files, most=2)
    if not matched:
        what = f"has no tensor of a text tower: {layout.name} has it under {layout.prefix!r}, and here are "
        what += listed(sorted({name.partition(".")[0] for name in weights.places}), most=8)
        raise UserError(Problem(where, what, "the whole model", _FETCH))
    raise_if_any(_wrong(tower, weights, matched, strange, blocks, where))
    return matched


def _wrong(
    tower: Tower, weights: _Weights, matched: Mapping[str, str], strange: list[str], blocks: set[int], where: str
) -> list[Problem]:
    """What keeps the tensors of a tower from being those of an XLM-R."""
    layout, shapes, problems = tower.layout, encoder_shapes(tower.config), []
    if strange:
        what = f"{counted(len(strange), 'tensor')} of which {layout.name} is not known to have any: "
        what += listed(strange, most=8)
        allowed = f"under {layout.prefix!r} those of an XLM-R, and beside them {layout.left_out.pattern}"
        remedy = "what they mean for the text is not known: take the model as its authors published it"
        problems.append(Problem(where, what, allowed, remedy))
    if blocks:
        what = f"has {counted(max(blocks) + 1, 'block')}, and {tower.file} says {tower.config.num_hidden_layers}"
        remedy = "take the configuration that belongs to these weights"
        problems.append(Problem(where, what, counted(tower.config.num_hidden_layers, "block"), remedy))
    missing = [name for name in shapes if name not in matched]
    if missing:
        what = f"{len(missing)} of the text tower's {len(shapes)} tensors are missing: {listed(missing)}"
        problems.append(Problem(where, what, remedy=_FETCH))
    places = {name: weights.places[own] for name, own in matched.items()}
    other = [
        f"{matched[name]} {list(place.shape)}, not {list(shapes[name])}"
        for name, place in places.items()
        if not _fits(name, place.shape, shapes[name], layout)
    ]
    if other:
        what = f"{counted(len(other), 'tensor')} of another shape than {tower.file} says: {listed(other, most=8)}"
        problems.append(Problem(where, what, remedy=_FETCH))
    packed = [f"{matched[name]} {place.dtype}" for name, place in places.items() if place.dtype not in DTYPES]
    if packed:
        what = f"no plain floating-point numbers: {listed(packed, most=8)}"
        problems.append(Problem(where, what, listed(DTYPES), "take the unquantised model"))
    return problems


def _fits(name: str, shape: tuple[int, ...], wanted: tuple[int, ...], layout: Layout) -> bool:
    if name == _TOKEN_TYPES and layout.token_types:
        return len(shape) == 2 and shape[0] >= wanted[0] and shape[1] == wanted[1]
    return shape == wanted


def _part(name: str, layout: Layout) -> str:
    """The part of a model that a tensor belongs to, to be named in a line: "vision_model", "roberta.pooler"."""
    prefix = layout.prefix if name.startswith(layout.prefix) else ""
    return prefix + name.removeprefix(prefix).partition(".")[0]


def _report(tower: Tower, folder: Path, target: Path, left_out: Mapping[str, int], hashes: Mapping[str, str]) -> str:
    """One line: what it is, what was kept and what not, and of which file."""
    shapes = encoder_shapes(tower.config)
    left = listed((f"{part} ({count})" for part, count in left_out.items()), most=12) or "nothing"
    files = listed(f"{name} has SHA-256 {value}" for name, value in hashes.items())
    return (
        f"{folder} is of {tower.layout.name}: {len(shapes)} tensors of its text tower kept ({num_parameters(shapes):,} "
        f"parameters), left out: {left}; {files}; as an XLM-R in {target}"
    )


def _say(line: str) -> None:
    print(f"base: {line}", file=sys.stderr, flush=True)
