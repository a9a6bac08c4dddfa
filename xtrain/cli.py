"""The command line: python -m xtrain COMMAND."""

from __future__ import annotations

import sys
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from xtrain.console import new_console, run_command
from xtrain.errors import UserError
from xtrain.starting import plain_arguments

if TYPE_CHECKING:
    from xtrain.runner import Job

app = tyro.extras.SubcommandApp()
checkpoint = tyro.extras.SubcommandApp()
app.command(checkpoint, name="checkpoint", help="List, verify, export or prune the checkpoints of a run.")

Benchmark = Literal["xtreme", "xtreme-r"]
InFolder = Annotated[Path, tyro.conf.arg(metavar="DIR")]
OutFile = Annotated[Path | None, tyro.conf.arg(metavar="FILE")]
OutFolder = Annotated[Path, tyro.conf.arg(metavar="DIR")]
Run = Annotated[Path, tyro.conf.Positional]
Machine = Annotated[bool, tyro.conf.arg(name="json"), tyro.conf.FlagCreatePairsOff]
Flag = Annotated[bool, tyro.conf.FlagCreatePairsOff]
# Several after one --set, and --set several times: plain_arguments makes the former the latter.
Overrides = Annotated[tuple[str, ...], tyro.conf.arg(name="set", metavar="KEY=VALUE ..."), tyro.conf.UseAppendAction]


@dataclass(frozen=True)
class StudyOptions:
    """What every command about a study takes."""

    study: Annotated[Path, tyro.conf.Positional]
    """The study's TOML file."""
    data: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """Folder with the data sets, in the layout of XTREME's download script."""
    out: OutFolder = Path("out")
    """Folder for run directories, prepared data and the report."""
    settings: Overrides = ()
    """Any key of the study, for example recipe.intermediate.max_steps=50."""
    variant: str = ""
    """A table of the study's [variants] to lay on it."""

    def open(self, *, complete: bool = True, base: bool = True, may_lack: Collection[str] = ()) -> Job:
        """The study, read and expanded, as :func:`xtrain.runner.open_study` has it."""
        from xtrain.runner import open_study

        return open_study(
            self.study, data_root=self.data, out=self.out, overrides=self.settings, variant=self.variant,
            complete=complete, base=base, may_lack=may_lack,
        )  # fmt: skip


Options = Annotated[StudyOptions, tyro.conf.OmitArgPrefixes]


@app.command(name="run")
def run(study: Options, ranks: int = 1) -> None:
    """Run a whole study on this machine; finished phases are found and kept.

    Args:
        study: The study and where its data and output are.
        ranks: Processes to train with; any number gives the same losses, up to float order.
    """
    from xtrain.runner import run_study

    _check_positive(ranks)
    run_study(study.open(complete=False), ranks=ranks, console=new_console())


@app.command(name="plan")
def plan(
    study: Options,
    write: bool = False,
    check_data: Flag = False,
    phases: Flag = False,
    cluster: Annotated[str, tyro.conf.arg(metavar="NAME|FILE")] = "",
    machine: Machine = False,
) -> None:
    """Say what a study will take: phases and what is done, steps, tokens, device-hours, disk, the longest chain.

    Needs neither the base's weights nor data: what is not at hand is assumed, and said to be.

    Args:
        study: The study and where its data and output are.
        write: Prepare the data and write the run directories, for train.py under a launcher of your own.
        check_data: Read and check every file that the study reads, say what the base's tokenizer makes of each
            language, and no more: needs no weights.
        phases: List every phase, however many there are.
        cluster: A profile of slurm/clusters by its name, or a file: its rates, prices and devices are reckoned with.
        machine: Print JSON.
    """
    from xtrain.plan_command import run_plan
    from xtrain.planning.rates import KNOWN_MODELS
    from xtrain.runner import check_only

    if check_data:
        return check_only(study.open(complete=False, base=False), new_console())
    job = study.open(complete=False, may_lack=() if write else KNOWN_MODELS)
    run_plan(job, new_console(), write=write, phases=phases, cluster=cluster, machine=machine)


@app.command(name="report")
def report(
    study: Options, export: InFolder | None = None, csv: Flag = False, latex: Flag = False, figures: Flag = False
) -> None:
    """Write the table and the report's page again from the run directories; also as CSV, LaTeX and figures.

    Args:
        study: The study and where its data and output are.
        export: Folder for CSV, LaTeX and figures: all three, or those of the flags below.
        csv: Write every number of the page as CSV, unrounded; into OUT/export-STUDY without --export.
        latex: Write the tables as LaTeX; into OUT/export-STUDY without --export.
        figures: Write all figures as SVG and PDF; into OUT/export-STUDY without --export.
    """
    from xtrain.report.export.content import Export
    from xtrain.report.study_report import report_study

    job = study.open()
    wanted = Export.chosen(export, job.out / f"export-{job.study.label}", csv=csv, latex=latex, figures=figures)
    report_study(job.graph, job.out, new_console(), wanted)


@app.command(name="demo")
def demo(out: OutFolder = Path("out/demo"), ranks: int = 1, settings: Overrides = ()) -> None:
    """Run studies/starter.toml: all three phases on real text, with the embedded small model.

    Args:
        out: Folder for run directories, prepared data and the report.
        ranks: Processes to train with.
        settings: Any key of the study, for example recipe.intermediate.max_steps=50.
    """
    from xtrain.runner import PROJECT, open_study, run_study
    from xtrain.starter import DISCLAIMER

    _check_positive(ranks)
    console = new_console()
    console.print(DISCLAIMER, style="italic")
    job = open_study(PROJECT / "studies" / "starter.toml", data_root=None, out=out, overrides=settings)
    run_study(job, ranks=ranks, console=console)


@app.command(name="score")
def score(benchmark: Benchmark, predictions: InFolder, labels: InFolder, output: OutFile = None) -> int:
    """Score anyone's predictions in the layout of the benchmark's leaderboard; docs/scoring.md describes it.

    Args:
        benchmark: The version: its tasks, languages and groups.
        predictions: Folder with TASK/test-LANGUAGE.tsv (or .json) files.
        labels: Folder with the gold files, laid out alike.
        output: Where to write the scores as JSON.
    """
    from xtrain.evaluation.benchmark.scoring import run_score

    return run_score(benchmark, predictions, labels, output, new_console())


@app.command(name="submission")
def submission(
    out: Annotated[Path, tyro.conf.Positional],
    benchmark: Benchmark,
    folder: OutFolder = Path("submission"),
    row: str = "",
    seed: int | None = None,
    labels: InFolder | None = None,
) -> int:
    """Write the folder that the leaderboard takes from a finished study's predictions, and check it.

    Args:
        out: The study's output folder.
        benchmark: The version of the benchmark.
        folder: Where to write the submission.
        row: The row of the study's table (the name of the intermediate training); needed if there are several.
        seed: The seed; needed if there are several.
        labels: Gold files in the leaderboard's layout, to compare the numbers of rows with.
    """
    from xtrain.evaluation.benchmark.submission import run_submission

    return run_submission(out, benchmark, folder, row=row or None, seed=seed, labels=labels, console=new_console())


@app.command(name="status")
def status(
    out: Annotated[Path, tyro.conf.Positional] = Path("out"),
    machine: Machine = False,
    study: str = "",
    watch: float = 0.0,
) -> int:
    """Show the state of every phase: its job, nodes, attempts, step, loss, speed, time to go, last event.

    Args:
        out: The output folder.
        machine: Print JSON.
        study: Show this study alone, of several in the folder.
        watch: Show it again every so many seconds.
    """
    from xtrain.watching.commands import run_status

    return run_status(out, study=study, machine=machine, watch=watch, console=new_console())


@app.command(name="usage")
def usage(out: Annotated[Path, tyro.conf.Positional] = Path("out"), machine: Machine = False, study: str = "") -> int:
    """Show what every phase has used: device-hours, time in the queue and of the limit, work redone after kills.

    Args:
        out: The output folder.
        machine: Print JSON.
        study: Show this study alone, of several in the folder.
    """
    from xtrain.watching.commands import run_usage

    return run_usage(out, study=study, machine=machine, console=new_console())


@app.command(name="why")
def why(phase: Annotated[str, tyro.conf.Positional], out: OutFolder = Path("out"), lines: int = 12) -> int:
    """Say what a phase waits for, or why it failed: the exception, the node, the last lines, the attempts.

    Args:
        phase: Its name, its job's name, its folder, the beginning of its hash, or the path of its run directory.
        out: The output folder.
        lines: How many lines of the log to show at least.
    """
    from xtrain.watching.commands import run_why

    return run_why(phase, out=out, lines=lines, console=new_console())


@app.command(name="logs")
def logs(
    phase: Annotated[str, tyro.conf.Positional],
    out: OutFolder = Path("out"),
    rank: int = 0,
    job: Flag = False,
    follow: Flag = False,
    lines: int = 20,
) -> int:
    """Print the last lines of what a rank of a phase printed.

    Args:
        phase: Its name, its job's name, its folder, the beginning of its hash, or the path of its run directory.
        out: The output folder.
        rank: Which rank's.
        job: Of the job itself instead: how it started the ranks and what it decided when they ended.
        follow: Go on until the phase ends; waits for a log that is not there yet.
        lines: How many of the last lines.
    """
    from xtrain.watching.commands import run_logs

    return run_logs(phase, out=out, rank=rank, job=job, follow=follow, lines=lines)


@app.command(name="cancel")
def cancel(
    out: Annotated[Path, tyro.conf.Positional],
    phases: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="[PHASE ...]")] = (),
    study: str = "",
    yes: Flag = False,
) -> int:
    """Cancel the jobs of a study, or of phases and what cannot run without them; what is saved is kept.

    Args:
        out: The output folder.
        phases: Phases by any of their names; by default all.
        study: Of this study alone, of several in the folder.
        yes: Cancel without asking.
    """
    from xtrain.watching.commands import run_cancel

    return run_cancel(out, phases, study=study, yes=yes, console=new_console())


@app.command(name="doctor")
def doctor(
    cluster: Annotated[str, tyro.conf.arg(metavar="NAME|FILE")] = "",
    nodes: int | None = None,
    out: OutFolder = Path("out"),
    data: InFolder | None = None,
    machine: Machine = False,
    wait: Annotated[float, tyro.conf.arg(metavar="MINUTES")] = 5.0,
    gpu: Flag = False,
) -> int:
    """Check this machine, or a cluster and some of its nodes, and say what to do; exits with 2 if anything is wrong.

    Args:
        cluster: A profile of slurm/clusters by its name, or a file.
        nodes: Run a short job on so many nodes of the cluster (2 by default; 0 for none).
        out: The output folder that studies will use.
        data: The data folder that studies will use.
        machine: Print JSON.
        wait: How long that job may wait in the queue.
        gpu: Try a GPU of this machine as well (two, where there are), for some minutes.
    """
    from xtrain.doctor.examination import Examination, run_doctor

    examination = Examination.of(out, data=data, cluster=cluster, nodes=nodes, wait_minutes=wait, gpu=gpu)
    return run_doctor(examination, machine=machine, console=new_console())


@checkpoint.command(name="ls")
def checkpoint_ls(run: Run, machine: Machine = False) -> int:
    """List the checkpoints of a run, or of all runs of a study's output folder.

    Args:
        run: A run directory, or the study's output folder.
        machine: Print JSON.
    """
    from xtrain.checkpoint_commands import run_list

    return run_list(run, machine=machine, console=new_console())


@checkpoint.command(name="verify")
def checkpoint_verify(run: Run, machine: Machine = False) -> int:
    """Read every byte of every checkpoint and compare; changes nothing, and exits with 1 if any is damaged.

    Args:
        run: A run directory, or the study's output folder.
        machine: Print JSON.
    """
    from xtrain.checkpoint_commands import run_verify

    return run_verify(run, machine=machine, console=new_console())


@checkpoint.command(name="export")
def checkpoint_export(run: Run, to: OutFolder, step: int | None = None, best: Flag = False) -> int:
    """Write a checkpoint's weights as a model folder that Hugging Face's AutoModel loads.

    Args:
        run: A run directory.
        to: A new or empty folder.
        step: The checkpoint after so many steps; by default the newest that verifies.
        best: The best weights so far.
    """
    from xtrain.checkpoint_commands import run_export

    return run_export(run, to, step=step, best=best, console=new_console())


@checkpoint.command(name="prune")
def checkpoint_prune(run: Run, keep: int = 1, yes: Flag = False, machine: Machine = False) -> int:
    """Delete old checkpoints, and what is unfinished, damaged or set aside; the newest that verifies always stays.

    Args:
        run: A run directory that no command is running.
        keep: How many of the newest to keep.
        yes: Delete without asking.
        machine: Print JSON.
    """
    from xtrain.checkpoint_commands import run_prune

    return run_prune(run, keep=keep, yes=yes, machine=machine, console=new_console())


@app.command(name="keys")
def keys(write: OutFile = None) -> None:
    """Print every key of a study and of a cluster's profile, with type, default and meaning, as Markdown.

    Args:
        write: Write it into this file instead; docs/study_keys.md is made so.
    """
    from xtrain.files import write_text
    from xtrain.keys import reference

    if write is None:
        print(reference(), end="")
    else:
        write_text(write, reference())


def _check_positive(ranks: int) -> None:
    from xtrain.errors import Problem

    if ranks < 1:
        raise UserError(Problem(f"--ranks {ranks}", "is not allowed", "a whole number >= 1"))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code."""
    given = plain_arguments(sys.argv[1:] if arguments is None else arguments)
    return run_command(lambda: app.cli(args=given, prog="python -m xtrain"))
