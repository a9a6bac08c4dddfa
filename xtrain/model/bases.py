"""From a base (hub id, directory, or "starter") to the folder of an XLM-R that an encoder can be filled from."""

from __future__ import annotations

import contextlib
from pathlib import Path

from xtrain import starter
from xtrain.errors import Problem, UserError, listed
from xtrain.files import content_hash, write_json
from xtrain.model import text_towers
from xtrain.model.config_file import EncoderConfig, read_config
from xtrain.model.loading import TOKENIZER_FILES, base_fingerprint
from xtrain.model.tower_layouts import CONFIG_FILES, HUB_TOWERS
from xtrain.model.weight_files import INDEX, check_values, find_encoder, no_safetensors
from xtrain.tasks.encoding import PairTokenizer, tokenizer_file, tokenizer_hash
from xtrain.tasks.hub_repository import locate

KNOWN_BASES = (
    "FacebookAI/xlm-roberta-base",
    "FacebookAI/xlm-roberta-large",
    "intfloat/multilingual-e5-small",
    "intfloat/multilingual-e5-base",
    "intfloat/multilingual-e5-large",
    *HUB_TOWERS,
)
"""Ids to propose for a wrong one."""
_CHECKED = 1  # raise it when check_base would find more


def resolve(base: str, revision: str = "main") -> Path:
    """The directory of ``base``: the starter's, a local one, or a hub id's in the hub's local cache.

    Of a hub repository only configuration, tokenizer and safetensors are fetched, at the commit that
    ``revision`` (a branch, tag or commit) stands for; the folder is named after it. Where the text tower of a
    multimodal model lies there, it is the folder that is made of it (:func:`xtrain.model.text_towers.plain`). Raises
    :class:`UserError` if there is no such directory, repository or revision, if it may not be read, if it is
    not in the local cache and there is no network, or if the model is none that an encoder can be filled from
    (:func:`check_base`).
    """
    if base == "starter":
        folder = starter.model_folder()
    elif Path(base).expanduser().is_dir():
        folder = Path(base).expanduser()
    elif base.startswith((".", "/", "~")) or base.count("/") > 1:
        raise UserError(
            Problem(
                base,
                "no such directory",
                allowed='a model directory, a hub id such as "org/name", or "starter"',
            )
        )
    else:
        folder = _from_hub(base, revision)
    folder = text_towers.plain(folder)
    check_base(folder)
    return folder


def tokenizer_folder(base: str, revision: str = "main") -> Path:
    """A folder with the tokenizer of ``base`` and its configuration: of a hub repository no weights are fetched."""
    if base == "starter" or base.startswith((".", "/", "~")) or base.count("/") > 1 or Path(base).is_dir():
        return resolve(base, revision)
    repository = locate(base, "model", revision, KNOWN_BASES)
    folder = repository.fetch([name for name in repository.files if name in (*CONFIG_FILES, *TOKENIZER_FILES)])
    tower = None if text_towers.has_tokenizer(repository.files) else text_towers.configured(folder)
    return text_towers.fetched_tokenizer(tower.text_only, base) if tower else folder


def check_base(folder: Path) -> None:
    """Raise a :class:`UserError` unless an encoder can be filled from ``folder``, and all of its tokens embedded.

    The configuration and the headers are looked at each time; what takes seconds, whether all weights are finite and
    what the tokenizer's largest id is, once for each content: the cache folder remembers what was found right.
    """
    config = read_config(folder)
    tensors = find_encoder(folder, config)
    tokenizer_file(folder)
    key = content_hash([_CHECKED, base_fingerprint(folder), tokenizer_hash(folder)])
    known = starter.cache_folder() / "checked" / f"{key}.json"
    if known.is_file():
        return
    check_values(tensors)
    _check_tokens(folder, config)
    with contextlib.suppress(OSError, UserError):  # a cache that may not be written is no error
        known.parent.mkdir(parents=True, exist_ok=True)
        write_json(known, {"folder": str(folder.absolute())})


def _check_tokens(folder: Path, config: EncoderConfig) -> None:
    """Every token must have a row in the embedding table, whether the data use it or not."""
    vocabulary = PairTokenizer(folder).vocabulary()
    beyond = sorted((number, token) for token, number in vocabulary.items() if number >= config.vocab_size)
    if beyond:
        what = f"its largest token id is {beyond[-1][0]}, and the embedding table has {config.vocab_size} rows"
        what += f": {listed((repr(token) for _, token in beyond), most=5)}"
        remedy = f"remove the added tokens, or give them rows: model.resize_token_embeddings({beyond[-1][0] + 1})"
        allowed = f"token ids from 0 to {config.vocab_size - 1}"
        raise UserError(Problem(str(tokenizer_file(folder)), what, allowed, remedy))


def _from_hub(base: str, revision: str) -> Path:
    """The snapshot of the commit that ``revision`` stands for; asked again, it needs no network.

    The configuration comes first, so that nothing is refused after gigabytes of weights.
    """
    repository = locate(base, "model", revision, KNOWN_BASES)
    configs = [name for name in repository.files if name in CONFIG_FILES]
    if not configs:
        raise UserError(Problem(base, "has no config.json", "a model of XLM-R's shape in the format of transformers"))
    safe = [name for name in repository.files if "/" not in name and name.endswith(".safetensors")]
    tokenizer = [name for name in repository.files if name in TOKENIZER_FILES]
    folder = repository.fetch(configs)
    tower = text_towers.configured(folder)
    if tower is not None and not (tower.layout.marker and safe):
        weights = text_towers.weight_names(repository.files, base)
        if not text_towers.has_tokenizer(tokenizer):
            text_towers.fetched_tokenizer(tower.text_only, base)
        return repository.fetch([*configs, *tokenizer, *weights])
    if not safe:
        pickled = [name for name in repository.files if name.endswith(".bin")]
        raise UserError(no_safetensors(base, pickled, f"./{base.rpartition('/')[2]}"))
    read_config(folder)
    return repository.fetch([name for name in repository.files if name in ("config.json", INDEX)] + tokenizer + safe)
