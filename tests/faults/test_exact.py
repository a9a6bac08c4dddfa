"""An interrupted run is the calm one, bit for bit, as everybody trains: with DeepSpeed's op, in bf16, with dropout.

What a checkpoint holds is compared, fp32 weights and moments byte by byte, and every line of metrics: bf16 hides a
difference in the last place of the weights from the losses for dozens of steps.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from long import with_long
from op import compiled
from runs import Nursery, events, make_run, metrics, reached, same_weights, settings, wait_until
from tiny import make_tiny_model
from toy import study, write_study

from xtrain.errors import EXIT_OURS, EXIT_PREEMPTED
from xtrain.study import Recipe

SEED = "XTRAIN_TORTURE_SEED"  # the torture of this seed alone
SEEDS = [int(os.environ[SEED])] if SEED in os.environ else with_long([], range(3, 13))
FAULTS, STEPS, LAST_FAULT = 8, 600, 540
SAVED, END = 290, 320  # the calm run's checkpoints
NOT_FINITE = {"kind": "not finite", "steps": {"23": ["gradient", 0], "308": ["gradient", 0]}}  # they update nothing


@pytest.fixture(scope="module")
def smaller(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of one layer: what is looked at takes many steps."""
    return make_tiny_model(tmp_path_factory.mktemp("smaller") / "model", hidden=16, layers=1, heads=2, intermediate=16)


def state_in(checkpoint: Path) -> dict[str, Any]:
    """What a checkpoint holds: the bytes of its tensors, and all of trainer.json but what the clock says."""
    held: dict[str, Any] = {path.name: path.read_bytes() for path in checkpoint.glob("*.safetensors")}
    return {**held, **json.loads((checkpoint / "trainer.json").read_bytes()), "training_seconds": None}


def same_state(run: Path, other: Path, step: int) -> None:
    one, two = (state_in(folder / f"checkpoints/step-{step}") for folder in (run, other))
    assert [name for name in {**one, **two} if one.get(name) != two.get(name)] == []


def named(value: object) -> str:
    return " ".join(map(str, value.values())) if isinstance(value, dict) else str(value)


@pytest.mark.parametrize(
    ("ranks", "stage", "engine", "environment"),
    with_long(
        [
            (*case, {"precision": "bf16" if case[1] else "fp32"}, {})
            for case in ((1, 2), (2, 0), (2, 1), (2, 2), (2, 3))
        ],
        [
            *((1, stage, {"precision": "bf16" if stage else "fp32"}, {}) for stage in (0, 1, 3)),
            (2, 2, {}, {"XTRAIN_NO_OPS": "1"}),  # as where there is no compiler: torch's AdamW
            *((ranks, 3, {"ds_config": "zero3_offload"}, {}) for ranks in (1, 2)),  # DeepSpeedCPUAdam: compiles it
        ],
    ),
    ids=named,
)
def test_four_interruptions_after_hundreds_of_steps(
    nursery: Nursery,
    tmp_path: Path,
    smaller: Path,
    toy_data: Path,
    ranks: int,
    stage: int,
    engine: Mapping[str, Any],
    environment: Mapping[str, str],
) -> None:
    """Of 320 steps; lines of metrics have the mean loss of seven, so that a save comes in the middle of one."""
    recipe = {"max_steps": 400, "batch_size": 4, "eval_every": 1000, "collapse_window": Recipe().collapse_window}
    changes = settings(stage, recipe=recipe, checkpoint_every=SAVED, log_every=7, **engine)
    compiled("ds_config" in engine)
    calm = make_run(tmp_path / "run", smaller, toy_data, changes)

    def until(run: Path, step: int, how: str = "SIGTERM") -> None:
        end = {"kind": "signal at", "place": "step", "step": step - 1, "who": [ranks - 1], "names": [how]}
        fault = {"kind": "several", "faults": [NOT_FINITE, end]}
        ended = nursery.run(run, ranks, fault, environment=environment)
        assert ended.codes in ([EXIT_PREEMPTED] * ranks, [-9], [1, -9]), ended

    until(calm, END)
    torn = calm.with_name("torn")
    shutil.copytree(calm, torn)
    shutil.rmtree(torn / f"checkpoints/step-{END}")
    for step, how in ((300, "SIGTERM"), (306, "SIGKILL"), (311, "SIGTERM"), (END, "SIGTERM")):
        until(torn, step, how)
    assert [event["step"] for event in events(torn, "resume")] == [SAVED, 300, 300, 311]
    assert len(events(calm, "step_skipped")) == 2
    assert not events(torn, "rounds_otherwise")
    same_state(torn, calm, END)
    assert metrics(torn) == metrics(calm)
    used = json.loads((calm / "environment.json").read_bytes())["optimizer"]
    assert used.startswith("torch" if environment else "DeepSpeed"), used


@pytest.mark.parametrize("stage", with_long([3], [1, 2]))
def test_a_training_that_began_anew(
    nursery: Nursery, tmp_path: Path, tiny_model: Path, toy_data: Path, stage: int
) -> None:
    """After a collapse the same process begins with another seed; what is killed then goes on in a new one."""
    runs, collapse = [], {"kind": "collapse", "step": 5, "seed": 0}
    for name, more in (("calm", []), ("torn", [{"kind": "kill at step", "step": 8, "who": "all"}])):
        changes = settings(stage, recipe={"on_collapse": "reseed"})
        runs.append(make_run(tmp_path / name, tiny_model, toy_data, changes))
        ended = nursery.run(runs[-1], fault={"kind": "several", "faults": [collapse, *more]})
        assert ended.codes == ([-9, -9] if more else [0, 0]), ended
    calm, torn = runs
    ended = nursery.run(torn, fault=collapse)
    assert ended.codes == [0, 0], ended
    assert [event["step"] for event in events(torn, "resume")] == [6]
    assert len(events(torn, "reseed")) == len(events(calm, "reseed")) == 1
    assert metrics(torn) == metrics(calm)
    assert same_weights(torn, calm)


@dataclass(frozen=True)
class Blow:
    """One of the signals of a torture."""

    step: int
    """It comes once this step is recorded."""
    delay: float
    """Seconds after that."""
    name: str
    whom: str
    """"rank 0", "rank 1", "both ranks", or the command that "started them"."""

    @classmethod
    def drawn(cls, seed: int) -> list[Blow]:
        """Those of a torture, in order."""
        rng = np.random.default_rng(seed)
        steps = sorted(int(step) for step in rng.integers(0, LAST_FAULT, size=FAULTS))
        whom = ("rank 0", "rank 1", "both ranks", "the command")
        return [
            cls(step, float(rng.uniform(0.0, 0.1)), ("SIGTERM", "SIGKILL")[rng.integers(2)], whom[rng.integers(4)])
            for step in steps
        ]

    def strike(self, command: int) -> list[int]:
        """Send it to a command that is running; the exit codes that the command may end with."""
        ranks = children(command)
        who = {"rank 0": ranks[:1], "rank 1": ranks[1:], "both ranks": ranks, "the command": [command]}[self.whom]
        for pid in who:
            os.kill(pid, signal.Signals[self.name])
        if self.name == "SIGTERM":
            return [EXIT_PREEMPTED]
        return [-signal.SIGKILL] if self.whom == "the command" else [EXIT_OURS]


def children(pid: int) -> list[int]:
    """The processes that this one has started, the first one first."""
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.fixture(scope="module")
def tortured(nursery: Nursery, tmp_path_factory: pytest.TempPathFactory, smaller: Path, toy_data: Path) -> Tortured:
    """The study of the tortures, and its calm run."""
    recipe = {"max_steps": STEPS, "batch_size": 4, "eval_every": 60, "patience": 100,
              "collapse_window": Recipe().collapse_window}  # fmt: skip
    changes = {**settings(2, recipe=recipe, checkpoint_every=25), "name": "torture"}
    one = Tortured(nursery, tmp_path_factory.mktemp("torture"), study(smaller, **changes), toy_data)
    one.start("calm")
    assert nursery.wait().codes == [0], one.said("calm")
    return one


@dataclass
class Tortured:
    """Runs of one study by the command, with two ranks."""

    nursery: Nursery
    root: Path
    mapping: Mapping[str, Any]
    data: Path

    def start(self, name: str) -> int:
        """The command that runs it into the folder of this name, or goes on with it; its process id."""
        path = write_study(self.root / "study.toml", self.mapping)
        words = ["run", str(path), "--data", str(self.data), "--out", str(self.root / name), "--ranks", "2"]
        return self.nursery.start_command(*words, out=self.root / f"{name}.log", keep_checkpoints=True)

    def run(self, name: str) -> Path:
        """The run directory of what trains."""
        (found,) = (self.root / name / "target").glob("*/")
        return found

    def said(self, name: str) -> str:
        """What the commands printed last."""
        return (self.root / f"{name}.log").read_text("utf-8", errors="replace")[-3000:]


@pytest.mark.parametrize("seed", SEEDS)
def test_torture(tortured: Tortured, seed: int, capsys: pytest.CaptureFixture[str]) -> None:
    """600 steps, two ranks, ZeRO-2, bf16; eight signals at random moments to ranks and command change nothing."""
    name, blows, codes = f"seed-{seed}", Blow.drawn(seed), []
    for number, blow in enumerate(blows):
        command = tortured.start(name)
        # a start is struck in its own steps: the next one comes at the same place at the earliest
        wait_until(lambda: len(list(tortured.root.glob(f"{name}/target/*/metrics.jsonl"))) == 1)
        run = tortured.run(name)
        wait_until(lambda: len(events(run, "begin") + events(run, "resume")) > number)  # noqa: B023
        wait_until(lambda: reached(run) >= blow.step, pause=0.03)  # noqa: B023
        time.sleep(blow.delay)
        allowed = blow.strike(command)
        codes += tortured.nursery.wait().codes
        assert codes[-1] in allowed, (blow, codes, tortured.said(name))
    tortured.start(name)
    assert tortured.nursery.wait().codes == [0], tortured.said(name)
    run, calm = tortured.run(name), tortured.run("calm")
    resumed = [event["step"] for event in events(run, "resume")]
    with capsys.disabled():
        told = ", ".join(f"{blow.name} to {blow.whom} at {blow.step}" for blow in blows)
        print(f"\ntorture, {SEED}={seed}: {told}; resumed at {resumed}")
    assert metrics(run) == metrics(calm)
    assert same_weights(run, calm)
    last = STEPS - 25
    same_state(run, calm, last)  # the moments, too
    assert list(run.parents[1].glob("report-*.html"))
