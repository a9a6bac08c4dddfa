"""Commands that are run for the doctor: each with a time limit, none through a shell, what they said kept."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

ANSWER_SECONDS = 30.0  # SLURM's commands give up by themselves after about 10 s without a slurmctld
_MINE = re.compile(r"(SQUEUE|SINFO|SACCT|SCONTROL|SALLOC|SBATCH|SRUN)_|SLURM_(?!CONF$)")


@dataclass(frozen=True)
class Said:
    """What became of a command."""

    code: int
    out: str
    trouble: str = ""
    """What it wrote to standard error, in one line, or why it did not run or not end; empty where all is well."""


def ask(command: Sequence[str], timeout: float = ANSWER_SECONDS) -> Said:
    """Run a command; never raises for its failure."""
    try:
        done = subprocess.run(
            command, env=plain_environment(), stdin=subprocess.DEVNULL, capture_output=True, text=True,
            errors="replace", timeout=timeout,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return Said(-1, "", f"{command[0]} did not answer within {timeout:.0f} s")
    except OSError as error:
        return Said(-1, "", f"{command[0]}: {error.strerror}")
    trouble = " ".join(done.stderr.split()) or f"{command[0]} ended with exit code {done.returncode}"
    return Said(done.returncode, done.stdout, "" if done.returncode == 0 else trouble)


def plain_environment() -> dict[str, str]:
    """This environment without what SLURM's commands would take for options.

    The user may have set some for their own eyes (``SQUEUE_FORMAT``), and a job sets many for its own steps.
    """
    env = {name: value for name, value in os.environ.items() if not _MINE.match(name)}
    return {**env, "LC_ALL": "C"}
