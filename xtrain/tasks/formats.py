"""What a format is: the rows it reads, the examples it makes of them, and where the formats are found."""

from __future__ import annotations

import importlib
import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from xtrain.errors import Problem, UserError, listed, nearest
from xtrain.tasks.sampling import Draw, Sample

if TYPE_CHECKING:
    from xtrain.tasks.encoding import PairTokenizer
    from xtrain.tasks.spec import TaskSpec

FieldKind = Literal["example", "sequence", "token"]
"""A field has one number an example, one for each of its sequences, or one for each of its tokens."""
IGNORED = -100
"""In a token field: a token that has no label (special tokens, all but a word's first piece)."""


WITHHELD = -101
"""In a token field: a token whose label is asked for but not given, as in the test sets of a leaderboard."""


@dataclass(frozen=True)
class Row:
    """One row of a source, its columns named as the format names them."""

    where: str
    """``file:line`` (or data set, split and row on the hub), for messages."""
    id: str
    """The source's own id, or the number of the row."""
    values: Mapping[str, Any]
    """Column of the format -> value as it stands in the source."""
    owed: bool = False
    """Whether a prediction is owed of it, whatever it holds: rows of test sets, and candidates to search in."""


@dataclass(frozen=True)
class Encoded:
    """One example, ready for a shard."""

    id: str
    sequences: Sequence[Sequence[int]]
    """Token ids, special tokens included; one sequence or several."""
    fields: dict[str, list[int]]
    """What the head needs: one number for a field of kind "example", one a token for "token"."""
    truncated: bool = False
    """Whether a sequence was longer than the maximum length, and the rest of it is lost."""
    split: bool = False
    """Whether it was longer than the maximum length, and lies in several sequences without loss."""
    withheld: bool = False
    """Whether its gold label is not given. Such examples make a shard only where all of a test set are."""
    note: Any = None
    """What evaluation needs to make answers of predictions (a context, gold answers), as JSON has it."""
    remarks: tuple[str, ...] = ()
    """What is odd about it but no mistake; examples are counted by remark in the shard's manifest."""
    text: TextCount = field(default_factory=lambda: TextCount())
    """How much text in its language it was made of, before anything was cut."""
    texts: tuple[str, ...] = ()
    """That text, to be measured (:mod:`xtrain.language_facts`): shards do not keep it."""


@dataclass(frozen=True)
class TextCount:
    """An amount of text, and what the tokenizer makes of it."""

    words: int = 0
    """What stands between white space; where the source itself has words, those."""
    characters: int = 0
    """Code points of Unicode, white space inside the text among them."""
    pieces: int = 0
    """Tokens, special ones not counted."""
    unknown: int = 0
    """Of the pieces, those that are ``<unk>``."""

    def __add__(self, other: TextCount) -> TextCount:
        return TextCount(
            self.words + other.words,
            self.characters + other.characters,
            self.pieces + other.pieces,
            self.unknown + other.unknown,
        )


@dataclass(frozen=True)
class Dropped:
    """A row of which no example can be made, and why: counted in the manifest, never an error."""

    id: str
    reason: str


@dataclass(frozen=True)
class Companion:
    """A shard that an evaluation reads beside the one of the evaluated split and language."""

    role: str
    """What it is for: ``tune`` (a threshold is chosen on it), ``index`` (candidates to search in)."""
    split: str
    language: str


class Format(ABC):
    """One kind of task. A new one is a module with an object of such a class; nothing else changes."""

    name: str
    required: tuple[str, ...]
    """Columns that every source must map."""
    gold: tuple[str, ...] = ()
    """Of these, the ones that a test set may lack: a leaderboard withholds them."""
    gold_file: bool = False
    """Whether the gold of a split lies in a file of its own, the last one, which a test set may lack."""
    optional: tuple[str, ...] = ()
    """Columns that a source may map; ``id`` may be mapped in every format."""
    options: tuple[str, ...] = ()
    """Keys allowed in a task's ``options``."""
    metrics: tuple[str, ...]
    """Metrics that a task may name as its own."""
    trained: bool = True
    """Whether there is a loss; if not, the format is evaluated only."""
    fields: Mapping[str, FieldKind] = {}
    """The fields of its examples."""
    sampling: str = "drawn by a hash of their ids: the same in every language that has them"
    """How a sample of a data set is drawn, in words: part of a score's protocol."""

    def check(self, spec: TaskSpec, where: str) -> list[Problem]:
        """What is wrong with ``spec`` beyond columns, metric and option names; ``where`` names its entry."""
        return []

    def companions(self, spec: TaskSpec, split: str, languages: Sequence[str]) -> tuple[Companion, ...]:
        """The shards that an evaluation of ``split`` in ``languages`` reads beside the evaluated ones."""
        return ()

    @abstractmethod
    def read(self, rows: Iterable[Row], spec: TaskSpec, language: str, problems: ProblemList) -> Iterator[Any]:
        """What ``rows`` hold, checked, in order: what :meth:`tokenise` takes, or :class:`Dropped`.

        What is wrong with a row goes to ``problems``: all of it is found here, where no tokenizer is needed. What is
        yielded may have ``withheld``, as :class:`Encoded` has.
        """

    @abstractmethod
    def tokenise(
        self, read: Iterable[Any], tokenizer: PairTokenizer, spec: TaskSpec, max_length: int
    ) -> Iterator[Encoded | Dropped]:
        """Examples of what :meth:`read` gives, in order."""

    def encode(
        self,
        rows: Iterable[Row],
        tokenizer: PairTokenizer,
        spec: TaskSpec,
        max_length: int,
        language: str,
        problems: ProblemList,
    ) -> Iterator[Encoded | Dropped]:
        """Examples of ``rows`` in order; what is wrong with a row goes to ``problems``."""
        return self.tokenise(self.read(rows, spec, language, problems), tokenizer, spec, max_length)

    def draw(self, sample: Sample) -> Draw:
        """What draws ``sample`` from what :meth:`read` gives; labels, where examples have one, keep their shares."""
        if self.fields.get("label") == "example":
            return Draw(sample, label=lambda item: int(item.fields["label"][0]))
        return Draw(sample)

    def always(self, item: Any) -> bool:
        """Whether ``item`` is in every sample, and not counted: the candidates that others are searched in."""
        return False

    def thinned(self, items: Iterable[Encoded | Dropped], sample: Sample) -> Iterable[Encoded | Dropped]:
        """Of the examples that were made of ``sample``, at most as many as it wants: one row may make several."""
        return items


@dataclass
class ProblemList:
    """Collects what is wrong with a file, and stops at ``limit``: nobody reads a thousand messages."""

    limit: int = 20
    found: list[Problem] = field(default_factory=list)
    remarks: Counter[str] = field(default_factory=Counter)
    """What is odd about files but no mistake: how many of them there are of each kind."""

    def remark(self, what: str) -> None:
        """Note that it is so of one file."""
        self.remarks[what] += 1

    def add(self, *problems: Problem) -> None:
        """Note ``problems``; raises them all as one :class:`UserError` when there are ``limit``."""
        self.found.extend(problems)
        if len(self.found) >= self.limit:
            last = self.found[self.limit - 1]
            remedy = " ".join(
                part for part in (last.remedy, f"(only the first {self.limit} problems are listed)") if part
            )
            self.found[self.limit - 1 :] = [Problem(last.where, last.what, last.allowed, remedy)]
            self.raise_if_any()

    def raise_if_any(self) -> None:
        """Raise everything noted as one :class:`UserError`, if there is anything."""
        if self.found:
            raise UserError(*self.found)


_MODULES = {
    "classification": "xtrain.tasks.classification",
    "multiple_choice": "xtrain.tasks.multiple_choice",
    "tagging": "xtrain.tasks.tagging",
    "span_qa": "xtrain.tasks.span_qa",
    "sentence_retrieval": "xtrain.tasks.sentence_retrieval",
    "bitext_mining": "xtrain.tasks.bitext_mining",
    "answer_retrieval": "xtrain.tasks.answer_retrieval",
    "mlm": "xtrain.tasks.mlm",
}
_registered: dict[str, Format] = {}


def register(format_: Format) -> None:
    """Make a format known under its name."""
    assert format_.name not in _MODULES, f"the format {format_.name!r} is built in"
    _registered[format_.name] = format_


def names() -> tuple[str, ...]:
    """The names of all formats."""
    return (*_MODULES, *_registered)


def get(name: str) -> Format:
    """The format ``name``; raises :class:`UserError` with the known ones."""
    if name in _MODULES:
        built_in: Format = importlib.import_module(_MODULES[name]).FORMAT
        return built_in
    if name in _registered:
        return _registered[name]
    raise UserError(Problem("format", f"{name!r} is not known", listed(names()), nearest(name, names())))


# What the formats need of a row.


EMPTY = "empty text"
"""Why a row is dropped that has no text where there should be one; the remark, where it is kept nevertheless."""


class LeftOut(Exception):
    """Raised while a row is read: no example is made of it, for this reason, which is counted and no mistake."""


def text_of(row: Row, column: str) -> str:
    """The text in ``column`` as :func:`told_text` has it; the row is :class:`LeftOut` if it is empty and not owed."""
    return told_text(row, row.values[column], column)


def told_text(row: Row, value: Any, column: str) -> str:
    """``value`` as text, white space around it removed; what is no text is a :class:`UserError`.

    Public sets hold empty texts and nulls (QQP's questions, PAWS-X's translations). Nothing is learnt from them, but
    a test set owes a prediction for each row: there they are kept, as an empty text.
    """
    text = whole_text(row, value, column).strip()
    if not text and not row.owed:
        raise LeftOut(EMPTY)
    return text


def whole_text(row: Row, value: Any, column: str) -> str:
    """``value`` as it stands, for texts in which places are counted; null is empty, no text a :class:`UserError`."""
    if value is not None and not isinstance(value, str):
        raise UserError(Problem(f"{row.where}: {column}", f"{value!r:.60} is not text", allowed="text"))
    return value or ""


MISPLACED = "answer not in context"
"""Why a question is dropped whose answer does not stand where the data say."""


def place_in_text(value: Any) -> Any:
    """A place as sets write it (``5``, ``5.0``, ``"5"``) as a whole number; None for null or nothing, else as it is."""
    if isinstance(value, str) and re.fullmatch(r"\s*[+-]?\d+(\.0+)?\s*", value):
        value = float(value)
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, str) and not value.strip():
        return None
    return str(value) if isinstance(value, bool) else value  # Python takes True for 1


def label_word(value: Any) -> str:
    """A label as a word: ``3``, ``3.0`` and ``"3"`` are ``"3"``, booleans are ``"true"`` and ``"false"``."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value).strip()


UNLABELLED = ("", "-", "-1")
"""How data sets write that a row has no label (SNLI where its annotators disagreed, hidden test sets)."""


def wrong_label(row: Row, word: str, allowed: Iterable[str]) -> UserError:
    """The error for a label that is not in the set, with a hint where only the case differs."""
    choices = list(allowed)
    same = [choice for choice in choices if choice.casefold() == word.casefold()]
    if same:
        remedy = f"the case differs: write {same[0]!r}, or add label_map = {{ {word!r} = {same[0]!r} }}"
    else:
        hint = nearest(word, choices)
        remedy = (f"{hint} " if hint else "") + "otherwise map the file's word with label_map, or add it to labels"
    return UserError(Problem(f"{row.where}: label", f"{word!r} is not a label", listed(choices), remedy))
