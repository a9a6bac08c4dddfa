"""Retrieval by sentence vectors: which block is pooled, nearest neighbours by cosine, and mining with a margin."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from xtrain.errors import Problem, UserError
from xtrain.model import layer_for_retrieval

POOLING = "mean over all tokens, special tokens included"
SIMILARITY = "cosine, first hit"
NEIGHBOURS = 4  # of each sentence, whose mean cosine the margin compares with (XTREME, LASER)

Floats = npt.NDArray[np.float64]
Rows = npt.NDArray[np.int64]

_SPARE = 8  # neighbours beyond the wanted ones that are looked at exactly
_ERROR = 4e-6  # more than an fp32 cosine of vectors of a few thousand numbers is wrong by (TF32 is never on)
_DIGITS = 12  # of an exact cosine: two that differ by less are equal


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


@dataclass(frozen=True)
class Neighbours:
    """The nearest rows of an index to each query, the nearest first, and of equal ones the first row first."""

    similarity: Floats
    """(Q, k) cosines."""
    rows: Rows
    """(Q, k) rows of the index."""


def neighbours(
    queries: Tensor, index: Tensor, k: int, *, queries_at_once: int = 1024, rows_at_once: int = 16384
) -> Neighbours:
    """The ``k`` nearest rows of ``index`` (M, H) to each of ``queries`` (Q, H) by cosine; all M if there are fewer.

    Searched in fp32 on the vectors' device, in pieces: memory is queries_at_once x rows_at_once whatever Q and
    M are. What is found near enough is compared again in fp64, and where equals may have been passed over,
    all of the index is: the result depends neither on the pieces nor on the device.
    """
    k = min(k, len(index))
    unit = torch.nn.functional.normalize(index.float(), dim=-1)
    exact_index = _exact(index)
    similarity, rows = np.empty((len(queries), k)), np.empty((len(queries), k), dtype=np.int64)
    for begin in range(0, len(queries), queries_at_once):
        part = queries[begin : begin + queries_at_once]
        unit_part, exact_part = torch.nn.functional.normalize(part.float(), dim=-1), _exact(part)
        near, found = _nearest_in_fp32(unit_part, unit, min(k + _SPARE, len(index)), rows_at_once)
        cosine = _cosine(exact_part[:, None], exact_index[found])  # (Q', k + spare)
        here = slice(begin, begin + len(part))
        similarity[here], rows[here] = _sorted(cosine, found, k)
        if near.shape[1] < len(index):
            for query in np.flatnonzero(near[:, -1] >= near[:, k - 1] - 2 * _ERROR).tolist():
                all_near = _within(unit_part[query], unit, float(near[query, k - 1]) - 2 * _ERROR, rows_at_once)
                cosine = _cosine(exact_part[None, query], exact_index[all_near])
                one = _sorted(cosine[None], all_near[None], k)
                similarity[begin + query], rows[begin + query] = one[0][0], one[1][0]
    return Neighbours(similarity, rows)


def _exact(vectors: Tensor) -> npt.NDArray[np.float32]:
    """On the CPU, where fp64 sums always run in one order."""
    exact: npt.NDArray[np.float32] = vectors.detach().float().cpu().numpy()
    return exact


def _nearest_in_fp32(queries: Tensor, index: Tensor, count: int, rows_at_once: int) -> tuple[Floats, Rows]:
    """The ``count`` largest products (Q, count), descending, and their rows; of equals any."""
    best = queries.new_empty(len(queries), 0)
    rows = torch.empty(len(queries), 0, dtype=torch.long, device=queries.device)
    for begin in range(0, len(index), rows_at_once):
        products = queries @ index[begin : begin + rows_at_once].T  # (Q, rows_at_once)
        new, places = products.topk(min(count, products.shape[1]), dim=1)
        best, rows = torch.cat([best, new], dim=1), torch.cat([rows, places + begin], dim=1)
        if best.shape[1] > count:
            best, order = best.topk(count, dim=1)
            rows = rows.gather(1, order)
    return best.double().cpu().numpy(), rows.cpu().numpy()


def _within(query: Tensor, index: Tensor, least: float, rows_at_once: int) -> Rows:
    """The rows of ``index`` whose product with ``query`` (H,) is at least ``least``."""
    parts = [
        torch.nonzero(part @ query >= least)[:, 0] + number * rows_at_once
        for number, part in enumerate(torch.split(index, rows_at_once))
    ]
    found: Rows = torch.cat(parts).cpu().numpy()
    return found


def _cosine(first: npt.NDArray[np.float32], second: npt.NDArray[np.float32]) -> Floats:
    """Cosines of vectors along the last axis, in fp64, the same in whatever company they are computed."""
    one, other = first.astype(np.float64), second.astype(np.float64)
    sizes = np.sqrt((one * one).sum(-1)) * np.sqrt((other * other).sum(-1))
    product: Floats = (one * other).sum(-1)
    cosine: Floats = np.divide(product, sizes, out=np.zeros_like(product), where=sizes > 0)
    return cosine.round(_DIGITS)


def _sorted(cosine: Floats, rows: Rows, k: int) -> tuple[Floats, Rows]:
    order = np.lexsort((rows, -cosine))[:, :k]  # the last key counts first
    return np.take_along_axis(cosine, order, axis=1), np.take_along_axis(rows, order, axis=1)


def top_k(queries: Tensor, index: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The ``k`` largest cosines of each query with a row of ``index``, and those rows, (Q, k) both, on the CPU."""
    found = neighbours(queries, index, k)
    return torch.from_numpy(found.similarity), torch.from_numpy(found.rows)


def nearest(queries: Tensor, index: Tensor) -> Rows:
    """Row of ``index`` (M, H) with the largest cosine to each of ``queries`` (Q, H), (Q,); of equals the first."""
    return neighbours(queries, index, 1).rows[:, 0]


def search(source: Tensor, target: Tensor) -> dict[str, Rows]:
    """First hits both ways between translations: ``source`` (E, H) foreign, ``target`` (E, H) English.

    Returns ``to_english`` (E,), the row of ``target`` nearest to each source, and ``from_english``.
    """
    assert source.shape == target.shape, (source.shape, target.shape)
    return {"to_english": nearest(source, target), "from_english": nearest(target, source)}


@dataclass(frozen=True)
class Mined:
    """Pairs of a foreign and an English sentence, the best first; no sentence is in two of them."""

    foreign: Rows
    english: Rows
    scores: Floats


def mine(foreign: Tensor, english: Tensor, k: int = NEIGHBOURS, margin: str = "ratio") -> Mined:
    """Candidates for translations between ``foreign`` (F, H) and ``english`` (E, H).

    A pair's score is the margin of its cosine against m, the mean of the two sentences' mean cosines with
    their ``k`` neighbours on the other side: cosine / m ("ratio"), cosine - m ("distance"), or the cosine
    itself ("absolute"). Every sentence proposes the best of its neighbours; the proposals of both sides are
    taken from the best down, each sentence once (of equal scores the first foreign sentence, then the first
    English one), and those of no positive score are left out. Artetxe and Schwenk 2019 (arXiv 1811.01136),
    as in ``mine_bitext`` of google-research/xtreme.
    """
    to_english, to_foreign = neighbours(foreign, english, k), neighbours(english, foreign, k)
    foreign_mean, english_mean = to_english.similarity.mean(axis=1), to_foreign.similarity.mean(axis=1)
    forward = _margin(to_english.similarity, foreign_mean[:, None], english_mean[to_english.rows], margin)  # (F, k)
    backward = _margin(to_foreign.similarity, english_mean[:, None], foreign_mean[to_foreign.rows], margin)  # (E, k)
    chosen, taken = forward.argmax(axis=1), backward.argmax(axis=1)
    every_foreign, every_english = np.arange(len(foreign)), np.arange(len(english))
    one = np.concatenate([every_foreign, to_foreign.rows[every_english, taken]])
    other = np.concatenate([to_english.rows[every_foreign, chosen], every_english])
    scores = np.concatenate([forward[every_foreign, chosen], backward[every_english, taken]])
    used = np.zeros(len(foreign), dtype=bool), np.zeros(len(english), dtype=bool)
    kept = []
    for place in np.lexsort((other, one, -scores)).tolist():
        if not used[0][one[place]] and not used[1][other[place]]:
            used[0][one[place]] = used[1][other[place]] = True
            if scores[place] > 0:
                kept.append(place)
    return Mined(one[kept], other[kept], scores[kept])


def _margin(cosine: Floats, one_mean: Floats, other_mean: Floats, margin: str) -> Floats:
    mean: Floats = (one_mean + other_mean) / 2
    if margin == "absolute":
        return cosine
    if margin == "distance":
        return cosine - mean
    assert margin == "ratio", margin
    # a mean of zero would need vectors without any direction in common: such a pair is never taken
    ratio: Floats = np.divide(cosine, mean, out=np.full_like(cosine, -np.inf), where=mean != 0)
    return ratio
