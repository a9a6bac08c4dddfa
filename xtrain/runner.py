"""A whole study on this machine, phase after phase: prepare, train, evaluate, report."""

from __future__ import annotations

import contextlib
import fcntl
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

import xtrain
from xtrain.data import prepare
from xtrain.dispatch.local import RankFailure, python, run_ranks
from xtrain.errors import Problem, UserError, raise_if_any
from xtrain.files import make_folder, write_json, writing
from xtrain.graph import EVALUATE, Graph, Phase, expand
from xtrain.model.loading import resolve
from xtrain.phase import PhaseFile, ShardEntry
from xtrain.report.study_report import report_study
from xtrain.run_directory import RunDirectory
from xtrain.study import Study, load
from xtrain.tasks import catalog
from xtrain.training.engine import resolve_ds_config

PROJECT = Path(xtrain.__file__).resolve().parent.parent  # where train.py and ds_configs/ stand
PREPARED = "prepared"  # the output folder's folder of tokenised shards


class PhaseFailed(Exception):
    """A phase's ranks ended badly; they have said why themselves."""

    def __init__(self, phase: Phase, failure: RankFailure) -> None:
        self.phase, self.failure = phase, failure
        lines = failure.last_lines()
        super().__init__(
            f"phase {phase.name} failed: rank {failure.rank} ended with exit code {failure.code}"
            + (f"; the end of {failure.log}:\n{lines}" if lines else "")
        )


@dataclass(frozen=True)
class Job:
    """What the user asked for."""

    study: Study
    graph: Graph
    out: Path
    data_root: Path | None


def open_study(
    path: Path, *, data_root: Path | None, out: Path, overrides: Sequence[str] = (), variant: str = ""
) -> Job:
    """Read a study and expand it; every mistake in it is one :class:`UserError`."""
    study = load(path, overrides=overrides, variant=variant, known_tasks=tuple(catalog.load()))
    specs = catalog.load(study.task, where=str(path))
    if data_root is not None and not data_root.is_dir():
        raise UserError(
            Problem(
                f"--data {data_root}",
                "no such folder",
                "the folder that holds xnli/, pawsx/, ...",
                "check the path",
            )
        )
    base_folder = resolve(study.base, study.revision)
    return Job(study, expand(study, specs, base_folder, data_root), out, data_root)


def run_study(job: Job, *, ranks: int, console: Console) -> Path:
    """Run what is not done yet and write the report; returns the path of ``report.html``.

    Raises :class:`PhaseFailed` where a phase ends badly; what was finished before stays finished.
    """
    _check_ranks(job, ranks)
    make_folder(job.out)
    RunDirectory(job.out).writable()
    phases = list(job.graph.phases.values())
    for number, phase in enumerate(phases, 1):
        run = phase.run_directory(job.out)
        head = f"[{number}/{len(phases)}] {phase.kind:<12} {phase.name}"
        if run.done:
            console.print(f"{head}  done before, kept: {run.path}", highlight=False, markup=False)
            continue
        console.print(f"{head}  {run.path}", highlight=False, markup=False, style="bold")
        with _locked(run.create()):
            started = time.monotonic()
            write_phase(job, phase, console)
            failure = run_ranks(python(str(PROJECT / "train.py"), str(run.path)), ranks, run.logs)
            if failure is not None:
                raise PhaseFailed(phase, failure)
            console.print(f"      finished in {time.monotonic() - started:,.0f} s", highlight=False)
    return report_study(job.graph, job.out, console)


def write_phase(job: Job, phase: Phase, console: Console) -> RunDirectory:
    """Prepare the phase's data and write its ``phase.toml`` and ``ds_config.json``."""
    study, graph = job.study, job.graph
    run = phase.run_directory(job.out).create()
    names = {*phase.tasks, *(reading.member for reading in phase.readings)}
    names |= {phase.trained_task} if phase.trained_task else set()
    PhaseFile(
        kind=phase.kind,
        name=phase.name,
        hash=phase.hash,
        study=study.name,
        seed=phase.seed,
        base=study.base,
        base_folder=str(graph.base_folder.absolute()),
        tasks=phase.tasks,
        levels_up=len(Path(phase.folder).parts),
        parent=graph.phases[phase.parent].folder if phase.parent else "",
        trained_task=phase.trained_task or "",
        head_from=phase.head_from or "",
        recipe=phase.recipe,
        engine=study.engine,
        evaluation=study.evaluation,
        tracking=study.tracking,
        shards=tuple(_prepared(job, phase, console)),
        task={name: graph.specs[name] for name in sorted(names)},
    ).write(run)
    if phase.kind != EVALUATE:
        config, notes = resolve_ds_config(study.engine, PROJECT / "ds_configs", phase.recipe.max_grad_norm)
        for note in notes:
            console.print(f"      {note}", highlight=False, markup=False)
        write_json(run.ds_config, config)
    return run


def _prepared(job: Job, phase: Phase, console: Console) -> Iterator[ShardEntry]:
    """Tokenise what the phase reads, unless that is done."""
    with console.status(f"preparing data of {phase.name}") if console.is_terminal else contextlib.nullcontext():
        for reading in phase.readings:
            shard = prepare(
                job.graph.specs[reading.member], reading.split, reading.language, job.graph.base_folder,
                reading.max_length, job.data_root, job.out / PREPARED, reading.limit,
            )  # fmt: skip
            path = str(shard.path.relative_to(job.out))
            yield ShardEntry(reading.task, reading.member, reading.role, reading.language, path)


def _check_ranks(job: Job, ranks: int) -> None:
    sizes = {
        phase.recipe.batch_size: phase.name
        for phase in job.graph.phases.values()
        if phase.kind != EVALUATE and phase.recipe.batch_size % ranks
    }
    raise_if_any(
        Problem(
            f"--ranks {ranks}",
            f"cannot divide the batch of {size} examples of phase {name}",
            allowed=", ".join(str(n) for n in range(1, size + 1) if size % n == 0),
            remedy="choose one of these, or set recipe.*.batch_size to a multiple",
        )
        for size, name in sizes.items()
    )


@contextlib.contextmanager
def _locked(run: RunDirectory) -> Iterator[None]:
    """Hold the run directory, so that two commands never write into one run."""
    path = run.path / ".lock"
    with writing(path), open(path, "w", encoding="utf-8") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                Problem(
                    str(run.path),
                    "another command is running this phase",
                    remedy="wait for it, or use another --out",
                )
            ) from None
        yield
