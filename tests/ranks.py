"""Starts ranks for tests that have a worker of their own, as the product starts its own."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from unittest import mock

from toy import PROJECT

from xtrain.dispatch.local import python, run_ranks

SETTINGS = {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}


def run_worker(worker: str | Path, num_ranks: int, logs: Path, *arguments: object, **variables: str) -> None:
    """Run a file whose ``main`` is in :func:`run_rank`, once a rank; all of them must end well."""
    path = os.pathsep.join([str(PROJECT), str(PROJECT / "tests"), *sys.path])
    with mock.patch.dict(os.environ, {**SETTINGS, "PYTHONPATH": path, **variables}):
        failure = run_ranks(python(str(worker), *map(str, arguments)), num_ranks, logs)
    said = [file.read_text("utf-8", errors="replace")[-3000:] for file in sorted(logs.glob("rank-*.log"))]
    assert failure is None, "\n".join([str(failure), *said])
