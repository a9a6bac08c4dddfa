"""The outcomes of an evaluation in one small file: reading them from predictions takes a grid of rows minutes."""

from __future__ import annotations

import io
import json
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from xtrain.evaluation.outcomes import Chance, NoOutcomes, Rows, chance, outcomes
from xtrain.statistics.measured import Outcomes
from xtrain.tasks import TaskSpec

VERSION = 2
"""Of what :mod:`xtrain.evaluation.outcomes` makes of predictions: raise it when that changes, so that older files are
passed over."""

Found = tuple[Outcomes | None, Chance | None]

# The file has one array of bytes, "index", which is JSON:
#   {"version": N, "ids": {LANGUAGE: [...]}, "metrics": {METRIC: {LANGUAGE: [start, parts, percent, p]}}}
# (percent and p of the chance that the score has to be above, null where nobody can tell), and for each metric an array
# "values/METRIC", (2, N): the sums above and below of each item and part, language after language.


def judged(spec: TaskSpec, metric: str, language: str, rows: Rows, score: float) -> Found:
    """The outcomes behind a score in percent, where the metric is made of them, and the chance it has to be above."""
    try:
        return outcomes(spec, metric, language, rows), chance(spec, metric, language, rows, score)
    except NoOutcomes:
        return None, None


def pack(spec: TaskSpec, languages: Mapping[str, tuple[Rows, Mapping[str, float]]]) -> bytes:
    """The content of the file, from each language's predictions and scores."""
    ids: dict[str, list[str]] = {}
    places: dict[str, dict[str, list[float | None]]] = {}
    values: dict[str, list[npt.NDArray[Any]]] = {}
    for language, (rows, scores) in languages.items():
        for metric, score in scores.items():
            found, against = judged(spec, metric, language, rows, score)
            if found is None:
                continue
            ids[language] = list(found.ids)
            of_metric = values.setdefault(metric, [])
            told = (None, None) if against is None else (against.percent, against.p)
            start = sum(part.shape[1] for part in of_metric)
            places.setdefault(metric, {})[language] = [start, found.above.shape[1], *told]
            of_metric.append(np.stack([found.above.ravel(), found.below.ravel()]))
    index = json.dumps({"version": VERSION, "ids": ids, "metrics": places})
    arrays = {f"values/{metric}": np.concatenate(parts, axis=1) for metric, parts in values.items()}
    file = io.BytesIO()
    np.savez_compressed(file, allow_pickle=False, index=np.frombuffer(index.encode(), dtype=np.uint8), **arrays)
    return file.getvalue()


@dataclass(frozen=True)
class Kept:
    """What a file holds."""

    ids: Mapping[str, list[str]]
    places: Mapping[str, Mapping[str, tuple[int, int, float | None, float | None]]]
    values: Mapping[str, npt.NDArray[np.float64]]

    @classmethod
    def read(cls, path: Path) -> Kept | None:
        """None where there is no file, or one that cannot be read or is older."""
        try:
            with np.load(path, allow_pickle=False) as arrays:
                index = json.loads(arrays["index"].tobytes())
                if index["version"] != VERSION:
                    return None
                metrics = index["metrics"]
                return cls(index["ids"], metrics, {metric: arrays[f"values/{metric}"] for metric in metrics})
        except (OSError, EOFError, ValueError, KeyError, TypeError, zipfile.BadZipFile, zlib.error):
            return None

    def of(self, metric: str, language: str) -> Found:
        """What came of each item of a language; None where the metric is not made of items."""
        if language not in self.places.get(metric, {}):
            return None, None
        start, parts, percent, p = self.places[metric][language]
        ids = self.ids[language]
        above, below = self.values[metric][:, start : start + len(ids) * parts].reshape(2, len(ids), parts)
        return Outcomes(ids, above, below), None if percent is None or p is None else Chance(percent, p)
