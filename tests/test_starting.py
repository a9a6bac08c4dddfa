"""What comes before a command: missing packages, terminals that lack letters, no home, arguments in any order."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from tiny import pairs
from toy import PROJECT, SETTINGS, TASKS, study, write_jsonl, write_study

from xtrain.dispatch.cluster import load_profile
from xtrain.errors import UserError, counted
from xtrain.starting import plain_arguments
from xtrain.study import load
from xtrain.tasks.spec import Source

NARROW = {
    "C": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    "ascii": {"PYTHONIOENCODING": "ascii"},
    "latin": {"PYTHONIOENCODING": "iso-8859-1", "LC_ALL": "C", "PYTHONUTF8": "0"},
}


def python(
    arguments: Sequence[str], folder: Path, environment: Mapping[str, str | None] = {}
) -> subprocess.CompletedProcess[bytes]:
    """A process of the project's, its output as bytes; None takes a variable away."""
    env = {key: value for key, value in {**os.environ, **SETTINGS, **environment}.items() if value is not None}
    return subprocess.run([sys.executable, *arguments], cwd=folder, env=env, capture_output=True, timeout=120)


@pytest.mark.parametrize(
    ("given", "plain"),
    [
        ("--set A=1 STUDY", "--set A=1 STUDY"),
        ("--set A=1 b.c=2 STUDY --set D=3", "--set A=1 --set b.c=2 STUDY --set D=3"),
        ("--set=A=1 B=2 STUDY", "--set A=1 --set B=2 STUDY"),
        ("STUDY --set A=~/x --ranks 2", "STUDY --set A=~/x --ranks 2"),
        ("--set A=1 --out=~/x", "--set A=1 --out=HOME/x"),
        ("--out ~/x --data=~ s.toml", "--out HOME/x --data=HOME s.toml"),
        ("--out=a~b", "--out=a~b"),
        ("--set", "--set"),
    ],
)
def test_the_command_line_as_shells_make_it(given: str, plain: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "HOME")
    assert plain_arguments(given.split()) == plain.split()
    assert plain_arguments(plain_arguments(given.split())) == plain.split()


@pytest.mark.parametrize("script", ["-m xtrain", "train.py", "slurm/submit.py"])
def test_a_missing_package_is_the_user_s_mistake(script: str, tmp_path: Path) -> None:
    """An interpreter without site-packages: what somebody has who did not run make install."""
    words = ["-m", "xtrain"] if script == "-m xtrain" else [str(PROJECT / script)]
    found = python(["-S", *words, "x"], tmp_path)
    said = found.stderr.decode()
    assert found.returncode == 2
    assert "Traceback" not in said
    assert "is not installed" in said
    assert ".venv/bin/python" in said


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("max_steps=5", "did you mean recipe.target.max_steps or recipe.intermediate.max_steps?"),
        ("engine.max_steps=5", "did you mean recipe.target.max_steps or recipe.intermediate.max_steps?"),
        ("recipe.epochs=5", "did you mean recipe.target.epochs or recipe.intermediate.epochs?"),
        ("target.max_steps=5", "target is a list of tables"),
        ("precision='bf16'", "did you mean engine.precision?"),
        ("evaluation.mode='off'", "did you mean tracking.mode?"),
        ("sedes=[1]", "did you mean 'seeds'?"),
    ],
)
def test_a_key_is_said_to_belong_where_it_does(setting: str, said: str, tmp_path: Path) -> None:
    path = write_study(tmp_path / "s.toml", study(tmp_path))
    with pytest.raises(UserError) as caught:
        load(path, overrides=[setting])
    assert said in str(caught.value)


def test_a_number_with_its_noun() -> None:
    assert [counted(number, "language") for number in (0, 1, 2)] == ["0 languages", "1 language", "2 languages"]
    assert (counted(1000, "batch"), counted(1, "GPU"), counted(3, "query", "queries")) == (
        "1,000 batches",
        "1 GPU",
        "3 queries",
    )


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """A study all of whose names are beyond ASCII and Latin-1: folder, study, files, task."""
    folder = tmp_path_factory.mktemp("работа")
    source = {**TASKS["toy"]["sources"][0]}
    source["files"] = {split: f"données/{split}-ж-{{lang}}.jsonl" for split in ("train", "dev", "test")}
    for number, split in enumerate(("train", "dev", "test")):
        write_jsonl(folder / f"data/données/{split}-ж-en.jsonl", list(pairs(20, seed=number)))
    task = {"toy": {**TASKS["toy"], "languages": ["en"], "sources": [source]}}
    rows = [{"name": "none"}, {"name": "größe", "tasks": ["toy"]}]
    write_study(folder / "größe.toml", study(tiny_model, name="größe", task=task, intermediate=rows,
                                              target=[{"task": "toy"}]))  # fmt: skip
    return folder


def test_every_terminal_is_good_enough(foreign: Path) -> None:
    """Commands that run no rank; a rank's own start is the same (:func:`xtrain.starting.entry`)."""
    plan = ["-m", "xtrain", "plan", "größe.toml", "--data", "data", "--out", "out-ж"]
    asked = [
        ("C", [*plan, "--write"], 0, b"gr??e"),
        ("C", ["-m", "xtrain", "checkpoint", "ls", "out-ж"], 0, b"out-?"),
        ("C", [str(PROJECT / "slurm/submit.py"), *plan[3:], "--cluster", "local", "--dry-run"], 0, b"gr??e"),
        ("ascii", plan, 0, b"out-?"),
        ("ascii", [*plan, "--set", "größe=1"], 2, b""),
        ("latin", plan, 0, b"gr\xf6\xdfe"),
    ]
    for terminal, arguments, code, shown in asked:
        found = python(arguments, foreign, NARROW[terminal])
        assert found.returncode == code, (arguments, found.stderr.decode(errors="replace"))
        assert b"Traceback" not in found.stderr + found.stdout
        assert shown in found.stdout
    assert len(list((foreign / "out-ж").glob("*/*größe*/phase.toml"))) == 0  # run directories are plain
    assert len(list((foreign / "out-ж").glob("*/*/phase.toml"))) == 5


HOMELESS = """
import os, pwd, runpy, sys
def nobody(*name):
    raise KeyError(name)
pwd.getpwuid = pwd.getpwnam = nobody
sys.argv = ["xtrain", *{arguments!r}]
runpy.run_module("xtrain", run_name="__main__")
"""


def test_no_home_and_no_entry_in_passwd(tmp_path: Path) -> None:
    """A container with a user of a number alone: the doctor, and what it prints, as anywhere."""
    gone = {"TMPDIR": str(tmp_path), **dict.fromkeys(("HOME", "USER", "LOGNAME", "XDG_CACHE_HOME", "XTRAIN_CACHE"))}
    script = HOMELESS.format(arguments=["doctor", "--out", str(tmp_path / "out")])
    found = python(["-c", script], tmp_path, gone)
    said = found.stderr.decode()
    assert "Traceback" not in said + found.stdout.decode()
    assert f"note: HOME is not set, and the user has no entry in passwd: {tmp_path}/xtrain-home-{os.getuid()}" in said
    assert b" checks: " in found.stdout
    assert (tmp_path / f"xtrain-home-{os.getuid()}").stat().st_mode & 0o777 == 0o700


def test_a_home_in_a_study_and_in_a_profile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    source = Source(files={"train": "~/d/{lang}.jsonl", "test": ("~/a", "b~c")})
    assert source.paths("train", "en") == (f"{tmp_path}/d/en.jsonl",)
    assert source.paths("test", "en") == (f"{tmp_path}/a", "b~c")
    tables = {"environment": {"python": "~/venv/bin/python"}, "container": {"image": "~/x.sif", "mounts": ["~/d:/d"]}}
    write_study(tmp_path / "site.toml", {"scheduler": "slurm", "job": {"time_limit": 5}, **tables})
    profile = load_profile("~/site.toml", PROJECT)
    assert (profile.python, profile.container.image) == (f"{tmp_path}/venv/bin/python", f"{tmp_path}/x.sif")
    assert profile.container.mounts == (f"{tmp_path}/d:/d",)


def test_a_home_in_an_option(tmp_path: Path, foreign: Path) -> None:
    arguments = ["-m", "xtrain", "plan", "größe.toml", "--data", "data", "--out=~/x", "--write"]
    found = python(arguments, foreign, {"HOME": str(tmp_path)})
    assert found.returncode == 0, found.stderr.decode()
    assert (tmp_path / "x/prepared").is_dir()
    assert not (foreign / "~").exists()
