"""A run that goes on with another number of ranks or another ZeRO stage is the same run: samples, rates, losses."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from long import with_long
from runs import STEPS, Nursery, events, make_run, note_case, reached, settings, write_runs
from toy import read_jsonl

from xtrain.errors import EXIT_PREEMPTED

Lines = list[dict[str, Any]]
CHAIN = (4, 2, 3, 1)  # ranks, one job after the other; a batch is 12 examples
# At the beginning of which step (from 0) each job but the last ends.
LEAVE = ((2, "signal"), (4, "kill"), (9, "signal"))
RESUMED = [3, 3, 10]  # a signal's step is finished; a kill goes back to the save of step 3
FP32 = 1e-5  # the sums of a batch are made in another order, no more
BF16 = 2e-3  # half of its last place in losses between 1 and 2, as those of an untrained choice of three


def losses(run: Path) -> Lines:
    """The lines of ``metrics.jsonl`` that have a loss."""
    return [line for line in read_jsonl(run / "metrics.jsonl") if "loss" in line]


@pytest.fixture(scope="module")
def unchanged(
    tmp_path_factory: pytest.TempPathFactory, nursery: Nursery, tiny_model: Path, toy_data: Path
) -> Callable[[int, str], Path]:
    """By stage and precision: a run of four ranks from the beginning to the end."""
    done: dict[tuple[int, str], Path] = {}

    def of(stage: int, precision: str) -> Path:
        key = stage, precision
        if key not in done:
            root = tmp_path_factory.mktemp(f"unchanged-{stage}-{precision}")
            done[key] = make_run(root, tiny_model, toy_data, settings(stage, precision=precision, log_example_ids=True))
            ended = nursery.run(done[key], CHAIN[0])
            assert ended.codes == [0] * CHAIN[0], ended
        return done[key]

    return of


def end_early(nursery: Nursery, run: Path, ranks: int, step: int, how: str) -> None:
    """One job of the chain, ended at the beginning of ``step`` by a signal to its last rank, or killed."""
    faults: dict[str, Mapping[str, Any]] = {
        "signal": {"kind": "signal at", "place": "step", "step": step, "who": [ranks - 1], "names": ["SIGUSR1"]},
        "kill": {"kind": "kill at step", "step": step, "who": "all"},
    }
    ended = nursery.run(run, ranks, faults[how])
    assert ended.codes == [EXIT_PREEMPTED if how == "signal" else -9] * ranks, ended


def same_run(run: Path, other: Path, tolerance: float) -> float:
    """That both had the same samples and learning rates and, to ``tolerance``, losses; how far the losses differ."""
    ids = read_jsonl(run / "batches.jsonl")
    assert ids == read_jsonl(other / "batches.jsonl")
    assert [line["step"] for line in ids] == list(range(STEPS))
    found, expected = losses(run), losses(other)
    assert [line["step"] for line in found] == list(range(1, STEPS + 1))
    assert [line["learning_rate"] for line in found] == [line["learning_rate"] for line in expected]
    apart: float = max(abs(one["loss"] - two["loss"]) for one, two in zip(found, expected, strict=True))
    assert apart <= tolerance, (run, other)
    return apart


@pytest.mark.parametrize(
    ("stage", "precision", "tolerance"),
    with_long(
        [(3, "fp32", FP32), (2, "bf16", BF16)],
        [(0, "fp32", FP32), (1, "fp32", FP32), (2, "fp32", FP32), (3, "bf16", BF16)],
    ),
)
def test_four_two_three_one(
    nursery: Nursery,
    unchanged: Callable[[int, str], Path],
    tmp_path: Path,
    tiny_model: Path,
    toy_data: Path,
    stage: int,
    precision: str,
    tolerance: float,
) -> None:
    run = make_run(tmp_path / "run", tiny_model, toy_data, settings(stage, precision=precision, log_example_ids=True))
    lost = 0
    for ranks, (step, how), resumed in zip(CHAIN[:-1], LEAVE, RESUMED, strict=True):
        end_early(nursery, run, ranks, step, how)
        lost += reached(run) - resumed
    last = nursery.run(run, CHAIN[-1])
    assert last.codes == [0], last
    found = [(event["step"], event["ranks"]) for event in events(run, "resume")]
    assert found == list(zip(RESUMED, CHAIN[1:], strict=True))
    apart = same_run(run, unchanged(stage, precision), tolerance)
    note_case(f"4 -> 2 -> 3 -> 1 ranks, {precision}: losses differ by {apart:.1e}", run, lost,
              last.seconds_to_recover)  # fmt: skip


def test_another_stage_with_another_number_of_ranks(
    nursery: Nursery, unchanged: Callable[[int, str], Path], tmp_path: Path, tiny_model: Path, toy_data: Path
) -> None:
    """ZeRO 2, 3, 1, 0 with 2, 3, 2, 1 ranks: how the work is cut is no part of what the phase is.

    The last has no compiler. Each that differs says so: from there on the run is the same to rounding.
    """
    root, seen = tmp_path / "run", set()
    for stage, ranks, leave in ((2, 2, 3), (3, 3, 5), (1, 2, 8), (0, 1, None)):
        run = write_runs(root, tiny_model, toy_data, settings(stage, precision="fp32", log_example_ids=True))[0]
        seen.add(run)
        if leave is not None:
            end_early(nursery, run, ranks, leave, "signal")
    last = nursery.run(run, 1, environment={"XTRAIN_NO_OPS": "1"})
    assert last.codes == [0], last
    assert len(seen) == 1, "the phase has another hash"
    assert [event["step"] for event in events(run, "resume")] == [4, 6, 9]
    assert [event["changed"] for event in events(run, "rounds_otherwise")] == [
        "world_size 2 -> 3, stage 2 -> 3", "world_size 3 -> 2, stage 3 -> 1",
        "world_size 2 -> 1, stage 1 -> 0, optimizer DeepSpeed FusedAdam -> torch AdamW (fused)",
    ]  # fmt: skip
    apart = same_run(run, unchanged(2, "fp32"), FP32)
    note_case(f"ZeRO 2 -> 3 -> 1 -> 0 with 2, 3, 2, 1 ranks: losses differ by {apart:.1e}", run, 0,
              last.seconds_to_recover)  # fmt: skip
