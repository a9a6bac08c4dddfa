"""What ``python -m xtrain checkpoint ls | verify | export | prune`` do."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.prompt import Confirm

from xtrain.checkpoint_tables import as_json, disk_bytes, say, show_run, size
from xtrain.checkpoints import CheckpointFolder, Commit, Entry, damage
from xtrain.errors import Problem, UserError, counted, listed
from xtrain.run_directory import RunDirectory

EXIT_DAMAGED = 1  # nobody's mistake, but a script must notice: as cmp and diff have it
_ALLOWED = "a run directory, as OUT/target/NAME-HASH"


def run_list(path: Path, *, machine: bool, console: Console) -> int:
    """Show the checkpoints of a run, or of every run of a study's output folder. Reads names and sizes alone."""
    runs = runs_below(path)
    if machine:
        _print_json({"runs": [as_json(run) for run in runs]})
        return 0
    some = [run for run in runs if len(runs) == 1 or CheckpointFolder(run.checkpoints).entries()]
    for run in some:
        show_run(run, console)
    if not some:
        say(console, f"none of the {len(runs)} runs in {path} has a checkpoint now")
    return 0


def run_verify(path: Path, *, machine: bool, console: Console) -> int:
    """Hash every file of every checkpoint; changes nothing. Returns 0 if all is well, 1 if anything is damaged."""
    runs = runs_below(path)
    entries = [(run, entry) for run in runs for entry in CheckpointFolder(run.checkpoints).entries()]
    named = [(run, entry) for run, entry in entries if entry.state in ("finished", "damaged")]
    if not named and not all(run.done for run in runs):
        raise UserError(_no_checkpoints(path))
    results = list(_verify(named, several=len(runs) > 1, console=None if machine else console))
    num_damaged = sum(bool(result["damage"]) for result in results)
    if machine:
        _print_json({"checkpoints": results, "num_damaged": num_damaged})
    elif not results:
        say(console, f"{path} is finished: it has no checkpoints any more, its weights are in encoder/")
    elif num_damaged:
        say(console, f"{num_damaged} of {counted(len(results), 'checkpoint')} are damaged; resuming will not use them")
    else:
        total = size(disk_bytes([entry.path for _, entry in named]))
        say(console, f"{counted(len(results), 'checkpoint')}, {total}: every byte is as it was written")
    return EXIT_DAMAGED if num_damaged else 0


def run_export(path: Path, to: Path, *, step: int | None, best: bool, console: Console) -> int:
    """Write the weights of a checkpoint to ``to`` in Hugging Face's layout, once it is verified.

    Returns 0, or 1 if no checkpoint that was asked for is whole.
    """
    run = one_run(path)
    wanted = _wanted(run, step, best)
    _check_free(to)
    commit = next((commit for commit in wanted if _is_whole(run, commit, console)), None)
    if commit is None:
        say(console, "nothing was exported: no checkpoint that was asked for is whole")
        return EXIT_DAMAGED
    from xtrain.phase.exporting import (
        export_checkpoint,
    )  # not above: `ls` starts without the seconds of importing torch

    done = export_checkpoint(run, commit.path, to)
    what = f"{size(done.bytes)} in {done.seconds:.1f} s"
    say(console, f"the weights after {counted(commit.step, 'step')} ({commit.name}) are in {to}: {what}")
    return 0


def run_prune(path: Path, *, keep: int, yes: bool, machine: bool, console: Console) -> int:
    """Delete all but the newest ``keep`` checkpoints of a run, and what is unfinished, damaged or set aside.

    The newest one that verifies is never deleted.
    """
    if keep < 1:
        raise UserError(Problem(f"--keep {keep}", "is not allowed", "a whole number >= 1"))
    run = one_run(path)
    folder = CheckpointFolder(run.checkpoints)
    with run.held():  # so that nothing is deleted under a training that is going on
        doomed = _doomed(folder, keep, None if machine else console)
        freed = disk_bytes(list(doomed), [entry.path for entry in folder.entries() if entry.path not in doomed])
        if not machine:
            for one, why in doomed.items():
                say(console, f"  {one.name:<24} {size(disk_bytes([one])):>12}  {why}")
            say(console, f"{len(doomed)} folders, {size(freed)}" if doomed else "there is nothing to delete")
        if doomed and not yes and not _agreed(len(doomed), None if machine else console):
            return 0
        for one in doomed:
            folder.delete(one)
    if machine:
        _print_json({"deleted": [one.name for one in doomed], "bytes": freed})
    elif doomed:
        say(console, "deleted")
    return 0


def runs_below(path: Path) -> list[RunDirectory]:
    """The run in ``path``, or all runs of the study's output folder ``path``; raises if there is none."""
    if not path.is_dir():
        what = "is not a folder" if path.exists() else "no such folder"
        raise UserError(Problem(str(path), what, _ALLOWED, "check the path; `python -m xtrain plan STUDY` prints them"))
    if RunDirectory(path).phase_file.is_file():
        return [RunDirectory(path)]
    name = RunDirectory(path).phase_file.name
    runs = [RunDirectory(file.parent) for depth in ("*", "*/*") for file in sorted(path.glob(f"{depth}/{name}"))]
    if not runs:
        raise UserError(Problem(str(path), f"is not a run directory: it has no {name}", _ALLOWED))
    return runs


def one_run(path: Path) -> RunDirectory:
    """The run in ``path``; an output folder of several is refused with their names."""
    runs = runs_below(path)
    if runs[0].path == path:
        return runs[0]
    raise UserError(Problem(str(path), "is not one run", listed((run.path for run in runs), most=8), "name a run"))


def _verify(
    named: list[tuple[RunDirectory, Entry]], *, several: bool, console: Console | None
) -> Iterator[dict[str, Any]]:
    """Hash each checkpoint; says each bad file (to people, where there is a console) and yields what was found."""
    with _bar([entry for _, entry in named], console) as bar:
        for run, entry in named:
            found = damage(entry.path, deep=True, strangers=True, on_bytes=bar)
            if not entry.path.exists():  # a running training has let it go meanwhile
                continue
            num_bytes = disk_bytes([entry.path])
            if console is not None:
                where = str(entry.path) if several else entry.path.name
                say(console, f"{where:<20} {size(num_bytes):>12}  {'DAMAGED' if found else 'ok'}")
                for line in found:
                    say(console, f"  {line}")
            yield {"run": str(run.path), "name": entry.path.name, "bytes": num_bytes, "damage": found}


@contextlib.contextmanager
def _bar(entries: list[Entry], console: Console | None) -> Iterator[Any]:
    """A progress bar over the bytes of ``entries``, on a terminal; yields what is to be told of bytes, or None."""
    if console is None or not console.is_terminal:
        yield None
        return
    total = sum(file.bytes for entry in entries if entry.manifest for file in entry.manifest.files.values())
    columns = (TextColumn("hashing"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("hashing", total=total)
        yield lambda count: progress.advance(task, count)


def _wanted(run: RunDirectory, step: int | None, best: bool) -> list[Commit]:
    """The finished checkpoints that may be exported, the one to be preferred first."""
    if step is not None and best:
        raise UserError(Problem("--step and --best", "cannot go together", allowed="one of them"))
    folder = CheckpointFolder(run.checkpoints)
    steps, bests = folder.commits("step")[::-1], folder.commits("best")[::-1]
    if step is not None:
        steps = [commit for commit in [*steps, *bests] if commit.step == step]  # the weights are the same in both
    wanted = bests if best else steps
    if wanted:
        return wanted[:1] if best else wanted
    there = [commit.name for commit in [*folder.commits("best"), *folder.commits("step")]]
    if not there:
        raise UserError(_no_checkpoints(run.path))
    asked = "--best" if best else f"--step {step}" if step is not None else str(run.path)
    raise UserError(Problem(asked, f"there is no such checkpoint in {run.checkpoints}", allowed=listed(there)))


def _is_whole(run: RunDirectory, commit: Commit, console: Console) -> bool:
    """Whether every byte of the commit is right; says what is not."""
    entry = Entry(commit.path, "finished", "step", commit.step, commit.manifest)
    with _bar([entry], console) as bar:
        found = CheckpointFolder(run.checkpoints).verify(commit, on_bytes=bar)
    for line in found:
        say(console, f"{commit.name} is damaged: {line}")
    return not found


def _check_free(to: Path) -> None:
    if (to.exists() and not to.is_dir()) or (to.is_dir() and any(to.iterdir())):
        what = "is not empty" if to.is_dir() else "is a file"
        raise UserError(
            Problem(f"--to {to}", what, "a new or empty folder", "choose another folder; none is overwritten")
        )


def _doomed(folder: CheckpointFolder, keep: int, console: Console | None) -> dict[Path, str]:
    """What `prune` deletes, and why. Where no checkpoint verifies, nothing that has a checkpoint's name."""
    entries, commits = folder.entries(), folder.commits()
    with _bar([entry for entry in entries if entry.series == "step"], console) as bar:
        last = folder.last_verified(bar)
    if console is not None and commits:
        say(console, f"newest that verifies, never deleted: {last.name if last else 'none'}")
    useless = ("unfinished", "set aside") if last is None else ("unfinished", "set aside", "damaged")
    doomed: dict[Path, str] = {entry.path: entry.state for entry in entries if entry.state in useless}
    if last is None:
        return doomed
    broken = {commit.path: "damaged" for commit in commits if commit.step > last.step}  # found on the way to `last`
    newest_best = max((commit.step for commit in folder.commits("best")), default=-1)
    old = folder.superfluous(keep, best_step=newest_best, without={path.name for path in broken})
    return doomed | broken | dict.fromkeys(old, "old")


def _agreed(count: int, console: Console | None) -> bool:
    if console is None or not sys.stdin.isatty():
        raise UserError(
            Problem("checkpoint prune", "nothing was deleted: there is nobody to ask", remedy="add --yes in a script")
        )
    return Confirm.ask(f"Delete {'it' if count == 1 else f'these {count}'}?", console=console, default=False)


def _no_checkpoints(path: Path) -> Problem:
    if RunDirectory(path).done:
        return Problem(
            str(path), "is finished: it has no checkpoints any more", remedy=f"its weights are in {path / 'encoder'}"
        )
    return Problem(
        str(path), "has no checkpoints yet", remedy="engine.checkpoint_every says after how many steps one is saved"
    )


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=2))
