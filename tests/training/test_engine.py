"""The real DeepSpeed engine with 1, 2 and 4 ranks over Gloo, in every ZeRO stage and in fp32 and bf16."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from once import once
from runs import Nursery
from toy import TASKS

from xtrain.data import Shard, prepare
from xtrain.data.shards import write_shard
from xtrain.tasks import catalog

WORKER = Path(__file__).with_name("engine_worker.py")
WHOLE, CUT = 100_000, 60  # token budgets: a rank's share at once, and cut into many micro-batches


def case(
    name: str, stage: int, precision: str = "fp32", tokens: int = WHOLE, dropout: float = 0.0, tasks: str = "toy"
) -> dict[str, Any]:
    sizes = {"name": name, "stage": stage, "precision": precision, "tokens": tokens, "steps": 4, "dropout": dropout}
    return {**sizes, "tasks": tasks.split()}


CASES = [
    *(case(f"fp32-{stage}", stage) for stage in range(4)),
    *(case(f"bf16-{stage}", stage, "bf16") for stage in range(4)),
    *(case(f"cut-{stage}", stage, tokens=CUT) for stage in range(4)),
    *(case(f"bf16-cut-{stage}", stage, "bf16", tokens=CUT) for stage in range(1, 4)),
    case("dropout", 2, dropout=0.1),
    case("dropout-cut", 2, tokens=CUT, dropout=0.1),
    *(case(f"contrast-{stage}", stage, dropout=0.1, tasks="pairs") for stage in (2, 3)),
    *(case(f"contrast-cut-{stage}", stage, tokens=CUT, dropout=0.1, tasks="pairs") for stage in (2, 3)),
    *(case(f"both-{stage}", stage, tokens=CUT, tasks="toy pairs") for stage in (2, 3)),
]
IN_FOUR = ("fp32-2", "cut-1", "dropout", "contrast-cut-2", "both-2")


@pytest.fixture(scope="session")
def results(
    tmp_path_factory: pytest.TempPathFactory, nursery: Nursery, tiny_model: Path, toy_data: Path
) -> dict[int, Any]:
    """By world size: what the worker measured in each case."""

    def run_all(out: Path) -> dict[int, Any]:
        """Every case with 1 and 2 ranks, some with 4."""
        spec = catalog.load({"toy": TASKS["toy"]})["toy"]
        shard = prepare(spec, "train", "en", tiny_model, 64, toy_data, out / "prepared")
        pairs = pairs_to_compare(out / "pairs")
        (out / "shards.json").write_text(json.dumps({"toy": str(shard.path), "pairs": str(pairs.path)}))
        found = {}
        for world_size in (1, 2, 4):
            cases = CASES if world_size < 4 else [c for c in CASES if c["name"] in IN_FOUR]
            nursery.work(WORKER, world_size, out, tiny_model, out, json.dumps(cases))
            found[world_size] = json.loads((out / f"world-{world_size}.json").read_text())
        return found

    return {int(size): found for size, found in once(tmp_path_factory, "engine", run_all).items()}


def pairs_to_compare(path: Path) -> Shard:
    """Examples of two sequences each, for a loss that compares all of a global batch; some candidates are alike."""
    rng = np.random.default_rng(0)
    sequences = [rng.integers(4, 400, size=rng.integers(3, 30)).astype(np.uint32) for _ in range(80)]
    fields = {"kind": [0] * 40, "group": [n % 13 for n in range(40)]}
    manifest = {"task": "pairs", "format": "answer_retrieval", "language": "en", "split": "train"}
    return write_shard(
        path, sequences, [len(one) for one in sequences], [2] * 40, fields, [str(n) for n in range(40)],
        {**manifest, "fields": {"kind": "example", "group": "example"}},
    )  # fmt: skip


def agree(one: dict[str, Any], other: dict[str, Any], tolerance: float) -> None:
    """Same losses, gradient norms and final weights."""
    assert one["losses"] == pytest.approx(other["losses"], abs=tolerance)
    assert one["norms"] == pytest.approx(other["norms"], rel=50 * tolerance)
    for name, values in one["weights"].items():
        assert values == pytest.approx(other["weights"][name], rel=50 * tolerance, abs=50 * tolerance), name


@pytest.mark.parametrize("stage", range(4))
@pytest.mark.parametrize("world_size", [1, 2])
def test_all_stages_give_the_same_numbers_in_fp32(results: dict[int, Any], stage: int, world_size: int) -> None:
    agree(results[1]["fp32-0"], results[world_size][f"fp32-{stage}"], 1e-5)


@pytest.mark.parametrize("stage", range(4))
@pytest.mark.parametrize("world_size", [1, 2])
def test_one_micro_batch_or_many_is_the_same_gradient(results: dict[int, Any], stage: int, world_size: int) -> None:
    found = results[world_size][f"cut-{stage}"]
    assert min(found["micro_steps"]) > 1, "nothing was cut"
    assert max(results[1]["fp32-0"]["micro_steps"]) == 1
    agree(results[1]["fp32-0"], found, 1e-5)


@pytest.mark.parametrize("stage", range(4))
@pytest.mark.parametrize("world_size", [1, 2])
def test_bf16_follows_fp32_in_every_stage(results: dict[int, Any], stage: int, world_size: int) -> None:
    found = results[world_size][f"bf16-{stage}"]
    assert found["losses"] == pytest.approx(results[1]["fp32-0"]["losses"], abs=0.02)
    assert found["losses"] != results[1]["fp32-0"]["losses"]


@pytest.mark.parametrize("stage", range(1, 4))
@pytest.mark.parametrize("world_size", [1, 2])
def test_micro_batches_are_summed_in_fp32_in_bf16_too(results: dict[int, Any], stage: int, world_size: int) -> None:
    whole, found = results[world_size][f"bf16-{stage}"], results[world_size][f"bf16-cut-{stage}"]
    assert min(found["micro_steps"]) > 1
    assert found["norms"][0] == pytest.approx(whole["norms"][0], rel=1e-3)


def test_four_ranks_agree(results: dict[int, Any]) -> None:
    agree(results[1]["fp32-0"], results[4]["fp32-2"], 1e-5)
    agree(results[1]["fp32-0"], results[4]["cut-1"], 1e-5)


def test_dropout_does_not_depend_on_ranks_or_micro_batches(results: dict[int, Any]) -> None:
    """Masks are keyed by example: with dropout on, too, the run is the same up to float order."""
    assert results[1]["dropout"]["losses"] != pytest.approx(results[1]["fp32-2"]["losses"], abs=1e-4)
    for other in (results[1]["dropout-cut"], results[2]["dropout"], results[2]["dropout-cut"], results[4]["dropout"]):
        agree(results[1]["dropout"], other, 1e-5)


@pytest.mark.parametrize("name", ["contrast-3", "contrast-cut-2", "contrast-cut-3"])
@pytest.mark.parametrize("world_size", [1, 2])
def test_a_loss_over_the_whole_batch_is_the_same_on_any_ranks(
    results: dict[int, Any], world_size: int, name: str
) -> None:
    """In-batch negatives come from the global batch, not from a rank's micro-batch."""
    assert "cut" not in name or max(results[world_size][name]["micro_steps"]) > 1
    agree(results[1]["contrast-2"], results[world_size][name], 1e-5)


def test_a_loss_over_the_whole_batch_is_the_same_on_four_ranks(results: dict[int, Any]) -> None:
    agree(results[1]["contrast-2"], results[4]["contrast-cut-2"], 1e-5)


@pytest.mark.parametrize(("world_size", "stage"), [(1, 3), (2, 2), (2, 3), (4, 2)])
def test_tasks_in_turn_are_the_same_on_any_ranks(results: dict[int, Any], world_size: int, stage: int) -> None:
    """No rank waits for a head: all have the same task in the same step, in the same order."""
    one, other = results[1]["both-2"], results[world_size][f"both-{stage}"]
    assert one["tasks"] == other["tasks"]
    assert set(one["tasks"]) == {"toy", "pairs"}
    for task, losses, mean in zip(other["tasks"], other["by_task"], other["losses"], strict=True):
        assert losses == {f"{task}/loss": mean}
    agree(one, other, 1e-5)


def test_nothing_waits_for_the_device(results: dict[int, Any]) -> None:
    """DeepSpeed's timers would, at every forward pass and update: hundreds of times."""
    assert [results[world_size]["all"]["waits"] for world_size in results] == [0, 0, 0]


def test_collectives_of_every_group_fail_as_late_as_was_said(results: dict[int, Any]) -> None:
    for world_size in (2, 4):
        limits = results[world_size]["all"]["limits"]
        assert len(limits) > 1, "DeepSpeed has made none"
        assert set(limits) == {4000.0}
