"""Made-up run directories: attempts, events and metrics at seconds after a beginning, in the files of real runs."""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path
from typing import Any

from xtrain.dispatch.attempts import Attempt, AttemptEnd, Attempts
from xtrain.files import write_json
from xtrain.run_directory import RunDirectory

ZERO = 1_772_352_000.0  # 2026-03-01 08:00 UTC
H200 = {"device": "NVIDIA H200", "threads": 4}
CPU = {"device": "Intel(R) Xeon(R) Platinum 8481C", "threads": 2}


class MadeRun:
    """A run directory, filled in order."""

    def __init__(self, run: RunDirectory) -> None:
        self.run, self.attempts = run.create(), Attempts(run)

    def began(
        self, at: float, *, ranks: int = 1, gpus: int = 0, nodes: tuple[str, ...] = (), start: bool = True, **known: Any
    ) -> MadeRun:
        """An attempt; with ``start`` its first rank came so far that it wrote its first event.

        One before it without an end was killed: then this one writes down its end.
        """
        number = self.attempts.newest() + 1
        if number > 1 and self.attempts.read_end(number - 1) is None:
            self._end(number - 1, at + 0.1, "killed", 137, "killed (signal 9)")
        attempt = Attempt(number, ZERO + at, 0, "elsewhere", nodes=nodes, ranks=ranks, gpus=gpus)
        self.attempts.path(number).mkdir(parents=True)
        write_json(self.attempts.path(number) / "attempt.json", dataclasses.asdict(attempt))
        return self.told(at, "start", attempt=number, **(known or (H200 if gpus else CPU))) if start else self

    def told(self, at: float, event: str, **fields: Any) -> MadeRun:
        return self._line(self.run.events, {"time": stamp(at), "event": event, **fields})

    def logged(self, at: float, step: int, **values: Any) -> MadeRun:
        shown = values or {"loss": 2.0 / step, "tokens_per_second": 100.0}
        return self._line(self.run.metrics, {"time": stamp(at), "step": step, **shown})

    def resumed(self, at: float, step: int, **lost: Any) -> MadeRun:
        """What was logged beyond that step is dropped; ``reached`` and ``seen`` say how far it had come, and when."""
        self.told(at, "resume", step=step)
        if self.run.metrics.is_file():
            lines = self.run.metrics.read_text("utf-8").splitlines()
            kept = [line for line in lines if json.loads(line)["step"] <= step]
            self.run.metrics.write_text("".join(f"{line}\n" for line in kept), "utf-8")
        if lost:
            self.told(at, "steps_lost", step=step, reached=lost["reached"], seen=stamp(lost["seen"]))
        return self

    def ended(self, at: float, how: str, reason: str = "") -> MadeRun:
        self._end(self.attempts.newest(), at, how, 0, reason or how)
        return self

    def done(self, **summary: Any) -> MadeRun:
        self.run.mark_done(summary)
        return self

    def _end(self, number: int, at: float, how: str, code: int, reason: str) -> None:
        end = AttemptEnd(how, code, reason, ZERO + at)
        write_json(self.attempts.path(number) / "end.json", dataclasses.asdict(end))

    def _line(self, path: Path, line: dict[str, Any]) -> MadeRun:
        with open(path, "a", encoding="utf-8") as handle:
            handle.write(json.dumps(line) + "\n")
        return self


def stamp(at: float) -> str:
    """A record's time."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(ZERO + at))


def interrupted(run: RunDirectory) -> MadeRun:
    """Trained in three starts: 8 GPUs until it was killed after 2500 s, 40 steps beyond its checkpoint; 4 GPUs for
    1120 s until it was preempted; 8 GPUs for 2100 s."""
    made = MadeRun(run).began(0, ranks=8, gpus=8, nodes=("n1", "n2")).told(100, "begin", step=0, planned_steps=400)
    made.logged(2100, 100).told(2110, "save", step=100).logged(2400, 130).logged(2500, 140)
    made.began(4000, ranks=4, gpus=4, nodes=("n3",)).resumed(4100, 100, reached=140, seen=2500)
    made.logged(5100, 200).told(5110, "preempted", step=200).ended(5120, "preempted")
    made.began(6000, ranks=8, gpus=8, nodes=("n1", "n2")).resumed(6100, 200)
    return made.logged(8000, 400).ended(8100, "done").done(steps=400, selected_step=300, seconds=2099.0)


INTERRUPTED_HOURS = (2500 * 8 + 1120 * 4 + 2100 * 8) / 3600
INTERRUPTED_LOST = 40 * (2500 - 100) / 140 * 8 / 3600
