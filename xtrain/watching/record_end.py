"""The newest lines of a run's record, read from the end of its files: metrics.jsonl may have 100 MB."""

from __future__ import annotations

import calendar
import json
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from xtrain.run_directory import RunDirectory

METRICS_BYTES = 2**14  # a few dozen lines, over which the rate is measured
EVENTS_BYTES = 2**15
LOG_BYTES = 2**16
LONGEST_BYTES = 2**23  # how far back one looks for the start of an attempt
_DULL = ("tracking_", "save_mode")  # events that tell nobody how training goes
_BEGINNINGS = (b'"event": "begin"', b'"event": "resume"')
_PROGRESS = re.compile(
    r"^\S+ .*  (?P<unit>\w+) (?P<done>[\d,]+)/(?P<total>[\d,]+)"
    r"(?:  .*?(?:(?P<rate>[\d,]+) tokens/s))?(?:  eta (?P<eta>[\dhms]+))?\s*$",
    re.MULTILINE,
)
_NEXT_TO_NOTHING = 2.0  # seconds: stamps are whole seconds


@dataclass(frozen=True)
class Pace:
    """How far training is, and how fast; None for what the record does not say."""

    step: int | None = None
    planned_steps: int | None = None
    loss: float | None = None
    tokens_per_second: float | None = None
    steps_per_second: float | None = None
    """With all evaluations and saves that fell between the newest lines."""
    time: float | None = None
    """Of the newest line of metrics, in seconds since 1970."""

    def eta_seconds(self, now: float) -> float | None:
        """Until the last planned step."""
        if self.step is None or self.planned_steps is None or not self.steps_per_second or self.time is None:
            return None
        left = (self.planned_steps - self.step) / self.steps_per_second - (now - self.time)
        return max(0.0, left) if self.step <= self.planned_steps else None


@dataclass(frozen=True)
class LogProgress:
    """The newest line of progress in a rank's log."""

    done: int
    total: int
    unit: str
    tokens_per_second: float | None
    eta_seconds: float | None
    """When it was printed."""


def end_of(path: Path, num_bytes: int) -> bytes:
    """The last ``num_bytes`` of a file, without the line that they cut; nothing of a missing file."""
    try:
        with open(path, "rb") as handle:
            size = handle.seek(0, 2)
            start = max(0, size - num_bytes)
            handle.seek(start)
            data = handle.read(num_bytes)
    except OSError:
        return b""
    return data.partition(b"\n")[2] if start else data


def newest_first(data: bytes) -> Iterator[dict[str, Any]]:
    """The JSON objects in whole lines, the last first, each read when it is asked for; what is none is passed over."""
    end = data.rfind(b"\n")
    while end >= 0:
        before = data.rfind(b"\n", 0, end)
        try:
            value: Any = json.loads(data[before + 1 : end])
        except ValueError:
            value = None
        if isinstance(value, dict):
            yield value
        end = before


def stamp(value: Any) -> float | None:
    """Seconds since 1970 of a record's ``time``."""
    try:
        return float(calendar.timegm(time.strptime(str(value), "%Y-%m-%dT%H:%M:%SZ")))
    except ValueError:
        return None


def pace_of(run: RunDirectory, *, rate: bool = True) -> Pace:
    """What the newest lines of ``metrics.jsonl`` and of ``events.jsonl`` say: whichever is further.

    A save may be ahead of the lines of metrics, which come every ``log_every`` steps. Without ``rate`` steps a second
    are left out, for which many lines are read.
    """
    start = _newest_beginning(run)
    pace, furthest = _logged(run, start, rate=rate), start
    for line in newest_first(end_of(run.events, EVENTS_BYTES)) if start else ():
        if line == start:
            break
        if isinstance(line.get("step"), int) and line["step"] > furthest["step"]:
            furthest = line
    if not start or (pace.step is not None and pace.step >= furthest["step"]):
        return pace
    return replace(pace, step=int(furthest["step"]), time=stamp(furthest.get("time")))


def _logged(run: RunDirectory, start: Mapping[str, Any], *, rate: bool) -> Pace:
    """What the newest lines of metrics say since ``start``, the newest beginning."""
    since, planned = str(start.get("time", "")), start.get("planned_steps")
    lines: list[dict[str, Any]] = []
    for line in newest_first(end_of(run.metrics, METRICS_BYTES)):
        if "loss" not in line or "step" not in line:
            continue
        if lines and str(line.get("time", "")) < since:  # of an earlier start; the texts sort as the times do
            break
        lines.append(line)
        if not rate:
            break
    if not lines:
        return Pace(None, planned)
    newest = lines[0]
    return Pace(
        int(newest["step"]),
        planned,
        _float(newest["loss"]),
        _float(newest.get("tokens_per_second")),
        _rate(lines[::-1]) if rate and str(newest.get("time", "")) >= since else None,
        stamp(newest.get("time")),
    )


def _newest_beginning(run: RunDirectory) -> dict[str, Any]:
    num_bytes = EVENTS_BYTES
    while True:
        data = end_of(run.events, num_bytes)
        found = max(data.rfind(word) for word in _BEGINNINGS)
        if found >= 0:
            first, last = data.rfind(b"\n", 0, found) + 1, data.find(b"\n", found) + 1
            return next(newest_first(data[first:last]), {})
        if len(data) < num_bytes // 2 or num_bytes >= LONGEST_BYTES:  # all of it was read, or enough
            return {}
        num_bytes *= 8


def _rate(lines: list[dict[str, Any]]) -> float | None:
    """Steps a second by the lines' times; where these lie too close, by the seconds that the lines count."""
    if not lines:
        return None
    first, last = lines[0], lines[-1]
    steps = int(last["step"]) - int(first["step"])
    seconds = (stamp(last.get("time")) or 0.0) - (stamp(first.get("time")) or 0.0)
    if steps > 0 and seconds > _NEXT_TO_NOTHING:
        return steps / seconds
    counted = sum(_float(line.get("seconds")) or 0.0 for line in lines[1:])
    return steps / counted if steps > 0 and counted > 0 else None


def newest_event(run: RunDirectory) -> dict[str, Any]:
    """The newest line of ``events.jsonl`` that tells something; empty for none."""
    for line in newest_first(end_of(run.events, EVENTS_BYTES)):
        if not str(line.get("event", "")).startswith(_DULL):
            return line
    return {}


def event_words(event: dict[str, Any]) -> str:
    """An event in a few words."""
    kind = str(event.get("event", ""))
    form = _WORDS.get(kind, kind.replace("_", " "))
    try:
        return form.format(**event)
    except (KeyError, ValueError, TypeError):
        return kind.replace("_", " ")


_WORDS = {
    "start": "started on {host}",
    "begin": "began at step 0",
    "resume": "resumed at step {step}",
    "steps_lost": "resumed at step {step}; {reached} was reached before",
    "save": "saved step {step}",
    "best": "best so far, step {step}: {score:.4g}",
    "preempted": "saved after {signal}",
    "failed": "{error}",
    "done": "done",
    "collapse": "collapsed: {reason}",
    "early_stop": "stopped early at step {step}",
    "save_failed": "save of step {step} failed: {reason}",
    "step_skipped": "step {step} skipped",
    "ended_failed": "rank {rank} failed",
    "ended_died": "rank {rank} died on {host}",
    "ended_silent": "rank {rank} on {host} fell silent",
    "ended_stall": "stalled",
    "checkpoint_broken": "{checkpoint} is damaged",
    "reseed": "began anew with seed {seed}",
}


def log_progress(path: Path) -> LogProgress | None:
    """The newest line of progress in a rank's log; None for none."""
    text = end_of(path, LOG_BYTES).decode("utf-8", errors="replace")
    match = None
    for match in _PROGRESS.finditer(text):  # noqa: B007 (the last one counts)
        pass
    if match is None:
        return None
    rate = match["rate"]
    return LogProgress(
        int(match["done"].replace(",", "")),
        int(match["total"].replace(",", "")),
        match["unit"],
        float(rate.replace(",", "")) if rate else None,
        _seconds(match["eta"]) if match["eta"] else None,
    )


def _seconds(text: str) -> float:
    """Of ``1h02m``, ``2m10s``, ``45s``."""
    units = {"h": 3600, "m": 60, "s": 1}
    return float(sum(int(number) * units[unit] for number, unit in re.findall(r"(\d+)([hms])", text)))


def _float(value: Any) -> float | None:
    try:
        return None if value is None else float(value)  # "NaN" and "Infinity" too
    except (TypeError, ValueError):
        return None
