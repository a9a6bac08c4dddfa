"""Nothing in a training step waits for the GPU but what is listed here: every head, with every file of ds_configs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from long import ALL_FAULTS, with_long
from once import once
from toy import PROJECT
from toy_formats import make_formats

WORKER = Path(__file__).with_name("device_trace.py")
PRECISIONS = {"zero0": "fp32", "zero2_fp16": "fp16"}  # of the others bf16
CONFIGS = sorted(path.stem for path in (PROJECT / "ds_configs").glob("*.json"))
LIKE_ZERO1 = ("zero2", "zero2_fp16")  # their optimizer is DeepSpeed's of zero1
SOME = [name for name in CONFIGS if name not in LIKE_ZERO1]
HEADS = {"toy", "choose", "tags", "qa", "pairs", "text"}

# Place -> why something may wait there, of the passes forward and backward.
ZERO3 = {
    "deepspeed/runtime/zero/stage3.py:independent_gradient_partition_epilogue":
        "once a backward pass: DeepSpeed's stream that reduces gradients has to end before they are read",
    "deepspeed/runtime/zero/partition_parameters.py:_allgather_params_coalesced":
        "the head of a loss over the whole batch is made whole between its two passes",
    "deepspeed/runtime/zero/partitioned_param_coordinator.py:reset_step":
        "in mixtures, where the order of modules changes from step to step: ranks agree on the new one",
}  # fmt: skip
OFFLOADED = {
    "deepspeed/runtime/zero/partition_parameters.py:<listcomp>": "weights come from the host's memory",
    "deepspeed/runtime/zero/partition_parameters.py:_all_gather_sequential": "weights come from the host's memory",
}
IN_PASSES = {"zero3": ZERO3, "zero3_offload": ZERO3 | OFFLOADED}
MOST_IN_AN_UPDATE = 2  # whether the gradient overflowed, and its norm
UPDATED_ON_THE_HOST = {"zero3_offload"}  # where the update is the CPU's, and weights go back to the GPU one by one


@pytest.fixture(scope="module")
def waits(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, toy_data: Path) -> dict[str, dict[str, list]]:
    """By file of ds_configs and task: ``[part of the step, what waited, where, how often]``."""

    def trace(root: Path) -> dict[str, dict[str, list]]:
        data = make_formats(Path(shutil.copytree(toy_data, root / "data")))
        cases = [f"{name} {PRECISIONS.get(name, 'bf16')}" for name in (CONFIGS if ALL_FAULTS else SOME)]
        ranks = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "DS_ACCELERATOR": "cpu"}
        environment = {**os.environ, **ranks, "PYTHONPATH": f"{PROJECT}:{PROJECT / 'tests'}"}
        command = [sys.executable, WORKER, tiny_model, data, root, *cases]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr[-3000:]
        found = json.loads((root / "waits.json").read_text())
        return {case.partition(" ")[0]: tasks for case, tasks in found.items()}

    return once(tmp_path_factory, "waits", trace)


@pytest.mark.parametrize("config", with_long(SOME, CONFIGS))
def test_the_passes_wait_for_nothing_that_is_not_listed(waits: dict[str, dict[str, list]], config: str) -> None:
    assert set(waits[config]) == HEADS
    seen = {place for task in waits[config].values() for part, _, place, _ in task if part == "passes"}
    assert seen <= set(IN_PASSES.get(config, {})), waits[config]


@pytest.mark.parametrize("config", with_long(SOME, CONFIGS))
def test_an_update_waits_twice_at_most(waits: dict[str, dict[str, list]], config: str) -> None:
    counts = [sum(count for part, *_, count in task if part == "update") for task in waits[config].values()]
    assert min(counts) > 0, "the norm of the gradient is read: a trace that sees no wait sees nothing"
    assert max(counts) <= MOST_IN_AN_UPDATE or config in UPDATED_ON_THE_HOST, waits[config]
