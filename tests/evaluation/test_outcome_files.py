"""The outcomes of an evaluation come back from their file, and what cannot be used of it is passed over."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from xtrain.evaluation import outcome_files
from xtrain.evaluation.outcome_files import Kept, judged, pack
from xtrain.tasks import TaskSpec

TAGGED = [
    {"id": "a", "label": ["B-PER", "I-PER", "O"], "prediction": ["B-PER", "I-PER", "O"]},
    {"id": "ä \n", "label": ["O", "B-LOC"], "prediction": ["B-LOC", "O"]},
]
CLASSES = [{"id": str(n), "label": "xy"[n % 2], "prediction": "xyy"[n % 3]} for n in range(12)]
UNLABELLED = [{"id": "0", "label": None, "prediction": "x"}]


def spec(format_: str, **more: Any) -> TaskSpec:
    return TaskSpec("made", format_, ("de", "fr"), **{"metric": "accuracy", **more})


@pytest.mark.parametrize(
    ("format_", "rows", "metrics"), [("tagging", TAGGED, ("f1", "accuracy")), ("classification", CLASSES, ("f1",))]
)
def test_what_was_kept_is_what_the_predictions_say(
    tmp_path: Path, format_: str, rows: list[dict[str, Any]], metrics: tuple[str, ...]
) -> None:
    task = spec(format_)
    path = tmp_path / "outcomes.npz"
    path.write_bytes(pack(task, {"de": (rows, dict.fromkeys(metrics, 50.0)), "fr": (rows[:1], {"accuracy": 100.0})}))
    second = Kept.read(path)
    assert second is not None
    assert (found := second.of("accuracy", "fr")[0]) is not None, "the second language behind the first"
    assert list(found.ids) == [rows[0]["id"]]
    for metric in metrics:
        wanted, chance = judged(task, metric, "de", rows, 50.0)
        kept = Kept.read(path)
        assert kept is not None
        found, against = kept.of(metric, "de")
        assert found is not None
        assert wanted is not None
        assert (list(found.ids), against) == (list(wanted.ids), chance)
        np.testing.assert_array_equal(found.above, wanted.above)
        np.testing.assert_array_equal(found.below, wanted.below)


def test_what_is_not_made_of_items_is_known_to_be_so(tmp_path: Path) -> None:
    path = tmp_path / "outcomes.npz"
    path.write_bytes(pack(spec("classification"), {"de": (UNLABELLED, {"accuracy": 0.0}), "fr": (CLASSES, {"r": 1.0})}))
    kept = Kept.read(path)
    assert kept is not None
    assert kept.of("accuracy", "de") == (None, None)
    assert kept.of("r", "fr") == (None, None)


def test_a_file_that_cannot_be_used_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "outcomes.npz"
    assert Kept.read(path) is None
    whole = pack(spec("classification"), {"de": (CLASSES, {"accuracy": 50.0})})
    for damaged in (b"", whole[: len(whole) // 2], b"no zip", np.array(3).tobytes()):
        path.write_bytes(damaged)
        assert Kept.read(path) is None
    path.write_bytes(whole)
    assert Kept.read(path) is not None
    monkeypatch.setattr(outcome_files, "VERSION", 99)
    assert Kept.read(path) is None
