"""What the tests of faults share: the process that forks ranks, and the undisturbed runs to compare with."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from runs import Nursery, make_run, settings


@pytest.fixture(scope="session")
def nursery() -> Iterator[Nursery]:
    """A process that starts ranks; one for each of pytest's workers."""
    opened = Nursery.open()
    yield opened
    opened.close()


@pytest.fixture(scope="session")
def undisturbed(
    tmp_path_factory: pytest.TempPathFactory, nursery: Nursery, tiny_model: Path, toy_data: Path
) -> Callable[[int], Path]:
    """By ZeRO stage: the run directory of two ranks that nothing happened to. Each is run once."""
    done: dict[int, Path] = {}

    def of(stage: int) -> Path:
        if stage not in done:
            root = tmp_path_factory.mktemp(f"undisturbed-{stage}")
            done[stage] = make_run(root / "run", tiny_model, toy_data, settings(stage))
            ended = nursery.run(done[stage])
            assert ended.codes == [0, 0], ended
        return done[stage]

    return of
