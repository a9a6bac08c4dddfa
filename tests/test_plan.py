"""What a study will take: reckoned without weights and data, and compared with what a study took."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from tiny import make_tiny_model
from toy import PROJECT, Toy, study, write_study

from xtrain.cli import main
from xtrain.dispatch.cluster import load_profile
from xtrain.errors import UserError
from xtrain.phase.disk import Model
from xtrain.planning.rates import CORE_FLOPS, KNOWN_MODELS, MEASURED, PACKAGE, PROFILE, SHARE_OF_PEAK
from xtrain.planning.sizes import ASSUMED_TOKENS
from xtrain.planning.view import FEW, amount
from xtrain.tasks import catalog, formats
from xtrain.training.throughput import training_flops

GRID = (str(PROJECT / "studies" / "phang2020.toml"), "--variant", "table")
LARGE = "FacebookAI/xlm-roberta-large"


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No hub, and nothing of it in a cache."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("xtrain.planning.rates.device_peak", lambda: None)


def planned(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    assert main(["plan", *arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def profile(path: Path, rates: str) -> str:
    text = (PROJECT / "slurm/clusters/h100.toml").read_text("utf-8")
    path.write_text(f"{text}\n{rates}\n", encoding="utf-8")
    return str(path)


def test_the_grid_of_the_paper_without_hub_and_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = planned(capsys, *GRID, "--out", str(tmp_path))
    assert len(found["phases"]) == 521 > FEW
    phases = {f"{one['kind']} {one['name']}": one for one in found["phases"]}
    mnli = phases["intermediate mnli-s0"]
    assert mnli["steps"] == math.ceil(2 * 392_702 / 24)
    assert mnli["trained_tokens"] == 2 * 392_702 * ASSUMED_TOKENS["classification"]
    looks = math.ceil(mnli["steps"] / 1000)
    assert mnli["forward_tokens"] == looks * 500 * ASSUMED_TOKENS["classification"]
    model, length = KNOWN_MODELS[LARGE], ASSUMED_TOKENS["classification"]
    tokens = mnli["trained_tokens"] + mnli["forward_tokens"] / 3
    assert mnli["flops"] == pytest.approx(training_flops(tokens, tokens * length, model.matrices, 24, 1024), rel=1e-6)
    assert found["rates"][0]["kind"] == PACKAGE
    assert mnli["device_hours"] == pytest.approx(mnli["flops"] / (SHARE_OF_PEAK * 312e12) / 3600)
    assert phases["intermediate anli_plus-s0"]["steps"] == math.ceil(2 * 1_104_934 / 24)
    assert found["device_hours"] == pytest.approx(sum(one["device_hours"] for one in found["phases"]))
    by_hash = {one["hash"]: one for one in found["phases"]}
    chains = []
    for one in found["phases"]:
        hours, now = 0.0, one
        while now is not None:
            hours, now = hours + now["hours"], by_hash.get(now["parent"])
        chains.append(hours)
    assert found["chain"]["hours"] == pytest.approx(max(chains))
    assert {"ccg", "bucc2018", "mnli"} <= found["lacking"].keys()
    assert any("by name" in line for line in found["assumed"])


def test_what_is_said_fits_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from rich.console import Console

    for width in (80, 100):
        monkeypatch.setattr(
            "xtrain.cli.new_console", lambda width=width: Console(width=width, force_terminal=True, color_system=None)
        )
        assert main(["plan", *GRID, "--out", str(tmp_path)]) == 0
        text = capsys.readouterr().out
        assert max(map(len, text.splitlines())) <= width
        assert "--phases lists the 521 phases" in text
        assert "assumed, for no GPU was measured: 30% of the dense bf16 peak of A100" in " ".join(text.split())
        kinds, *rows = text.splitlines()[1:6]
        assert [row.split()[0] for row in rows] == ["intermediate", "target", "evaluate", "all"]
        assert "device-hours" in kinds
        assert "not to be had here: bucc2018, ccg" in text
    assert main(["plan", *GRID, "--out", str(tmp_path), "--phases"]) == 0
    assert capsys.readouterr().out.count("intermediate mnli-s") >= 3


def test_what_cannot_be_had_is_left_out_as_is_proposed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = planned(capsys, GRID[0], "--out", str(tmp_path))
    assert len(found["phases"]) == 1193
    less = planned(capsys, GRID[0], "--out", str(tmp_path), "--set", 'leave_out=["ccg", "bucc2018"]')
    assert less["lacking"].keys() == found["lacking"].keys() - {"ccg", "bucc2018"}
    names = {one["name"] for one in less["phases"]}
    assert "qqp-s0" in names
    assert not any("ccg" in name or "all nine" in name or "bucc" in name for name in names)
    main(["plan", GRID[0], "--out", str(tmp_path), "--set", 'leave_out=["ccgg"]'])
    assert "leave_out: 'ccgg' is not there" in capsys.readouterr().err


def test_a_base_that_nobody_knows_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", *GRID, "--out", str(tmp_path), "--set", "base=nobody/knows"]) == 2
    assert "nobody/knows" in capsys.readouterr().err
    assert main(["plan", *GRID, "--out", str(tmp_path), "--write"]) == 2, "to write them the base is needed"


def test_rates_of_a_profile(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = ["--set", 'intermediate=[{ name = "none" }]', "--set", 'target=[{ task = "xnli" }]', "--set", "question=[]"]
    one = ["--out", str(tmp_path), *small]
    given = profile(tmp_path / "a.toml", f'[rates]\ntflops = 200\ntokens_per_second = {{ "{LARGE}" = 10_000 }}')
    found = planned(capsys, *GRID, *one, "--cluster", given)
    assert found["rates"][0]["kind"] == PROFILE
    target = next(phase for phase in found["phases"] if phase["kind"] == "target")
    tokens = target["trained_tokens"] + target["forward_tokens"] / 3
    assert target["device_hours"] == pytest.approx(tokens / 10_000 / 3600, rel=1e-6)
    asked = load_profile(given).resources("target", 32)
    assert target["devices"] == load_profile(given).resources("target", 24).num_ranks <= asked.num_ranks
    assert target["hours"] == pytest.approx(target["device_hours"] / target["devices"])
    found = planned(capsys, *GRID, *one, "--cluster", profile(tmp_path / "b.toml", "[rates]\ntflops = 200"))
    assert found["rates"][0]["flops"] == 200e12
    found = planned(capsys, *GRID, *one, "--cluster", profile(tmp_path / "c.toml", ""))
    assert found["rates"][0]["flops"] == pytest.approx(SHARE_OF_PEAK * 756e12), "the slowest H100"
    with pytest.raises(UserError, match=r"rates\.tokens_per_second\.x: -1\.0 is not allowed"):
        load_profile(profile(tmp_path / "d.toml", "[rates]\ntokens_per_second = { x = -1 }"))


def test_a_small_study_takes_what_was_planned(toy: Toy, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A model large enough for its files to count, and one look at dev, so that the last step is the selected one."""
    toy.base = make_tiny_model(tmp_path / "model", hidden=256, layers=3, intermediate=1024)
    recipe = {"target": {"max_steps": 2, "batch_size": 8, "max_length": 64}}
    rows: dict[str, Any] = {"intermediate": [{"name": "none"}], "target": [{"task": "toy"}]}
    changes: dict[str, Any] = {**rows, "recipe": recipe}
    path, out = write_study(toy.root / "small.toml", study(toy.base, **changes)), toy.out("small")
    options = [str(path), "--data", str(toy.data), "--out", str(out)]
    before = planned(capsys, *options)
    assert before["disk"]["stays_at_least"] == before["disk"]["stays_at_most"]
    assert before["rates"][0]["kind"] == PACKAGE
    ended = toy.run("small", **changes)
    assert ended.returncode == 0, ended.stderr
    taken = sum(file.stat().st_size for file in out.rglob("*") if file.is_file())
    assert before["disk"]["stays_at_most"] == pytest.approx(taken, rel=0.1)
    after = planned(capsys, *options)
    assert {one["state"] for one in after["phases"]} == {"done"}
    assert (after["device_hours"], after["chain"]["phases"]) == (0, [])
    assert after["rates"][0]["kind"] == MEASURED
    rates = [json.loads(file.read_text()) for file in out.glob("*/*/DONE") if "evaluate" not in str(file)]
    measured = sum(one["tokens_per_second"] * one["training_seconds"] for one in rates)
    assert after["rates"][0]["tokens_per_second"] == pytest.approx(
        measured / sum(one["training_seconds"] for one in rates), rel=1e-3
    )
    real = {one["name"]: one["steps"] for one in after["phases"] if one["kind"] != "evaluate"}
    assert set(real.values()) == {2}


def test_where_the_last_step_may_not_be_selected_both_are_told(
    tiny_model: Path, toy_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_study(tmp_path / "s.toml", study(tiny_model, target=[{"task": "toy"}]))
    disk = planned(capsys, str(path), "--data", str(toy_data), "--out", str(tmp_path))["disk"]
    encoder = 4 * Model.of(tiny_model).parameters() + Model.of(tiny_model).beside
    assert disk["stays_at_most"] - disk["stays_at_least"] == 3 * encoder


def test_examples_that_are_known(tmp_path: Path) -> None:
    specs = catalog.load()
    assert sum(specs[one].examples["train"] for one in specs["anli_plus"].members) == 1_104_934
    assert set(ASSUMED_TOKENS) == set(formats.names())


def test_the_core_is_the_one_that_was_measured() -> None:
    (first, *_) = json.loads((PROJECT / "benchmarks/results/checkpoint_large.json").read_text())["results"]
    assert first["threads"] == first["ranks"] == 1
    seconds = sorted(first["steps_without_save"])
    each = training_flops(first["tokens_a_step"], 512 * 128, KNOWN_MODELS[LARGE].matrices, 24, 1024)
    assert each / seconds[-1] < CORE_FLOPS < each / seconds[0]


@pytest.mark.parametrize(("number", "text"), [(999, "999"), (1_234, "1.23 k"), (45_600_000, "45.6 M"), (7e12, "7 T")])
def test_numbers_are_short(number: float, text: str) -> None:
    assert amount(number) == text
