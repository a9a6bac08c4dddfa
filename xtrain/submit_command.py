"""The command line of slurm/submit.py: what is submitted is shown as a table, or only shown with --dry-run."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tomli_w
import tyro
from rich.console import Console
from rich.table import Table

from xtrain.cli import Flag, Options, StudyOptions
from xtrain.console import new_console, run_command
from xtrain.dispatch import slurm
from xtrain.dispatch.batch_script import cache_folder, script_text
from xtrain.dispatch.cluster import LOCAL, Profile, load_profile
from xtrain.dispatch.job_graph import JOBS, PREPARE, REPORT, JobNode
from xtrain.dispatch.job_spec import JobSpec
from xtrain.dispatch.node_check import MEMORY, bad_nodes
from xtrain.dispatch.submissions import JobFolder, Submission
from xtrain.dispatch.submit_job import job_comment
from xtrain.errors import EXIT_FAILED, counted
from xtrain.files import make_folder, write_text
from xtrain.runner import look_at_rows
from xtrain.source import snapshot
from xtrain.starting import plain_arguments
from xtrain.study import load, resolved
from xtrain.submitting import (
    DONE,
    FAILED,
    JOINED,
    LATER,
    LEFT_OUT,
    SUBMIT,
    Decision,
    Plan,
    held_for_submitting,
    plan_submission,
    plan_unseen,
    submit,
    waits_for,
)
from xtrain.tasks import catalog
from xtrain.tracking import Progress

STYLES = {DONE: "green", JOINED: "cyan", SUBMIT: "bold", FAILED: "red", LEFT_OUT: "red", LATER: "yellow"}
FEW = 4  # examples of a batch for a GPU: with fewer it waits for its kernels' launches, about 1,000 a micro-batch
LOGIN_NODE_CORES = 4  # that a check of data may take there


@dataclass(frozen=True)
class SubmitOptions:
    """Submit a study to a cluster: one job a phase. Given again, it submits only what is missing."""

    study: Options
    cluster: Annotated[str, tyro.conf.arg(metavar="NAME|FILE")]
    """A profile of slurm/clusters/, or a TOML file of your own."""
    dry_run: Flag = False
    """Print the jobs, their batch scripts and what they would cost at most; submit nothing."""
    scripts: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """With --dry-run: write every job's batch script into this folder."""
    snapshot: Flag = False
    """Let the jobs run from a copy of the code, in OUT/code/: what is edited meanwhile does not reach them."""
    follow: Flag = False
    """Show the jobs until all have ended. Leaving with Ctrl-C leaves the jobs alone."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    given = plain_arguments(sys.argv[1:] if arguments is None else arguments)
    return run_command(lambda: _begin(tyro.cli(SubmitOptions, args=given, prog="slurm/submit.py"), given))


def _begin(options: SubmitOptions, given: Sequence[str]) -> int:
    """Submit; from the snapshot where one is wanted, as each job runs the code that has submitted it."""
    if options.snapshot:
        folder = snapshot(options.study.out)
        words = [word for word in given if word != "--snapshot"]
        os.execv(sys.executable, [sys.executable, str(folder / "slurm" / "submit.py"), *words])
    return _submit(options)


def _submit(options: SubmitOptions) -> int:
    console = new_console()
    profile = load_profile(options.cluster)
    slurm.ask_of(profile.cluster)
    os.environ["XTRAIN_CACHE"] = str(cache_folder(profile))  # what is downloaded now is what the jobs will find
    study = options.study
    mapping = resolved(study.study, overrides=study.settings, variant=study.variant)
    text = tomli_w.dumps({key: value for key, value in mapping.items() if key != "variants"})
    planned = _planner(study, profile, text, console)
    if options.dry_run:
        plan = planned()
        print_plan(plan, console, dry=True)
        _print_scripts(plan, console, options.scripts)
        return 0
    with held_for_submitting(study.out):
        plan = planned()
        print_plan(plan, console, dry=False)
        with Progress("submit", len(plan.of(SUBMIT)), "job") as progress:
            new = submit(plan, said=lambda one: progress.advance(1))
    _print_end(plan, new, console, study)
    return _follow(plan, console) if options.follow else 0


def _planner(study: StudyOptions, profile: Profile, text: str, console: Console) -> Callable[[], Plan]:
    """How the submission is decided, once its data have been looked at: here, or where they are seen."""
    if study.data is None or profile.is_local or _sees(study.data):
        job = study.open(complete=False)
        look_at_rows(job, console, LOGIN_NODE_CORES)
        return lambda: plan_submission(job, profile, text)
    data = study.data
    known = load(study.study, overrides=study.settings, variant=study.variant, known_tasks=tuple(catalog.load()))
    said = (
        f"--data {data}: not seen on this machine. The job {PREPARE} looks at it on a node; if all is as it should be, "
        "it submits the others, else it ends with the list of problems"
    )
    console.print(said, style="yellow", highlight=False, markup=False, soft_wrap=True)
    return lambda: plan_unseen(known, text, data, study.out, profile)


def _sees(folder: Path) -> bool:
    """Whether there is anything in ``folder``: where it is mounted on the nodes alone, it may be there and empty."""
    return folder.is_dir() and any(folder.iterdir())


def print_plan(plan: Plan, console: Console, *, dry: bool) -> None:
    """A line a job: what becomes of it, what it waits for, what it asks for."""
    profile = plan.profile
    table = Table(
        title=f"{plan.graph.study} on {profile.name}: {counted(len(plan.decisions), 'job')}", title_justify="left"
    )
    for column in ("", "job", "starts from", "lane", "asks for", "at most"):
        table.add_column(column, overflow="fold")
    for decision in plan.decisions:
        table.add_row(*_row(plan, decision), style=None if decision.what == SUBMIT else "dim")
    console.print(table)
    for decision in plan.decisions:
        if decision.why and decision.what in (FAILED, LEFT_OUT, SUBMIT):
            console.print(f"{decision.node.job_name}: {decision.why}", highlight=False, markup=False, soft_wrap=True)
    for bad in bad_nodes(plan.out):
        said = f"not on {bad.node}: {bad.reason} (delete {plan.out / MEMORY} to use it again)"
        console.print(said, style="yellow", highlight=False, soft_wrap=True)
    for line in too_small(plan):
        console.print(line, style="yellow", highlight=False, soft_wrap=True)
    counts = Counter(decision.what for decision in plan.decisions)
    parts = [f"{counts[what]} {_word(what, dry)}" for what in STYLES if counts[what]]
    running = "1 at a time" if profile.limits.running == 1 else f"at most {profile.limits.running} at a time"
    console.print(f"{', '.join(parts)}; {running}", highlight=False)
    console.print(cost(plan), highlight=False)


def _word(what: str, dry: bool) -> str:
    return {SUBMIT: "would be submitted" if dry else "to submit", JOINED: "in the queue already"}.get(what, what)


def _row(plan: Plan, decision: Decision) -> list[str]:
    node, asked = decision.node, plan.profile.resources(decision.node.kind, decision.node.batch)
    place = plan.placements.get(node.hash)
    lane = str(place.lane + 1) if place else str(decision.lane + 1) if decision.lane >= 0 else ""
    parents = [plan.graph.by_hash[parent] for parent in node.parents]
    starts = "whatever the others give" if node.kind == REPORT else ", ".join(parent.name for parent in parents)
    gpus = (
        f" x {counted(asked.gpus_per_node, 'GPU')}"
        if asked.gpus_per_node
        else f" x {counted(asked.ranks_per_node, 'task')}"
    )
    what = f"[{STYLES[decision.what]}]{decision.what}[/]" + (f" {decision.job}" if decision.job else "")
    hours = _hours(asked.hours) if decision.what in (SUBMIT, LATER) else ""
    return [what, node.job_name, starts, lane, f"{counted(asked.nodes, 'node')}{gpus}", hours]


def too_small(plan: Plan) -> list[str]:
    """A line for each kind of phase and size of its batches that leaves a GPU next to nothing to do."""
    found: Counter[tuple[str, int, int]] = Counter()
    for decision in plan.of(SUBMIT, LATER):
        node = decision.node
        asked = plan.profile.resources(node.kind, node.batch)
        if node.batch and asked.gpus_per_node and node.batch < FEW * asked.num_ranks > FEW:
            found[node.kind, node.batch, asked.num_ranks] += 1
    return [
        f"{counted(number, f'{kind} phase')}: batches of {counted(batch, 'example')} on {counted(ranks, 'GPU')} leave "
        f"{batch / ranks:.3g} to each, and launching kernels takes longer than running them; "
        f"examples_per_rank = {FEW} in [job.{kind}] asks for fewer, and more phases run side by side"
        for (kind, batch, ranks), number in found.items()
    ]


def _hours(hours: float) -> str:
    return f"{hours:g} h" if hours >= 1 else f"{hours * 60:.0f} min" if hours else "no limit"


def cost(plan: Plan) -> str:
    """What the new jobs, and those that are left for later, cost if each uses all of its time: an upper bound."""
    asked = [plan.profile.resources(decision.node.kind, decision.node.batch) for decision in plan.of(SUBMIT, LATER)]
    gpu = sum(resources.gpu_hours for resources in asked)
    cpu = sum(resources.cpu_hours for resources in asked if not resources.gpus_per_node)
    prices = plan.profile.cost
    line = f"at most {gpu:,.0f} GPU-hours and {cpu:,.1f} CPU-hours of jobs without GPUs"
    money = gpu * prices.gpu_hour + cpu * prices.cpu_hour
    return line + (f": {money:,.2f} {prices.currency}".rstrip() if money else "")


def _print_scripts(plan: Plan, console: Console, folder: Path | None) -> None:
    """One batch script of each kind, or all of them into a folder."""
    if plan.profile.scheduler == LOCAL:
        console.print("no batch scripts: this profile has no SLURM")
        return
    seen = set()
    names = {d.node.hash: d.job or f"JOB-{d.node.hash}" for d in plan.of(JOINED, SUBMIT)}
    for decision in plan.of(SUBMIT):
        node = decision.node
        if node.kind not in seen:
            console.rule(f"batch script of {node.job_name}")
            console.print(_script(plan, node, names), highlight=False, markup=False, soft_wrap=True)
        seen.add(node.kind)
        if folder is not None:
            write_text(make_folder(folder) / f"{node.job_name.replace('/', '.')}.sh", _script(plan, node, {}))
    if folder is not None:
        console.print(
            f"{counted(len(plan.of(SUBMIT)), 'script')} in {folder}, without their dependencies", highlight=False
        )


def _script(plan: Plan, node: JobNode, names: dict[str, str]) -> str:
    dependency = str(waits_for(plan, node, names)) if names else ""
    folder = JobFolder(node.run(plan.out))
    command = JobSpec.of(plan.graph, node, plan.profile, plan.out).command()
    return script_text(
        plan.profile, node.kind, command, batch=node.batch, job_name=node.job_name, logs=folder.submitit,
        dependency=dependency, comment=job_comment(folder, node),
    )  # fmt: skip


def _print_end(plan: Plan, new: Sequence[Submission], console: Console, study: StudyOptions) -> None:
    if plan.profile.is_local and plan.of(SUBMIT):
        log = plan.out / JOBS / f"{plan.graph.study}.log"
        jobs = "1 job runs" if len(plan.of(SUBMIT)) == 1 else f"{len(plan.of(SUBMIT))} jobs run"
        console.print(f"{jobs} in the background on this machine; {log}", highlight=False)
    elif new:
        first, last = new[0].job, new[-1].job
        console.print(f"submitted {counted(len(new), 'job')}: {first} to {last}", style="bold", highlight=False)
    else:
        console.print("nothing to submit", style="bold")
    late = plan.of(LATER)
    if late:
        report = plan.graph.nodes[-1]
        how = "give this command again" if late[-1].node is report else f"{report.job_name} submits them"
        jobs = "1 job is" if len(late) == 1 else f"{len(late)} jobs are"
        console.print(late[-1].why, highlight=False, markup=False, soft_wrap=True)
        console.print(f"{jobs} left for later: {how} when there is room", highlight=False)
    console.print(f"watch:  python -m xtrain status {study.out}", highlight=False)
    console.print(f"ask:    python -m xtrain why PHASE --out {study.out}", highlight=False)


def _follow(plan: Plan, console: Console) -> int:
    from xtrain.watching.follow import follow

    return EXIT_FAILED if follow(plan.out, plan.graph, console) else 0
