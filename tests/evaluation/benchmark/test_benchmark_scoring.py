"""A folder's scores: perfect is 100, the JSON's form, what is missing, and an error with file and line for the rest."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from benchmark_files import write_folders
from rich.console import Console

from xtrain.errors import UserError
from xtrain.evaluation.benchmark.layout import BENCHMARKS
from xtrain.evaluation.benchmark.scoring import evaluate_folder, run_score, score_folder


def console(width: int = 100) -> Console:
    return Console(file=io.StringIO(), width=width)


def printed(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.mark.parametrize("benchmark", list(BENCHMARKS))
def test_perfect_predictions_score_100(tmp_path: Path, benchmark: str) -> None:
    result = score_folder(benchmark, *write_folders(tmp_path, benchmark))
    assert set(result) == {"benchmark", "tasks", "groups", "overall"}
    assert result["benchmark"] == benchmark
    assert result["overall"] == pytest.approx(100, abs=1e-9)
    assert result["groups"] == dict.fromkeys(BENCHMARKS[benchmark].groups, pytest.approx(100, abs=1e-9))
    assert set(result["tasks"]) == set(BENCHMARKS[benchmark].tasks)
    for name, values in result["tasks"].items():
        task = BENCHMARKS[benchmark].tasks[name]
        assert set(values) == {"languages", "average", "score"}
        assert tuple(values["languages"]) == task.languages
        for metrics in (*values["languages"].values(), values["average"]):
            assert metrics == dict.fromkeys(task.metrics, pytest.approx(100, abs=1e-9))
    assert json.loads(json.dumps(result)) == result


def test_tasks_and_languages_are_the_benchmarks() -> None:
    sizes = {name: {t: len(task.languages) for t, task in b.tasks.items()} for name, b in BENCHMARKS.items()}
    assert sizes["xtreme"] == {
        "xnli": 15, "pawsx": 7, "udpos": 33, "panx": 40, "xquad": 11, "mlqa": 7, "tydiqa": 9, "bucc2018": 4,
        "tatoeba": 36,
    }  # fmt: skip
    assert sizes["xtreme-r"] == {
        "xnli": 15, "xcopa": 11, "udpos": 38, "panx": 48, "xquad": 12, "mlqa": 7, "tydiqa": 9, "mewslix": 11,
        "lareqa": 11, "tatoeba": 41,
    }  # fmt: skip


def test_a_score_is_the_mean_over_languages_and_overall_over_tasks(tmp_path: Path) -> None:
    predictions, labels = write_folders(tmp_path, "xtreme")
    (predictions / "xnli/test-de.tsv").write_text("entailment\n" * 4)  # 2 of 4
    (predictions / "mlqa/test-zh.json").write_text('{"q0": "北京 大学 00", "q1": "北京", "q2": "x"}')
    result = score_folder("xtreme", predictions, labels)
    assert result["tasks"]["xnli"]["languages"]["de"] == {"accuracy": 50.0}
    assert result["tasks"]["xnli"]["score"] == pytest.approx((14 * 100 + 50) / 15, abs=1e-9)
    # of four questions: all right; two of five tokens; wrong; missing
    f1, exact = (100 + 100 * 4 / 7) / 4, 25.0
    assert result["tasks"]["mlqa"]["languages"]["zh"] == pytest.approx({"f1": f1, "exact_match": exact}, abs=1e-9)
    assert result["tasks"]["mlqa"]["average"] == pytest.approx(
        {"f1": (600 + f1) / 7, "exact_match": (600 + exact) / 7}, abs=1e-9
    )
    score = ((600 + f1) / 7 + (600 + exact) / 7) / 2
    assert result["tasks"]["mlqa"]["score"] == pytest.approx(score, abs=1e-9)
    assert result["groups"]["question_answering"] == pytest.approx((200 + score) / 3, abs=1e-9)
    xnli = result["tasks"]["xnli"]["score"]
    assert result["overall"] == pytest.approx((700 + xnli + score) / 9, abs=1e-9)


def test_pos_counts_its_chunks_and_reports_accuracy(tmp_path: Path) -> None:
    predictions, labels = write_folders(tmp_path, "xtreme", "udpos")
    (labels / "udpos/test-de.tsv").write_text("NOUN\nNOUN\nVERB\n")
    (predictions / "udpos/test-de.tsv").write_text("NOUN\nVERB\nVERB\n")
    metrics = score_folder("xtreme", predictions, labels)["tasks"]["udpos"]["languages"]["de"]
    assert metrics == {"f1": 0.0, "precision": 0.0, "recall": 0.0, "accuracy": pytest.approx(200 / 3)}


def test_what_is_missing_is_named_and_enters_nothing(tmp_path: Path) -> None:
    predictions, labels = write_folders(tmp_path, "xtreme-r", "xnli", "xcopa")
    (predictions / "xnli/test-sw.tsv").unlink()
    (labels / "xnli/test-ur.tsv").unlink()
    scored = evaluate_folder("xtreme-r", predictions, labels)
    assert set(scored.result["tasks"]) == {"xnli", "xcopa"}
    assert len(scored.result["tasks"]["xnli"]["languages"]) == 13
    assert scored.result["tasks"]["xnli"]["score"] == pytest.approx(100)
    assert set(scored.result["groups"].values()) == {None}
    assert scored.result["overall"] is None
    output = console()
    assert run_score("xtreme-r", predictions, labels, tmp_path / "new" / "scores.json", output) == 0
    text = printed(output)
    assert "missing: xnli: no predictions: sw" in text
    assert "missing: xnli: no labels: ur" in text
    assert "missing: mlqa: no predictions and no labels: all languages" in text
    assert "13 of 15, not complete" in text
    assert json.loads((tmp_path / "new" / "scores.json").read_text()) == scored.result


@pytest.mark.parametrize("width", [80, 120])
def test_the_tables_fit_the_width(tmp_path: Path, width: int) -> None:
    output = console(width)
    run_score("xtreme", *write_folders(tmp_path, "xtreme"), None, output)
    lines = printed(output).splitlines()
    assert max(map(len, lines)) <= width
    assert not any("…" in line for line in lines)
    values = sum((len(task.languages) + 1) * len(task.metrics) for task in BENCHMARKS["xtreme"].tasks.values())
    scores = 9 + 4 + 1  # tasks, groups, overall
    assert sum(line.count("100.00") for line in lines) == values + scores  # nothing is cut


def dressed(text: str) -> bytes:
    """The same rows as another system writes them."""
    return b"\xef\xbb\xbf" + text.rstrip("\n").replace("\n", "\r\n").encode() + b"\r\n\r\n\r\n"


@pytest.mark.parametrize("benchmark", list(BENCHMARKS))
def test_line_ends_bom_and_blank_lines_change_nothing(tmp_path: Path, benchmark: str) -> None:
    predictions, labels = write_folders(tmp_path, benchmark)
    (predictions / "xnli/test-de.tsv").write_text("entailment\n" * 4)
    (predictions / "panx/test-de.tsv").write_text("B-PER\nO\nO\n\nB-LOC\nO\n")
    before = score_folder(benchmark, predictions, labels)
    for folder in (predictions, labels):
        for path in folder.glob("*/*"):
            path.write_bytes(dressed(path.read_text(encoding="utf-8")))
    assert score_folder(benchmark, predictions, labels) == before
    assert before["tasks"]["panx"]["languages"]["de"]["f1"] == pytest.approx(50)


def test_tatoeba_may_be_named_by_three_letters(tmp_path: Path) -> None:
    predictions, labels = write_folders(tmp_path, "xtreme-r", "tatoeba")
    for two, three in (("zh", "cmn"), ("sw", "swh"), ("ro", "ron")):
        (predictions / f"tatoeba/test-{two}.tsv").rename(predictions / f"tatoeba/test-{three}.tsv")
    assert score_folder("xtreme-r", predictions, labels)["tasks"]["tatoeba"]["languages"]["zh"] == {"accuracy": 100.0}
    (predictions / "tatoeba/test-zh.tsv").write_text("0\n1\n2\n")
    refused(predictions, labels, "test-cmn.tsv is the same language", benchmark="xtreme-r")


def test_ids_that_are_lost_or_unknown_are_counted_aloud(tmp_path: Path) -> None:
    predictions, labels = write_folders(tmp_path, "xtreme-r", "mewslix")
    (predictions / "mewslix/test-de.json").write_text('{"q2": ["x", "c"], "q7": ["a"], "q8": []}')
    scored = evaluate_folder("xtreme-r", predictions, labels)
    assert scored.result["tasks"]["mewslix"]["languages"]["de"] == {"map@20": 25.0}
    assert any("1 of 2 ids are not predicted" in note for note in scored.notes)
    assert any("2 ids are not in the labels" in note for note in scored.notes)


def test_files_that_are_not_read_are_named(tmp_path: Path) -> None:
    predictions, labels = write_folders(tmp_path, "xtreme", "xnli")
    (predictions / "xnli/test-xx.tsv").write_text("neutral\n")
    (predictions / "xcopa").mkdir()
    notes = evaluate_folder("xtreme", predictions, labels).notes
    assert any("test-xx.tsv" in note for note in notes)
    assert any("xcopa: no task of xtreme" in note for note in notes)


def test_no_mined_pair_scores_0(tmp_path: Path) -> None:
    predictions, labels = write_folders(tmp_path, "xtreme", "bucc2018")
    (predictions / "bucc2018/test-de.tsv").write_text("")
    assert score_folder("xtreme", predictions, labels)["tasks"]["bucc2018"]["languages"]["de"]["f1"] == 0


def refused(predictions: Path, labels: Path, *parts: str, benchmark: str = "xtreme") -> None:
    with pytest.raises(UserError) as error:
        score_folder(benchmark, predictions, labels)
    for part in parts:
        assert part in str(error.value), f"{part!r} is not in:\n{error.value}"


BAD: dict[str, tuple[str, str, str, tuple[str, ...]]] = {
    "too few rows": ("xnli", "test-de.tsv", "neutral\n", ("has 1 rows", "have 4", "test-de.tsv")),
    "another case": ("xnli", "test-de.tsv", "entailment\nEntailment\nneutral\nneutral\n",
                     ("test-de.tsv:2: 'Entailment' is no label", "write 'entailment': capitals count")),
    "the text too": ("xnli", "test-de.tsv", "neutral\nneutral\ta b\nneutral\nneutral\n",
                     ("test-de.tsv:2", "one label a line and nothing else")),
    "a hole": ("pawsx", "test-de.tsv", "1\n\n0\n1\n", ("test-de.tsv:2: is empty",)),
    "no rows": ("pawsx", "test-de.tsv", "\n\n", ("test-de.tsv: is empty",)),
    "no index": ("tatoeba", "test-de.tsv", "2\n-1\n1.0\n", ("test-de.tsv:2: '-1'", "test-de.tsv:3: '1.0'")),
    "lost sentence": ("panx", "test-de.tsv", "B-PER\nI-PER\nO\n", ("has 1 sentences", "have 2")),
    "lost tag": ("panx", "test-de.tsv", "B-PER\nI-PER\nO\n\nB-LOC\n",
                 ("test-de.tsv:5: sentence 2 has 1 tags", "test-de.tsv:5) have 2")),
    "no tag": ("udpos", "test-de.tsv", "NOUN\nverb\n\nNOUN\nNOUN\n",
               ("test-de.tsv:2: 'verb'", "'VERB': capitals count")),
    "no pair": ("bucc2018", "test-de.tsv", "de-1\ten-9\nde-2 en-8\n", ("test-de.tsv:2: 'de-2 en-8'", "a tab")),
    "exchanged": ("bucc2018", "test-de.tsv", "en-9\tde-1\n", ("the two columns are exchanged",)),
    "broken json": ("xquad", "test-de.json", '{"q0": "a",\n"q1": \n', ("test-de.json:3: not JSON",)),
    "twice": ("xquad", "test-de.json", '{"q0": "a",\n"q1": "b",\n"q0" : "c"}',
              ("test-de.json:3: the id 'q0' comes twice",)),
    "no object": ("xquad", "test-de.json", '["a"]', ("test-de.json: is no JSON object",)),
    "no text": ("xquad", "test-de.json", '{"q0": null}', ("test-de.json: q0: None is no answer",)),
}  # fmt: skip


@pytest.mark.parametrize("case", list(BAD))
def test_a_mistake_is_named_with_file_and_line(tmp_path: Path, case: str) -> None:
    task, name, content, parts = BAD[case]
    predictions, labels = write_folders(tmp_path, "xtreme", task)
    (predictions / task / name).write_text(content, encoding="utf-8")
    refused(predictions, labels, str(predictions / task / name), *parts)


def test_a_label_that_does_not_exist_is_a_wrong_answer_and_said(tmp_path: Path) -> None:
    predictions, labels = write_folders(tmp_path, "xtreme", "xnli", "udpos")
    (predictions / "xnli/test-de.tsv").write_text((labels / "xnli/test-de.tsv").read_text().replace("neutral", "why"))
    tags = (labels / "udpos/test-de.tsv").read_text()
    (predictions / "udpos/test-de.tsv").write_text(tags.replace("NOUN", "Hund", 1))
    scored = evaluate_folder("xtreme", predictions, labels)
    gold = (labels / "xnli/test-de.tsv").read_text().split()
    right = 100 * sum(label != "neutral" for label in gold) / len(gold)
    assert scored.result["tasks"]["xnli"]["languages"]["de"]["accuracy"] == pytest.approx(right)
    assert scored.result["tasks"]["udpos"]["languages"]["de"]["accuracy"] < 100
    notes = "\n".join(scored.notes)
    assert "xnli/test-de.tsv" in notes
    assert "'why'" in notes
    assert "'Hund' in line 1" in notes


def test_mistakes_in_the_labels(tmp_path: Path) -> None:
    predictions, labels = write_folders(tmp_path, "xtreme", "xnli", "xquad", "panx")
    (labels / "xnli/test-ar.tsv").write_text("Neutral\n" * 4)
    (labels / "panx/test-ar.tsv").write_text("b-per\nI-PER\nO\n\nB-LOC\nO\n")
    question = {"id": "q0", "answers": []}
    same = {"id": "q1", "answers": [{"text": "a"}]}
    document = {"data": [{"paragraphs": [{"qas": [question, same, same]}, {}]}]}
    (labels / "xquad/test-ar.json").write_text(json.dumps(document))
    (labels / "xquad/test-de.json").write_text('{"data": []}')
    refused(
        predictions, labels,
        "test-ar.tsv:1: 'Neutral'", "test-ar.tsv:1: 'b-per'", "data[0].paragraphs[0].qas[0]: question 'q0' has no gold",
        "data[0].paragraphs[0].qas[2]: the id 'q1' comes twice", "data[0].paragraphs[1].qas: is not there",
        "test-de.json: holds no question",
    )  # fmt: skip


def test_mistakes_of_xtreme_r(tmp_path: Path) -> None:
    predictions, labels = write_folders(tmp_path, "xtreme-r", "xcopa", "mewslix")
    (predictions / "xcopa/test-et.jsonl").write_text('{"label": 0}\n{"label": "1"}\n{"lable": 1}\n{"label": 2}\n')
    (predictions / "xcopa/test-ht.jsonl").write_text('{"label": 0}\n{"label": true}\n{\n{"label": 1}\n')
    (predictions / "mewslix/test-de.json").write_text('{"q1": "a", "q2": [1]}')
    (labels / "mewslix/test-en.json").write_text('{"q1": []}')
    refused(
        predictions, labels,
        "test-et.jsonl:2: the label '1' is not allowed", "test-et.jsonl:3: has no \"label\"", "test-et.jsonl:4",
        "test-ht.jsonl:2", "test-ht.jsonl:3: not JSON", "test-de.json: q1: a is no list", "test-de.json: q2",
        "test-en.json: q1: has no right answer",
        benchmark="xtreme-r",
    )  # fmt: skip


def test_all_mistakes_come_at_once_and_a_file_shows_its_first_five(tmp_path: Path) -> None:
    predictions, labels = write_folders(tmp_path, "xtreme", "pawsx")
    (predictions / "pawsx/test-de.tsv").write_text("1\t0\n" * 9)
    (predictions / "pawsx/test-fr.tsv").write_text("1\n")
    (predictions / "pawsx/test-ko.tsv").write_bytes(b"1\n0\n\xff\n")
    with pytest.raises(UserError) as error:
        score_folder("xtreme", predictions, labels)
    places = [problem.where for problem in error.value.problems]
    assert places[:5] == [f"{predictions}/pawsx/test-de.tsv:{n}" for n in range(1, 6)]
    assert "(and 5 more in this file)" in str(error.value)
    assert places[5:] == [f"{predictions}/pawsx/test-fr.tsv", f"{predictions}/pawsx/test-ko.tsv:3"]
    assert "not UTF-8" in str(error.value)


@pytest.mark.parametrize("make", [lambda one, other: None, lambda one, other: (one / "xnli").mkdir()])
def test_nothing_to_score_is_an_error(tmp_path: Path, make: Callable[[Path, Path], None]) -> None:
    folders = (tmp_path / "p", tmp_path / "l")
    for folder in folders:
        folder.mkdir()
    make(*folders)
    refused(*folders, "nothing of xtreme can be scored", "xnli/test-ar.tsv")


def test_folders_and_benchmarks_that_are_not_there(tmp_path: Path) -> None:
    refused(tmp_path / "nowhere", tmp_path / "no labels", "--predictions", "--labels", "no such folder")
    with pytest.raises(UserError, match="did you mean 'xtreme-r'"):
        score_folder("xtreme_r", tmp_path, tmp_path)


def test_the_scorer_starts_without_torch() -> None:
    code = (
        "import sys, xtrain.evaluation.benchmark.scoring, xtrain.evaluation.benchmark.submission;"
        "assert not {'torch', 'transformers', 'numpy'} & set(sys.modules), 'slow'"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
