"""What became of the data, for people: a line a task and split, and what the tokenizer makes of each language."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table
from rich.text import Text

from xtrain.data.account import UNKNOWN_WARNING, Account, by_data_set, unknown_warnings
from xtrain.errors import counted
from xtrain.report.languages import ascii_only, language_name
from xtrain.report.tables import empty_table, is_plain

NAMED = 6  # languages of one kind; the others are counted
WORTH_SAYING = 1.0  # percent of tokens that are <unk>


@dataclass(frozen=True)
class Summary:
    """All languages of a task and split; a cell is empty where no language has anything to say."""

    data: str
    languages: str
    examples: str
    dropped: str
    split: str
    truncated: str
    unknown: str
    remarks: str

    @classmethod
    def of(cls, accounts: Sequence[Account]) -> Summary:
        """The summary of one group of :func:`~xtrain.data.account.by_data_set`."""
        names = list(dict.fromkeys(one.language for one in accounts))
        unknown = {one.language: one.unknown_percent for one in accounts if one.unknown_percent >= WORTH_SAYING}
        worst = sorted(unknown.items(), key=lambda entry: -entry[1])
        return cls(
            f"{accounts[0].task} {accounts[0].split}",
            names[0] if len(names) == 1 else f"{len(names)} languages",
            _examples(accounts),
            _reasons({one.language: one.dropped for one in accounts}),
            _counts({one.language: one.split_examples for one in accounts}),
            _counts({one.language: one.truncated for one in accounts}),
            _named([f"{language} {share:.1f} %" for language, share in worst]),
            _reasons({one.language: one.remarks for one in accounts}),
        )

    @property
    def line(self) -> str:
        """One line of a log."""
        said = {
            "dropped": self.dropped,
            "in several sequences": self.split,
            "truncated": self.truncated,
            "<unk>": self.unknown,
            "noted": self.remarks,
        }
        notes = "".join(f"; {name}: {text}" for name, text in said.items() if text)
        return f"{self.data}: {self.languages}, {self.examples}{notes}"


def print_accounts(accounts: Iterable[Account], console: Console) -> None:
    """What became of the data: a table on a terminal, plain lines in a log; then what everyone should know."""
    groups = by_data_set(accounts)
    summaries = [Summary.of(group) for group in groups]
    if is_plain(console):
        for one in summaries:
            console.print(f"data: {ascii_only(one.line)}", highlight=False, markup=False, soft_wrap=True)
    elif summaries:
        console.print(_summary_table(summaries))
    for warning in unknown_warnings(one for group in groups for one in group):
        console.print(f"warning: {warning}", style="yellow", highlight=False, markup=False, soft_wrap=True)


def language_table(accounts: Iterable[Account], console: Console) -> Table:
    """A line for each task, split and language: how much there is, and what the tokenizer makes of it."""
    plain = is_plain(console)
    table = empty_table(plain)
    for name in ("data", "language"):
        table.add_column(name, no_wrap=True)
    for name in ("examples", "truncated %", "<unk> %", "sub-words/word", "sub-words/char"):
        table.add_column(name, justify="right")
    for group in by_data_set(accounts):
        for number, one in enumerate(group):
            name = ascii_only(language_name(one.language)) if plain else language_name(one.language)
            table.add_row(
                f"{one.task} {one.split}" if not number else "",
                f"{one.language} {name}".strip(),
                f"{one.examples:,}",
                f"{one.truncated_percent:.1f}",
                Text(f"{one.unknown_percent:.2f}", style="bold red" if one.unknown_percent > UNKNOWN_WARNING else ""),
                f"{one.subwords_per_word:.2f}",
                f"{one.subwords_per_character:.3f}",
                end_section=one is group[-1],
            )
    return table


def _summary_table(summaries: Sequence[Summary]) -> Table:
    titles = {
        "data": "data", "languages": "languages", "examples": "examples", "dropped": "dropped",
        "split": "in several sequences", "truncated": "truncated", "unknown": "<unk>", "remarks": "noted",
    }  # fmt: skip
    table = empty_table(plain=False)
    shown = [name for name in titles if any(getattr(one, name) for one in summaries)]
    for name in shown:
        table.add_column(titles[name], no_wrap=name == "data")
    for one in summaries:
        table.add_row(*(Text(getattr(one, name)) for name in shown))
    return table


def _examples(accounts: Sequence[Account]) -> str:
    total = sum(one.examples for one in accounts)
    if not any(one.drawn for one in accounts):
        return counted(total, "example")
    drawn = sum(one.drawn["examples"] if one.drawn else one.examples for one in accounts)
    of = sum(one.drawn["of"] if one.drawn else one.examples for one in accounts)
    beside = f", beside {total - drawn:,} that always count" if total > drawn else ""
    return f"a sample of {drawn:,} of {counted(of, 'example')}{beside}"


def _reasons(counts: Mapping[str, Mapping[str, int]]) -> str:
    """``12 unlabelled (de 5, fr 7)``, for each reason."""
    reasons = dict.fromkeys(reason for one in counts.values() for reason in one)
    found = [
        (reason, _counts({language: one.get(reason, 0) for language, one in counts.items()}, reason))
        for reason in reasons
    ]
    return ", ".join(text for _, text in found if text)


def _counts(counts: Mapping[str, int], what: str = "") -> str:
    """``12 (de 7, fr 5)``, the largest first; the language alone is not repeated where there is but one."""
    some = sorted(((count, language) for language, count in counts.items() if count), key=lambda one: -one[0])
    if not some:
        return ""
    total = f"{sum(count for count, _ in some):,}" + (f" {what}" if what else "")
    if len(counts) == 1:
        return total
    return f"{total} ({_named([f'{language} {count:,}' for count, language in some])})"


def _named(texts: Sequence[str]) -> str:
    more = len(texts) - NAMED
    return ", ".join(texts[:NAMED]) + (f" and {more} more" if more > 0 else "")


def facts(one: Account) -> Iterator[str]:
    """What a page says of one language beside its numbers."""
    yield from (f"{count:,} dropped: {reason}" for reason, count in one.dropped.items() if count)
    yield from (f"{count:,} {remark}" for remark, count in one.remarks.items() if count)
    if not one.labelled:
        yield "without labels"
