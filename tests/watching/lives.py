"""Run directories whose starts, ends and lines lie at given seconds of the past: by the real writers, restamped.

A life is told in order: submitted, began, events, ended, each with the seconds since the beginning of the study.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from by_hand import Run

from xtrain.dispatch.job_graph import JobNode
from xtrain.files import read_json, write_json
from xtrain.tracking import Recorder

GPUS = {"ranks": 8, "gpus": 8, "time_limit": 14400}


class Life(Run):
    """A run directory that is filled in order, at seconds after ``zero`` (seconds since 1970)."""

    def __init__(self, node: JobNode, out: Path, zero: float) -> None:
        super().__init__(node, out)
        self.zero = zero

    def submitted(self, at: float, job: str, **more: Any) -> Life:
        self.submit(job, **more)
        path = self.folder.path / "submissions.jsonl"
        *before, last = path.read_text("utf-8").splitlines()
        again = json.dumps({**json.loads(last), "submitted": self.zero + at})
        path.write_text("".join(f"{line}\n" for line in (*before, again)), "utf-8")
        return self

    def began(self, at: float, job: str = "", **more: Any) -> Life:
        """An attempt. One before it without an end was killed on a node that nobody can ask."""
        if self.attempts.newest() and self.attempts.read_end(self.attempts.newest()) is None:
            self._set(self.attempts.newest(), "attempt.json", host="elsewhere")
        self.attempt(job, **more)
        number = self.attempts.newest()
        self._set(number, "attempt.json", started=self.zero + at)
        before = self.attempts.read_end(number - 1)
        if before is not None and before.how == "killed":
            self._set(number - 1, "end.json", ended=self.zero + at + 0.1)
        return self

    def told(self, at: float, kind: str, **fields: Any) -> Life:
        with Recorder(self.run) as record:
            record.event(kind, **fields)
        return self._stamp(self.run.events, at)

    def logged(self, at: float, step: int) -> Life:
        with Recorder(self.run) as record:
            record.metrics(step, {"loss": 1.0, "tokens_per_second": 100.0, "seconds": 1.0})
        return self._stamp(self.run.metrics, at)

    def resumed(self, at: float, step: int) -> Life:
        """As the observer has it: the event, then what was recorded beyond that step is dropped."""
        self.told(at, "resume", step=step, planned_steps=400)
        before = len(self.run.events.read_bytes())
        with Recorder(self.run) as record:
            record.resume_at(step)
        return self._stamp(self.run.events, at) if len(self.run.events.read_bytes()) > before else self

    def ended(self, at: float, how: str, code: int = 0) -> Life:
        self.end_attempt(how, code, how)
        self._set(self.attempts.newest(), "end.json", ended=self.zero + at)
        return self

    def _set(self, number: int, name: str, **values: Any) -> None:
        path = self.attempts.path(number) / name
        write_json(path, {**read_json(path), **values})

    def _stamp(self, path: Path, at: float) -> Life:
        *before, last = path.read_text("utf-8").splitlines()
        stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self.zero + at))
        again = json.dumps({**json.loads(last), "time": stamp})
        path.write_text("".join(f"{line}\n" for line in (*before, again)), "utf-8")
        return self
