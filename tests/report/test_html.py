"""The page: complete, self-contained, escaped."""

from __future__ import annotations

import base64
from html.parser import HTMLParser
from pathlib import Path

import pytest
from made_up import PAPER_TASKS, estimate, paper_answers, paper_page, random_results, result

from xtrain.languages import names
from xtrain.questions.answer import Answer, Comparison
from xtrain.report.figures import Curve
from xtrain.report.html import PhaseSummary, StudySummary, duration, render, write_report
from xtrain.report.statistics import assemble

VOID = {"meta", "img", "br", "link", "input", "wbr"}
NASTY = "<script>alert('x')</script> & \"quoted\""


class Page(HTMLParser):
    """Reads a page: its text, the addresses it refers to, its tags; fails on tags that do not close."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.tags: list[str] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(html)
        assert not self.open, self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "action", "data")]
        assert not [name for name, _ in attrs if name.startswith("on")], attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


PHASES = [
    PhaseSummary("socialiqa", "intermediate", 0, steps=500, seconds=200.0, tokens_per_second=1234.5,
                 curve=Curve("seed 0", [10, 20, 30], [3.0, 2.0, 1.0])),
    PhaseSummary("socialiqa, messages", "target", 0, status="collapsed", note="all predictions in one class"),
]  # fmt: skip
PROTOCOL = {
    "base": "starter",
    "tasks": {"messages": {"split": "test", "examples": {"en": 1200, "de": 800}, "truncated": {}, "layer": 4}},
}


def test_every_language_row_and_task_is_on_the_page() -> None:
    languages = sorted(names())[:75]
    results = [
        *random_results(["none", "socialiqa"], languages, task="messages"),
        *random_results(["none", "socialiqa"], languages, task="message_retrieval"),
    ]
    page = Page(render(assemble(results), StudySummary("starter", "starter")))
    for word in ("none", "socialiqa", "messages", "message_retrieval", "starter"):
        assert word in page.text
    for code in languages:
        assert page.text.count(f" {code} {names()[code]} ") == 2, code
    assert f"{results[0].scores['af']['accuracy']:.1f}" in page.text
    assert page.tags.count("img") == 4


def test_the_page_asks_for_nothing_and_runs_nothing() -> None:
    study = StudySummary("s", "b", phases=PHASES, protocol=PROTOCOL)
    html = render(assemble(random_results(["none", "a"], ["en", "de"])), study)
    page = Page(html)
    assert page.addresses
    assert all(one.startswith(("#", "data:image/svg+xml;base64,")) for one in page.addresses)
    assert not {"script", "link", "iframe", "object", "embed"} & set(page.tags)
    assert "http://" not in html
    assert "https://" not in html
    assert "@import" not in html
    assert "url(" not in html
    assert "default-src 'none'" in html
    anchors = {one[1:] for one in page.addresses if one.startswith("#")}
    assert all(f'id="{anchor}"' in html for anchor in anchors)
    for one in page.addresses:
        if one.startswith("data:"):
            assert b"<script" not in base64.b64decode(one.partition(",")[2])


def test_everything_is_escaped() -> None:
    study = StudySummary(
        NASTY, NASTY, phases=[PhaseSummary(NASTY, NASTY, 1, status=NASTY, note=NASTY)], disclaimer=NASTY,
        protocol={NASTY: NASTY, "tasks": {NASTY: {NASTY: NASTY, "metrics": {"f1": NASTY}}}}, warnings=[NASTY],
        answers=[
            Answer(
                NASTY, NASTY, "contrast", NASTY, NASTY, NASTY,
                (Comparison(NASTY, estimate(1.0), NASTY, remarks=(NASTY,)),), limits=(NASTY,), advice=(NASTY,),
            )
        ],
    )  # fmt: skip
    marks = {NASTY: {(NASTY, NASTY): (NASTY,)}}
    html = render(assemble(random_results(["none", NASTY], ["en", NASTY], task=NASTY), marks), study)
    assert "<script" not in html
    assert Page(html).text.count(NASTY) >= 20
    for address in Page(html).addresses:
        if address.startswith("data:"):
            assert b"<script" not in base64.b64decode(address.partition(",")[2]), "in a figure"


def test_failures_and_warnings_are_counted_and_named() -> None:
    study = StudySummary("s", "b", phases=PHASES, warnings=["12 rows dropped"])
    text = Page(render(assemble(random_results(["none"], ["en"])), study)).text
    assert "1 phase collapsed of 2" in text
    assert "all predictions in one class" in text
    assert "12 rows dropped" in text
    clean = StudySummary("s", "b", phases=PHASES[:1])
    assert "Not as planned" not in Page(render(assemble(random_results(["none"], ["en"])), clean)).text


def test_the_disclaimer_stands_before_the_first_number() -> None:
    grid = assemble([result("none", {"en": 61.5})])
    text = Page(render(grid, StudySummary("s", "b", disclaimer="It demonstrates the machine."))).text
    assert 0 < text.index("It demonstrates the machine.") < text.index("61.5")
    assert "A demonstration" not in Page(render(grid, StudySummary("s", "b"))).text


def test_the_protocol_is_said_in_words() -> None:
    text = Page(render(assemble(random_results(["none"], ["en"])), StudySummary("s", "b", protocol=PROTOCOL))).text
    assert "2,000 in 2 languages (en 1,200, de 800)" in text
    assert "truncated none" in text
    assert "layer 4" in text


def test_seeds_show_their_range_and_differences_their_sign() -> None:
    runs = [result("none", {"en": value}, seed) for seed, value in enumerate((60.0, 62.0, 61.5))]
    runs += [result("mnli", {"en": value}, seed) for seed, value in enumerate((58.0, 59.0, 59.5))]
    html = render(
        assemble([*runs, result("none", {"en": 60.2}, which="last")]), StudySummary("s", "b", seeds="3 (0, 1, 2)")
    )
    text = Page(html).text
    assert "60.0–62.0" in text
    assert "\N{MINUS SIGN}2.3" in text
    assert 'class="diff"' in html
    assert "diff down" not in html, "no interval, no colour"
    assert "60.2" in text


def test_differences_have_colour_and_bold_by_their_intervals_alone() -> None:
    grid = assemble([result(row, {"de": 60.0, "sw": 50.0}) for row in ("none", "a", "b")])
    known = {("a", "de"): estimate(2.0, 0.3), ("a", "sw"): estimate(2.0, 3.0), ("b", None): estimate(5.0, 0.3)}
    html = render(grid.with_estimates({"xnli": known}), StudySummary("s", "b"))
    assert html.count('class="diff up"') == 1
    assert html.count('class="diff up found"') == 2, "the mean, in the overview and in the task's table"
    assert 'title="95 % interval +' in html
    assert "no seed of one row" not in html


def test_marks_have_symbols_and_footnotes_and_take_a_language_out_of_the_mean() -> None:
    marks = {"xnli": {("a", "de"): ("not zero-shot: de in the intermediate data",), ("a", "sw"): ("at chance",)}}
    grid = assemble([result(row, {"de": 60.0, "sw": 50.0, "th": 40.0}) for row in ("none", "a")], marks)
    html = render(grid, StudySummary("s", "b"))
    text = Page(html).text
    assert "a not zero-shot: de in the intermediate data: a (de)" in text
    assert "b at chance: a (sw)" in text
    assert "Not zero-shot (1)" in text
    assert "zero-shot mean of 2" in text
    assert 'class="apart"' in html


def test_the_same_scores_give_the_same_bytes() -> None:
    marks = {"messages": {("a", "de"): ("at chance",)}}
    study = StudySummary("s", "b", protocol=PROTOCOL, answers=paper_answers()[:1])
    one, other = (render(assemble(random_results(["none", "a"], ["en", "de"], (0, 1)), marks), study) for _ in "ab")
    assert one == other


def test_the_answers_stand_before_the_first_table() -> None:
    study = StudySummary("s", "b", answers=paper_answers())
    html = render(assemble(random_results(["none", "a"], ["en", "de"])), study)
    page = Page(html)
    places = [page.text.index(answer.question) for answer in study.answers]
    assert places == sorted(places)
    assert places[-1] < page.text.index("Zero-shot mean over the languages of each task")
    for answer in study.answers:
        assert answer.sentence in page.text
        assert all(text in page.text for text in (*answer.limits, *answer.advice))
        assert all(one.label in page.text for one in answer.comparisons)
    assert "What this cannot say" in page.text
    assert "Where the next run helps most" in page.text


def test_a_page_of_a_paper_is_small_and_folded() -> None:
    html = paper_page()
    assert len(html.encode()) < 3_000_000
    page = Page(html)
    assert page.tags.count("details") >= 9
    for codes in PAPER_TASKS.values():
        assert all(f" {code} {names()[code]} " in page.text for code in codes.split())


def test_a_study_without_differences_or_training_still_has_a_page() -> None:
    html = render(assemble([result("only", {"xx": 50.0})]), StudySummary("s", "b"))
    assert "Training" not in Page(html).text


def test_the_page_is_written_whole(tmp_path: Path) -> None:
    path = write_report(tmp_path / "report.html", assemble([result("none", {"en": 50.0})]), StudySummary("s", "b"))
    assert path.read_text(encoding="utf-8").rstrip().endswith("</html>")


@pytest.mark.parametrize(
    ("seconds", "text"), [(45.4, "45 s"), (200, "3 min 20 s"), (3725, "1 h 02 min"), (59.7, "1 min 00 s")]
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text
