"""The catalogue against real files, if XTRAIN_SLICE names a folder laid out like XTREME's."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from xtrain.data import prepare
from xtrain.tasks import catalog
from xtrain.tasks.sources import languages_of

FOLDER = os.environ.get("XTRAIN_SLICE", "")
pytestmark = pytest.mark.skipif(not FOLDER, reason="XTRAIN_SLICE does not name a folder of real data")

# task, split, languages that are there, examples of the first
FOUND = [
    ("mnli", "train", 1, 8999), ("mnli", "dev", 1, 1000), ("qqp", "train", 1, 8999),
    ("snli", "train", 1, 8999), ("anli", "train", 1, 2864), ("anli", "dev", 1, 334),
    ("hellaswag", "train", 1, 9039), ("hellaswag", "dev", 1, 1003), ("commonsense_qa", "train", 1, 1095),
    ("cosmosqa", "train", 1, 2673), ("socialiqa", "train", 1, 1754), ("copa", "train", 1, 400),
    ("copa", "dev", 1, 100), ("xnli", "dev", 15, 2490), ("pawsx", "dev", 7, 2000), ("xcopa", "test", 11, 500),
    ("tatoeba", "test", 36, 1000),
]  # fmt: skip


@pytest.mark.parametrize(("task", "split", "languages", "examples"), FOUND)
def test_every_file_is_read_without_a_problem(
    tmp_path: Path, tiny_model: Path, task: str, split: str, languages: int, examples: int
) -> None:
    root, spec = Path(FOLDER), catalog.load()[task]
    found = languages_of(spec, split, root)
    assert len(found) == languages
    shards = [prepare(spec, split, language, tiny_model, 256, root, tmp_path) for language in found]
    assert len(shards[0]) == examples
    assert all(shard.manifest["dropped"] == {} for shard in shards)
