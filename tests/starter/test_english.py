"""Arrow folders to JSON lines: own columns, labels by name."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest
from datasets import ClassLabel, Dataset, Features, Value

from xtrain.errors import UserError
from xtrain.starter import english


def arrow(tmp_path: Path) -> bytes:
    features = Features({"text": Value("string"), "label": ClassLabel(names=["no", "yes"]), "idx": Value("int32")})
    made = {"text": ["eins", "zwei\n", "drei"], "label": [1, 0, -1], "idx": [0, 1, 2]}
    Dataset.from_dict(made, features=features).save_to_disk(tmp_path / "set")
    return next((tmp_path / "set").glob("*.arrow")).read_bytes()


def test_rows_have_their_columns_and_label_names(tmp_path: Path) -> None:
    assert english.rows(arrow(tmp_path), "here") == [
        {"text": "eins", "label": "yes", "idx": 0},
        {"text": "zwei\n", "label": "no", "idx": 1},
        {"text": "drei", "label": None, "idx": 2},
    ]


def test_every_set_is_written_one_row_a_line(tmp_path: Path) -> None:
    data = arrow(tmp_path)
    with zipfile.ZipFile(tmp_path / "package.zip", "w") as archive:
        for folder in english.FOLDERS.values():
            archive.writestr(f"{folder}/data-00000-of-00001.arrow", data)
    with zipfile.ZipFile(tmp_path / "package.zip") as archive:
        assert english.write(archive, tmp_path) == dict.fromkeys(english.FOLDERS, 3)
    lines = (tmp_path / "boolq.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["text"] for line in lines] == ["eins", "zwei\n", "drei"]


def test_broken_arrow_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="here: is not an Arrow stream"):
        english.rows(arrow(tmp_path)[:100], "here")
    with pytest.raises(UserError, match="here: is not an Arrow stream"):
        english.rows(b"something else altogether", "here")
