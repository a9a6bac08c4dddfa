"""A phase of a tiny model that is trained by real ranks of DeepSpeed's engine, disturbed, and run again."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from toy import PROJECT, study, write_study

from xtrain.runner import open_study, write_phase
from xtrain.tracking.record import read_events, read_metrics

STEPS, SAVE_EVERY, EVAL_EVERY = 12, 3, 4
TIMES = ("tokens_per_second", "examples_per_second", "seconds", "save_stall_seconds", "mfu", "tflops")


def settings(stage: int, *, recipe: Mapping[str, Any] | None = None, **engine: Any) -> dict[str, Any]:
    """A study of one phase: 12 steps in bf16 with dropout, saved every 3, evaluated every 4."""
    target = {
        "max_steps": STEPS, "batch_size": 12, "max_length": 64, "learning_rate": 1e-3, "eval_every": EVAL_EVERY,
        "collapse_window": 1000, **(recipe or {}),
    }  # fmt: skip
    return {
        "intermediate": [{"name": "none"}],
        "target": [{"task": "toy", "languages": ["en"]}],
        "recipe": {"target": target},
        "engine": {"ds_config": f"zero{stage}", "log_every": 1, "checkpoint_every": SAVE_EVERY,
                   "tokens_per_micro_batch": 512, **engine},
    }  # fmt: skip


@dataclass
class Ended:
    """How the ranks of a job ended."""

    codes: list[int]
    seconds: float
    logs: Path
    began: float = 0.0
    """By time.monotonic(), as all times here."""

    def log(self, rank: int) -> str:
        """What a rank has printed."""
        return (self.logs / f"rank-{rank}.log").read_text("utf-8", errors="replace")

    @property
    def beginning(self) -> dict[str, Any]:
        """What rank 0 went on from: ``step`` (0 is the start), and ``folders``, the names in checkpoints/ by then."""
        found: dict[str, Any] = json.loads((self.logs / "beginning.json").read_bytes())
        return found

    @property
    def seconds_to_recover(self) -> float:
        """From the start of the ranks to the end of the first new step, or to their own end if there was none.

        The nursery has imported everything before: that is not in it.
        """
        return float(self.beginning.get("first_step_at", self.began + self.seconds)) - self.began

    def __str__(self) -> str:
        return f"{self.codes}\n" + "\n".join(self.log(rank)[-2000:] for rank in range(len(self.codes)))


@dataclass
class Nursery:
    """The process that forks ranks: see nursery.py."""

    process: subprocess.Popen[str]
    pids: list[int] = field(default_factory=list)
    _began: float = 0.0
    _logs: Path = Path()

    @classmethod
    def open(cls) -> Nursery:
        tests = Path(__file__).parent
        path = os.pathsep.join(map(str, [PROJECT, tests / "faults", tests]))
        environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1",
                       "HF_HUB_OFFLINE": "1", "DS_ACCELERATOR": "cpu"}  # fmt: skip
        command = [sys.executable, str(tests / "faults" / "nursery.py")]
        return cls(subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))

    def start(
        self, run: Path, ranks: int = 2, fault: Mapping[str, Any] | None = None, environment: Mapping[str, str] = {}
    ) -> list[int]:
        """Start the ranks of a job; returns their process ids."""
        self._began, self._logs = time.monotonic(), run / "logs"
        for old in [*self._logs.glob("rank-*.log"), *self._logs.glob("beginning.json")]:
            old.unlink()
        job = {"run": str(run), "ranks": ranks, "fault": dict(fault or {}),
               "logs": str(self._logs), "environment": dict(environment)}  # fmt: skip
        self.pids = self._asked(job)
        return self.pids

    def work(self, worker: str | Path, ranks: int, logs: Path, *arguments: object) -> None:
        """Run a file whose ``main`` is in :func:`run_rank`, once a rank; all of them must end well."""
        self._began, self._logs = time.monotonic(), logs
        job = {"worker": str(worker), "arguments": [*map(str, arguments)], "ranks": ranks, "logs": str(logs),
               "environment": {}}  # fmt: skip
        self.pids = self._asked(job)
        ended = self.wait()
        assert ended.codes == [0] * ranks, ended

    def start_command(
        self, *arguments: str, out: Path, errors: Path | None = None, folder: Path = Path(),
        keep_checkpoints: bool = False, fault: Mapping[str, Any] | None = None, environment: Mapping[str, str] = {},
    ) -> int:  # fmt: skip
        """Start ``python -m xtrain ARGUMENTS``; its process id. Its ranks are its children, in their order.

        What it prints is appended to ``out`` and ``errors``, the same file if there is but one.
        """
        self._began, self._logs = time.monotonic(), out.parent
        job = {"command": arguments, "out": str(out), "errors": str(errors or out), "folder": str(folder.absolute()),
               "keep_checkpoints": keep_checkpoints, "fault": dict(fault or {}),
               "environment": dict(environment)}  # fmt: skip
        self.pids = self._asked(job)
        return self.pids[0]

    def wait(self) -> Ended:
        """Wait until all ranks have ended."""
        codes = self._answer()["codes"]
        return Ended(codes, time.monotonic() - self._began, self._logs, self._began)

    def run(self, run: Path, ranks: int = 2, fault: Mapping[str, Any] | None = None, **more: Any) -> Ended:
        """Start the ranks and wait."""
        self.start(run, ranks, fault, **more)
        return self.wait()

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("{}\n")  # a process that some test has forked may hold its input open
        self.process.stdin.close()
        self.process.wait(30)

    def _asked(self, job: Mapping[str, Any]) -> list[int]:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(job) + "\n")
        self.process.stdin.flush()
        pids: list[int] = self._answer()["pids"]
        return pids

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        while True:
            line = self.process.stdout.readline()
            assert line, "the nursery has ended"
            if line.startswith("{"):
                found: dict[str, Any] = json.loads(line)
                return found


def make_run(root: Path, base: Path, data: Path, changes: Mapping[str, Any]) -> Path:
    """The run directory of the study's one training phase, ready for ranks; made anew if it is there."""
    shutil.rmtree(root, ignore_errors=True)
    return write_runs(root, base, data, changes)[0]


def write_runs(root: Path, base: Path, data: Path, changes: Mapping[str, Any]) -> list[Path]:
    """The run directories of all phases, those that train first, as the study says now; what they hold stays."""
    path = write_study(root / "study.toml", study(base, **changes))
    job = open_study(path, data_root=data, out=root / "out")
    phases = sorted(job.graph.phases.values(), key=lambda phase: phase.kind == "evaluate")
    return [write_phase(job, phase, Console(file=open(os.devnull, "w"))).path for phase in phases]


def events(run: Path, kind: str = "") -> list[dict[str, Any]]:
    """What events.jsonl has, of one kind if it is named."""
    return [event for event in read_events(run / "events.jsonl") if kind in ("", event["event"])]


def same_weights(one: Path, other: Path) -> bool:
    """Whether two finished runs have the same encoder and heads, byte for byte, the selected ones and the last."""
    names = ("model.safetensors", "heads.safetensors")
    folders = [name for name in ("encoder", "encoder-last") if (one / name).is_dir() or (other / name).is_dir()]
    return all((one / f / name).read_bytes() == (other / f / name).read_bytes() for f in folders for name in names)


def metrics(run: Path) -> list[dict[str, Any]]:
    """All of ``metrics.jsonl`` but what the clock says; "step" is in each line."""
    lines = read_metrics(run / "metrics.jsonl")
    return [{name: value for name, value in line.items() if name not in ("time", *TIMES)} for line in lines]


def steps_recorded(run: Path) -> list[int]:
    """The steps of which ``metrics.jsonl`` has the loss, in its order."""
    return [line["step"] for line in read_metrics(run / "metrics.jsonl") if "loss" in line]


def reached(run: Path) -> int:
    """The last step of which ``metrics.jsonl`` has the loss; ask before the run goes on, which takes lines back."""
    return max(steps_recorded(run), default=0)


def left_over(run: Path) -> list[str]:
    """What was begun below ``run`` and not ended: temporary files and folders."""
    return sorted(str(path.relative_to(run)) for path in run.rglob("*") if path.suffix in (".tmp", ".old"))


def wait_until(there: Callable[[], bool], seconds: float = 120.0, pause: float = 0.005) -> None:
    """Return once it is so; looks every ``pause`` seconds."""
    end = time.monotonic() + seconds
    while not there():
        assert time.monotonic() < end
        time.sleep(pause)


TABLE = "XTRAIN_FAULT_TABLE"  # the file that gets a line for each case, if this names one


def note_case(case: str, run: Path, steps_lost: int, seconds: float | None, **more: float) -> None:
    """Append one JSON line to the table of cases, where one is asked for.

    ``case`` is what happened, with ZeRO stage and rank where they matter; ``seconds`` is how long the run took to
    recover (None where nothing had to), and ``more`` what else was measured, in seconds.
    """
    path = os.environ.get(TABLE)
    if not path:
        return
    phase = tomllib.loads((run / "phase.toml").read_text("utf-8"))
    line = {
        "case": case,
        "engine": phase["engine"]["ds_config"],
        "steps_lost": steps_lost,
        "seconds_to_recover": None if seconds is None else round(seconds, 2),
        **{name: round(value, 3) for name, value in more.items()},
    }
    with open(path, "a", encoding="utf-8") as handle:  # one write: several of pytest's workers may append
        handle.write(json.dumps(line) + "\n")
