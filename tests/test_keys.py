"""The reference of all keys: complete, and the same in docs/study_keys.md as in the code."""

from __future__ import annotations

from pathlib import Path

import pytest

from xtrain import keys
from xtrain.config import dotted_keys
from xtrain.dispatch.cluster import Profile
from xtrain.study import Study

COMMITTED = Path(__file__).parents[1] / "docs" / "study_keys.md"


def test_the_committed_reference_is_what_the_code_says() -> None:
    assert COMMITTED.read_text("utf-8") == keys.reference(), f"it is not; to do: {keys.COMMAND}"


@pytest.mark.parametrize("cls", [Study, Profile])
def test_every_key_has_a_meaning(cls: type[object]) -> None:
    found = {name: (one, keys.meanings(one)) for name, one in keys.tables(cls)}
    silent = [f"{name} {field.name}" for name, (one, said) in found.items()
              for field in keys._fields(one) if not said.get(field.name)]  # fmt: skip
    assert not silent, "write a docstring under the field"


def test_every_table_of_a_study_is_found() -> None:
    heads = [head for head, _ in keys.tables(Study)]
    assert {"[[intermediate]]", "[[target]]", "[engine]", "[task.NAME]", "[[task.NAME.sources]]"} <= set(heads)
    above = {f"[{key.rpartition('.')[0]}]" for key in dotted_keys(Study) if "." in key}
    assert above <= set(heads)


def test_a_key_is_told_with_its_limits() -> None:
    text = keys.reference()
    line = next(one for one in text.splitlines() if one.startswith("| `learning_rate` "))
    assert line.startswith("| `learning_rate` | number | `1e-05` | > 0, ≤ 1 | Peak learning rate;")
    assert '| `precision` | text | `"bf16"` | `"bf16"`, `"fp16"`, `"fp32"` | ' in text
    assert "\\|\\| exit 1" in text, "a bar in a cell would begin another one"
    assert ":class:" not in text
