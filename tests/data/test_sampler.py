"""Global batches are a function of seed and step: every epoch complete, any step without the ones before."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xtrain.data import GlobalBatches, Mixture

LENGTHS = st.lists(st.integers(2, 50), min_size=1, max_size=60)
SEEDS = st.integers(0, 2**40)


@settings(max_examples=150)
@given(
    lengths=LENGTHS,
    batch_size=st.integers(1, 12),
    seed=SEEDS,
    window=st.integers(0, 7),
    total=st.integers(1, 200),
)
def test_the_batches_are_the_stream(lengths: list[int], batch_size: int, seed: int, window: int, total: int) -> None:
    batches = GlobalBatches(lengths, batch_size, seed, total, window)
    found = [batches.batch(step) for step in range(batches.num_steps)]
    assert [len(batch) for batch in found[:-1]] == [batch_size] * (batches.num_steps - 1)
    assert sum(map(len, found)) == total
    # inside a window the batches are a rearrangement of the stream's part, and the stream is whole epochs
    size = max(1, window) * batch_size
    for begin in range(0, total, size):
        inside = found[begin // batch_size : (begin + size) // batch_size]
        assert Counter(np.concatenate(inside).tolist()) == Counter(
            batches.stream(begin, min(begin + size, total)).tolist()
        )
    for epoch in range(total // len(lengths)):
        assert sorted(batches.stream(epoch * len(lengths), (epoch + 1) * len(lengths))) == list(range(len(lengths)))


@settings(max_examples=100)
@given(lengths=LENGTHS, seed=SEEDS, window=st.integers(0, 5), data=st.data())
def test_any_step_alone_is_what_it_is_in_sequence(
    lengths: list[int], seed: int, window: int, data: st.DataObject
) -> None:
    def fresh() -> GlobalBatches:
        return GlobalBatches(lengths, 4, seed, 150, window)

    in_sequence = fresh()
    found = [in_sequence.batch(step).tolist() for step in range(in_sequence.num_steps)]
    order = data.draw(st.permutations(range(in_sequence.num_steps)))
    jumping = fresh()
    for step in order[:10]:
        assert fresh().batch(step).tolist() == found[step]
        assert jumping.batch(step).tolist() == found[step]


@settings(max_examples=50)
@given(lengths=st.lists(st.integers(2, 50), min_size=20, max_size=60), seed=SEEDS)
def test_a_longer_run_begins_like_a_shorter_one(lengths: list[int], seed: int) -> None:
    short, long = GlobalBatches(lengths, 4, seed, 80, 5), GlobalBatches(lengths, 4, seed, 400, 5)
    for step in range(short.num_steps):
        assert short.batch(step).tolist() == long.batch(step).tolist()


def test_seeds_and_epochs_differ() -> None:
    lengths = np.full(200, 7)
    first, second = (GlobalBatches(lengths, 10, seed, 400) for seed in (0, 1))
    assert first.stream(0, 200).tolist() != second.stream(0, 200).tolist()
    assert first.stream(0, 200).tolist() != first.stream(200, 400).tolist()
    # equally long examples meet in the order drawn, not in that of the file
    grouped = GlobalBatches(lengths, 10, 0, 400, 4)
    assert grouped.batch(0).tolist() != sorted(grouped.batch(0).tolist())


def test_grouping_brings_similar_lengths_together_and_mixes_the_order() -> None:
    lengths = np.random.default_rng(0).integers(5, 200, size=2000)
    grouped = GlobalBatches(lengths, 20, 0, 4000, 50)
    plain = GlobalBatches(lengths, 20, 0, 4000, 0)

    def spread(batches: GlobalBatches) -> float:
        return float(np.mean([np.ptp(lengths[batches.batch(n)]) for n in range(batches.num_steps)]))

    assert spread(grouped) < 0.1 * spread(plain)
    means = [lengths[grouped.batch(n)].mean() for n in range(50)]
    assert abs(np.corrcoef(means, np.arange(50))[0, 1]) < 0.5  # not from short to long


GOLDEN = [[8, 9, 14, 16], [26, 27, 29, 31], [11, 14, 16, 31]]


def test_the_order_is_the_same_for_ever() -> None:
    # a change here breaks the repetition of every run made before
    batches = GlobalBatches(np.arange(2, 34), 4, 7, 64, 3)
    assert [batches.batch(step).tolist() for step in (0, 5, 15)] == GOLDEN
    code = (
        "import numpy as np; from xtrain.data import GlobalBatches;"
        "b = GlobalBatches(np.arange(2, 34), 4, 7, 64, 3); print([b.batch(s).tolist() for s in (0, 5, 15)])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == str(GOLDEN)


@settings(max_examples=50)
@given(
    sizes=st.dictionaries(st.sampled_from("abcd"), st.integers(1, 10**6), min_size=1),
    seed=SEEDS,
    steps=st.integers(1, 300),
)
def test_a_mixture_numbers_the_steps_of_each_task(sizes: dict[str, int], seed: int, steps: int) -> None:
    mixture = Mixture(sizes, steps, seed)
    seen: Counter[str] = Counter()
    for step in range(steps):
        task, own = mixture.at(step)
        assert own == seen[task]
        seen[task] += 1
    assert {task: mixture.steps(task) for task in sizes} == {task: seen[task] for task in sizes}
    longer = Mixture(sizes, steps + 50, seed)
    assert [longer.at(step) for step in range(steps)] == [mixture.at(step) for step in range(steps)]


def test_the_mixing_rule() -> None:
    sizes = {"small": 1000, "large": 10**6, "huge": 10**7}
    mixture = Mixture(sizes, 20000, 0)
    total = 1000 + 2 * 2**17
    assert mixture.probabilities == pytest.approx([1000 / total, 2**17 / total, 2**17 / total])
    shares = [mixture.steps(task) / 20000 for task in sizes]
    assert shares == pytest.approx(mixture.probabilities, abs=1e-4)
    flat = Mixture(sizes, 10, 0, temperature=1e6)
    assert flat.probabilities == pytest.approx([1 / 3] * 3, abs=1e-4)
    assert Mixture({"one": 5}, 3, 0).at(2) == ("one", 2)


@settings(max_examples=60)
@given(
    sizes=st.lists(st.integers(1, 500_000), min_size=2, max_size=9),
    temperature=st.floats(1.0, 5.0),
    seed=SEEDS,
)
def test_realised_frequencies_match_the_formula(sizes: list[int], temperature: float, seed: int) -> None:
    # to a few steps at every place, so to 1 % of each share that is not tiny after 10,000
    named = {f"t{n}": size for n, size in enumerate(sizes)}
    mixture = Mixture(named, 10_000, seed, cap=2**17, temperature=temperature)
    powers = np.array([min(size, 2**17) ** (1 / temperature) for size in sizes])
    expected = powers / powers.sum()
    drawn = np.array([mixture.tasks.index(mixture.at(step)[0]) for step in range(10_000)])
    for steps in (100, 3333, 10_000):
        counts = np.bincount(drawn[:steps], minlength=len(sizes))
        assert np.all(np.abs(counts - expected * steps) <= 1 + len(sizes) * expected)
    common = expected > 0.01
    assert counts[common] / 10_000 == pytest.approx(expected[common], rel=0.01)


def test_the_order_of_tasks_is_not_a_pattern() -> None:
    mixture = Mixture({"a": 1000, "b": 1000}, 4000, 3)
    names = "".join(mixture.at(step)[0] for step in range(4000))
    pairs = Counter(names[n : n + 2] for n in range(0, 4000, 2))
    assert set(pairs) == {"ab", "ba"}  # a step of each task in every stratum, in an order that is drawn
    assert min(pairs.values()) > 900
