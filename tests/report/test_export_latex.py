"""LaTeX: tables that compile: balanced, escaped, with as many cells in each line as the table has columns."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from made_up_study import NASTY, content

from xtrain.report.export.latex import escape, latex_files

COMPILERS = [name for name in ("tectonic", "pdflatex") if shutil.which(name)]
_TABLES = re.compile(r"\\begin\{(?:tabular|longtable)\}\{(\w+)\}(.*?)\\end\{(?:tabular|longtable)\}", re.DOTALL)
_PLACES = re.compile(r"\\(?:label|input|usepackage|documentclass|begin|end)(?:\[[^]]*\])?\{[^{}]*\}")


def check(text: str) -> int:
    """Fail on what LaTeX would not take, or would take otherwise; returns the number of lines of tables."""
    plain = text.replace(r"\\", "\x00").replace(r"\{", "").replace(r"\}", "")
    depth = 0
    for letter in plain:
        depth += {"{": 1, "}": -1}.get(letter, 0)
        assert depth >= 0, text
    assert depth == 0, text
    opened = []
    for word, name in re.findall(r"\\(begin|end)\{(\w+\*?)\}", plain):
        if word == "begin":
            opened.append(name)
        else:
            assert opened.pop() == name
    assert not opened
    prose = re.sub(r"\\[&%$#_]", "", _PLACES.sub("", plain))
    for letter in "%#_^~":
        assert letter not in prose, (letter, text)
    assert prose.count("$") % 2 == 0
    assert all(ord(letter) <= 0x17F for letter in text), text
    number = 0
    for columns, body in re.findall(
        r"\\begin\{(?:tabular|longtable)\}\{(\w+)\}(.*?)\\end\{(?:tabular|longtable)\}", plain, re.S
    ):
        assert not re.search("\x00\\s*[[*]", body), "an argument of the end of a line"
        for line in re.sub(r"\\caption.*?\x00|\\[a-z]+(?=\s)", "", body, flags=re.S).split("\x00"):
            if line.strip():
                number += 1
                assert len(re.findall(r"(?<!\\)&", line)) == len(columns) - 1, (columns, line)
    return number


def test_all_tables_can_be_compiled() -> None:
    files = latex_files(content())
    assert set(files) == {
        "table.tex", "languages-xnli.tex", "languages-message_retrieval.tex", "answers.tex", "preview.tex",
    }  # fmt: skip
    lines = {name: check(text) for name, text in files.items()}
    assert lines["table.tex"] == 2 + 3 + 2, "head and metrics; rows; differences of two"
    assert lines["languages-xnli.tex"] == 2 + 3 + 1, "head twice, languages, mean"
    assert lines["answers.tex"] == 2 + 3 + 2 + 2, "head twice, comparisons; head twice, points of the curve"
    assert all(text.endswith("}\n") for text in files.values())


def test_names_that_mean_something_to_latex_are_escaped() -> None:
    check(escape(NASTY))
    assert escape("a_b & 50%") == r"a\_b \& 50\%"
    assert escape("\\") == r"\textbackslash{}"
    assert escape("é ж\N{MINUS SIGN}1") == "é ?$-$1"
    made = content(rows=("none", NASTY, f"* {NASTY}"), tasks=(NASTY, "b"), languages=("en", "[x]"), name=NASTY)
    for text in latex_files(made).values():
        check(text)


def test_the_table_has_differences_and_intervals_beneath() -> None:
    table = latex_files(content())["table.tex"]
    made = content()
    estimate = made.grid.tasks[0].estimates["mnli", None]
    assert f"$+1.3$ [{estimate.low:.1f}, {estimate.high:.1f}]" in table
    points = made.grid.tasks[0].difference("qqp", None)
    assert points is not None
    assert rf"{{\scriptsize ${points:+.1f}$}}" in table
    for word in ("accuracy", "3 seeds", "against the row none", r"95\% interval", r"\toprule", r"\bottomrule"):
        assert word in table


def test_a_negative_interval_has_signs_and_not_hyphens() -> None:
    text = latex_files(content())["languages-xnli.tex"]
    assert re.search(r"\$-0\.8\$ \[\$-\d\.\d\$, \d\.\d\]", text)


def test_a_mark_stands_at_its_cell_and_in_the_caption() -> None:
    text = latex_files(content())["languages-xnli.tex"]
    assert text.count(r"\textsuperscript{a}") == 1
    assert "a: at chance." in text


def test_many_tasks_and_rows_are_cut_in_blocks() -> None:
    rows, tasks = ("none", *(f"row{n}" for n in range(7))), tuple(f"task{n}" for n in range(9))
    files = latex_files(content(rows=rows, tasks=tasks))
    assert files["table.tex"].count(r"\begin{tabular}") == 2
    assert files["languages-task0.tex"].count(r"\begin{longtable}") == 3
    for name, text in files.items():
        check(text)
        assert f"\\input{{{name.removesuffix('.tex')}}}" in files["preview.tex"] or name == "preview.tex"
    labels = re.findall(r"\\label\{(.*?)\}", "".join(files.values()))
    assert len(labels) == len(set(labels)) == 1 + 9 * 3 + 2


def test_an_answer_states_its_test_and_what_was_sampled() -> None:
    text = latex_files(content())["answers.tex"]
    for part in ("0.012", "higher", "unsupported", "3 seeds, 5,010 items, 15 languages", "Against none",
                 "It says nothing of other models."):  # fmt: skip
        assert part in text
    assert "qqp & $+1.9$ & -- & -- & -- & unsupported" in text


def test_a_study_without_a_base_row_or_with_one_row_has_tables() -> None:
    for rows in (("mnli", "qqp"), ("none",), ("only",)):
        for text in latex_files(content(rows=rows)).values():
            check(text)


@pytest.mark.skipif(not COMPILERS, reason="no LaTeX on this machine")
def test_the_preview_compiles(tmp_path: Path) -> None:
    for name, text in latex_files(content(rows=("none", "mnli", NASTY))).items():
        (tmp_path / name).write_text(text, "utf-8")
    options = ["-interaction=nonstopmode", "-halt-on-error"] if COMPILERS[0] == "pdflatex" else []
    done = subprocess.run([COMPILERS[0], *options, "preview.tex"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr
    assert (tmp_path / "preview.pdf").is_file()
