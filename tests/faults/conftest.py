"""What the tests of faults share: the process that forks ranks, and the undisturbed runs to compare with."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from runs import Nursery, make_run, settings


@pytest.fixture(scope="session")
def undisturbed(
    tmp_path_factory: pytest.TempPathFactory, nursery: Nursery, tiny_model: Path, toy_data: Path
) -> Callable[..., Path]:
    """By ZeRO stage and what else settings() takes: two ranks' run that nothing happened to. Each is run once."""
    done: dict[str, Path] = {}

    def of(stage: int, **changes: Any) -> Path:
        key = json.dumps([stage, changes], sort_keys=True)
        if key not in done:
            root = tmp_path_factory.mktemp(f"undisturbed-{stage}")
            done[key] = make_run(root / "run", tiny_model, toy_data, settings(stage, **changes))
            ended = nursery.run(done[key])
            assert ended.codes == [0, 0], ended
        return done[key]

    return of


@pytest.fixture
def new_run(tmp_path: Path, tiny_model: Path, toy_data: Path) -> Callable[[Mapping[str, Any]], Path]:
    """Of a study of ``settings``: a run directory of the test's own."""
    return lambda changes: make_run(tmp_path / "run", tiny_model, toy_data, changes)
