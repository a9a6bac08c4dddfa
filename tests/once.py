"""What is costly to find out, and looked at by several tests: found out once, by one of pytest's workers."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


def once(folders: pytest.TempPathFactory, name: str, find: Callable[[Path], Any]) -> Any:
    """What ``find`` returns, as JSON keeps it. It gets a folder of its own; other workers wait for it."""
    if "PYTEST_XDIST_TESTRUNUID" not in os.environ:
        return json.loads(json.dumps(find(folders.mktemp(name))))
    folder = folders.getbasetemp().parent / name
    folder.mkdir(exist_ok=True)
    found = folder / "found.json"
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not found.exists():
            found.write_text(json.dumps(find(folder)))
    return json.loads(found.read_text())
