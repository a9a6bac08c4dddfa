"""Out of memory: the batch is named, the remedy helps, and other errors pass as they are."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from toy import run_python

from xtrain.data import JoinedShard, Shard
from xtrain.data.shards import write_shard
from xtrain.errors import UserError
from xtrain.study import Engine, Recipe
from xtrain.training.out_of_memory import MicroBatch, is_out_of_memory, naming_batch, naming_work, smaller_budget
from xtrain.training.plan import Plan

CPU = torch.device("cpu")
WORKER = Path(__file__).with_name("memory_worker.py")
CUDA_ERROR = "CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of 79.15 GiB of which 1 GiB is"
OTHERS = [
    OSError(errno.ENOSPC, "No space left on device"),
    RuntimeError("mat1 and mat2 shapes cannot be multiplied (3x4 and 5x6)"),
    RuntimeError("out of resource: shared memory, Required: 147456, Hardware limit: 101376."),
    KeyError("out of memory"),
]


def make_shard(path: Path, lengths: list[list[int]]) -> Shard:
    """Example e has sequences of ``lengths[e]`` tokens and the id ``row-e``."""
    rng = np.random.default_rng(0)
    sizes = [size for example in lengths for size in example]
    return write_shard(
        path, [rng.integers(4, 1000, size=size).astype(np.uint32) for size in sizes], sizes,
        [len(example) for example in lengths], {"label": [0] * len(lengths)},
        [f"row-{n}" for n in range(len(lengths))],
        {"task": "t", "format": "f", "language": "en", "split": "train", "fields": {"label": "example"}},
    )  # fmt: skip


@pytest.fixture
def shard(tmp_path: Path) -> Shard:
    return make_shard(tmp_path / "shard", [[500, 12], [1000], [3], *([[300]] * 10)])


def batch(shard: Shard, rows: list[int]) -> MicroBatch:
    """A micro-batch of the shard's ``rows``, the third of four of rank 1."""
    plan = Plan.of({"xnli": shard}, Recipe(batch_size=len(shard), max_steps=200, window_batches=0), seed=0)
    indices = plan.batch(119).indices
    assert sorted(indices) == list(range(len(shard)))
    return MicroBatch(119, 2, 4, 1, plan, np.array([int(np.flatnonzero(indices == row)[0]) for row in rows]))


def message(
    shard: Shard, error: BaseException, rows: list[int], ds_config: str = "zero2", device: torch.device = CPU
) -> str:
    """What the user reads when ``error`` comes up in a micro-batch of ``rows``."""
    with pytest.raises(UserError) as caught, naming_batch(batch(shard, rows), Engine(ds_config), device):
        raise error
    assert caught.value.__cause__ is error
    (problem,) = caught.value.problems
    assert problem.where == "step 120, micro-batch 3 of 4 on rank 1"
    return str(caught.value)


def test_a_real_refusal_of_torch_names_the_batch(shard: Shard) -> None:
    with pytest.raises(UserError) as caught, naming_batch(batch(shard, [0, 1, 2]), Engine(), CPU):
        torch.empty(2**58)
    text = str(caught.value)
    assert text.startswith("step 120, micro-batch 3 of 4 on rank 1: out of memory with 1,515 tokens in 4 sequences, ")
    assert "the longest of 1,000 (task xnli, examples row-0, row-1, row-2); 1,048,576.0 TiB more were asked" in text
    assert "the host has " in text
    assert "(this process takes " in text
    # half of 1,515 is less than the longest example
    assert "engine.tokens_per_micro_batch = 1000 (now 8192)" in text
    assert '"zero3"' in text


def test_a_real_refusal_of_numpy_and_many_examples(shard: Shard) -> None:
    with pytest.raises(UserError) as caught, naming_batch(batch(shard, list(range(2, 13))), Engine(), CPU):
        np.empty(2**57, dtype=np.float64)
    text = str(caught.value)
    assert "row-9 and 3 more" in text
    assert "1.00 EiB more were asked for" in text
    assert "tokens_per_micro_batch = 1472" in text  # half of 3,003, a multiple of 64


def test_an_example_has_all_its_sequences(shard: Shard) -> None:
    """Example 0 has two sequences that no setting can part."""
    text = message(shard, MemoryError(), [0])
    assert "tokens_per_micro_batch" not in text
    assert "lower recipe.*.max_length (one example, of 512 tokens" in text
    assert "the longest of 500" in text


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError(CUDA_ERROR),
        RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        torch.distributed.DistBackendError(
            "NCCL error: unhandled cuda error\nLast error:\nCuda failure 'out of memory'"
        ),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        RuntimeError("std::bad_alloc"),
    ],
)
def test_every_way_of_saying_it(shard: Shard, error: BaseException) -> None:
    assert is_out_of_memory(error)
    assert "out of memory with 1,003 tokens in 2 sequences" in message(shard, error, [1, 2])


@pytest.mark.parametrize("error", OTHERS)
def test_other_errors_pass(shard: Shard, error: Exception) -> None:
    with (
        pytest.raises(type(error)) as caught,
        naming_batch(batch(shard, [1]), Engine(), CPU),
        naming_work("step 1", "the optimizer's update", Engine(), CPU),
    ):
        raise error
    assert caught.value is error


def test_the_message_of_a_gpu(shard: Shard, monkeypatch: pytest.MonkeyPatch) -> None:
    """There may be none here: its counters are made up."""
    counters = {
        "mem_get_info": (2**30, 80 * 2**30),
        "memory_allocated": 60 * 2**30,
        "memory_reserved": 78 * 2**30,
    }
    for name, value in counters.items():
        monkeypatch.setattr(torch.cuda, name, lambda device, value=value: value)
    error, gpu = torch.OutOfMemoryError(CUDA_ERROR), torch.device("cuda", 3)
    text = message(shard, error, [3, 4, 5, 6], device=gpu)
    assert "2.50 GiB more were asked for, and cuda:3 has 1.0 GiB free of 80.0 GiB" in text
    assert "(this process: 60.0 GiB in use, 78.0 GiB reserved)" in text
    assert "tokens_per_micro_batch = 576" in text
    assert "expandable_segments:True (18.0 GiB lie idle)" in text
    assert 'ds_config = "zero3" or "zero3_offload"' in text
    assert 'ds_config = "zero3_offload"' in message(shard, error, [3], "zero3", gpu)
    assert "ds_config" not in message(shard, error, [3], "zero3_offload", gpu)
    assert "the host has" in message(shard, MemoryError(), [3], device=gpu)


def test_a_driver_that_answers_nothing_any_more(shard: Shard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (_ for _ in ()).throw(RuntimeError("CUDA error")))
    text = message(shard, RuntimeError("CUDA error: out of memory"), [3, 4], device=torch.device("cuda", 0))
    assert "; CUDA error: out of memory\n" in text


def test_half_a_message_where_the_ids_cannot_be_read(shard: Shard, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_memory(rows: np.ndarray) -> list[str]:
        raise MemoryError

    monkeypatch.setattr(shard, "ids", no_memory)
    assert "lower engine.tokens_per_micro_batch" in message(shard, MemoryError(), [1])


def test_joined_shards(tmp_path: Path) -> None:
    parts = [make_shard(tmp_path / name, [[10, 20], [30]]) for name in ("a", "b")]
    plan = Plan.of({"both": JoinedShard(parts)}, Recipe(batch_size=4, max_steps=1), seed=0)
    text = str(MicroBatch(0, 0, 1, 0, plan, np.arange(4)))
    assert text.startswith("120 tokens in 6 sequences, the longest of 30 (task both, examples t/en/row-")


def test_work_without_a_batch() -> None:
    with pytest.raises(UserError) as caught, naming_work("step 7", "the optimizer's update", Engine(), CPU):
        torch.empty(2**58)
    text = str(caught.value)
    assert text.startswith("step 7: out of memory in the optimizer's update; 1,048,576.0 TiB more were asked for")
    assert '"zero3"' in text
    assert "tokens_per_micro_batch" not in text


@pytest.mark.parametrize(
    ("tokens", "longest", "expected"),
    [
        (8192, 512, 4096),
        (8190, 100, 4032),
        (1000, 900, 900),
        (512, 512, None),
        (100, 20, 50),
        (30, 3, 16),
        (16, 2, None),
    ],
)
def test_the_smaller_setting(tokens: int, longest: int, expected: int | None) -> None:
    assert smaller_budget(tokens, longest) == expected


def test_the_remedy_helps(tmp_path: Path) -> None:
    """A process with a real limit runs out of memory; doing what the message says, it gets through."""
    make_shard(tmp_path / "shard", [[n % 200 + 100] for n in range(60)])
    result = run_python([str(WORKER), str(tmp_path / "shard"), "8192"], tmp_path)
    assert result.returncode == 0, result.stderr
    tries = [json.loads(line) for line in result.stdout.splitlines()]
    assert len(tries) >= 2, tries
    assert "step 1, micro-batch 1 of " in tries[0]["error"]
    assert "row-" in tries[0]["error"]
    assert tries[-1]["error"] == ""
    assert tries[-1]["tokens"] < tries[0]["tokens"]
