"""Freed memory stays with the process: steps after the first fault in almost no pages."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

FAULTS = """
import resource, sys, torch
from xtrain.model.memory import keep_freed_memory
torch.set_num_threads(1)
if sys.argv[1] == "keep":
    assert keep_freed_memory()
for step in range(12):
    if step == 2:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    sizes = [(n % 5 + 1) * 1_500_000 for n in range(20)]
    kept = [torch.zeros(size, dtype=torch.uint8) for size in sizes]
    del kept
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's malloc only")
def test_pages_are_faulted_in_once() -> None:
    counts = {}
    for mode in ("keep", "default"):
        run = subprocess.run(
            [sys.executable, "-c", FAULTS, mode],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        counts[mode] = int(run.stdout)
    if counts["default"] < 1000:
        pytest.skip("this machine's malloc keeps freed memory by itself")
    assert counts["keep"] < counts["default"] / 20, counts
