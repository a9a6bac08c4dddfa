"""What somebody may plant who can write into a run directory, and how it shows that it has run."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Iterable
from pathlib import Path
from typing import Any


class Trap:
    """Makes the folder ``path`` when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (self.path,)


def plant(run: Path, sprung: Path, jobs: Iterable[str]) -> None:
    """Plant in ``run`` all that ``jobs`` of it have ever read: whatever of it runs makes the folder ``sprung``.

    Pickles where submitit looks for them; an interpreter, variables and lines of setup where a job's profile was.
    """
    python = run / "python"
    python.write_text(f"#!/bin/sh\nmkdir -p {sprung}\n")
    python.chmod(0o755)
    evil = {"environment": {"python": str(python), "setup": [f"mkdir -p {sprung}"], "variables": {"BASH_ENV": "x"}}}
    folder = run / "job" / "submitit"
    folder.mkdir(parents=True, exist_ok=True)
    for job in jobs:
        for name in (f"{job}_submitted.pkl", f"{job}_0_result.pkl"):
            (folder / name).write_bytes(pickle.dumps(Trap(sprung)))
        (folder / f"{job}_submission.sh").write_text(python.read_text())
    path = run / "job" / "job.json"
    known = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**known, "profile": {**known.get("profile", {"scheduler": "local"}), **evil}}))
    for module in ("torch", "json", "xtrain", "submitit"):  # of a job that was submitted from in here
        (run / f"{module}.py").write_text(f"import os; os.makedirs({str(sprung)!r}, exist_ok=True)\n")
