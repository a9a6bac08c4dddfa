"""A whole study on this machine, phase after phase: prepare, train, evaluate, report."""

from __future__ import annotations

import contextlib
import re
import signal
import tempfile
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from xtrain.data import Shard, prepare
from xtrain.data.account import Account
from xtrain.data.checking import Checked, raise_problems
from xtrain.dispatch.attempts import FAILED, KILLED, Attempts
from xtrain.dispatch.batch_script import PROJECT as PROJECT
from xtrain.dispatch.job_graph import PREPARE, REPORT, JobGraph, JobNode, graph_file
from xtrain.dispatch.local import Outcome, RankFailure, RanksPreempted, python, run_ranks
from xtrain.dispatch.signals import Stopped, signal_numbers, stopping_on
from xtrain.errors import EXIT_FAILED, EXIT_FENCED, Problem, UserError, counted, listed, raise_if_any
from xtrain.files import content_hash, make_folder, read_json, write_json
from xtrain.graph import EVALUATE, Graph, Phase, expand
from xtrain.model.bases import resolve, tokenizer_folder
from xtrain.model.config_file import read_config
from xtrain.phase import PhaseFile, ShardEntry
from xtrain.phase.disk import check_disk
from xtrain.phase.keeping import drop_evaluated, missing_file
from xtrain.planning.disk import disk_plan
from xtrain.report.accounts import language_table, print_accounts
from xtrain.report.study_report import report_study
from xtrain.run_directory import RunDirectory
from xtrain.study import Base, Study, load
from xtrain.study_data import PREPARED, check_data, prepare_data, seen_before
from xtrain.tasks import catalog
from xtrain.tasks.sources import misplaced, no_folder
from xtrain.training.engine import resolve_ds_config


class PhaseFailed(Exception):
    """A phase's ranks ended badly; they have said why themselves."""

    def __init__(self, phase: Phase, failure: RankFailure) -> None:
        self.phase, self.failure = phase, failure
        lines = failure.last_lines()
        super().__init__(
            f"phase {phase.name} failed: {failure}" + (f"\nthe end of {failure.log}:\n{lines}" if lines else "")
        )


class StudyFailed(Exception):
    """All that could be run was, but phases failed as experiments: their training collapsed."""


@dataclass(frozen=True)
class Job:
    """What the user asked for."""

    study: Study
    graph: Graph
    out: Path
    data_root: Path | None
    no_base: Mapping[Base, Problem] = field(default_factory=dict)
    """The bases that are not at hand, where that was allowed, and why: no phase of theirs has its own hash."""


def open_study(
    path: Path,
    *,
    data_root: Path | None,
    out: Path,
    overrides: Sequence[str] = (),
    variant: str = "",
    complete: bool = True,
    base: bool = True,
    may_lack: Collection[str] = (),
) -> Job:
    """Read a study and expand it; every mistake in it is one :class:`UserError`.

    So is all data that is not there, unless it may be in``complete``: then the graph knows what is missing. Without
    its ``base`` a study can be expanded as well, but no phase has its own hash; nor without one of ``may_lack``
    (names of bases) that cannot be had.
    """
    study = load(path, overrides=overrides, variant=variant, known_tasks=tuple(catalog.load()))
    specs = catalog.load(study.task, where=str(path))
    if data_root is not None and not data_root.is_dir():
        raise UserError(no_folder(data_root))
    off = misplaced([specs[name] for name in study.tasks], data_root)
    if off is not None:
        raise UserError(off)
    bases: dict[Base, Path] = {}
    no_base: dict[Base, Problem] = {}
    for one in study.bases if base else ():
        try:
            bases[one] = resolve(one.name, one.revision)
        except UserError as error:
            if one.name not in may_lack:
                raise
            no_base[one] = error.problems[0]
    graph = expand(study, specs, bases, data_root)
    if complete:
        raise_problems(graph.missing)
    if base:
        _check_lengths(graph)
    graph.find_places(out)
    return Job(study, graph, out, data_root, no_base)


def check_only(job: Job, console: Console) -> None:
    """Read and check all data of the study, and say what the tokenizer makes of it; raises one :class:`UserError`.

    Where the tokenizer is not to be had, how much data there is.
    """
    checked = check_data(job.graph, job.data_root, job.out, console)
    try:
        tokenizers = {base: tokenizer_folder(base.name, base.revision) for base in job.study.bases}
    except UserError as error:
        _print_checked(job, checked, console)
        why = f"what a tokenizer makes of them is not known: {error}"
        console.print(why, highlight=False, markup=False, soft_wrap=True)
        return
    phases = job.graph.phases.values()
    with _writable_folder(job.out) as out:
        accounts = prepare_data(job.graph, job.data_root, out, console, phases, tokenizers)
    console.print(f"data of {job.study.name}: as it should be", highlight=False, markup=False, style="bold")
    console.print(language_table(accounts, console))
    print_accounts(accounts, console)


@contextlib.contextmanager
def _writable_folder(out: Path) -> Iterator[Path]:
    """``out``, so that a run finds what was tokenised; where it may not be written, a folder for the time being."""
    try:
        make_folder(out)
        RunDirectory(out).writable()
    except UserError:
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder)
        return
    yield out


def _print_checked(job: Job, checked: Sequence[Checked], console: Console) -> None:
    table = Table("task", "split", "languages", "rows", "examples", title=f"data of {job.study.name}: as it should be")
    groups: dict[tuple[str, str], list[Checked]] = {}
    for one in checked:
        groups.setdefault((one.data.spec.name, one.data.split), []).append(one)
    for (task, split), sets in groups.items():
        rows, examples = sum(one.rows for one in sets), sum(one.examples for one in sets)
        table.add_row(task, split, listed(one.data.language for one in sets), f"{rows:,}", f"{examples:,}")
    console.print(table)


def _check_lengths(graph: Graph) -> None:
    """Raise a :class:`UserError` if a recipe asks for longer sequences than the base has positions for."""
    most = {base: read_config(folder).max_length for base, folder in graph.bases.items()}
    longer = {
        (reading.max_length, phase.base): phase.name
        for phase in graph.phases.values()
        for reading in phase.readings
        if reading.max_length > most.get(phase.base, reading.max_length)
    }
    raise_if_any(
        Problem(
            f"recipe of {name}: max_length",
            f"{length} is more than the base model in {graph.bases[base]} has positions for",
            allowed=f"at most {most[base]}",
            remedy="lower max_length in the study's recipe",
        )
        for (length, base), name in longer.items()
    )


def run_study(job: Job, *, ranks: int, console: Console) -> Path:
    """Run what is not done yet and write the report; returns the path of the report.

    Raises :class:`PhaseFailed` where a phase ends badly and :class:`Stopped` upon a preemption signal; what was
    finished before stays finished. A phase whose training collapsed does not end the study: what starts from it is
    left out, and :class:`StudyFailed` is raised at the end.
    """
    names = job.study.engine.preemption_signals
    signal_numbers(names)  # a wrong one is found now, not by the ranks
    make_folder(job.out)
    RunDirectory(job.out).writable()
    failed: dict[str, str] = {}  # hash -> name of the failed phase that it is or starts from
    with stopping_on(names):
        phases = list(job.graph.phases.values())
        to_do = look_at_rows(job, console)
        begin_again(job, console)
        _write_graph(job)
        drop_evaluated(job.out, job.study.engine.keep_encoders)  # of what was done before, perhaps with another choice
        _prepare(job, to_do, console)
        for line in disk_plan(job.graph, job.out, job.data_root).lines(job.study.engine.keep_encoders):
            console.print(line, highlight=False, markup=False, soft_wrap=True)
        for number, phase in enumerate(phases, 1):
            head = f"[{number}/{len(phases)}] {phase.kind:<12} {phase.name}"
            reason = _not_to_run(phase, phase.run_directory(job.out), failed)
            if reason:
                console.print(f"{head}  {reason}", highlight=False, markup=False, soft_wrap=True)
            elif not _run_phase(job, phase, ranks, console, head):
                failed[phase.hash] = phase.name
        path = _report(job, failed, console)
    if failed:
        collapsed = listed(sorted(set(failed.values())))
        raise StudyFailed(f"failed: {collapsed}; {len(failed)} of {counted(len(phases), 'phase')} have no result")
    assert path is not None
    return path


def to_make_again(job: Job) -> dict[str, str]:
    """The finished phases whose encoder is gone though a phase without a result starts from it: hash -> why.

    Where nothing is left to start from one, it is not missed: ``engine.keep_encoders`` may have let it go.
    """
    found: dict[str, str] = {}
    for phase in reversed(job.graph.phases.values()):  # one that is made again needs its own start
        run = phase.run_directory(job.out)
        if not phase.parent or phase.parent in found or (phase.hash not in found and (run.done or run.failed)):
            continue
        gone = missing_file(job.graph.phases[phase.parent].run_directory(job.out))
        if gone is not None:
            found[phase.parent] = f"done before, made again: {gone} is gone, and {phase.kind} {phase.name} starts there"
    return found


def begin_again(job: Job, console: Console) -> None:
    """Mark as not done what is to be made again, and say so."""
    for key, why in to_make_again(job).items():
        phase = job.graph.phases[key]
        console.print(f"{phase.kind} {phase.name}: {why}", highlight=False, markup=False, soft_wrap=True)
        phase.run_directory(job.out).done_marker.unlink(missing_ok=True)


def look_at_data(job: Job, console: Console) -> None:
    """Check and prepare what the phases read that have no result yet."""
    _prepare(job, look_at_rows(job, console), console)


def look_at_rows(job: Job, console: Console, workers: int | None = None) -> list[Phase]:
    """Check what the phases read that have no result yet; returns these."""
    failed: dict[str, str] = {}
    again = to_make_again(job)
    every = job.graph.phases.values()
    phases = [p for p in every if p.hash in again or not _not_to_run(p, p.run_directory(job.out), failed)]
    check_data(job.graph, job.data_root, job.out, console, phases, workers)
    return phases


def _prepare(job: Job, phases: Sequence[Phase], console: Console) -> None:
    """Tokenise what ``phases`` read, and say what became of it."""
    accounts = prepare_data(job.graph, job.data_root, job.out, console, phases, job.graph.bases)
    print_accounts(accounts, console)


def _write_graph(job: Job) -> None:
    """For those who watch; the graph of a submission with the same phases says more, and stays."""
    graph, path = job_graph(job, {}, around=False), graph_file(job.out, job.study.name)
    known = {node.hash for node in JobGraph.read(path).nodes} if path.is_file() else set()
    if not {node.hash for node in graph.nodes} <= known:
        graph.write(job.out)


def job_graph(job: Job, profile: Mapping[str, Any], *, around: bool) -> JobGraph:
    """A study as jobs, one a phase; ``around`` them one that prepares the data and one that writes the report."""
    study, graph = job.study, job.graph
    whole = content_hash(sorted(graph.phases))
    title = job_title(study.name)
    first = JobNode(whole, PREPARE, PREPARE, f"{title}/{PREPARE}", f"{PREPARE}/{title}-{whole}")
    nodes = [first] if around else []
    for phase in graph.phases.values():
        parents = (phase.parent,) if phase.parent else (first.hash,) if around else ()
        batch = 0 if phase.kind == EVALUATE else phase.recipe.batch_size
        name = _job_name(title, phase)
        nodes.append(JobNode(phase.hash, phase.kind, phase.name, name, phase.folder, parents, batch))
    if around:
        others = tuple(node.hash for node in nodes[1:])
        key = f"{REPORT}-{whole}"
        nodes.append(JobNode(key, REPORT, REPORT, f"{title}/{REPORT}", f"{REPORT}/{title}-{whole}", others))
    return JobGraph(study.name, tuple(nodes), profile, str(job.data_root.absolute()) if job.data_root else "")


def job_title(study: str) -> str:
    """A study's name as jobs and folders have it."""
    return re.sub(r"[^A-Za-z0-9_.+-]+", "-", study)


def _job_name(title: str, phase: Phase) -> str:
    """``phang2020/mnli-s1/xnli`` for the target phase ``mnli/xnli-s1``, ``.../xnli/evaluate`` for its evaluation."""
    row, _, task = phase.name.removesuffix(f"-s{phase.seed}").partition("/")
    parts = [title, f"{row}-s{phase.seed}", *([task] if task else []), *([EVALUATE] if phase.kind == EVALUATE else [])]
    return "/".join(re.sub(r"[^A-Za-z0-9_.+-]+", "-", part) for part in parts)


def _not_to_run(phase: Phase, run: RunDirectory, failed: dict[str, str]) -> str:
    """Why the phase is not run, or an empty string; notes in ``failed`` what has no result."""
    if run.done:
        run.drop_checkpoints()  # of a start that was killed when it was done
        return f"done before, kept: {run.path}"
    if phase.parent in failed:
        failed[phase.hash] = failed[phase.parent]
        return f"left out: it starts from {failed[phase.parent]}, which failed"
    if run.failed:
        failed[phase.hash] = phase.name
        why = read_json(run.failed_marker)
        return (
            f"failed before, not run again: {why['reason']} (step {why['step']}). To do: change its recipe "
            f'([recipe.{phase.kind}]: learning_rate, warmup_ratio, on_collapse = "reseed"), '
            f"or delete {run.failed_marker} to repeat it as it is"
        )
    return ""


def _run_phase(job: Job, phase: Phase, ranks: int, console: Console, head: str) -> bool:
    """Run one phase; False where its training failed as an experiment."""
    run = phase.run_directory(job.out)
    console.print(f"{head}  {run.path}", highlight=False, markup=False, style="bold")
    with run.create().held():
        started = time.monotonic()
        write_phase(job, phase, console)
        check_disk(run, PhaseFile.read(run))
        newest = Attempts(run).newest()
        command = python(str(PROJECT / "train.py"), str(run.path))
        outcome = run_ranks(command, ranks, run.logs, job.study.engine.preemption_signals)
        _note_killed(run, newest, outcome)
    if isinstance(outcome, RankFailure) and outcome.code != EXIT_FENCED and run.done:
        run.drop_checkpoints()
        console.print(f"      {outcome}: but the phase was done, nothing is lost", highlight=False, markup=False)
        outcome = RanksPreempted(outcome.signal_name) if outcome.signal_name else None
    if isinstance(outcome, RanksPreempted):
        raise Stopped(_saved(phase, run, outcome))
    if outcome is not None and outcome.code == EXIT_FENCED:
        what = "another command or job has begun this phase anew, and goes on with it"
        raise UserError(
            Problem(str(run.path), what, remedy="nothing, or run the same command again when that has ended")
        )
    if outcome is not None and outcome.code != EXIT_FAILED:
        raise PhaseFailed(phase, outcome)
    if outcome is not None:
        why = read_json(run.failed_marker)["reason"] if run.failed else str(outcome)
        console.print(f"      failed: {why}; what does not start from it goes on", highlight=False, markup=False)
        if outcome.signal_name:
            raise Stopped(f"{outcome.signal_name}: phase {phase.name} failed; the same command goes on with the others")
        return False
    console.print(f"      finished in {time.monotonic() - started:,.0f} s", highlight=False)
    return True


def _note_killed(run: RunDirectory, newest: int, outcome: Outcome) -> None:
    """Write down that a rank was killed, which nobody else has seen; ``newest`` is the attempt before this start."""
    if not isinstance(outcome, RankFailure) or outcome.code >= 0 or run.done:
        return
    attempts, how = Attempts(run), KILLED if outcome.code == -signal.SIGKILL else FAILED
    with contextlib.suppress(UserError, OSError):  # the disk is full, or away
        number = attempts.newest()
        number = number if number > newest else attempts.claim().number  # killed before it could begin
        attempts.end(number, how, 128 - outcome.code, str(outcome))


def _saved(phase: Phase, run: RunDirectory, outcome: RanksPreempted) -> str:
    """One line: what a preempted phase goes on from."""
    head = f"{outcome.signal_name}: " if outcome.signal_name else ""
    if run.done:
        return f"{head}phase {phase.name} is finished; the same command goes on with the next"
    folders = run.checkpoints.iterdir() if run.checkpoints.is_dir() else []
    steps = [int(match[1]) for folder in folders if (match := re.fullmatch(r"step-(\d+)", folder.name))]
    where = f"saved at step {max(steps)}" if steps else "stopped with nothing to save yet"
    return f"{head}phase {phase.name} {where}; the same command goes on from there"


def _report(job: Job, failed: dict[str, str], console: Console) -> Path | None:
    """The study's report, unless nothing was evaluated since it all failed."""
    evaluated = any(p.kind == EVALUATE and p.run_directory(job.out).done for p in job.graph.phases.values())
    return report_study(job.graph, job.out, console) if evaluated or not failed else None


def write_phase(job: Job, phase: Phase, console: Console) -> RunDirectory:
    """Prepare the phase's data and write its ``phase.toml`` and ``ds_config.json``."""
    study, graph = job.study, job.graph
    run = phase.run_directory(job.out).create()
    names = {*phase.tasks, *(reading.member for reading in phase.readings)}
    names |= {phase.trained_task} if phase.trained_task else set()
    shards = list(_prepared(job, phase))
    write_json(run.data_file, [_account(job, phase, entry, shard).as_json() for entry, shard in shards])
    PhaseFile(
        kind=phase.kind,
        name=phase.name,
        hash=phase.hash,
        study=study.name,
        seed=phase.seed,
        base=phase.base.name,
        base_folder=str(graph.base_folder(phase).absolute()),
        tasks=phase.tasks,
        levels_up=len(Path(phase.folder).parts),
        parent=graph.phases[phase.parent].folder if phase.parent else "",
        trained_task=phase.trained_task or "",
        head_from=phase.head_from or "",
        recipe=phase.recipe,
        engine=study.engine,
        evaluation=study.evaluation,
        tracking=study.tracking,
        shards=tuple(entry for entry, _ in shards),
        task={name: graph.specs[name] for name in sorted(names)},
    ).write(run)
    if phase.kind != EVALUATE:
        config, notes = resolve_ds_config(study.engine, PROJECT / "ds_configs", phase.recipe.max_grad_norm)
        for note in notes:
            console.print(f"      {note}", highlight=False, markup=False)
        write_json(run.ds_config, config)
    return run


def _account(job: Job, phase: Phase, entry: ShardEntry, shard: Shard) -> Account:
    account = Account.of(shard.manifest)
    if phase.kind != EVALUATE or entry.role != EVALUATE:
        return account
    return replace(account, seen=seen_before(job.graph, phase, shard, job.data_root, job.out))


def _prepared(job: Job, phase: Phase) -> Iterator[tuple[ShardEntry, Shard]]:
    """The shards that the phase reads; one that is not there any more is made again."""
    for reading in phase.readings:
        shard = prepare(
            job.graph.specs[reading.member], reading.split, reading.language, job.graph.base_folder(phase),
            reading.max_length, job.data_root, job.out / PREPARED, reading.sample,
        )  # fmt: skip
        path = str(shard.path.relative_to(job.out))
        yield ShardEntry(reading.task, reading.member, reading.role, reading.language, path), shard
