"""The command line: python -m xtrain COMMAND."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.table import Table

from xtrain.errors import EXIT_OURS, EXIT_USER, UserError
from xtrain.run_directory import RunDirectory

app = tyro.extras.SubcommandApp()

StudyFile = Annotated[Path, tyro.conf.Positional]
DataFolder = Annotated[Path | None, tyro.conf.arg(metavar="DIR")]
OutFolder = Annotated[Path, tyro.conf.arg(metavar="DIR")]
Overrides = Annotated[tuple[str, ...], tyro.conf.arg(name="set", metavar="KEY=VALUE ...")]


@app.command(name="run")
def run(
    study: StudyFile,
    data: DataFolder = None,
    out: OutFolder = Path("out"),
    ranks: int = 1,
    overrides: Overrides = (),
    variant: str = "",
) -> None:
    """Run a whole study on this machine; finished phases are found and kept.

    Args:
        study: The study's TOML file.
        data: Folder with the data sets, in the layout of XTREME's download script.
        out: Folder for run directories, prepared data and the report.
        ranks: Processes to train with; must divide every batch size.
        overrides: Any key of the study, for example recipe.intermediate.max_steps=50.
        variant: A table of the study's [variants] to lay on it.
    """
    from xtrain.runner import open_study, run_study

    _check_positive(ranks)
    job = open_study(study, data_root=data, out=out, overrides=overrides, variant=variant)
    run_study(job, ranks=ranks, console=_console())


@app.command(name="plan")
def plan(
    study: StudyFile,
    data: DataFolder = None,
    out: OutFolder = Path("out"),
    overrides: Overrides = (),
    variant: str = "",
    write: bool = False,
) -> None:
    """Print the study's graph of phases, and what is done.

    Args:
        study: The study's TOML file.
        data: Folder with the data sets, in the layout of XTREME's download script.
        out: Folder for run directories, prepared data and the report.
        overrides: Any key of the study, for example recipe.intermediate.max_steps=50.
        variant: A table of the study's [variants] to lay on it.
        write: Prepare the data and write the run directories, for train.py under a launcher of your own.
    """
    from xtrain.runner import open_study, write_phase

    job = open_study(study, data_root=data, out=out, overrides=overrides, variant=variant)
    table = Table("state", "kind", "phase", "starts from", "run directory", title=f"plan of {job.study.name}")
    console = _console()
    for phase in job.graph.phases.values():
        directory: RunDirectory = phase.run_directory(out)
        state = "done" if directory.done else "begun" if directory.metrics.exists() else "to do"
        if write and not directory.done:
            write_phase(job, phase, console)
        parent = job.graph.phases[phase.parent].name if phase.parent else job.study.base
        table.add_row(state, phase.kind, phase.name, parent, str(directory.path))
    console.print(table)


@app.command(name="report")
def report(
    study: StudyFile,
    data: DataFolder = None,
    out: OutFolder = Path("out"),
    overrides: Overrides = (),
    variant: str = "",
) -> None:
    """Write the table and report.html again from the run directories.

    Args:
        study: The study's TOML file.
        data: Folder with the data sets, in the layout of XTREME's download script.
        out: Folder for run directories, prepared data and the report.
        overrides: Any key of the study, for example recipe.intermediate.max_steps=50.
        variant: A table of the study's [variants] to lay on it.
    """
    from xtrain.report.study_report import report_study
    from xtrain.runner import open_study

    job = open_study(study, data_root=data, out=out, overrides=overrides, variant=variant)
    report_study(job.graph, out, _console())


@app.command(name="demo")
def demo(out: OutFolder = Path("out/demo"), ranks: int = 1, overrides: Overrides = ()) -> None:
    """Run studies/starter.toml: all three phases on real text, with the embedded small model.

    Args:
        out: Folder for run directories, prepared data and the report.
        ranks: Processes to train with.
        overrides: Any key of the study, for example recipe.intermediate.max_steps=50.
    """
    from xtrain.runner import PROJECT, open_study, run_study
    from xtrain.starter import DISCLAIMER

    _check_positive(ranks)
    console = _console()
    console.print(DISCLAIMER, style="italic")
    job = open_study(PROJECT / "studies" / "starter.toml", data_root=None, out=out, overrides=overrides)
    run_study(job, ranks=ranks, console=console)


def _check_positive(ranks: int) -> None:
    from xtrain.errors import Problem

    if ranks < 1:
        raise UserError(Problem(f"--ranks {ranks}", "is not allowed", "a whole number >= 1"))


def _console() -> Console:
    """Rich on a terminal; plain lines of up to 160 columns in a log."""
    console = Console()
    return console if console.is_terminal else Console(width=160, force_terminal=False)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code: 0, 2 for the user's mistakes, 1 for ours."""
    from xtrain.runner import PhaseFailed

    try:
        app.cli(args=None if arguments is None else list(arguments), prog="python -m xtrain")
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USER
    except PhaseFailed as error:
        if error.failure.code == EXIT_USER and error.failure.log is None:  # rank 0 has said what to do
            print(f"stopped in phase {error.phase.name}; what was finished is kept", file=sys.stderr)
            return EXIT_USER
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USER if error.failure.code == EXIT_USER else EXIT_OURS
    except KeyboardInterrupt:
        print("stopped; the same command goes on from the last checkpoint", file=sys.stderr)
        return 130
    return 0
