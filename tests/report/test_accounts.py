"""What became of the data, on a terminal, in a log and on the page: what there is to say, and no more."""

from __future__ import annotations

import io
from typing import Any

import pytest
from made_up import random_results
from rich.console import Console

from xtrain.data.account import Account, by_data_set, unknown_warnings
from xtrain.report.accounts import Summary, language_table, print_accounts
from xtrain.report.html import StudySummary, render
from xtrain.report.statistics import assemble
from xtrain.tasks.formats import TextCount

KNOWN, STRANGE = TextCount(1000, 6000, 1500, 3), TextCount(1000, 6000, 3000, 1416)
SAMPLE = {"examples": 20, "of": 204, "seed": 0, "how": "drawn by a hash of their ids"}


def account(language: str, **more: Any) -> Account:
    made = {"task": "topics", "split": "test", "rows": 204, "examples": 204, "text": KNOWN, "fingerprint": language}
    return Account(language=language, **{**made, **more})


QUIET = [account(f"l{n}") for n in range(40)]
LOUD = [
    account("en", dropped={"unlabelled": 3}, drawn=SAMPLE, examples=20),
    account("nqo", truncated=7, drawn=SAMPLE, examples=20, text=STRANGE, remarks={"odd tags": 2}),
    account("de", dropped={"unlabelled": 5, "empty text": 1}, split_examples=9, drawn=SAMPLE, examples=20),
]


def printed(accounts: list[Account], terminal: bool = False) -> str:
    console = Console(file=io.StringIO(), force_terminal=terminal, width=140, color_system=None)
    print_accounts(accounts, console)
    return console.file.getvalue()  # type: ignore[attr-defined,no-any-return]


def test_a_log_has_a_line_a_data_set_and_names_only_who_has_something_to_say() -> None:
    assert printed(QUIET) == "data: topics test: 40 languages, 8,160 examples\n"
    first, warning = printed(LOUD).splitlines()
    assert first == (
        "data: topics test: 3 languages, a sample of 60 of 612 examples; dropped: 8 unlabelled (de 5, en 3), "
        "1 empty text (de 1); in several sequences: 9 (de 9); truncated: 7 (nqo 7); <unk>: nqo 47.2 %; "
        "noted: 2 odd tags (nqo 2)"
    )
    assert warning.startswith("warning: topics: the tokenizer does not know much of the text")
    assert "nqo 47.2 %" in warning
    many = [account(f"l{n}", truncated=n + 1) for n in range(40)]
    assert "truncated: 820 (l39 40, l38 39, l37 38, l36 37, l35 36, l34 35 and 34 more)" in printed(many)
    assert "a sample of 7 of 60 examples, beside 30 that always count" in printed(
        [account("en", examples=37, drawn={**SAMPLE, "examples": 7, "of": 60})]
    )


def test_a_terminal_has_a_table_of_what_there_is() -> None:
    text = printed(LOUD, terminal=True)
    for word in ("data", "topics test", "8 unlabelled", "47.2 %", "truncated", "warning: topics"):
        assert word in text
    quiet = printed(QUIET, terminal=True)
    assert "8,160 examples" in quiet
    assert "truncated" not in quiet


def test_a_shard_that_two_phases_read_counts_once_and_both_lengths_of_one_set_twice() -> None:
    groups = by_data_set([*QUIET, *QUIET[:3], account("l0", fingerprint="other")])
    assert [len(group) for group in groups] == [41]
    assert Summary.of(groups[0]).languages == "40 languages"


def test_every_language_has_its_line_in_the_table_of_tokens() -> None:
    console = Console(file=io.StringIO(), width=140)
    console.print(language_table([*LOUD, *QUIET], console))
    lines = {
        line.split("|")[1].split()[0]: line for line in console.file.getvalue().splitlines()[2:] if "+" not in line
    }  # type: ignore[attr-defined]
    assert set(lines) == {"en", "nqo", "de", *(f"l{n}" for n in range(40))}
    assert [cell.strip() for cell in lines["nqo"].split("|")[2:]] == ["20", "35.0", "47.20", "3.00", "0.500"]


@pytest.mark.parametrize(("unknown", "said"), [(75, 0), (76, 1)])
def test_who_is_warned(unknown: int, said: int) -> None:
    """Above 5 %, once a task."""
    accounts = [account("xx", split=split, text=TextCount(1, 1, 1500, unknown)) for split in ("dev", "test")]
    assert len(list(unknown_warnings(accounts))) == said


def test_the_page_has_every_language_of_every_data_set() -> None:
    study = StudySummary("s", "b", accounts=[*LOUD, *(account("en", split="train", fingerprint=f"t{n}") for n in (1,))])
    html = render(assemble(random_results(["none"], ["en"])), study)
    assert html.count('<details class="data"') == 2
    assert html.count('<details class="data" open') == 1  # where the tokenizer does not know the text
    assert '<td class="bad">47.20</td>' in html
    assert "5 dropped: unlabelled; 1 dropped: empty text" in html
    assert "Drawn by a hash of their ids (sample seed 0)." in html
    assert 'id="data"' not in render(assemble(random_results(["none"], ["en"])), StudySummary("s", "b"))


def test_an_account_survives_json() -> None:
    assert [Account.of(one.as_json()) for one in LOUD] == LOUD
