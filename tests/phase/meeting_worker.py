"""On each rank of test_shared_folder.py: check the folders of the arguments in turn and print what was said of each.

Rank 1 runs in a mount namespace of its own if XTRAIN_TEST_MOUNTS says what to mount there, as a shell script.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from pathlib import Path
from typing import Any

import torch.distributed as dist

import xtrain
from xtrain.dispatch.joining import join
from xtrain.dispatch.rank_process import run_rank
from xtrain.dispatch.rendezvous import from_environment
from xtrain.errors import UserError
from xtrain.run_directory import RunDirectory

MOUNTS = "XTRAIN_TEST_MOUNTS"
MODULE = Path(xtrain.__file__).parent / "phase" / "shared_folder.py"


def load_module() -> Any:
    """The module under test without its package, whose import takes longer than all that is done here."""
    spec = importlib.util.spec_from_file_location("shared_folder", MODULE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["shared_folder"] = module
    spec.loader.exec_module(module)
    return module


def gather(value: Any) -> list[Any]:
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def main() -> None:
    ranks = from_environment()
    script = os.environ.pop(MOUNTS, "")
    if script and ranks.rank == 1:
        command = f'{script} && exec "$@"'
        os.execvp("unshare", ["unshare", "-m", "sh", "-c", command, "sh", sys.executable, *sys.argv])
    join(ranks)
    out, *folders = sys.argv[1:]
    check_shared = load_module().check_shared
    said = {}
    for folder in folders:
        try:
            check_shared(RunDirectory(Path(folder)), ranks, gather, patience_seconds=1.0)
            said[Path(folder).name] = ""
        except UserError as error:
            said[Path(folder).name] = str(error)
    Path(out, f"said-{ranks.rank}.json").write_text(json.dumps(said))
    dist.barrier()


if __name__ == "__main__":
    run_rank(main)
