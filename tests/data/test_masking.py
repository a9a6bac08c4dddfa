"""Masking: the shares, and that it hangs on (seed, example, occurrence) and on nothing else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from xtrain.data import JoinedShard, PackedBatch, Shard, collate
from xtrain.data.draws import MASK, draw
from xtrain.data.masking import Masking
from xtrain.data.shards import write_shard
from xtrain.errors import UserError
from xtrain.tasks import TaskSpec
from xtrain.tasks.formats import IGNORED

BEGIN, PAD, END, UNK, MASK_ID, VOCAB = 0, 1, 2, 3, 399, 400  # of the tiny tokenizer
SPECIAL = (BEGIN, PAD, END, MASK_ID)


def spec(**options: float) -> TaskSpec:
    return TaskSpec(name="t", format="mlm", languages=("en",), sources=(), options=options)


def make_shard(path: Path, lengths: list[int], seed: int = 0) -> Shard:
    """Examples of one sequence, ``<s> tokens </s>``; a token in ten is one of the special ones."""
    rng = np.random.default_rng(seed)
    rows = []
    for size in lengths:
        inner = rng.integers(UNK, MASK_ID, size=size)
        inner[1:] = np.where(rng.random(size - 1) < 0.1, rng.choice(SPECIAL, size - 1), inner[1:])
        rows.append(np.array([BEGIN, *inner, END], dtype=np.uint32))
    manifest = {"task": "t", "format": "mlm", "language": "en", "split": "train", "fields": {}}
    sizes, ids = [len(row) for row in rows], [str(n) for n in range(len(rows))]
    return write_shard(path, rows, sizes, [1] * len(rows), {}, ids, manifest)


@pytest.fixture(scope="module")
def shard(tmp_path_factory: pytest.TempPathFactory) -> Shard:
    lengths = np.random.default_rng(5).integers(1, 60, size=300).tolist()
    return make_shard(tmp_path_factory.mktemp("masking") / "shard", lengths)


@pytest.fixture(scope="module")
def joined(shard: Shard, tmp_path_factory: pytest.TempPathFactory) -> JoinedShard:
    return JoinedShard([shard, make_shard(tmp_path_factory.mktemp("masking") / "other", [3, 9, 27, 1], seed=1)])


@pytest.fixture(scope="module")
def masking(tiny_model: Path) -> Masking:
    return Masking.of(tiny_model, spec(), seed=3)


def by_example(batch: PackedBatch) -> dict[int, tuple[list[int], list[int]]]:
    """Row -> its token ids and labels."""
    ends = batch.cu_seqlens.tolist()
    return {
        row: (batch.input_ids[ends[e] : ends[e + 1]].tolist(), batch.fields["label"][ends[e] : ends[e + 1]].tolist())
        for e, row in enumerate(batch.indices.tolist())
    }


def masked_tokens(batch: PackedBatch) -> int:
    return int((batch.fields["label"] != IGNORED).sum())


@settings(max_examples=40)
@given(data=st.data())
def test_the_count_is_what_is_masked_however_the_batch_is_cut(
    data: st.DataObject, shard: Shard, joined: JoinedShard, tiny_model: Path
) -> None:
    """On any number of ranks, in any micro-batches and any order: the same masks, and as many as counted."""
    whole = data.draw(st.sampled_from([shard, joined]))
    rows = data.draw(st.lists(st.integers(0, len(whole) - 1), min_size=1, max_size=40))
    probability = data.draw(st.sampled_from([0.15, 0.01, 0.5, 1.0]))
    seed, occurrence = data.draw(st.integers(0, 2**40)), data.draw(st.integers(0, 10**6))
    masking = Masking.of(tiny_model, spec(mask_probability=probability), seed)
    at_once = masking.apply(collate(whole, rows, "t"), occurrence)
    assert masking.num_units(whole, rows, occurrence) == masked_tokens(at_once)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(rows)), max_size=4)))
    shuffled = data.draw(st.permutations(rows))
    parts = [shuffled[a:b] for a, b in zip([0, *cuts], [*cuts, len(rows)], strict=True) if a < b]
    masked = [masking.apply(collate(whole, part, "t"), occurrence) for part in parts]
    assert sum(masked_tokens(part) for part in masked) == masked_tokens(at_once)
    for part in masked:
        for row, example in by_example(part).items():
            assert example == by_example(at_once)[row]


def test_special_tokens_are_never_masked_and_every_example_has_one_that_is(shard: Shard, masking: Masking) -> None:
    rows = np.arange(len(shard))
    before, after = collate(shard, rows, "t"), masking.apply(collate(shard, rows, "t"), 0)
    labels, masked = after.fields["label"], after.fields["label"] != IGNORED
    assert torch.equal(labels[masked], before.input_ids[masked])
    assert torch.equal(after.input_ids[~masked], before.input_ids[~masked])
    assert not torch.isin(labels[masked], torch.tensor(SPECIAL)).any()
    assert UNK in labels[masked]  # not special: it stands for real text
    assert all(any(label != IGNORED for label in example[1]) for example in by_example(after).values())


def test_shares(shard: Shard, masking: Masking) -> None:
    """15 % of the tokens; of these 80, 10 and 10 %; random tokens uniform over all but the special ones."""
    rows = np.flatnonzero(shard.lengths > 20)  # at least one a sequence: short ones have a larger share
    before = collate(shard, rows, "t")
    maskable = ~torch.isin(before.input_ids, torch.tensor(SPECIAL))
    total, masked, as_mask, as_it_was, random = 0, 0, 0, 0, []
    for occurrence in range(60):
        after = masking.apply(before, occurrence)
        chosen = after.fields["label"] != IGNORED
        total, masked = total + int(maskable.sum()), masked + int(chosen.sum())
        new, old = after.input_ids[chosen], before.input_ids[chosen]
        as_mask, as_it_was = as_mask + int((new == MASK_ID).sum()), as_it_was + int((new == old).sum())
        random += new[(new != MASK_ID) & (new != old)].tolist()
    assert masked / total == pytest.approx(0.15, abs=0.002)
    assert as_mask / masked == pytest.approx(0.8, abs=0.01)
    assert as_it_was / masked == pytest.approx(0.1, abs=0.01)
    assert min(random) == UNK + 1
    assert max(random) == MASK_ID - 1
    counts = np.bincount(random, minlength=VOCAB)[UNK + 1 : MASK_ID]
    expected = len(random) / len(counts)
    chi_square = float(((counts - expected) ** 2 / expected).sum())
    assert abs(chi_square - len(counts)) < 5 * np.sqrt(2 * len(counts))


def test_seed_example_and_occurrence_each_change_the_masks(shard: Shard, masking: Masking, tiny_model: Path) -> None:
    batch = collate(shard, np.arange(40), "t")
    found = masking.apply(batch, 0).fields["label"]
    assert torch.equal(found, masking.apply(batch, 0).fields["label"])
    assert not torch.equal(found, masking.apply(batch, 1).fields["label"])
    assert not torch.equal(found, Masking.of(tiny_model, spec(), seed=4).apply(batch, 0).fields["label"])
    assert "label" not in batch.fields, "the batch that was given is as it was"


def test_every_place_is_as_likely(tmp_path: Path, masking: Masking) -> None:
    batch = collate(make_shard(tmp_path / "one", [40]), [0], "t")
    maskable = ~torch.isin(batch.input_ids, torch.tensor(SPECIAL))
    counts = torch.zeros(batch.num_tokens)
    for occurrence in range(2000):
        counts += masking.apply(batch, occurrence).fields["label"] != IGNORED
    assert counts[maskable].min() > 240
    assert counts[maskable].max() < 360


def test_draws_are_philox_and_stay_what_they_are() -> None:
    """Runs that were interrupted by an update of the program go on with the same masks."""
    assert draw(7, MASK, 5, 3, stream=11).tolist() == DRAWN
    assert draw(7, MASK, 5, 2, stream=11).tolist() == DRAWN[:2]
    # without a stream: what the sampler draws since its first version
    key = np.array([7, (1 << 56) | 5], dtype=np.uint64)
    assert draw(7, 1, 5, 4).tolist() == np.random.Philox(key=key).random_raw(4).tolist()


DRAWN = [10298393754584593899, 14233086602733012948, 2163255932982425281]


def test_a_tokenizer_without_mask_is_an_error(tmp_path: Path, tiny_model: Path) -> None:
    text = (tiny_model / "tokenizer.json").read_text(encoding="utf-8").replace("<mask>", "<mosk>")
    (tmp_path / "tokenizer.json").write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=r"tokenizer.json: has no token <mask>"):
        Masking.of(tmp_path, spec(), 0)
