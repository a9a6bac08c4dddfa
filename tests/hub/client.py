"""A process that uses the hub as the program does: one request a line on standard input, one answer a line."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from xtrain.errors import UserError
from xtrain.tasks import Source, catalog, hub, hub_repository, sources
from xtrain.tasks.formats import ProblemList

if "model" in sys.argv:  # what takes long, while another process works
    import transformers  # noqa: F401

    import xtrain.model  # noqa: F401


def _source(keys: dict[str, Any]) -> Source:
    columns = {name: tuple(ref) if isinstance(ref, list) else ref for name, ref in keys.pop("columns", {}).items()}
    return Source(**keys, columns=columns)


def rows(task: str, split: str, language: str) -> list[dict[str, Any]]:
    """The rows of a task of the catalogue."""
    return [row.values for row in sources.read(catalog.load()[task], split, language, None)]


def mark(task: str, split: str, language: str) -> str:
    """What identifies the data of a task of the catalogue."""
    return sources.fingerprint(catalog.load()[task], split, language, None)


def records(source: dict[str, Any], split: str, language: str) -> list[dict[str, Any]]:
    """The records of a source by the columns that it names."""
    read = _source(source)
    return [
        {name: record.get(ref) for name, ref in read.columns.items() if not isinstance(ref, tuple)}
        for record in hub.read_hub(read, split, language, ProblemList())
    ]


def fingerprint(source: dict[str, Any], split: str, language: str) -> list[Any]:
    """What identifies the data of a source."""
    return hub.hub_fingerprint(_source(source), split, language)


def base(name: str, revision: str = "main") -> dict[str, Any]:
    """The folder of a base model, what identifies it, and what transformers makes of it."""
    from transformers import AutoModel, AutoTokenizer

    from xtrain.model import base_fingerprint, resolve

    folder = resolve(name, revision)
    model = AutoModel.from_pretrained(folder, add_pooling_layer=False)
    parameters = sum(value.numel() for value in model.parameters())
    tokens = AutoTokenizer.from_pretrained(folder)("a b").input_ids
    files = sorted(path.name for path in Path(folder).iterdir())
    return {"mark": base_fingerprint(folder), "parameters": parameters, "tokens": tokens, "files": files}


def plain(name: str) -> dict[str, Any]:
    """What identifies a base, the folder that it is trained from, and the files in that."""
    from xtrain.model import base_fingerprint, resolve

    folder = resolve(name)
    return {"mark": base_fingerprint(folder), "folder": str(folder), "files": sorted(p.name for p in folder.iterdir())}


def tokens(name: str) -> list[str]:
    """The files of the folder in which the tokenizer of a base is."""
    from xtrain.model.bases import tokenizer_folder

    return sorted(path.name for path in tokenizer_folder(name).iterdir())


def fetched(kind: str, name: str, files: list[str]) -> str:
    """The commit of a repository, with the files in the cache."""
    return hub_repository.locate(name, kind, "main").fetch(files).name


def forget() -> None:
    """As in a new process: the hub is asked again."""
    hub_repository.answer.cache_clear()


def environment(**values: str) -> None:
    """Set variables while the process runs."""
    os.environ.update(values)


ANSWERS: dict[str, Callable[..., Any]] = {
    call.__name__: call
    for call in (rows, mark, records, fingerprint, base, plain, tokens, fetched, forget, environment)
}


def main() -> None:
    """Answer until standard input ends; what is printed meanwhile goes to standard error."""
    answers = sys.stdout
    for line in sys.stdin:
        name, given = json.loads(line)
        with contextlib.redirect_stdout(sys.stderr):
            try:
                answer = {"value": ANSWERS[name](**given)}
            except UserError as error:
                answer = {"error": str(error)}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
