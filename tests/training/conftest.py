"""What tests of training share: a small process to fork ranks from."""

from __future__ import annotations

import multiprocessing
from multiprocessing.context import ForkServerContext
from pathlib import Path

import pytest
from toy import PROJECT


@pytest.fixture(scope="session")
def forkserver() -> ForkServerContext:
    """A process that has imported torch and what these ranks need: to fork pytest's own takes ten times as long."""
    context = multiprocessing.get_context("forkserver")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", f"{PROJECT}:{PROJECT}/tests:{Path(__file__).parent}")
        patch.setenv("OMP_NUM_THREADS", "1")
        context.set_forkserver_preload(["saver_ranks", "watchdog_worker"])
        ended = context.Process(target=str)
        ended.start()
        ended.join()
    return context
