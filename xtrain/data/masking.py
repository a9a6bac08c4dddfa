"""Masked language modelling: which tokens of an example are masked, drawn from (seed, example, occurrence).

Dimension letters: E examples, T tokens of the pack.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from xtrain.data.batches import PackedBatch, ranges
from xtrain.data.draws import MASK, draw
from xtrain.data.joined import JoinedShard
from xtrain.data.shards import Shard
from xtrain.errors import Problem, UserError
from xtrain.tasks.encoding import PairTokenizer, tokenizer_file, tokenizer_hash
from xtrain.tasks.formats import IGNORED
from xtrain.tasks.mlm import option
from xtrain.tasks.spec import TaskSpec

IntArray = npt.NDArray[np.int64]
WordArray = npt.NDArray[np.uint64]

SPECIAL = ("<s>", "<pad>", "</s>", "<mask>")  # never masked, never put in another token's place
UNKNOWN = "<unk>"  # masked as any other, but never put in another token's place


@dataclass(frozen=True)
class Vocabulary:
    """What masking needs to know of a tokenizer."""

    special: IntArray
    """Ids of :data:`SPECIAL`."""
    mask: int
    """The id of ``<mask>``."""
    words: IntArray
    """The ids that a random token is drawn from, sorted."""


@dataclass(frozen=True)
class Masking:
    """Devlin et al. 2019 (arXiv 1810.04805): 15 % of the tokens are predicted; of those 80 % are replaced by
    ``<mask>`` and 10 % by a random token. The shares are options of the task.

    Of an example with n tokens that are not special, ``probability`` * n are masked, rounded up or down at
    random so that the mean is exact, and at least one. All draws hang on (seed, the example's row in its
    shard, occurrence) alone: not on the number of ranks, on micro-batches, or on what else is in the pack.
    """

    vocabulary: Vocabulary
    seed: int
    probability: float
    mask_share: float
    random_share: float

    @classmethod
    def of(cls, encoder_folder: Path, spec: TaskSpec, seed: int) -> Masking:
        """The masking of a task, with the tokenizer in ``encoder_folder``.

        Raises :class:`UserError` if the tokenizer has not the tokens of :data:`SPECIAL`.
        """
        shares = (float(option(spec, name)) for name in ("mask_probability", "mask_share", "random_share"))
        return cls(_vocabulary(encoder_folder, tokenizer_hash(encoder_folder)), seed, *shares)

    def num_units(self, shard: Shard | JoinedShard, indices: npt.ArrayLike, occurrence: int) -> int:
        """How many tokens :meth:`apply` masks in the examples ``indices`` (E,) of ``shard``; at least 1.

        What the loss of a global batch is divided by. Reads the examples' tokens and draws one number each.
        """
        rows = np.asarray(indices, dtype=np.int64)
        sizes = np.zeros(len(rows), dtype=np.int64)
        parts = shard.divided(rows) if isinstance(shard, JoinedShard) else [(shard, rows, np.arange(len(rows)))]
        for part, local, places in parts:
            begin, lengths = part.sequence_offsets[part.example_offsets[local]], part.lengths[local]
            tokens = part.tokens[ranges(begin, lengths)].astype(np.int64)
            sizes[places] = self._maskable(tokens, lengths)[1]
        first = np.array([self._words(row, occurrence, 1)[0] for row in rows.tolist()], dtype=np.uint64)
        return max(1, int(self._counts(sizes, first).sum()))

    def apply(self, batch: PackedBatch, occurrence: int) -> PackedBatch:
        """``batch`` with new ``input_ids``, and a field ``label`` (T,): the token that was there where one is
        masked, ``IGNORED`` elsewhere. ``occurrence`` tells the times apart that an example is seen. On the CPU."""
        before = batch.input_ids.numpy()  # (T,)
        ends = batch.cu_seqlens.numpy().astype(np.int64)[batch.example_offsets.numpy()]  # (E + 1,)
        chosen, words = self._chosen(before, np.diff(ends), batch.indices.numpy(), occurrence)
        after, labels = before.copy(), np.full_like(before, IGNORED)
        labels[chosen] = before[chosen]
        after[chosen] = self._replaced(before[chosen], words)
        fields = {**batch.fields, "label": torch.from_numpy(labels)}
        return replace(batch, input_ids=torch.from_numpy(after), fields=fields)

    def _chosen(
        self, tokens: IntArray, lengths: IntArray, rows: IntArray, occurrence: int
    ) -> tuple[IntArray, WordArray]:
        """The places (in T) of the masked tokens, and a random number for each."""
        places, sizes = self._maskable(tokens, lengths)
        drawn = list(self._drawn(rows, sizes, occurrence))
        counts = self._counts(sizes, np.array([words[0] for words in drawn], dtype=np.uint64))
        owner = np.repeat(np.arange(len(sizes)), sizes)
        keys = np.concatenate([words[1 : 1 + size] for words, size in zip(drawn, sizes.tolist(), strict=True)])
        rest = np.concatenate([words[1 + size :] for words, size in zip(drawn, sizes.tolist(), strict=True)])
        order = np.lexsort((keys, owner))  # example by example, and in each by its random numbers
        rank = np.arange(len(order)) - (np.cumsum(sizes) - sizes)[owner]
        first = np.sort(order[rank < counts[owner]])
        return places[first], rest[first]

    def _drawn(self, rows: IntArray, sizes: IntArray, occurrence: int) -> Iterator[WordArray]:
        """For each example one number to round with, and for each token one to choose and one to replace by."""
        for row, size in zip(rows.tolist(), sizes.tolist(), strict=True):
            yield self._words(row, occurrence, 1 + 2 * size)

    def _words(self, row: int, occurrence: int, count: int) -> WordArray:
        return draw(self.seed, MASK, occurrence, count, stream=row)

    def _maskable(self, tokens: IntArray, lengths: IntArray) -> tuple[IntArray, IntArray]:
        """The places of the tokens that are not special, and how many each example has, (E,)."""
        places = np.flatnonzero(~np.isin(tokens, self.vocabulary.special))
        owner = np.repeat(np.arange(len(lengths)), lengths)
        return places, np.bincount(owner[places], minlength=len(lengths))

    def _counts(self, sizes: IntArray, words: WordArray) -> IntArray:
        """How many of ``sizes`` (E,) tokens are masked, (E,); ``words`` (E,) say how to round."""
        uniform = (words >> np.uint64(11)) * 2.0**-53  # in [0, 1)
        counts = np.floor(self.probability * sizes + uniform).astype(np.int64)
        return np.minimum(np.maximum(counts, 1), sizes)

    def _replaced(self, tokens: IntArray, words: WordArray) -> IntArray:
        """What stands for the masked ``tokens`` (M,): the upper half of each word says how, the lower which."""
        how = (words >> np.uint64(32)) * 2.0**-32  # in [0, 1)
        choices = self.vocabulary.words
        which = ((words & np.uint64(2**32 - 1)) * np.uint64(len(choices))) >> np.uint64(32)
        random = np.where(how < self.mask_share + self.random_share, choices[which.astype(np.int64)], tokens)
        return np.where(how < self.mask_share, self.vocabulary.mask, random)


@lru_cache(maxsize=4)
def _vocabulary(folder: Path, _key: str) -> Vocabulary:
    """The vocabulary of the tokenizer in ``folder``; ``_key`` is its hash, by which it is kept."""
    ids = PairTokenizer(folder).vocabulary()
    missing = [token for token in SPECIAL if token not in ids]
    if missing:
        raise UserError(
            Problem(
                str(tokenizer_file(folder)),
                f"has no token {', '.join(missing)}",
                allowed=f"a tokenizer with {', '.join(SPECIAL)}, as XLM-R's",
                remedy="choose another base for masked language modelling",
            )
        )
    special = np.array(sorted(ids[token] for token in SPECIAL), dtype=np.int64)
    words = np.array(sorted(set(ids.values())), dtype=np.int64)
    words = words[~np.isin(words, [*special, ids.get(UNKNOWN, -1)])]
    return Vocabulary(special, ids["<mask>"], words)
