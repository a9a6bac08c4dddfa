"""DeepSpeed's op for all tests that train: compiled once on this machine, by one of pytest's workers."""

from __future__ import annotations

import fcntl
import functools
import os
import subprocess
import sys

from xtrain.files import make_folder
from xtrain.starter import cache_folder
from xtrain.training.ops import missing_build_tools, op_is_built, ops_cache

os.environ["XTRAIN_CACHE"] = str(cache_folder())  # wherever a test has its home
_COMPILE = "from xtrain.training.ops import Op, Store; Store.here().obtain(Op.adam(offloaded={}))"


@functools.cache
def compiled(offloaded: bool = False) -> None:
    """Have the op in the cache: a minute, the first time on a machine. Without a compiler torch's AdamW serves."""
    if missing_build_tools():
        return
    with open(make_folder(ops_cache()) / ".tests.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not op_is_built(offloaded):
            environment = {**os.environ, "DS_ACCELERATOR": "cpu", "PYTHONPATH": os.pathsep.join(sys.path)}
            subprocess.run([sys.executable, "-c", _COMPILE.format(offloaded)], env=environment, check=True)
