"""All data of a study is looked at before anything is trained or submitted: every file, every problem, at once."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from tiny import pairs
from toy import TASKS, study, write_jsonl, write_study

from xtrain.cli import main
from xtrain.data import checking
from xtrain.data.shards import MANIFEST
from xtrain.errors import UserError
from xtrain.runner import Job, look_at_data, open_study
from xtrain.tasks.checking import PER_FILE, DataSet, Look

SEVEN = ["en", "ru", "ar", "de", "es", "fr", "hi"]


@pytest.fixture
def data(tmp_path: Path, toy_data: Path) -> Path:
    """The toy data with test sets in seven languages, and a task whose labels are numbers."""
    root = tmp_path / "data"
    shutil.copytree(toy_data, root)
    for number, language in enumerate(SEVEN):
        write_jsonl(root / f"toy/test-{language}.jsonl", list(pairs(12, seed=number)))
    for split in ("train", "dev", "test"):
        rows = [{**row, "label": n % 3} for n, row in enumerate(pairs(12, seed=4))]
        write_jsonl(root / f"numbers/{split}-en.jsonl", rows)
    return root


def changes(**label_map: str) -> dict[str, Any]:
    numbers = {**TASKS["toy"], "languages": ["en"]}
    files = {split: f"numbers/{split}-{{lang}}.jsonl" for split in ("train", "dev", "test")}
    labels = label_map or {"0": "class0", "1": "class1", "2": "class2"}
    numbers["sources"] = [{**TASKS["toy"]["sources"][0], "files": files, "label_map": labels}]
    tasks = {**TASKS, "toy": {**TASKS["toy"], "languages": SEVEN}, "numbers": numbers}
    return {"task": tasks, "target": [{"task": name} for name in ("toy", "mine", "numbers")]}


@pytest.fixture
def opened(tmp_path: Path, tiny_model: Path, data: Path) -> Callable[..., Job]:
    """Open the study as ``run`` does."""

    def of(**label_map: str) -> Job:
        path = write_study(tmp_path / "s.toml", study(tiny_model, **changes(**label_map)))
        return open_study(path, data_root=data, out=tmp_path / "out", complete=False)

    return of


def spoil(path: Path, line: int, **values: Any) -> None:
    """Put ``values`` into a row of a jsonl file."""
    rows = [json.loads(text) for text in path.read_text("utf-8").splitlines()]
    rows[line - 1] |= values
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def spoil_everything(root: Path) -> dict[str, str]:
    """A mistake in each kind of file; returns where each is said to be, and a word of what is said."""
    spoil(root / "choose/train.jsonl", 3, choices=["one"])
    spoil(root / "toy/dev-en.jsonl", 2, label="klass")
    spoil(root / "toy/test-ar.jsonl", 5, label="klass")
    (root / "toy/test-hi.jsonl").write_bytes("caf\u00e9\n".encode("latin-1"))
    spoil(root / "toy/test-fr.jsonl", 6, text_b="cut \ud83d here")
    (root / "mine/ar.jsonl").unlink()
    (root / "toy/test-es.jsonl").write_bytes(b"")
    return {
        "choose/train.jsonl:3": "there are 1",
        "toy/dev-en.jsonl:2": "'klass' is not a label",
        "toy/test-ar.jsonl:5": "'klass' is not a label",
        "toy/test-hi.jsonl:1": "byte 0xe9 is not UTF-8",
        "mine/ar.jsonl": "no such file",
        "toy/test-es.jsonl": "has no rows",
        "toy/test-fr.jsonl:6": "text_b: holds half of a surrogate pair",
        "numbers/test-en.jsonl:3": "'2' is not a label",
    }


def test_every_file_of_every_phase_is_checked_before_anything_is_trained(
    data: Path, opened: Callable[..., Job], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    expected = spoil_everything(data)
    opened(**{"0": "class0", "1": "class1"})  # writes the study
    command = ["--data", str(data), "--out", str(tmp_path / "out")]
    for words in (["run", "s.toml"], ["plan", "s.toml", "--check-data"]):
        capfd.readouterr()
        assert main([words[0], str(tmp_path / words[1]), *words[2:], *command]) == 2
        _, err = capfd.readouterr()
        for where, what in expected.items():
            assert f"{data}/{where}: {what}" in err.replace(": label: ", ": ").replace(": choices: ", ": "), err
        assert err.startswith("error: 10 problems:"), "numbers has rows with a 2 in train and dev too"
        assert err.count("and the same at 6, 9, 12") == 3
        assert "Traceback" not in err
    assert not list((tmp_path / "out").glob("*/*/phase.toml")), "nothing was begun"
    assert not list((tmp_path / "out/prepared").glob("*/*")), "nothing was tokenised"


def test_what_was_found_right_is_not_read_again(
    data: Path, opened: Callable[..., Job], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[str] = []
    look = checking.look
    monkeypatch.setattr(checking, "look", lambda one, root: looked.append(str(one)) or look(one, root))
    spoil(data / "toy/test-hi.jsonl", 1, label="klass")
    with pytest.raises(UserError, match=r"test-hi\.jsonl:1"):
        look_at_data(opened(), Console(quiet=True))
    assert len(looked) == len(set(looked)) == 2 + 2 + 7 + 2 + 3
    looked.clear()
    spoil(data / "toy/test-hi.jsonl", 1, label="class1")
    look_at_data(opened(), Console(quiet=True))
    assert looked == ["toy test hi"], "the one that has changed"
    shards = {path: path.read_bytes() for path in (tmp_path / "out/prepared").glob(f"*/*/{MANIFEST}")}
    assert len(shards) == 16
    looked.clear()
    look_at_data(opened(), Console(quiet=True))
    assert not looked


def test_the_problems_of_a_file_and_of_all_are_limited_and_counted(data: Path, opened: Callable[..., Job]) -> None:
    for language in SEVEN:
        rows = [{**row, "label": "klass"} for row in pairs(40, seed=2)]
        write_jsonl(data / f"toy/test-{language}.jsonl", rows)
    with pytest.raises(UserError) as caught:
        look_at_data(opened(), Console(quiet=True))
    message = str(caught.value)
    assert len(caught.value.problems) == 7
    for language in SEVEN:
        assert f"the same at 2, 3, 4, 5; {40 - PER_FILE} more in {data}/toy/test-{language}.jsonl" in message
    with pytest.raises(UserError, match=r"and 2 more in a; 1 more in b") as caught:
        checking.raise_problems([*(checking.Problem(f"a:{n}", "x") for n in range(52)), checking.Problem("b:1", "x")])
    assert len(caught.value.problems) == checking.AT_ONCE
    assert str(caught.value).startswith("the first 50 problems:\n1. a:0: x\n")


def test_a_study_is_checked_without_its_base_and_the_tokenizer_asked_where_it_is_to_be_had(
    data: Path, tmp_path: Path, tiny_model: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = write_study(tmp_path / "s.toml", study(Path("nobody/nothing"), **changes()))
    assert main(["plan", str(path), "--check-data", "--data", str(data), "--out", str(tmp_path / "out")]) == 0
    out = capfd.readouterr().out
    assert "en, ru, ar, de, es, fr, hi" in out
    assert "84" in out, "rows of the seven test sets"
    assert "what a tokenizer makes of them is not known" in out
    spec = study(tiny_model, **changes(), evaluation={"limit": 5})
    spec["recipe"]["target"]["train_examples"] = 9
    assert (
        main(["plan", str(write_study(path, spec)), "--check-data", "--data", str(data), "--out", str(tmp_path)]) == 0
    )
    out = capfd.readouterr().out
    assert "data: toy test: 7 languages, a sample of 35 of 84 examples" in out
    assert re.search(r"toy test *\| en English *\| *5 \| *0\.0 \| *0\.00 \| *\d\.\d\d \| *0\.\d{3}\n", out), out
    assert len(re.findall(r"(?m)^[a-z ]*\| [a-z]{2} ", out)) == 16, "a line for each data set and language"
    assert not (tmp_path / "evaluate").exists()


def test_labels_taken_from_data_that_are_broken_do_not_hide_other_mistakes(
    data: Path, tmp_path: Path, tiny_model: Path
) -> None:
    words = "".join(f"{word}\t{tag}\n" for word, tag in zip("abcd", ["X", "Y", "X", "Y"], strict=True))
    tags = data / "tags"
    tags.mkdir()
    for split in ("train-en", "dev-en", "dev-ru", "test-en", "test-ar"):
        (tags / f"{split}.tsv").write_text(f"{words}\n{words}")
    (tags / "train-en.tsv").write_text(f"{words}\n{words}\nbroken\n")
    (tags / "test-ar.tsv").write_text(f"{words}\na\tZ\n")
    files = {split: f"tags/{split}-{{lang}}.tsv" for split in ("train", "dev", "test")}
    task = {
        "format": "tagging", "metric": "f1", "labels": ["*"], "languages": ["*"],
        "sources": [{"files": files, "reader": "conll", "columns": {"tokens": 0, "tags": 1}}],
    }  # fmt: skip
    changed = {"task": {"tags": task}, "target": [{"task": "tags"}], "intermediate": [{"name": "none"}]}
    path = write_study(tmp_path / "s.toml", study(tiny_model, **changed))
    job = open_study(path, data_root=data, out=tmp_path / "out", complete=False)
    with pytest.raises(UserError) as caught:
        look_at_data(job, Console(quiet=True))
    places = [problem.where for problem in caught.value.problems]
    assert places == [f"{tags}/train-en.tsv:11", f"{tags}/test-ar.tsv:6: label"], "and Z is no label for being there"
    assert job.graph.remarks == [f"tags is not evaluated in 'ru': there is no {tags}/test-ru.tsv"]


def test_a_process_that_dies_while_it_reads_is_named_with_its_data(
    opened: Callable[..., Job], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    look = checking.look

    def dies(one: DataSet, root: Path | None) -> Look:
        if str(one) == "toy test fr":
            os.kill(os.getpid(), signal.SIGKILL)
        return look(one, root)

    monkeypatch.setattr(checking, "SMALL", 0)
    monkeypatch.setattr(checking, "available_cores", lambda: 3)
    monkeypatch.setattr(checking, "look", dies)
    with pytest.raises(UserError, match="toy test fr: the process that read it ended with SIGKILL"):
        look_at_data(opened(), Console(quiet=True))
    monkeypatch.setattr(checking, "look", look)
    look_at_data(opened(), Console(quiet=True))
    assert len(list((tmp_path / "out/prepared").glob(f"*/*/{MANIFEST}"))) == 16, "by three processes"
