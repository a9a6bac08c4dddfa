"""Progress of long work on rank 0: a bar on a terminal, a plain line now and then in a log."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable
from typing import IO, Any

from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn
from rich.progress import Progress as RichProgress

EVERY_SECONDS = 10.0  # between two lines in a log
WINDOW_SECONDS = 30.0  # over which tokens/s is measured
_NAMES = {"learning_rate": "lr"}


class Progress:
    """``with Progress("train NAME", total, unit="step") as p: p.advance(1, loss=..., lr=..., tokens=...)``.

    Numbers given to :meth:`advance` are shown as they are; ``tokens`` are counted and shown as tokens/s (so
    is ``tokens_per_second``, measured by the caller). ``done`` of the ``total`` units were done before, which
    the time still to go takes into account. In a log a line is printed at the first advance, then every
    ``every_seconds``, and at the end.
    """

    def __init__(
        self,
        description: str,
        total: int | None,
        unit: str = "step",
        *,
        done: int = 0,
        every_seconds: float = EVERY_SECONDS,
        file: IO[str] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._description, self._total, self._unit = description, total, unit
        self._done, self._done_before = done, done
        self._every = every_seconds
        self._file = file if file is not None else sys.stdout
        self._clock = clock
        self._values: dict[str, Any] = {}
        self._tokens: deque[tuple[float, int]] = deque()
        self._started = self._printed_at = clock()
        self._printed = ""
        self._bar: RichProgress | None = None
        self._task = TaskID(0)

    def __enter__(self) -> Progress:
        self._started = self._clock()
        console = Console(file=self._file)
        if console.is_terminal and not console.is_dumb_terminal:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(bar_width=24),
                TextColumn("{task.fields[text]}"),
            )
            self._bar = RichProgress(*columns, console=console)
            self._bar.start()
            self._task = self._bar.add_task(
                self._description, total=self._total, completed=self._done, text=self._text()
            )
        return self

    def __exit__(self, *exception: object) -> None:
        if self._bar is not None:
            self._bar.update(self._task, completed=self._done, text=self._text())
            self._bar.stop()
        elif self._done > self._done_before or self._printed:
            self._print()

    def advance(self, units: int = 1, *, tokens: int = 0, **values: float) -> None:
        """``units`` more are done; ``values`` replace those shown under the same names."""
        now = self._clock()
        first = self._done == self._done_before
        self._done += units
        self._values.update(values)
        if tokens or self._unit == "tokens":
            self._tokens.append((now, tokens or units))
            while now - self._tokens[0][0] > WINDOW_SECONDS and len(self._tokens) > 2:
                self._tokens.popleft()
        if self._bar is not None:
            self._bar.update(self._task, completed=self._done, text=self._text())
        elif units and (first or now - self._printed_at >= self._every):
            self._print()

    def _print(self) -> None:
        line = f"{self._description}  {self._text()}"
        if line != self._printed:
            print(line, file=self._file, flush=True)
        self._printed, self._printed_at = line, self._clock()

    def _text(self) -> str:
        """``step 120/400  loss 0.812  lr 4.1e-05  3,210 tokens/s  eta 2m10s``."""
        count = f"{self._done:,}" + (f"/{self._total:,}" if self._total is not None else "")
        parts = [f"{self._unit} {count}"]
        for name, value in self._values.items():
            if name != "tokens_per_second":
                name = _NAMES.get(name, name)
                parts.append(f"{name} {shown(name, value)}")
        rate = self._values.get("tokens_per_second", self._tokens_per_second())
        if rate:
            parts.append(f"{rate:,.0f} tokens/s")
        seconds = self._seconds_to_go()
        if seconds is not None:
            parts.append(f"eta {duration(seconds)}")
        return "  ".join(parts)

    def _tokens_per_second(self) -> float:
        """Over the last :data:`WINDOW_SECONDS`; 0 where nothing has been measured."""
        if not self._tokens:
            return 0.0
        begin = self._started if len(self._tokens) == 1 else self._tokens[0][0]
        counted = list(self._tokens)[0 if len(self._tokens) == 1 else 1 :]
        seconds = self._tokens[-1][0] - begin
        return sum(tokens for _, tokens in counted) / seconds if seconds > 0 else 0.0

    def _seconds_to_go(self) -> float | None:
        here = self._done - self._done_before
        if self._total is None or here <= 0 or self._done >= self._total:
            return None
        return (self._clock() - self._started) / here * (self._total - self._done)


def shown(name: str, value: float) -> str:
    """``value`` in few characters: thousands in counts, an exponent in rates and small numbers."""
    if isinstance(value, int):
        return f"{value:,}"
    if name == "lr" or (value != 0 and not 1e-3 <= abs(value) < 1e5):
        return f"{value:.1e}"
    return f"{value:.3f}" if abs(value) < 100 else f"{value:,.1f}"


def duration(seconds: float) -> str:
    """``45s``, ``2m10s``, ``1h02m``, ``3d04h``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    if whole < 86400:
        return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
    return f"{whole // 86400}d{whole % 86400 // 3600:02d}h"
