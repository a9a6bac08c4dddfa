"""What every test may use: a tiny model, and a toy study. (`from tiny import ...` works because this file is here.)"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from long import ALL_FAULTS, LeaveOut
from op import compiled
from runs import Nursery
from tiny import make_tiny_model
from toy import Toy, make_data

SLOW = (
    "test_run",
    "test_engine",
    "test_phase_online",
    "test_hub_clients",
    "test_bad_input",
    "test_wandb",
    "test_preempt",
    "test_kills",
    "test_damage",
    "test_disk",
    "test_hangs",
    "test_exact",
    "test_ranks",
    "test_watchdog",
    "test_local",
    "test_feeding",
    "test_ahead",
    "test_collapse",
    "test_exporting",
    "test_checkpoint_command",
    "test_fence",
    "test_numbered",
    "test_ops",
    "test_life",
    "test_whole_studies",
    "test_requeueing",
    "test_doctor",
    "test_cluster",
    "test_profiles",
    "test_queries",
)  # files of tests that start processes


def pytest_configure(config: pytest.Config) -> None:
    if not ALL_FAULTS:
        config.pluginmanager.register(LeaveOut())


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The slow ones first: two workers then end at about the same time."""
    items.sort(key=lambda item: not item.path.name.startswith(SLOW))


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Nearly all of them train: with DeepSpeed's op, as everybody who has a compiler does."""
    if item.path.name.startswith(SLOW):
        compiled()


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random XLM-R directory of 400 ids, hidden size 32, two layers; not to be written into."""
    return make_tiny_model(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture(scope="session")
def toy_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data of the toy study; not to be written into."""
    return make_data(tmp_path_factory.mktemp("toy") / "data")


@pytest.fixture(scope="session")
def nursery() -> Iterator[Nursery]:
    """A process that starts ranks and commands; one for each of pytest's workers."""
    opened = Nursery.open()
    yield opened
    opened.close()


@pytest.fixture
def toy(tmp_path: Path, tiny_model: Path, toy_data: Path, nursery: Nursery) -> Toy:
    """A toy study with a folder of the test's own for studies and output."""
    return Toy(tmp_path, tiny_model, toy_data, nursery)


@pytest.fixture
def alone() -> Iterator[None]:
    """A group of this process alone, which is gone before its interpreter is torn down."""
    import torch.distributed as dist

    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)  # noqa: TID251
    yield
    dist.destroy_process_group()
