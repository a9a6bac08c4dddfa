"""The benchmarks as their leaderboards have them: tasks, languages, groups, files, labels, and how each counts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from xtrain.errors import Problem, UserError, listed, nearest

Kind = Literal["label", "choice", "tags", "index", "pairs", "answers", "ranking"]
"""The form of a task's files: a label a line; jsonl rows with ``label``; a tag a line, a blank line between
sentences; an index a line; two ids a line; answers by question (gold: SQuAD json); ranked ids by query."""

EXTENSIONS: Mapping[Kind, str] = {
    "label": "tsv",
    "choice": "jsonl",
    "tags": "tsv",
    "index": "tsv",
    "pairs": "tsv",
    "answers": "json",
    "ranking": "json",
}
METRICS: Mapping[Kind, tuple[str, ...]] = {
    "label": ("accuracy",),
    "choice": ("accuracy",),
    "tags": ("f1", "precision", "recall"),
    "index": ("accuracy",),
    "pairs": ("f1", "precision", "recall"),
    "answers": ("f1", "exact_match"),
    "ranking": ("map@20",),
}
ISO3 = {
    "af": "afr", "ar": "ara", "az": "aze", "bg": "bul", "bn": "ben", "de": "deu", "el": "ell", "es": "spa",
    "et": "est", "eu": "eus", "fa": "pes", "fi": "fin", "fr": "fra", "he": "heb", "hi": "hin", "hu": "hun",
    "id": "ind", "it": "ita", "ja": "jpn", "jv": "jav", "ka": "kat", "kk": "kaz", "ko": "kor", "lt": "lit",
    "ml": "mal", "mr": "mar", "nl": "nld", "pl": "pol", "pt": "por", "ro": "ron", "ru": "rus", "sw": "swh",
    "ta": "tam", "te": "tel", "th": "tha", "tl": "tgl", "tr": "tur", "uk": "ukr", "ur": "urd", "vi": "vie",
    "zh": "cmn",
}  # fmt: skip
"""Tatoeba's own names of its languages; its files may carry them instead of the two letters."""


@dataclass(frozen=True)
class BenchmarkTask:
    """One task of a benchmark."""

    name: str
    """The folder's name."""
    kind: Kind
    languages: tuple[str, ...]
    labels: tuple[str, ...] = ()
    """The labels there are; empty where there is no fixed set."""
    rules: Literal["squad", "mlqa"] = "squad"
    """Of answers: whose normalisation is used."""
    with_accuracy: bool = False
    """Of tags: whether the share of right tags is reported beside the chunks."""
    iso3: bool = False
    """Whether files may be named by the three letters of ISO 639-3."""
    rows: Mapping[str, int] = field(default_factory=dict)
    """Language -> the rows (questions) of the benchmark's test set, where they are known."""

    @property
    def extension(self) -> str:
        """The ending of its files, without the dot."""
        return EXTENSIONS[self.kind]

    @property
    def metrics(self) -> tuple[str, ...]:
        """The names of what is reported for a language."""
        return METRICS[self.kind] + (("accuracy",) if self.with_accuracy else ())

    @property
    def counted(self) -> tuple[str, ...]:
        """The metrics whose mean is the task's score: F1 and exact match for answers, else the first."""
        return self.metrics[:2] if self.kind == "answers" else self.metrics[:1]

    def file_name(self, language: str) -> str:
        """The leaderboard's name of a language's file."""
        return f"test-{language}.{self.extension}"

    def file_names(self, language: str) -> tuple[str, ...]:
        """The names under which a language's file is looked for."""
        names = (self.file_name(language),)
        return names + ((self.file_name(ISO3[language]),) if self.iso3 else ())


@dataclass(frozen=True)
class Benchmark:
    """A benchmark: its tasks in the order of its tables, and the groups that have scores of their own."""

    name: str
    groups: Mapping[str, tuple[str, ...]]
    tasks: Mapping[str, BenchmarkTask]


def get(name: str) -> Benchmark:
    """The benchmark called ``name``; a :class:`UserError` where there is none."""
    if name not in BENCHMARKS:
        raise UserError(
            Problem(f"--benchmark {name}", "is not known", allowed=listed(BENCHMARKS), remedy=nearest(name, BENCHMARKS))
        )
    return BENCHMARKS[name]


_NLI = ("entailment", "neutral", "contradiction")
_ENTITIES = ("O", *(f"{prefix}-{kind}" for kind in ("LOC", "ORG", "PER") for prefix in "BI"))
_UPOS = (
    "ADJ", "ADP", "ADV", "AUX", "CCONJ", "DET", "INTJ", "NOUN", "NUM", "PART", "PRON", "PROPN", "PUNCT", "SCONJ",
    "SYM", "VERB", "X",
)  # fmt: skip

_XNLI = "ar bg de el en es fr hi ru sw th tr ur vi zh"
_PAWSX = "de en es fr ja ko zh"
_UDPOS = "af ar bg de el en es et eu fa fi fr he hi hu id it ja kk ko mr nl pt ru ta te th tl tr ur vi yo zh"
_PANX = (
    "af ar bg bn de el en es et eu fa fi fr he hi hu id it ja jv ka kk ko ml mr ms my nl pt ru sw ta te th tl tr ur "
    "vi yo zh"
)
_TATOEBA = "af ar bg bn de el es et eu fa fi fr he hi hu id it ja jv ka kk ko ml mr nl pt ru sw ta te th tl tr ur vi zh"
_XQUAD = "ar de el en es hi ru th tr vi zh"
_MLQA = {"ar": 5335, "de": 4517, "en": 11590, "es": 5253, "hi": 4918, "vi": 5495, "zh": 5137}
_TYDIQA = {"ar": 921, "bn": 113, "en": 440, "fi": 782, "id": 565, "ko": 276, "ru": 812, "sw": 499, "te": 669}
_XCOPA = "et ht id it qu sw ta th tr vi zh"
_MEWSLIX = "ar de en es fa ja pl ro ta tr uk"
_LAREQA = "ar de el en es hi ru th tr vi zh"
_TATOEBA_SMALL = {"jv": 205, "ka": 746, "kk": 575, "ml": 687, "sw": 390, "ta": 307, "te": 234, "th": 548}


def _languages(codes: str, more: str = "") -> tuple[str, ...]:
    return tuple(sorted([*codes.split(), *more.split()]))


def _each(codes: str, rows: int) -> dict[str, int]:
    return dict.fromkeys(codes.split(), rows)


def _tasks(udpos: str = "", panx: str = "", xquad: str = "", tatoeba: str = "") -> Iterator[BenchmarkTask]:
    """Every task of the two benchmarks, with the languages that XTREME-R adds to XTREME's."""
    yield BenchmarkTask("pawsx", "label", _languages(_PAWSX), ("0", "1"), rows=_each(_PAWSX, 2000))
    yield BenchmarkTask("xnli", "label", _languages(_XNLI), _NLI, rows=_each(_XNLI, 5010))
    yield BenchmarkTask("xcopa", "choice", _languages(_XCOPA), ("0", "1"), rows=_each(_XCOPA, 500))
    yield BenchmarkTask("udpos", "tags", _languages(_UDPOS, udpos), _UPOS, with_accuracy=True)
    yield BenchmarkTask("panx", "tags", _languages(_PANX, panx), _ENTITIES)
    yield BenchmarkTask("xquad", "answers", _languages(_XQUAD, xquad), rows=_each(f"{_XQUAD} {xquad}", 1190))
    yield BenchmarkTask("mlqa", "answers", tuple(_MLQA), rules="mlqa", rows=_MLQA)
    yield BenchmarkTask("tydiqa", "answers", tuple(_TYDIQA), rows=_TYDIQA)
    yield BenchmarkTask("bucc2018", "pairs", ("de", "fr", "ru", "zh"))
    yield BenchmarkTask(
        "tatoeba", "index", _languages(_TATOEBA, tatoeba), iso3=True, rows=_each(_TATOEBA, 1000) | _TATOEBA_SMALL
    )
    yield BenchmarkTask("mewslix", "ranking", _languages(_MEWSLIX))
    yield BenchmarkTask("lareqa", "ranking", _languages(_LAREQA))


def _benchmark(name: str, groups: Mapping[str, tuple[str, ...]], tasks: Iterator[BenchmarkTask]) -> Benchmark:
    by_name = {task.name: task for task in tasks}
    return Benchmark(name, groups, {task: by_name[task] for members in groups.values() for task in members})


BENCHMARKS: Mapping[str, Benchmark] = {
    "xtreme": _benchmark(
        "xtreme",
        {
            "classification": ("xnli", "pawsx"),
            "structured_prediction": ("udpos", "panx"),
            "question_answering": ("xquad", "mlqa", "tydiqa"),
            "retrieval": ("bucc2018", "tatoeba"),
        },
        _tasks(),
    ),
    "xtreme-r": _benchmark(
        "xtreme-r",
        {
            "classification": ("xnli", "xcopa"),
            "structured_prediction": ("udpos", "panx"),
            "question_answering": ("xquad", "mlqa", "tydiqa"),
            "retrieval": ("mewslix", "lareqa", "tatoeba"),
        },
        _tasks(udpos="lt pl ro uk wo", panx="az gu lt pa pl qu ro uk", xquad="ro", tatoeba="az lt pl ro uk"),
    ),
}
