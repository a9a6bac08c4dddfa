"""The catalogue against real files, if XTRAIN_SLICE names a folder laid out like XTREME's."""

from __future__ import annotations

from pathlib import Path

import pytest
from real_data import SLICE, on_real_data

from xtrain.data import prepare
from xtrain.errors import UserError
from xtrain.tasks import TaskSpec, catalog
from xtrain.tasks.sources import existing_files, languages_of

pytestmark = on_real_data

# task, split, languages that are there, examples of the first
FOUND = [
    ("mnli", "train", 1, 8999), ("mnli", "dev", 1, 1000), ("qqp", "train", 1, 8999),
    ("snli", "train", 1, 8999), ("anli", "train", 1, 2864), ("anli", "dev", 1, 334),
    ("hellaswag", "train", 1, 9039), ("hellaswag", "dev", 1, 1003), ("commonsense_qa", "train", 1, 1095),
    ("cosmosqa", "train", 1, 2673), ("socialiqa", "train", 1, 1754), ("copa", "train", 1, 400),
    ("copa", "dev", 1, 100), ("xnli", "dev", 15, 2490), ("pawsx", "dev", 7, 2000), ("xcopa", "test", 11, 500),
    ("tatoeba", "test", 36, 1000),  # XTREME's; the five more of XTREME-R are not in it
]  # fmt: skip


@pytest.mark.parametrize(("task", "split", "languages", "examples"), FOUND)
def test_every_file_is_read_without_a_problem(
    tmp_path: Path, tiny_model: Path, task: str, split: str, languages: int, examples: int
) -> None:
    spec = catalog.load()[task]
    found = [language for language in languages_of(spec, split, SLICE) if is_there(spec, split, language)]
    assert len(found) == languages
    shards = [prepare(spec, split, language, tiny_model, 256, SLICE, tmp_path) for language in found]
    assert len(shards[0]) == examples
    assert all(shard.manifest["dropped"] == {} for shard in shards)


def is_there(spec: TaskSpec, split: str, language: str) -> bool:
    """A task that lists its languages may have more than a folder has files of."""
    try:
        return bool(existing_files(spec, split, language, SLICE))
    except UserError:
        return False
