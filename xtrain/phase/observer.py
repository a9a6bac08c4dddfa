"""Where a phase's news go: the record first, then W&B and the progress bar. Rank 0 only."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from xtrain.dispatch.rendezvous import Ranks
from xtrain.errors import UserError
from xtrain.phase.file import PhaseFile
from xtrain.run_directory import RunDirectory
from xtrain.tracking import Progress, Recorder, WandbRun
from xtrain.training.preemption import Preempted

# Events that whoever watches should not have to look up. What is not here is in events.jsonl alone.
SPOKEN = {
    "resume": "goes on from step {step} ({checkpoint}, ranks that wrote it: {written_by})",
    "rounds_otherwise": "note: other than before: {changed}; so the run ends as without a restart up to rounding only",
    "checkpoint_broken": "warning: {checkpoint} is damaged and was set aside as {moved_to}: {reason}",
    "passed_over": "warning: {checkpoint} is passed over: the best weights that it needs ({missing}) are lost",
    "best_lost": "warning: the best weights so far ({missing}) are lost; going on from {checkpoint} without them",
    "save_failed": "warning: the save of step {step} failed: {reason}; training goes on, next try at step {next_try}",
    "not_deleted": "warning: an old checkpoint could not be deleted: {reason}",
    "step_skipped": "warning: step {step} was skipped, its gradient is not finite ({in_all} so far)",
    "data_worker_died": "warning: data worker {pid} ended ({end}) at step {step}; another one takes over",
    "collapse": "warning: training has collapsed: {reason}",
    "reseed": "begins anew with seed {seed} (attempt {attempt} of {max_reseeds} that the recipe allows)",
}


class PhaseObserver:
    """Told by the loop and the evaluation; silent on every rank but the first, and once a newer attempt has begun."""

    def __init__(self, run: RunDirectory, phase: PhaseFile, ranks: Ranks, holds: Callable[[], bool]) -> None:
        """``holds`` says whether no newer attempt has begun."""
        self._run, self._phase, self._first = run, phase, ranks.is_first
        self._holds = holds
        self.record = Recorder(run, ranks.rank, on_trouble=self._trouble)
        self.wandb: WandbRun | None = None
        self._progress: Progress | None = None
        self._done = 0
        self._shown: tuple[str, int, str] | None = None

    def __enter__(self) -> PhaseObserver:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        fenced = self._first and error is not None and not self._holds()
        if error is not None and not fenced and not isinstance(error, Preempted):  # that has its own event
            self.event("failed", error=f"{type(error).__name__}: {error}"[:2000])
        self.end_progress()
        if self.wandb is not None and fenced:
            self.wandb.abandon()
        elif self.wandb is not None:
            self.wandb.finish(failed=error is not None)
        with contextlib.suppress(UserError):  # lines that could not be written either are lost with this process
            self.record.close()

    def start_wandb(self, config: Mapping[str, Any]) -> None:
        """Begin (or go on with) the phase's W&B run; never raises, never waits."""
        if self._first and self.wandb is None:
            phase = self._phase
            self.wandb = WandbRun.start(
                self._run, phase.tracking, study=phase.study, phase_name=phase.name, kind=phase.kind, config=config,
                on_event=self.event, say=lambda text: self.say(f"      {text}"),
            )  # fmt: skip

    def use_encoder(self, folder: Path, parent: str) -> None:
        """Tell W&B which phase's encoder this one starts from; a base is no artifact of ours."""
        if self.wandb is not None and parent:
            self.wandb.use_encoder(folder)

    def log_encoder(self, folder: Path) -> None:
        """Hand the finished encoder to W&B as an artifact."""
        if self.wandb is not None:
            self.wandb.log_encoder(folder)

    def log_scores(self, scores: Mapping[str, Any]) -> None:
        """Hand ``scores.json`` to W&B as a table."""
        if self.wandb is not None:
            self.wandb.log_scores(scores)

    def start_progress(self, description: str, total: int, unit: str, done: int = 0) -> None:
        """Begin a bar (on a terminal) or lines (in a log) of ``total`` units of which ``done`` are done."""
        if self._first:
            self.end_progress()
            self._progress = Progress(description, total, unit, done=done)
            self._progress.__enter__()
            self._done = done

    def expect_progress(self, description: str, total: int, unit: str) -> None:
        """The same once it is known how much is done: upon ``begin`` or ``resume``."""
        self._shown = (description, total, unit)

    def end_progress(self) -> None:
        """End the bar."""
        if self._progress is not None:
            self._progress.__exit__(None, None, None)
            self._progress = None

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Values after ``step`` steps: into ``metrics.jsonl``, then to W&B."""
        if self._first:
            self.record.metrics(step, values)
            if self.wandb is not None and self._holds():
                self.wandb.log_metrics(step, values)
            elif self.wandb is not None:  # the newer attempt goes on with the run
                self.wandb.abandon()

    def event(self, kind: str, **fields: Any) -> None:
        """Something that happened once: into ``events.jsonl``."""
        if self._first:
            self.record.event(kind, **fields)
            if kind in SPOKEN:
                self.say(f"      {SPOKEN[kind].format(**fields)}")
            if kind in ("begin", "resume"):
                # What an attempt that died recorded beyond its last checkpoint is about to be recorded again.
                dropped = self.record.resume_at(int(fields["step"]))
                if self._shown is not None:
                    self.start_progress(*self._shown, done=int(fields["step"]))
                if kind == "begin" and dropped:
                    self.say("      warning: no checkpoint is left to go on from: training begins again")

    def begin_anew(self, attempt: int) -> None:
        """Training begins anew: the metrics so far are those of attempt ``attempt``, and are put beside."""
        if self._first:
            path = self._run.metrics
            if path.is_file():
                beside = path.with_name(f"{path.stem}-attempt-{attempt}.jsonl")
                self._run.write_text(beside, path.read_text("utf-8"))
            self.record.resume_at(0, again=False)  # with another seed

    def advanced(self, step: int, values: Mapping[str, float]) -> None:
        """``step`` units of the progress bar are done."""
        if self._progress is not None:
            shown = {name: values[name] for name in ("loss", "learning_rate", "tokens_per_second") if name in values}
            self._progress.advance(step - self._done, **shown)  # type: ignore[arg-type]
            self._done = step

    def batch_ids(self, step: int, task: str, ids: Sequence[str]) -> None:
        """The example ids of a global batch: into ``batches.jsonl``."""
        if self._first:
            self.record.batch_ids(step, task, ids)

    def _trouble(self, text: str) -> None:
        """The record cannot be written at the moment: training goes on, loudly."""
        print(f"warning: {text}", file=sys.stderr, flush=True)

    def say(self, text: str) -> None:
        """A line for whoever watches, on rank 0."""
        if self._first:
            print(text, flush=True)
