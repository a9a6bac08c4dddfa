"""Whether the nodes of a job are fit for its ranks; ``python -m xtrain.dispatch.node_check RUN_DIR`` on each, by srun.

One task a node, before the ranks start, and well under a second: no torch. Each prints one line of JSON. Bad nodes are
remembered for a day in ``bad_nodes.json`` of the output folder, so that the next attempt is not given them again.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import re
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from xtrain.errors import counted
from xtrain.files import make_folder, write_json
from xtrain.starting import prepare

MARK = "xtrain_node"  # what tells our lines from those that a site's profile scripts print
MEMORY = "bad_nodes.json"
FORGET_SECONDS = 24 * 3600.0
CLOCK_SECONDS = 120.0  # more than network file systems round and cache, less than what confuses whoever reads logs
ANSWER_SECONDS = 60.0
ENDING_SECONDS = 5.0  # for srun to end its tasks
DEVICES = Path("/dev")
_OWN = re.compile(r"GPUs are usable|its clock is|GiB free")  # what is wrong with a machine, as it is said below


@dataclass(frozen=True)
class BadNode:
    """A node that is not fit, and why."""

    node: str
    reason: str

    @property
    def own(self) -> bool:
        """Whether it is surely the node's own fault, and not that of the profile or of a shared file system."""
        return _OWN.search(self.reason) is not None


@dataclass(frozen=True)
class Remembered(BadNode):
    """A bad node of an earlier attempt; an item of ``bad_nodes.json``."""

    time: float
    """When it was found to be bad, in seconds since 1970."""


@dataclass(frozen=True)
class Expected:
    """What a node must have."""

    run: Path
    """The run directory; it must be writable."""
    files: Sequence[str] = ("phase.toml",)
    """Files in it that must be visible: what another node has just written, for example."""
    scratch: Path | None = None
    """The job's folder on the node's own disk: it is made, for this user alone. Compiled code will be loaded from it,
    and its name can be guessed: one that another user has made is refused."""
    scratch_gib: float = 1.0
    """How much must be free in it, in GiB."""
    gpus: int = 0
    """How many GPUs must be usable, at least."""


def problems(expected: Expected) -> list[str]:
    """What is wrong with this node, a line each."""
    found: list[str] = []
    for check in (_run_directory, _scratch, _gpus):
        try:
            found += check(expected)
        except OSError as error:  # a stale handle, a disk that fails
            found.append(str(error))
    return found


def _run_directory(expected: Expected) -> Iterator[str]:
    run = expected.run
    missing = [name for name in expected.files if not (run / name).is_file()]
    if missing:
        what = f"has no {' and no '.join(missing)}" if run.is_dir() else "is not there"
        yield f"run directory {run} {what}: its file system is not mounted here, or is another one"
        return
    try:
        written = _write(run)
    except OSError as error:
        yield f"run directory {run} cannot be written: {error.strerror}"
        return
    off = time.time() - written
    if abs(off) > CLOCK_SECONDS:
        ahead = "ahead of" if off > 0 else "behind"
        yield f"its clock is {abs(off) / 60:.0f} minutes {ahead} that of the file system of {run}"


def _scratch(expected: Expected) -> Iterator[str]:
    scratch = expected.scratch
    if scratch is None:
        return
    try:
        scratch.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            scratch.mkdir(mode=0o700)
        there = scratch.lstat()
        if not stat.S_ISDIR(there.st_mode) or there.st_uid != os.getuid() or there.st_mode & 0o022:
            yield f"scratch folder {scratch} is there already, and is not a folder of this user's alone"
            return
        _write(scratch)
        free = shutil.disk_usage(scratch).free / 2**30
    except OSError as error:
        yield f"scratch folder {scratch} cannot be written: {error.strerror}"
        return
    if free < expected.scratch_gib:
        yield f"scratch folder {scratch} has {free:.1f} GiB free, and {expected.scratch_gib:g} are needed"


def _write(folder: Path) -> float:
    """Write a file into ``folder``, and remove it; returns its time of writing by the file system's clock."""
    with tempfile.NamedTemporaryFile(dir=folder, prefix=f".node-check-{platform.node()}-") as handle:
        handle.write(b"x" * 4096)
        handle.flush()
        os.fsync(handle.fileno())  # until then, a network file system has only this node's word for it
        return os.fstat(handle.fileno()).st_mtime


def _gpus(expected: Expected) -> Iterator[str]:
    if expected.gpus == 0:
        return
    found, why = usable_gpus()
    if found < expected.gpus:
        usable = f"{counted(found, 'GPU')} {'is' if found == 1 else 'are'} usable, and {expected.gpus} needed"
        yield usable + (f": {why}" if why else "")


def usable_gpus(devices: Path = DEVICES) -> tuple[int, str]:
    """How many GPUs (or parts of such) this process may use, and what is wrong with the others."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return len([path for path in devices.glob("nvidia*") if re.fullmatch(r"nvidia\d+", path.name)]), ""
    try:
        listing = subprocess.run(
            [tool, "-L"], capture_output=True, text=True, errors="replace", timeout=ANSWER_SECONDS / 2
        )
    except (OSError, subprocess.SubprocessError) as error:
        return 0, f"nvidia-smi -L: {error}"
    lines = listing.stdout.splitlines()
    whole = [line for line in lines if re.match(r"GPU \d+:", line)]
    parts = [line for line in lines if re.match(r"\s+MIG ", line)]
    # Of a GPU that has fallen off the bus it says so in a line of its own, here or there.
    rest = [line.strip() for line in (*lines, *listing.stderr.splitlines()) if line not in (*whole, *parts)]
    why = next((line for line in rest if line), "")
    return len(parts) or len(whole), why or (
        f"nvidia-smi exits with {listing.returncode}" if listing.returncode else ""
    )


def check_nodes(command: Sequence[str], nodes: Sequence[str], seconds: float = ANSWER_SECONDS) -> list[BadNode]:
    """Run ``command``, an srun line that runs this module once on each of ``nodes``; those that are not fit.

    A node that does not answer within ``seconds`` is among them: its file system hangs, or it is down. Raises nothing
    where all of them are bad: the caller knows whether that is more likely the command's fault.
    """
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=errors, start_new_session=True)
        late = _wait(process, seconds)
        texts = [_text(handle) for handle in (out, errors)]
    answers = dict(_answers(texts[0]))
    said = [line.strip() for line in texts[1].splitlines() if line.strip()]
    none = f"did not answer within {seconds:.0f} s" if late else "did not answer"
    silent = f"{none}: {said[-1]}" if said else none
    found = {node: answers.get(node, answers.get(node.split(".")[0], [silent])) for node in nodes}
    return [BadNode(node, "; ".join(reasons)) for node, reasons in found.items() if reasons]


def _wait(process: subprocess.Popen[bytes], seconds: float) -> bool:
    """Wait for the end of ``process``, or end it; whether it had to be ended."""
    try:
        process.wait(seconds)
        return False
    except subprocess.TimeoutExpired:
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(ENDING_SECONDS)
                break
        return True


def _text(handle: Any) -> str:
    handle.seek(0)
    text: str = handle.read().decode(errors="replace")
    return text


def _answers(text: str) -> Iterator[tuple[str, list[str]]]:
    for line in text.splitlines():
        with contextlib.suppress(ValueError, KeyError, TypeError):
            answer = json.loads(line)
            yield answer[MARK], [str(problem) for problem in answer["problems"]]


def remember(out: Path, bad: Sequence[BadNode], now: float | None = None) -> None:
    """Add ``bad`` to ``bad_nodes.json`` of the output folder ``out``, and forget those of long ago.

    Of two jobs that write at once, one may undo the other's: it will meet that node again, and find it bad again.
    """
    when = time.time() if now is None else now
    known = {node.node: node for node in bad_nodes(out, when)}
    known |= {node.node: Remembered(node.node, node.reason, when) for node in bad}
    write_json(make_folder(out) / MEMORY, {"nodes": [asdict(node) for node in known.values()]})


def bad_nodes(out: Path, now: float | None = None) -> list[Remembered]:
    """The nodes that were found to be bad within a day before ``now`` (seconds since 1970), the first found first."""
    when = time.time() if now is None else now
    try:
        known = [Remembered(**item) for item in json.loads((out / MEMORY).read_bytes())["nodes"]]
    except (OSError, ValueError, KeyError, TypeError):  # none yet; or no file of ours, and not worth a study
        return []
    return [node for node in known if when - node.time < FORGET_SECONDS]


def node_name() -> str:
    """This node as SLURM calls it."""
    return os.environ.get("SLURMD_NODENAME") or platform.node()


def main(arguments: Sequence[str] | None = None) -> int:
    """Check this node and print the answer; 0, also where it is bad: the answer says so."""
    parser = argparse.ArgumentParser(prog="python -m xtrain.dispatch.node_check", description=__doc__)
    parser.add_argument("run", type=Path, help="the run directory")
    parser.add_argument("--file", action="append", help="a file of it that must be visible (default: phase.toml)")
    parser.add_argument("--scratch", type=Path, help="the job's folder on the node's own disk")
    parser.add_argument("--scratch-gib", type=float, default=1.0, help="how much must be free in it (GiB)")
    parser.add_argument("--gpus", type=int, default=0, help="how many GPUs must be usable")
    given = parser.parse_args(arguments)
    expected = Expected(given.run, given.file or ("phase.toml",), given.scratch, given.scratch_gib, given.gpus)
    # in one piece: with PYTHONUNBUFFERED print would write the line's end by itself, behind another node's answer
    sys.stdout.write(json.dumps({MARK: node_name(), "problems": problems(expected)}) + "\n")
    sys.stdout.flush()
    return 0


if __name__ == "__main__":
    prepare()
    sys.exit(main())
