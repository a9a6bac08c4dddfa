"""Evaluation of answer retrieval: the 20 nearest candidates of each query, from one pool for all languages.

Dimension letters: E examples, Q queries, M candidates, H hidden.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from xtrain.data import Shard
from xtrain.errors import Problem, UserError, counted
from xtrain.evaluation.benchmark.ranking import CUT, map_at_k
from xtrain.evaluation.evaluators.base import Evaluation, Evaluator, LanguageResult, Setting, Shards
from xtrain.evaluation.predict import predict_part
from xtrain.evaluation.retrieval import neighbours
from xtrain.tasks.answer_retrieval import BY_RULE, CANDIDATE, PAIR, QUERY

IntArray = npt.NDArray[np.int64]
Vectors = npt.NDArray[np.float32]

POOLING = "first token, dense, tanh, length 1"
SIMILARITY = "inner product (cosine)"


class AnswerRetrieval(Evaluator):
    """Mean average precision at 20 of each language's queries; pairs are searched among themselves."""

    definitions: Mapping[str, str] = {
        "map@20": "mean average precision at 20: the sum of the precisions at the right answers among the first 20, "
        "divided by the number of right answers (by 20, if there are more)",
    }

    def evaluate(self, setting: Setting, shards: Shards, companions: Mapping[str, Shards] | None = None) -> Evaluation:
        """Queries of each language against the candidates of all of them, and of the companion ``index``.

        A shard of pairs (a dev set of training) is a pool of its own: each query against the candidates of
        the shard, equal ones counted once. Right answers of a query are those of its note and, where
        languages share it, of the same question in the others. Raises :class:`UserError` for candidates of
        the same id in two shards.
        """
        assert setting.model is not None, "a head predicts"
        protocol: dict[str, Any] = {"pooling": POOLING, "search": SIMILARITY}
        kinds = {language: shard.fields["kind"] for language, shard in shards.items()}
        if all((kind == PAIR).all() for kind in kinds.values()):
            results = [_pairs(setting, shard) for shard in shards.values()]
            return Evaluation(results, {**protocol, "pool": "the candidates of each language's pairs"})
        assert not any((kind == PAIR).any() for kind in kinds.values()), "pairs among queries and candidates"
        search = _Search()
        for language, shard in shards.items():
            _check_queries(kinds[language], shard)
            search.embed(setting, shard, language)
        for language, shard in (companions or {}).get("index", {}).items():
            search.embed(setting, shard, language)
        return Evaluation(search.results(setting), {**protocol, **search.protocol()})


ANSWER_RETRIEVAL = AnswerRetrieval()


@dataclass(frozen=True)
class _Queries:
    """The queries of one language."""

    language: str
    ids: Sequence[str]
    notes: Sequence[Mapping[str, Any]]
    vectors: Vectors  # (Q, H), on every rank


@dataclass
class _Search:
    """A pool of candidates, each on the rank that embedded it, and queries that every rank has."""

    ids: list[str] = field(default_factory=list)
    """Of all candidates; a candidate's number is its place here."""
    languages: list[str] = field(default_factory=list)
    """Those that have candidates in the pool."""
    numbers: list[IntArray] = field(default_factory=list)
    """Of this rank's candidates."""
    vectors: list[Vectors] = field(default_factory=list)
    """Theirs, (m, H) each."""
    queries: list[_Queries] = field(default_factory=list)
    unanswered: int = 0
    """Queries that have no right answer in the pool."""

    def embed(self, setting: Setting, shard: Shard, language: str) -> None:
        """Add the candidates and queries of a shard."""
        assert setting.model is not None
        kinds = np.asarray(shard.fields["kind"])
        rows, arrays, _ = predict_part(
            setting.model, shard, setting.task, ranks=setting.ranks, tokens_per_batch=setting.tokens_per_batch,
            device=setting.device, progress=setting.progress,
        )  # fmt: skip
        vectors = arrays["vectors"][:, 0].astype(np.float32)  # (e, H)
        candidates = np.flatnonzero(kinds == CANDIDATE)
        mine = kinds[rows] == CANDIDATE
        self.numbers.append(np.searchsorted(candidates, rows[mine]) + len(self.ids))
        self.vectors.append(vectors[mine])
        if len(candidates):
            self.ids += shard.ids(candidates)
            self.languages.append(language)
        found = np.flatnonzero(kinds == QUERY)
        if len(found):
            whole = _gathered(setting, rows[~mine], vectors[~mine])
            assert len(whole) == len(found), "a query is missing, or was embedded twice"
            self.queries.append(_Queries(language, shard.ids(found), shard.notes(found), whole))

    def results(self, setting: Setting) -> list[LanguageResult]:
        """The nearest candidates of all queries, scored by language."""
        places = self._places(setting.spec.name)
        shared: dict[str, list[str]] = {}
        for queries in self.queries:
            for note in queries.notes:
                if "question" in note:
                    shared.setdefault(note["question"], []).extend(note["right"])
        nearest = self._nearest(setting)  # (Q, k)
        results, begin = [], 0
        for queries in self.queries:
            end = begin + len(queries.ids)
            right = [self._right(note, shared, places) for note in queries.notes]
            ranked = [[self.ids[number] for number in row] for row in nearest[begin:end].tolist()]
            results.append(_scored(setting, queries.language, queries.ids, right, ranked))
            begin = end
        return results

    def protocol(self) -> dict[str, Any]:
        """The pool, its size, and what is missing in it."""
        by_rule = any(note.get("sentences") == BY_RULE for queries in self.queries for note in queries.notes[:1])
        return {
            "pool": self.languages,
            "candidates": len(self.ids),
            "questions": sum(len(queries.ids) for queries in self.queries),
            **({"questions_without_answer_in_pool": self.unanswered} if self.unanswered else {}),
            **({"sentences": "cut by rule: not the benchmark's pool"} if by_rule else {}),
        }

    def _places(self, task: str) -> dict[str, int]:
        places = {id_: place for place, id_ in enumerate(self.ids)}
        if len(places) < len(self.ids):
            twice = next(id_ for place, id_ in enumerate(self.ids) if places[id_] != place)
            what = f"the id {twice!r} belongs to two candidates of the pool"
            remedy = "map id to a column that is different in every candidate of all languages"
            raise UserError(Problem(f"task.{task}", what, remedy=remedy))
        return places

    def _right(self, note: Mapping[str, Any], shared: Mapping[str, list[str]], places: Mapping[str, int]) -> list[str]:
        """The right answers that are in the pool; all that there are, if none is."""
        known = dict.fromkeys(shared.get(note.get("question", ""), note["right"]))
        there = [id_ for id_ in known if id_ in places]
        self.unanswered += not there
        return there or list(known)

    def _nearest(self, setting: Setting) -> IntArray:
        """The numbers of the ``CUT`` best candidates of each query, the best first, (Q, k); collective."""
        queries = np.concatenate([queries.vectors for queries in self.queries])
        numbers, index = np.concatenate(self.numbers), np.concatenate(self.vectors)
        order = np.argsort(numbers)
        places, scores = _top(queries, index[order], setting.device)
        gathered = setting.ranks.gather((numbers[order][places], scores))
        every = np.concatenate([part[0] for part in gathered], axis=1)  # (Q, up to k of each rank)
        score = np.concatenate([part[1] for part in gathered], axis=1)
        best = np.lexsort((every, -score))[:, :CUT]  # of equal scores the lower number, whatever rank it is on
        return np.take_along_axis(every, best, axis=1)


def _check_queries(kinds: npt.NDArray[np.int32], shard: Shard) -> None:
    if not (kinds == QUERY).any():
        what = f"no query among {counted(len(kinds), 'example')} of {shard.task} in {shard.language}"
        raise UserError(Problem(str(shard.path), what, remedy="leave the language out, or add queries to its file"))


def _gathered(setting: Setting, rows: IntArray, vectors: Vectors) -> Vectors:
    """The vectors of all ranks in the order of their rows."""
    parts = setting.ranks.gather((rows, vectors))
    order = np.argsort(np.concatenate([part[0] for part in parts]), kind="stable")
    whole: Vectors = np.concatenate([part[1] for part in parts])[order]
    return whole


def _top(queries: Vectors, index: Vectors, device: torch.device) -> tuple[IntArray, npt.NDArray[np.float64]]:
    """The places and scores of the ``CUT`` best rows of ``index`` (M, H) for each query, (Q, k) both."""
    if not len(index):
        empty = (len(queries), 0)
        return np.zeros(empty, dtype=np.int64), np.zeros(empty)
    found = neighbours(torch.from_numpy(queries).to(device), torch.from_numpy(index).to(device), CUT)
    return found.rows, found.similarity


def _pairs(setting: Setting, shard: Shard) -> LanguageResult:
    """Each query of a shard of pairs against all their candidates; equal candidates are one."""
    assert setting.model is not None
    rows, arrays, _ = predict_part(
        setting.model, shard, setting.task, ranks=setting.ranks, tokens_per_batch=setting.tokens_per_batch,
        device=setting.device, progress=setting.progress,
    )  # fmt: skip
    vectors = _gathered(setting, rows, arrays["vectors"].astype(np.float32))  # (E, 2, H)
    ids = shard.ids(np.arange(len(vectors)))
    _, first, own = np.unique(shard.fields["group"], return_index=True, return_inverse=True)
    places, _ = _top(vectors[:, 0], np.ascontiguousarray(vectors[first, 1]), setting.device)
    right = [[ids[first[group]]] for group in own]
    return _scored(setting, shard.language, ids, right, [[ids[n] for n in row] for row in first[places].tolist()])


def _scored(
    setting: Setting,
    language: str,
    ids: Sequence[str],
    right: Sequence[Sequence[str]],
    ranked: Sequence[Sequence[str]],
) -> LanguageResult:
    rows = [
        {"id": id_, "label": list(label), "prediction": list(found)}
        for id_, label, found in zip(ids, right, ranked, strict=True)
    ]
    return LanguageResult(
        language, {"map@20": map_at_k(ranked, right)}, len(ids), rows if setting.ranks.rank == 0 else []
    )
