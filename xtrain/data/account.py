"""The account of a shard: what became of the rows of its data set, and what the tokenizer made of their text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from xtrain.language_facts import TextMeasures
from xtrain.tasks.formats import TextCount

UNKNOWN_WARNING = 5.0
"""Percent of a language's tokens that may be ``<unk>`` before everyone is told."""


@dataclass(frozen=True)
class Account:
    """All of it is in the shard's manifest, under these names."""

    task: str = ""
    split: str = ""
    language: str = ""
    rows: int = 0
    """Rows of the whole data set."""
    examples: int = 0
    """In the shard."""
    drawn: Mapping[str, Any] | None = None
    """Of a sample: how many ``examples`` of how many (``of``) were drawn, ``how``, and by which ``seed``."""
    dropped: Mapping[str, int] = field(default_factory=dict)
    """Rows of which no example was made, by reason."""
    split_examples: int = 0
    """Examples that lie in several sequences because they were longer than the maximum, without loss."""
    truncated: int = 0
    """Examples that lost text because they were longer."""
    remarks: Mapping[str, int] = field(default_factory=dict)
    """What else the format counted: stray tags, answers that no window holds."""
    labelled: bool = True
    """Whether there are gold labels."""
    text: TextCount = field(default_factory=TextCount)
    """The text of all examples as it was tokenised, before anything was cut."""
    measures: TextMeasures = field(default_factory=TextMeasures)
    """Of the same text, each of them once; not of training sets."""
    fingerprint: str = ""
    """Of the shard."""
    seen: Mapping[str, int] = field(default_factory=dict)
    """Of an evaluated set: training task -> how many of its examples the phases before had in their training data."""

    @classmethod
    def of(cls, manifest: Mapping[str, Any]) -> Account:
        """From a shard's manifest, or from :meth:`as_json`."""
        known = {item.name: manifest[item.name] for item in fields(cls) if item.name in manifest}
        measures = TextMeasures.of(manifest["measures"]) if "measures" in manifest else TextMeasures()  # older ones
        return cls(**{**known, "text": TextCount(**manifest["text"]), "measures": measures})

    def as_json(self) -> dict[str, Any]:
        """What :meth:`of` takes."""
        return asdict(self)

    @property
    def unknown_percent(self) -> float:
        """Share of ``<unk>`` among the tokens."""
        return 100 * self.text.unknown / max(1, self.text.pieces)

    @property
    def truncated_percent(self) -> float:
        """Share of the examples that lost text."""
        return 100 * self.truncated / max(1, self.examples)

    @property
    def subwords_per_word(self) -> float:
        """Says little of scripts without white space between words: there a word is a clause."""
        return self.text.pieces / max(1, self.text.words)

    @property
    def subwords_per_character(self) -> float:
        """The same in every script."""
        return self.text.pieces / max(1, self.text.characters)

    def tokens(self) -> dict[str, float]:
        """What the tokenizer made of the text, and the measures of it that there are, as ``scores.json`` has them."""
        measures = {
            "mean_word_length": self.measures.mean_word_length,
            "type_token_ratio": self.measures.type_token_ratio,
        }
        return {
            "unknown_percent": self.unknown_percent,
            "subwords_per_word": self.subwords_per_word,
            "subwords_per_character": self.subwords_per_character,
            "truncated_percent": self.truncated_percent,
            "subwords": self.text.pieces,
            "unknown": self.text.unknown,
            "words": self.text.words,
            "characters": self.text.characters,
            **{name: value for name, value in measures.items() if value is not None},
        }


def by_data_set(accounts: Iterable[Account]) -> list[list[Account]]:
    """The accounts of each task and split together, each shard once."""
    groups: dict[tuple[str, str], dict[tuple[str, str], Account]] = {}
    for one in accounts:
        groups.setdefault((one.task, one.split), {}).setdefault((one.language, one.fingerprint), one)
    return [list(group.values()) for group in groups.values()]


def unknown_warnings(accounts: Iterable[Account]) -> Iterator[str]:
    """A sentence for each task with languages that the tokenizer does not know."""
    shares: dict[str, dict[str, float]] = {}
    for one in accounts:
        if one.unknown_percent > UNKNOWN_WARNING:
            of_task = shares.setdefault(one.task, {})
            of_task[one.language] = max(one.unknown_percent, of_task.get(one.language, 0.0))
    for task, languages in shares.items():
        worst = sorted(languages.items(), key=lambda entry: -entry[1])
        listed = ", ".join(f"{language} {share:.1f} %" for language, share in worst)
        yield (
            f"{task}: the tokenizer does not know much of the text, <unk> is more than {UNKNOWN_WARNING:.0f} % of the "
            f"tokens: {listed}. Different words look alike there, and no training helps"
        )
