"""What the batch script of a job runs, ``python -m xtrain.dispatch.job``: its supervisor, and the job's exit code.

The code is that of the day on which the job starts; what it goes by is that of its submission.
"""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
from collections.abc import Callable

from xtrain.dispatch import attempts
from xtrain.dispatch.job_spec import JobSpec
from xtrain.dispatch.local_queue import LocalSupervisor, local_job
from xtrain.dispatch.submissions import JobFolder
from xtrain.dispatch.supervisor import Supervisor
from xtrain.errors import EXIT_OURS, EXIT_USER, UserError
from xtrain.starting import prepare


def main() -> int:
    """Run the job that this process was started for."""
    spec = JobSpec.taken()
    # sbatch's own record of --cpus-per-task (23.11 and newer): to srun it is fatal where SLURM gave a task more CPUs
    os.environ.pop("SLURM_TRES_PER_TASK", None)
    if spec.profile["scheduler"] == "local":
        return run_job(spec, lambda: LocalSupervisor.of(spec, local_job(os.getppid())))
    return run_job(spec, lambda: Supervisor.here(spec))


def run_job(spec: JobSpec, supervisor: Callable[[], Supervisor]) -> int:
    """Run the job; returns its exit code, which decides what SLURM does with those behind it."""
    folder = JobFolder(spec.run)
    try:
        return supervisor().work()
    except UserError as error:  # a disk that is full, a profile's variable that the job does not have
        return _ended(folder, attempts.USER, EXIT_USER, str(error), f"error: {error}")
    except Exception as error:  # ours: it must not look as if nobody knew
        said = f"the supervisor failed: {type(error).__name__}: {error}"
        reason = f"{said}; its output in {folder.submitit} has the traceback"
        return _ended(folder, attempts.FAILED, EXIT_OURS, reason, traceback.format_exc())


def _ended(folder: JobFolder, how: str, code: int, reason: str, words: str) -> int:
    """Say and write down how the job ended, as far as the disk takes it; returns ``code``."""
    with contextlib.suppress(OSError):
        print(words, flush=True)
    with contextlib.suppress(OSError, UserError):
        folder.end(how, code, reason)
    return code


def _leave(code: int) -> None:
    """End this process with ``code``, also where its output lies on a disk that is full."""
    with contextlib.suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    prepare()
    _leave(main())
