"""A function computed ahead in another process: what goes over, errors, and what is half sent."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from xtrain.errors import Problem, UserError
from xtrain.training.ahead import ALIGNED, AheadProcess, WorkerDied, packed, unpacked

PROBLEMS = (Problem("here", "is wrong", "right", "do it"), Problem("there", "too"))
SHAPES = st.lists(st.integers(0, 5), max_size=3).map(tuple)
DTYPES = st.sampled_from(["int64", "int32", "float32", "bool", "uint8"])


@settings(max_examples=60)
@given(shapes=st.lists(st.tuples(SHAPES, DTYPES), max_size=6), text=st.text(max_size=20), seed=st.integers(0, 99))
def test_what_is_packed_is_unpacked(shapes: list[tuple[tuple[int, ...], str]], text: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    arrays = [rng.integers(0, 2**30, size=shape).astype(dtype) for shape, dtype in shapes]
    tensors = [torch.from_numpy(array.copy()) for array in arrays]
    turned = [tensor.T if tensor.ndim == 2 else tensor for tensor in tensors]  # not contiguous
    found = unpacked(packed({"text": text, "arrays": arrays, "tensors": turned, "none": None}))
    assert found["text"] == text
    assert found["none"] is None
    for one, other in zip(arrays, found["arrays"], strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other, strict=True)
    for mine, theirs in zip(turned, found["tensors"], strict=True):
        assert mine.dtype == theirs.dtype
        assert torch.equal(mine, theirs)
        theirs.zero_()  # may be written into
    for mine in (tensor for tensor in tensors if tensor.ndim == 1 and len(tensor)):
        assert unpacked(packed(mine)).data_ptr() % ALIGNED == 0


class Unpicklable(ValueError):
    """Cannot be made again from its arguments."""

    def __init__(self, one: int, two: int) -> None:
        super().__init__(f"{one} and {two}")


def function(number: int) -> Any:
    """What the worker computes: big answers, errors, its own end."""
    if number < 100:
        return torch.full((1_000_000,), number), ["word"] * 50_000
    if number == 100:
        return {"OMP_NUM_THREADS": os.environ["OMP_NUM_THREADS"], "threads": torch.get_num_threads()}
    if number == 101:
        raise KeyError("x", 3)
    if number == 102:
        raise UserError(*PROBLEMS)
    if number == 103:
        raise Unpicklable(1, 2)
    if number == 104:
        return lambda: None  # cannot be sent
    os._exit(7)


@pytest.fixture
def process() -> Iterator[AheadProcess]:
    worker = AheadProcess(function)
    yield worker
    worker.close()


def test_answers_and_errors_come_in_order(process: AheadProcess) -> None:
    """Several megabytes each, none of them read before all are ready; an error does not end the worker."""
    for number in (3, 101, 102, 103, 104, 4, 100, 105, 5):
        process.ask(number)
    tensor, words = process.answer()
    assert tensor.sum() == 3_000_000
    assert len(words) == 50_000
    with pytest.raises(KeyError) as key:
        process.answer()
    assert key.value.args == ("x", 3)
    assert "in function" in key.value.__notes__[0]
    assert str(process.pid) in key.value.__notes__[0]
    with pytest.raises(UserError) as user:
        process.answer()
    assert user.value.problems == PROBLEMS
    with pytest.raises(RuntimeError, match="Unpicklable: 1 and 2"):
        process.answer()
    with pytest.raises(AttributeError, match="lambda"):
        process.answer()
    assert process.answer()[0][0] == 4
    assert process.answer() == {"OMP_NUM_THREADS": "1", "threads": 1}
    with pytest.raises(WorkerDied, match="exit status 7") as died:
        process.answer()
    assert died.value.pid == process.pid


def test_what_was_answered_before_the_death_is_an_answer(process: AheadProcess) -> None:
    """Read after the end, with questions left unread: the kernel tells of these first."""
    for number in (100, 105, 5):
        process.ask(number)
    process._process.wait()
    assert process.answer()["threads"] == 1
    with pytest.raises(WorkerDied, match="exit status 7"):
        process.answer()


class Elsewhere:
    """Can be pickled, but not be made again."""

    def __call__(self, number: int) -> int:
        return number

    def __reduce__(self) -> Any:
        return int, ("no number",)


def test_a_function_that_does_not_arrive_is_an_error_and_not_a_death() -> None:
    worker = AheadProcess(Elsewhere())
    worker.ask(0)
    with pytest.raises(ValueError, match="no number"):
        worker.answer()
    worker.close()
