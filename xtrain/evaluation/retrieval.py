"""Sentence retrieval: which block's output is pooled, and the nearest neighbour by cosine, both ways."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from xtrain.errors import Problem, UserError
from xtrain.model import layer_for_retrieval

POOLING = "mean over all tokens, special tokens included"
SIMILARITY = "cosine, first hit"


def embedding_layer(setting: int | str, num_layers: int) -> int:
    """The block whose output is pooled, counted from 1, in an encoder of ``num_layers`` blocks.

    ``setting`` is the study's ``evaluation.embedding_layer``: a number, ``"last"``, or ``"protocol"``:
    the 14th of XLM-R Large's 24 (Hu et al. 2020, XTREME), and the nearest to 14/24 at other depths.
    Raises :class:`UserError` for a number the encoder does not have.
    """
    if setting == "last":
        return num_layers
    if setting == "protocol":
        return layer_for_retrieval(num_layers)
    if not isinstance(setting, int) or not 1 <= setting <= num_layers:
        allowed = f'1 to {num_layers}, "last" or "protocol"'
        raise UserError(Problem("evaluation.embedding_layer", f"{setting!r} is no block of this encoder", allowed))
    return setting


def nearest(queries: Tensor, index: Tensor, chunk: int = 2048) -> Tensor:
    """Row of ``index`` (M, H) with the largest cosine to each of ``queries`` (Q, H): (Q,) int64.

    Of equal ones the first. Computed in fp32, ``chunk`` queries at a time: memory is chunk x M.
    """
    index = torch.nn.functional.normalize(index.float(), dim=-1)
    hits = [
        (torch.nn.functional.normalize(part.float(), dim=-1) @ index.T).argmax(dim=-1)  # (chunk,)
        for part in torch.split(queries, chunk)
    ]
    return torch.cat(hits)


def search(source: Tensor, target: Tensor) -> dict[str, npt.NDArray[np.int64]]:
    """First hits both ways between translations: ``source`` (E, H) foreign, ``target`` (E, H) English.

    Returns ``to_english`` (E,), the row of ``target`` nearest to each source, and ``from_english``.
    """
    assert source.shape == target.shape, (source.shape, target.shape)
    return {
        "to_english": nearest(source, target).cpu().numpy(),
        "from_english": nearest(target, source).cpu().numpy(),
    }
