"""What every test may use: a tiny model, and a toy study. (`from tiny import ...` works because this file is here.)"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import order
import pytest
from hypothesis import settings
from long import ALL_FAULTS, LeaveOut
from runs import Nursery
from tiny import make_tiny_model
from toy import Toy, make_data, study, write_study

if TYPE_CHECKING:
    from xtrain.runner import Job


settings.register_profile("xtrain", deadline=None)  # no test asserts how long anything takes
settings.load_profile("xtrain")


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(order)
    if "gpu" not in config.option.markexpr:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # the same tests everywhere: they count ranks, ports and bytes of CPUs
    if not ALL_FAULTS:
        config.pluginmanager.register(LeaveOut())


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random XLM-R directory of 400 ids, hidden size 32, two layers; not to be written into."""
    return make_tiny_model(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture(scope="session")
def toy_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data of the toy study; not to be written into."""
    return make_data(tmp_path_factory.mktemp("toy") / "data")


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, toy_data: Path) -> Job:
    """none-s0 and choose-s0, each with the target phase toy and its evaluation."""
    from xtrain.runner import open_study  # with all of training, which few tests need

    path = tmp_path_factory.mktemp("study") / "study.toml"
    write_study(path, study(tiny_model, target=[{"task": "toy"}]))
    return open_study(path, data_root=toy_data, out=path.parent)


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
