"""The outcomes of an evaluation in one small file: reading them from predictions takes a grid of rows minutes."""

from __future__ import annotations

import io
import json
import math
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from xtrain.evaluation.outcomes import Chance, NoOutcomes, Rows, chance, outcomes
from xtrain.statistics.measured import Outcomes
from xtrain.tasks import TaskSpec

VERSION = 1
"""Of what :mod:`xtrain.evaluation.outcomes` makes of predictions: raise it when that changes, so that older files are
passed over."""

Found = tuple[Outcomes | None, Chance | None]

# The arrays of the file, by name:
#   LANGUAGE/ids             the ids of its examples as JSON, in bytes
#   LANGUAGE/METRIC          (2, I, M) the sums above and below of each
#   LANGUAGE/METRIC/chance   (2,) percent and p; NaN where nobody can tell


def judged(spec: TaskSpec, metric: str, language: str, rows: Rows, score: float) -> Found:
    """The outcomes behind a score in percent, where the metric is made of them, and the chance it has to be above."""
    try:
        return outcomes(spec, metric, language, rows), chance(spec, metric, language, rows, score)
    except NoOutcomes:
        return None, None


def pack(spec: TaskSpec, languages: Mapping[str, tuple[Rows, Mapping[str, float]]]) -> bytes:
    """The content of the file, from each language's predictions and scores."""
    arrays: dict[str, npt.NDArray[Any]] = {"version": np.array(VERSION)}
    for language, (rows, scores) in languages.items():
        for metric, score in scores.items():
            found, against = judged(spec, metric, language, rows, score)
            if found is None:
                continue
            arrays[f"{language}/ids"] = np.frombuffer(json.dumps(list(found.ids)).encode(), dtype=np.uint8)
            arrays[f"{language}/{metric}"] = np.stack([found.above, found.below])
            told = (math.nan, math.nan) if against is None else (against.percent, against.p)
            arrays[f"{language}/{metric}/chance"] = np.array(told)
    file = io.BytesIO()
    np.savez_compressed(file, allow_pickle=False, **arrays)
    return file.getvalue()


def unpack(path: Path, metric: str, language: str) -> Found | None:
    """What the file says of a language; None where there is no file, or one that cannot be read or is older."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            if int(arrays["version"]) != VERSION:
                return None
            if f"{language}/{metric}" not in arrays:
                return None, None
            ids = json.loads(arrays[f"{language}/ids"].tobytes())
            above, below = arrays[f"{language}/{metric}"]
            percent, p = arrays[f"{language}/{metric}/chance"].tolist()
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile, zlib.error):
        return None
    return Outcomes(ids, above, below), None if math.isnan(p) else Chance(percent, p)
