"""Memory and time of an export: a checkpoint's encoder written in this process, and the most that it held meanwhile.

Run: python benchmarks/export_memory.py RUN_DIR CHECKPOINT OUT [RUN_DIR CHECKPOINT OUT ...]
Prints one line of JSON for each; all numbers but the seconds are bytes.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from math import prod
from pathlib import Path
from typing import Any

from xtrain.model.tensor_files import TensorFile
from xtrain.phase.exporting import export_checkpoint
from xtrain.run_directory import RunDirectory


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+", metavar="RUN_DIR CHECKPOINT OUT")
    folders: list[Path] = parser.parse_args().folders
    if len(folders) % 3:
        parser.error("name a run directory, a checkpoint and a folder to write, or several such threes")
    for run, checkpoint, out in zip(folders[::3], folders[1::3], folders[2::3], strict=True):
        print(json.dumps(of_export(RunDirectory(run), checkpoint, out)), flush=True)


def of_export(run: RunDirectory, checkpoint: Path, out: Path) -> dict[str, Any]:
    """What :func:`measured` finds, the bytes written, and the size of the largest tensor among them."""
    result = measured(lambda: export_checkpoint(run, checkpoint, out))
    result["written"] = sum(path.stat().st_size for path in out.iterdir())
    result["largest_tensor"] = 4 * max(map(prod, TensorFile(out / "model.safetensors").shapes.values()))
    return result


def measured(work: Callable[[], object]) -> dict[str, Any]:
    """Seconds of ``work``, resident memory before it, and the most above that while it ran.

    The kernel notes the most that a process ever held (VmHWM); writing 5 to ``clear_refs`` begins that anew. Where
    that is not allowed the peak may be an older one, so that the result is too high rather than too low.
    """
    before = status_bytes("VmRSS")
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        print("the peak could not be reset: it may be that of the imports")
    began = time.monotonic()
    work()
    return {
        "seconds": round(time.monotonic() - began, 2),
        "before": before,
        "peak_above": status_bytes("VmHWM") - before,
    }


def status_bytes(field: str) -> int:
    """A field of ``/proc/self/status`` in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return int(value.split()[0]) * 1024
    raise KeyError(field)


if __name__ == "__main__":
    main()
