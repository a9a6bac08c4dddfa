"""The encoder: XLM-R with the weights and names of Hugging Face's, run over packed rows.

Dimension letters: B sequences, T tokens of the pack, N heads, H hidden, V vocabulary, K used rows of it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xtrain.data.batches import PackedBatch
from xtrain.model.attention import (
    AttentionDropout,
    FlashPlan,
    PaddedPlan,
    flash_plan,
    flash_serves,
    mask_columns,
    packed_attention,
    padded_plan,
)
from xtrain.model.config_file import EncoderConfig
from xtrain.model.dropout import DropoutKeys, dropout
from xtrain.model.modules import XLMRobertaModules
from xtrain.model.vocabulary import UsedVocabulary

MORE_SITES = 8  # places for dropout in a head
_ROW_MULTIPLE = 16  # the matrix products of the CPU are 5 % faster on whole tiles of rows


class Encoder(nn.Module):
    """XLM-R from token ids to hidden states, without a padding token anywhere but in CPU attention.

    Names and shapes of the weights are those of :class:`transformers.XLMRobertaModel`, so that they are the
    checkpoint's; the blocks are run here, since packed rows, an early exit, a last block for first
    tokens only and masks by example do not pass through its forward method. A new encoder has no
    weights (it lives on the meta device): :func:`xtrain.model.loading.load_encoder` fills it.
    """

    remap: Tensor | None

    def __init__(
        self, config: EncoderConfig, vocabulary: UsedVocabulary | None = None, dropout: float | None = None
    ) -> None:
        """``config`` stays as it is (it is exported); ``dropout`` goes before its two probabilities."""
        super().__init__()
        self.config = config
        self.hidden_p = float(config.hidden_dropout_prob if dropout is None else dropout)
        self.attention_p = float(config.attention_probs_dropout_prob if dropout is None else dropout)
        self.vocabulary = vocabulary
        self.folder: Path | None = None  # that it was loaded from; its tokenizer is there
        self.flash = True  # where a GPU has it; without, padded rows serve there too, to compare with
        self.register_buffer("remap", None if vocabulary is None else vocabulary.remap, persistent=False)
        self.model = _packed_modules(config, vocabulary)

    @property
    def hidden_size(self) -> int:
        """H."""
        return int(self.config.hidden_size)

    @property
    def num_layers(self) -> int:
        """How many blocks there are."""
        return int(self.config.num_hidden_layers)

    @property
    def max_length(self) -> int:
        """The most tokens that a sequence can have."""
        return self.config.max_length

    @property
    def num_sites(self) -> int:
        """How many places there are at which the encoder drops something; a head's are numbered from here."""
        return 1 + 3 * self.num_layers

    def draw_keys(self, batch: PackedBatch) -> DropoutKeys | None:
        """The dropout masks of one training step, drawn from torch's default generator.

        None where there is nothing to draw: in evaluation, and where torch's CUDA kernels make the masks.
        """
        if not self.training or self._flash(batch):
            return None
        heads = int(self.config.num_attention_heads)
        columns = max(self.hidden_size // 2, mask_columns(heads, self.max_length))
        return DropoutKeys.draw(batch, self.num_sites + MORE_SITES, columns)

    def forward(
        self,
        batch: PackedBatch,
        num_layers: int | None = None,
        *,
        first_only: bool = False,
        keys: DropoutKeys | None = None,
    ) -> Tensor:
        """Hidden states (T, H) after the last block, or after block ``num_layers`` (from 1; 0: embeddings).

        With ``first_only`` those of each sequence's first token alone, (B, H): the same numbers as those
        rows of the full result, while the last block computes keys and values for all tokens and the rest
        of itself for B rows. ``keys`` come from :meth:`draw_keys`, which is called if they are not given.
        """
        depth = self.num_layers if num_layers is None else num_layers
        assert 0 <= depth <= self.num_layers, f"there are {self.num_layers} blocks, not {depth}"
        assert batch.max_seqlen <= self.max_length, f"{batch.max_seqlen} tokens, at most {self.max_length}"
        keys = keys if keys is not None else self.draw_keys(batch)
        ids, positions = batch.input_ids, batch.positions
        if not self._flash(batch):  # rows behind the pack: for whole tiles, and for padding slots to point at
            extra = _ROW_MULTIPLE - batch.num_tokens % _ROW_MULTIPLE
            ids, positions = torch.cat([ids, ids[:1].expand(extra)]), F.pad(positions, (0, extra))
            keys = keys.extended(len(ids)) if keys is not None else None
        hidden = self._embed(ids, positions, keys)  # (T and the rows behind, H)
        firsts = batch.cu_seqlens[:-1].long()  # (B,)
        blocks = self.model.encoder.layer[:depth]
        plan = self._plan(batch) if depth > int(first_only) else None
        for number, block in enumerate(blocks):
            if first_only and number == depth - 1:
                hidden = self._block(block, number, hidden, self._plan(batch, first_only=True), keys, firsts)
                return hidden[: batch.num_sequences]
            assert plan is not None
            hidden = self._block(block, number, hidden, plan, keys)
        return hidden[firsts] if first_only else hidden[: batch.num_tokens]

    def _flash(self, batch: PackedBatch) -> bool:
        weight = self.model.embeddings.LayerNorm.weight
        head_size = self.hidden_size // int(self.config.num_attention_heads)
        return self.flash and flash_serves(batch.input_ids.device, weight.dtype, head_size)

    def _plan(self, batch: PackedBatch, first_only: bool = False) -> PaddedPlan | FlashPlan:
        if self._flash(batch):
            return flash_plan(batch, first_only)
        dtype = self.model.embeddings.LayerNorm.weight.dtype
        return padded_plan(batch, int(self.config.num_attention_heads), dtype, first_only)

    def _embed(self, ids: Tensor, positions: Tensor, keys: DropoutKeys | None) -> Tensor:
        """Word, position and the one token-type row, normalised: (T, H)."""
        parts = self.model.embeddings
        if self.vocabulary is not None:
            ids = self.vocabulary.mapped(ids, cast(Tensor, self.remap))
        # one row, broadcast: its gradient is then a sum in fp32 and not T additions in bf16
        kind = parts.token_type_embeddings(torch.zeros(1, dtype=torch.long, device=ids.device))
        rows = parts.word_embeddings(ids) + kind + parts.position_embeddings(positions + self.config.pad_token_id + 1)
        return dropout(parts.LayerNorm(rows), self._p(self.hidden_p), keys, site=0)

    def _block(
        self,
        block: Any,
        number: int,
        hidden: Tensor,
        plan: PaddedPlan | FlashPlan,
        keys: DropoutKeys | None,
        query_rows: Tensor | None = None,
    ) -> Tensor:
        """One block over ``hidden`` (T, H); with ``query_rows`` its result for those rows alone."""
        site = 1 + 3 * number
        asking = hidden
        if query_rows is not None:
            asking = hidden[query_rows]
            keys = keys.at(query_rows) if keys is not None else None
        attention, p = block.attention, self._p(self.hidden_p)
        context = packed_attention(
            attention.self.query(asking),
            attention.self.key(hidden),
            attention.self.value(hidden),
            int(self.config.num_attention_heads),
            plan,
            AttentionDropout(self._p(self.attention_p), keys, site),
        )
        attended = attention.output(context, asking, p, keys, site + 1)
        return cast(Tensor, block.output(block.intermediate(attended), attended, p, keys, site + 2))

    def _p(self, p: float) -> float:
        return p if self.training else 0.0


def _packed_modules(config: EncoderConfig, vocabulary: UsedVocabulary | None) -> Any:
    """The modules on meta, with an embedding table of the used rows."""
    with torch.device("meta"):
        if vocabulary is None:
            return XLMRobertaModules(config)
        return XLMRobertaModules(config, len(vocabulary.kept), vocabulary.padding_row)
