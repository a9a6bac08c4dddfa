"""Commands that are run for the doctor: each with a time limit, none through a shell, what they said kept."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

from xtrain.dispatch import slurm

ANSWER_SECONDS = 30.0  # SLURM's commands give up by themselves after about 10 s without a slurmctld
_OF_NEW_JOBS = re.compile(r"(SALLOC|SBATCH|SRUN)_|SLURM_(?!CONF$|TIME_FORMAT$)")


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
            slurm.addressed(command), env=plain_environment(), stdin=subprocess.DEVNULL, capture_output=True, text=True,
            errors="replace", timeout=timeout,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return Said(-1, "", f"{command[0]} did not answer within {timeout:.0f} s")
    except OSError as error:
        return Said(-1, "", f"{command[0]}: {error.strerror}")
    trouble = " ".join(done.stderr.split()) or f"{command[0]} ended with exit code {done.returncode}"
    return Said(done.returncode, slurm.without_heading(done.stdout), "" if done.returncode == 0 else trouble)


def plain_environment() -> dict[str, str]:
    """The environment for questions to SLURM, without what salloc, sbatch and srun would take for options either.

    A job sets many of those for its own steps. What a submission takes from the user's ``SBATCH_ACCOUNT`` and the like
    is in the profile already (:func:`xtrain.doctor.nodes.with_open_keys`).
    """
    return {name: value for name, value in slurm.clean_environment().items() if not _OF_NEW_JOBS.match(name)}
