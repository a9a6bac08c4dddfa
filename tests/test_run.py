"""The real command line on a toy study: three phases, ranks, interruption, and what is found again."""

from __future__ import annotations

import fcntl
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from torch import Tensor
from toy import PROJECT, Toy, losses, read_jsonl, run_python

from xtrain.evaluation.outcome_files import Kept


def test_three_phases_then_nothing_is_trained_again(toy: Toy) -> None:
    limited = {"evaluation": {"limit": 12}}
    first = toy.run("all", **limited)
    assert first.returncode == 0, first.stderr
    out = toy.out("all")
    for part in ("train choose-s0", "evaluate choose/toy-s0", "zero-shot mean of 2", "report-toy.html", "loss"):
        assert part in first.stdout, part
    scores = json.loads(next(out.glob("evaluate/choose-toy-*/scores.json")).read_text())
    assert set(scores["tasks"]["toy"]["languages"]) == {"en", "ru", "ar"}
    assert scores["protocol"]["tasks"]["toy"]["split"] == "test"
    data_is_accounted_for(out, scores["protocol"]["tasks"]["toy"], first.stdout)
    encoder = next(out.glob("target/choose-toy-*/encoder"))
    from transformers import AutoModel

    model, info = AutoModel.from_pretrained(encoder, add_pooling_layer=False, output_loading_info=True)
    assert not info["missing_keys"]
    assert model.config.vocab_size == 400
    assert "choose" in (out / "report-toy.html").read_text("utf-8")
    predictions_add_up(next(out.glob("evaluate/none-toy-*")))
    used = json.loads(toy.xtrain("usage", str(out), "--json").stdout)["totals"]
    assert (used["starts"], used["no_end"], used["no_devices"], used["redone_steps"]) == (7, 0, 0, 0)
    assert 0 < used["rank_hours"] + used["gpu_hours"] < 1
    second = toy.run("all", "--set", 'engine.keep_encoders="none"', **limited)
    assert second.returncode == 0, second.stderr
    assert second.stdout.count("done before, kept") == 7
    assert "train " not in second.stdout
    assert not list(out.glob("target/*/encoder*")), "what is evaluated is not needed any more"
    assert list(out.glob("intermediate/*/encoder"))
    later = toy.run("all", "--set", "evaluation.limit=5", **limited)
    assert later.returncode == 0, later.stderr
    (lost,) = out.glob("target/choose-toy-*")
    said = f"target choose/toy-s0: done before, made again: {lost}/encoder is gone, and evaluate choose/toy-s0 starts"
    assert said in later.stdout
    assert "intermediate choose-s0: done before" not in later.stdout, "its encoder is there"
    assert (lost / "encoder" / "config.json").is_file()
    plan = toy.xtrain("plan", str(toy.root / "all.toml"), "--data", str(toy.data), "--out", str(out))
    assert plan.returncode == 0, plan.stderr
    assert len(re.findall(r"^done ", plan.stdout, re.MULTILINE)) == 7
    assert 'engine.keep_encoders = "all"' in plan.stdout


def test_a_sweep_beside_another_study(toy: Toy) -> None:
    """Three learning rates are three rows of one report; in one folder with another study nothing is overwritten."""
    short = {"target": [{"task": "toy"}], "evaluation": {"limit": 6},
             "recipe": {"intermediate": {"max_steps": 4, "batch_size": 8, "max_length": 64, "eval_every": 2,
                                        "learning_rate": 1e-3},
                        "target": {"max_steps": 4, "batch_size": 8, "max_length": 64, "eval_every": 2}}}  # fmt: skip
    rows = [{"name": "none"}, {"name": "choose", "tasks": ["choose"]}]
    first = toy.run("swept", **{**short, "intermediate": rows})
    assert first.returncode == 0, first.stderr
    out = toy.out("swept")
    before = {path: path.read_bytes() for path in out.glob("*/*/scores.json")}
    sweep = [
        {"name": "none"},
        {"name": "at {rate}", "each": {"rate": [1e-5, 1e-4, 1e-3]}, "tasks": ["choose"],
         "recipe": {"intermediate": {"learning_rate": "{rate}"}}},
    ]  # fmt: skip
    questions = [{"name": "rate", "asks": "Which rate?", "kind": "curve", "x": "rate", "logarithmic": True}]
    second = toy.run("swept", name="sweep", intermediate=sweep, question=questions, **short)
    assert second.returncode == 0, second.stderr
    assert second.stdout.count("done before, kept") == 5, "the base row and the rate that is the other study's"
    page = (out / "report-sweep.html").read_text("utf-8")
    assert all(name in page for name in ("at 1e-05", "at 0.0001", "at 0.001", "Which rate?"))
    assert "at 1e-05" not in (out / "report-toy.html").read_text("utf-8")
    assert len(list(out.glob("intermediate/*/phase.toml"))) == 3
    assert {path: path.read_bytes() for path in before} == before
    third = toy.run("swept", "--set", "evaluation.limit=5", **{**short, "intermediate": rows})
    assert third.returncode == 0, third.stderr
    assert (out / "report-toy-evaluation.limit-5.html").is_file()
    assert "evaluation.limit=5" in (out / "report-toy-evaluation.limit-5.html").read_text("utf-8")


def data_is_accounted_for(out: Path, protocol: dict[str, Any], printed: str) -> None:
    """A sample of 12 of 30 parallel rows, and what became of every data set: printed, kept and reported."""
    assert "data: toy test: 3 languages, a sample of 36 of 90 examples" in printed
    assert protocol["sample"]["examples"] == {"en": 12, "ru": 12, "ar": 12}
    assert protocol["sample"]["of"] == {"en": 30, "ru": 30, "ar": 30}
    folder = next(out.glob("evaluate/choose-toy-*/predictions/toy"))
    assert len({tuple(row["id"] for row in read_jsonl(path)) for path in folder.glob("*.jsonl")}) == 1
    assert protocol["tokens"]["ru"]["subwords_per_word"] > 1
    assert protocol["tokens"]["ru"]["unknown_percent"] == 0
    assert protocol["tokens"]["en"]["words_against_english"] == 1
    assert protocol["tokens"]["ru"]["words_against_english"] > 0
    accounts = [one for path in out.glob("*/choose-toy-*/data.json") for one in json.loads(path.read_text())]
    assert {(one["split"], one["language"]) for one in accounts} == {
        ("train", "en"), ("dev", "en"), ("test", "en"), ("test", "ru"), ("test", "ar"),
    }  # fmt: skip
    page = (out / "report-toy.html").read_text("utf-8")
    assert page.count('<details class="data"') == 6  # of choose two splits, of toy three, of mine one


def predictions_add_up(run: Path) -> None:
    """Predictions are words, and the scores follow from them; their outcomes are kept beside them."""
    scores = json.loads((run / "scores.json").read_text())["tasks"]["toy"]
    for language, metrics in scores["languages"].items():
        rows = read_jsonl(run / "predictions" / "toy" / f"{language}.jsonl")
        assert {row["label"] for row in rows} <= {"class0", "class1", "class2"}
        right = 100 * sum(row["label"] == row["prediction"] for row in rows) / len(rows)
        assert metrics["accuracy"] == pytest.approx(right, abs=1e-9)
        kept = Kept.read(run / "outcomes.npz")
        assert kept is not None
        found, chance = kept.of("accuracy", language)
        assert found is not None
        assert list(found.ids) == [row["id"] for row in rows]
        assert found.score == pytest.approx(right, abs=1e-9)
        assert chance is not None
    assert scores["score"] == pytest.approx(sum(m["accuracy"] for m in scores["languages"].values()) / 3, abs=1e-9)


def training_only(steps: int, **engine: object) -> dict[str, object]:
    """A target phase in fp32, without dev evaluation."""
    recipe = {"max_steps": steps, "batch_size": 8, "max_length": 64, "learning_rate": 1e-3}
    return {
        "intermediate": [{"name": "none"}],
        "target": [{"task": "toy", "languages": ["en"]}],
        "recipe": {"target": {**recipe, "eval_examples": 0}},
        "engine": {
            "precision": "fp32",
            "log_every": 1,
            "log_example_ids": True,
            "tokens_per_micro_batch": 128,
            **engine,
        },
    }


def test_ranks_see_the_same_batches_and_losses(toy: Toy) -> None:
    """Batches of eight by any number of ranks, more than eight too: identical example ids, losses to 1e-5."""
    batches, curves = [], []
    for ranks in (1, 2, 3, 5, 7, 9):
        run = toy.train(toy.planned(f"ranks{ranks}", **training_only(15)), ranks)
        batches.append([(line["step"], line["ids"]) for line in read_jsonl(run / "batches.jsonl")])
        curves.append(losses(run))
    assert len(curves[0]) == len(batches[0]) == 15
    for other, curve in zip(batches[1:], curves[1:], strict=True):
        assert other == batches[0]
        assert curve == pytest.approx(curves[0], abs=1e-5)


NO_COMPILER = """
import os, runpy, sys
whole, sys.argv = os._exit, sys.argv[1:]
os._exit = lambda code: whole(code or (99 if "torch._dynamo" in sys.modules else 0))  # over a second, for nothing
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_every_launcher_runs_a_phase(toy: Toy) -> None:
    """``python train.py RUN_DIR`` under torchrun, with srun's and with mpirun's variables, and alone."""
    run = toy.planned("launch", **training_only(3))
    wanted: list[float] = []
    weights: dict[str, Tensor] = {}
    srun = {"SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0", "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NTASKS": "1",
            "SLURM_STEP_NODELIST": "localhost"}  # fmt: skip
    mpirun = {"OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "1", "OMPI_COMM_WORLD_LOCAL_RANK": "0",
              "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29871"}  # fmt: skip
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    for name, prefix, environment in (
        ("none", ["-c", NO_COMPILER], {}),
        ("srun", [], srun),
        ("mpirun", [], mpirun),
        ("torchrun", torchrun, {}),
    ):
        result = run_python([*prefix, str(PROJECT / "train.py"), str(run)], toy.root, environment)
        assert result.returncode == 0, (name, result.stderr)
        wanted = wanted or losses(run)
        assert losses(run) == pytest.approx(wanted, abs=1e-6), name
        assert json.loads((run / "environment.json").read_text())["launcher"] == name
        again = load_file(run / "encoder/model.safetensors")
        weights = weights or again
        assert all((again[key] - weights[key]).abs().max() < 1e-5 for key in weights), name
        for done in ("DONE", "metrics.jsonl", "batches.jsonl", "encoder"):
            path = run / done
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def test_mixtures_and_sequences(toy: Toy) -> None:
    """A mixture of two tasks in one phase, and two phases in sequence that share their beginning."""
    rows = [
        {"name": "mix", "tasks": ["choose", "toy"]},
        {"name": "choose", "tasks": ["choose"]},
        {"name": "sequence", "steps": [["choose"], ["toy"]]},
    ]
    recipe = {"max_steps": 6, "batch_size": 8, "max_length": 64, "eval_every": 3}
    result = toy.run(
        "rows", intermediate=rows, target=[{"task": "mine"}], recipe={"intermediate": recipe, "target": recipe}
    )
    assert result.returncode == 0, result.stderr
    names = sorted(path.name.rsplit("-", 1)[0] for path in (toy.out("rows") / "intermediate").iterdir())
    assert names == ["choose+toy-s0", "choose-s0", "mix-s0"], "the shared first phase ran once"
    heads = load_file(next(toy.out("rows").glob("intermediate/mix-*/encoder/heads.safetensors")))
    assert {name.split("/")[0] for name in heads} == {"choose", "toy"}
    logged = [
        line
        for line in read_jsonl(next(toy.out("rows").glob("intermediate/mix-*/metrics.jsonl")))
        if "dev/score" in line
    ]
    assert {"dev/choose/accuracy", "dev/toy/accuracy"} <= set(logged[0])


def test_two_commands_never_write_into_one_run(toy: Toy) -> None:
    run = toy.planned("lock", **training_only(3))
    with open(run / ".lock", "w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        result: subprocess.CompletedProcess[str] = toy.run("lock", **training_only(3))
    assert result.returncode == 2
    assert "another command is running this phase" in result.stderr
