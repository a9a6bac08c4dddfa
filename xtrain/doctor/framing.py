"""Values of many processes through one standard output: srun cuts long lines, and mixes those of several tasks."""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Iterator
from typing import Any

MARK = "@xtrain-doctor"
_CHUNK = 512  # with the mark well below the 1024 bytes that srun passes on whole


def emit(task: str, value: Any) -> None:
    """Print a JSON value as ``task``; :class:`Reader` of another process puts it together again."""
    text = base64.b64encode(json.dumps(value).encode()).decode()
    parts = [text[start : start + _CHUNK] for start in range(0, len(text), _CHUNK)]
    for number, part in enumerate(parts):
        last = "." if number == len(parts) - 1 else "+"
        sys.stdout.write(f"{MARK} {task} {last} {part}\n")
        sys.stdout.flush()


class Reader:
    """Puts values together from lines, in whatever order those of different tasks come."""

    def __init__(self) -> None:
        self._parts: dict[str, list[str]] = {}
        self.other: list[str] = []
        """Lines that are no part of a value: what setup lines print, warnings."""

    def feed(self, line: str) -> Iterator[tuple[str, Any]]:
        """Take a line; yields ``(task, value)`` when it completes a value."""
        fields = line.split()
        if len(fields) != 4 or fields[0] != MARK:
            if line.strip():
                self.other.append(line.strip())
            return
        _, task, last, part = fields
        self._parts.setdefault(task, []).append(part)
        if last == ".":
            text = "".join(self._parts.pop(task))
            try:
                value = json.loads(base64.b64decode(text, validate=True))
            except ValueError:  # a part was lost
                return
            yield task, value
