"""What a phase prints: the end of a rank's log or of the job's own, and on from there."""

from __future__ import annotations

import codecs
import contextlib
import os
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path

from xtrain.dispatch.submissions import JobFolder
from xtrain.errors import Problem, UserError, listed
from xtrain.run_directory import RunDirectory

POLL_SECONDS = 0.3
LEAVING_SECONDS = 3.0  # after the phase's end: for its last lines, on network file systems
_BLOCK = 2**16


def rank_log(run: RunDirectory, rank: int) -> Path:
    """Where rank ``rank`` prints."""
    return run.logs / f"rank-{rank}.log"


def job_log(run: RunDirectory) -> Path | None:
    """Where the newest job of the phase that printed something did; None for none."""
    folder = JobFolder(run)
    for submission in reversed(folder.submissions()):
        number = submission.job.removeprefix("local-").partition("-")[0]  # of the process, on this machine
        path = folder.submitit / f"{number}_0_log.out"
        if path.is_file():
            return path
    found = list(folder.submitit.glob("*_log.out")) if folder.submitit.is_dir() else []
    return max(found, key=lambda path: path.stat().st_mtime, default=None)


def there_are(run: RunDirectory) -> list[str]:
    """The log files that there are, with the job's own last."""
    names = os.listdir(run.logs) if run.logs.is_dir() else []
    ranks = sorted(
        (name for name in names if name.endswith(".log")), key=lambda name: [int(n) for n in re.findall(r"\d+", name)]
    )
    own = job_log(run)
    return [f"logs/{name}" for name in ranks] + ([str(own.relative_to(run.path))] if own else [])


def last_lines(path: Path, count: int) -> list[str]:
    """The last ``count`` lines of a file, read from its end."""
    data, _ = _end(path, count)
    return data.decode("utf-8", errors="replace").splitlines()[-count:] if count > 0 else []


def _end(path: Path, count: int) -> tuple[bytes, int]:
    """The last ``count`` lines as they are, and the size of the file."""
    try:
        handle = open(path, "rb")  # noqa: SIM115 (closed by the with below)
    except OSError:
        return b"", 0
    with handle:
        size = start = handle.seek(0, os.SEEK_END)
        data = b""
        while start > 0 and data.count(b"\n") <= count:
            start, end = max(0, start - _BLOCK), start
            handle.seek(start)
            data = handle.read(end - start) + data
    lines = data.splitlines(keepends=True)
    return b"".join(lines[len(lines) - min(count, len(lines)) :]), size


def over(run: RunDirectory) -> bool:
    """Whether nothing more is to be expected of the phase."""
    return run.done or run.failed or JobFolder(run).ended() is not None


def print_log(
    run: RunDirectory,
    *,
    rank: int = 0,
    job: bool = False,
    lines: int = 20,
    follow: bool = False,
    write: Callable[[str], object] | None = None,
) -> None:
    """Print the end of a log; with ``follow``, go on until the phase ends or Ctrl-C comes.

    Raises a :class:`UserError` with the files that there are where this one is not, and none is waited for.
    """
    write = write or _to_terminal
    path = _the_log(run, rank, job)
    if path is None or not path.is_file():
        if not follow or over(run):
            raise UserError(_no_log(run, rank, job))
        print(f"waiting for {path or 'the job to begin'}", file=sys.stderr, flush=True)
        path = _await(run, rank, job)
        if path is None:
            raise UserError(_no_log(run, rank, job))
    data, position = _end(path, lines)
    decoder = _decoder()
    write(decoder.decode(data))
    if follow:
        _follow(run, rank, job, path, position, lambda data: write(decoder.decode(data)))


def _decoder() -> codecs.IncrementalDecoder:
    """A character whose last bytes are still to come waits for them."""
    return codecs.getincrementaldecoder("utf-8")("replace")


def _the_log(run: RunDirectory, rank: int, job: bool) -> Path | None:
    return job_log(run) if job else rank_log(run, rank)


def _await(run: RunDirectory, rank: int, job: bool) -> Path | None:
    """The log once it is there; None where the phase ended without one."""
    while True:
        ended = over(run)
        path = _the_log(run, rank, job)
        if path is not None and path.is_file():
            return path
        if ended:
            return None
        time.sleep(POLL_SECONDS)


def _follow(
    run: RunDirectory, rank: int, job: bool, path: Path, position: int, write: Callable[[bytes], object]
) -> None:
    """Print what is appended; where the phase goes on in another job, that one's log."""
    until: float | None = None
    while until is None or time.monotonic() < until:
        if until is None and over(run):
            until = time.monotonic() + LEAVING_SECONDS
        data, position = _appended(path, position)
        if data:
            write(data)
            continue
        newer = _the_log(run, rank, job)
        if newer is not None and newer != path:
            path, position = newer, 0
            continue
        time.sleep(POLL_SECONDS)


def _appended(path: Path, position: int) -> tuple[bytes, int]:
    """What was written behind ``position``, and where that ends; a file that became shorter begins anew."""
    with contextlib.suppress(OSError), open(path, "rb") as handle:
        size = handle.seek(0, os.SEEK_END)
        handle.seek(position if size >= position else 0)
        return handle.read(_BLOCK), handle.tell()
    return b"", position


def _to_terminal(text: str) -> None:
    with contextlib.suppress(BrokenPipeError):
        sys.stdout.write(text)
        sys.stdout.flush()


def _no_log(run: RunDirectory, rank: int, job: bool) -> Problem:
    there = there_are(run)
    what = "the job has" if job else f"rank {rank} has"
    remedy = "" if there else "--follow waits for it; python -m xtrain why says what the phase waits for"
    return Problem(str(run.path), f"{what} printed nothing yet", listed(there), remedy)
