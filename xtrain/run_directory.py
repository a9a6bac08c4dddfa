"""The run directory of one phase: where each thing lies. It is the truth; all else is a view of it."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from xtrain.errors import Problem, UserError
from xtrain.files import Staging, lock, make_folder, read_json, write_bytes, write_json, write_text, writing


@dataclass(frozen=True)
class RunDirectory:
    """Names the files of a phase's run directory, and reads the small ones."""

    path: Path
    staging: Staging | None = field(default=None, compare=False, repr=False)
    """Where what is written here gets its names from; None: beside them. An attempt at the phase has its own."""
    checkpoint_staging: Staging | None = field(default=None, compare=False, repr=False)
    """The same for ``checkpoints/``, which may lie on another file system."""

    @property
    def phase_file(self) -> Path:
        """``phase.toml``: what the phase is; enough to run it again."""
        return self.path / "phase.toml"

    @property
    def data_file(self) -> Path:
        """What became of the data sets that the phase reads: a list of accounts (:mod:`xtrain.data.account`)."""
        return self.path / "data.json"

    @property
    def ds_config(self) -> Path:
        """``ds_config.json``: the DeepSpeed configuration, resolved."""
        return self.path / "ds_config.json"

    @property
    def environment(self) -> Path:
        """``environment.json``: versions, devices, ranks, choices made on this machine."""
        return self.path / "environment.json"

    @property
    def metrics(self) -> Path:
        """``metrics.jsonl``: one object a line, each with its ``step``."""
        return self.path / "metrics.jsonl"

    @property
    def events(self) -> Path:
        """``events.jsonl``: start, restart, save, best, stop, warnings."""
        return self.path / "events.jsonl"

    @property
    def batches(self) -> Path:
        """``batches.jsonl``: the example ids of every global batch, where ``engine.log_example_ids`` asks for them."""
        return self.path / "batches.jsonl"

    @property
    def logs(self) -> Path:
        """``logs/``: what each rank printed."""
        return self.path / "logs"

    @property
    def checkpoints(self) -> Path:
        """``checkpoints/step-N/``: sharded state of the engine."""
        return self.path / "checkpoints"

    @property
    def job(self) -> Path:
        """``job/``: the attempts, and the jobs that were submitted."""
        return self.path / "job"

    @property
    def lock(self) -> Path:
        """``.lock``: held by the command that runs the phase on this machine."""
        return self.path / ".lock"

    @property
    def attempts(self) -> Path:
        """``attempts.json``: the attempts that collapsed, each with its seed and step; absent where none did."""
        return self.path / "attempts.json"

    @property
    def encoder(self) -> Path:
        """``encoder/``: Hugging Face layout plus ``heads.safetensors``; the selected step."""
        return self.path / "encoder"

    @property
    def encoder_last(self) -> Path:
        """``encoder-last/``: the same of the last step, where that is not the selected one."""
        return self.path / "encoder-last"

    @property
    def predictions(self) -> Path:
        """``predictions/{task}/{language}.jsonl``."""
        return self.path / "predictions"

    @property
    def predictions_last(self) -> Path:
        """``predictions-last/``: the same with the weights of the last step, where these were scored too."""
        return self.path / "predictions-last"

    @property
    def outcomes(self) -> Path:
        """``outcomes.npz``: what the predictions did with each example (:mod:`xtrain.evaluation.outcome_files`)."""
        return self.path / "outcomes.npz"

    @property
    def outcomes_last(self) -> Path:
        """``outcomes-last.npz``: the same of ``predictions-last/``."""
        return self.path / "outcomes-last.npz"

    @property
    def scores(self) -> Path:
        """``scores.json``."""
        return self.path / "scores.json"

    @property
    def wandb(self) -> Path:
        """``wandb/``: the offline W&B files; ``wandb/id`` is the run's one id."""
        return self.path / "wandb"

    @property
    def done_marker(self) -> Path:
        """``DONE``: written last."""
        return self.path / "DONE"

    @property
    def done(self) -> bool:
        """Whether the phase has finished."""
        return self.done_marker.is_file()

    @property
    def failed_marker(self) -> Path:
        """``FAILED``: the experiment itself failed (training collapsed); JSON with ``reason`` and ``step``."""
        return self.path / "FAILED"

    @property
    def failed(self) -> bool:
        """Whether the phase was given up; it is not run again, and nothing can start from it."""
        return self.failed_marker.is_file()

    def create(self) -> RunDirectory:
        """Make the folder and its ``logs/``."""
        make_folder(self.logs)
        return self

    def write_json(self, path: Path, value: Any) -> None:
        """Replace a file in here by ``value`` as JSON; raises :class:`xtrain.errors.Fenced` in an older attempt."""
        write_json(path, value, self.staging)

    def write_text(self, path: Path, text: str) -> None:
        """Replace a file in here by ``text``; raises :class:`xtrain.errors.Fenced` in an older attempt."""
        write_text(path, text, self.staging)

    def write_bytes(self, path: Path, data: bytes) -> None:
        """Replace a file in here by ``data``; raises :class:`xtrain.errors.Fenced` in an older attempt."""
        write_bytes(path, data, self.staging)

    def mark_done(self, summary: dict[str, Any]) -> None:
        """Write ``DONE`` with a small JSON summary: the phase is finished."""
        self.write_json(self.done_marker, summary)

    def drop_checkpoints(self) -> None:
        """Delete ``checkpoints/`` of a finished phase; until it is marked as done, they are all it has."""
        assert self.done, f"{self.path} is not finished"
        shutil.rmtree(self.checkpoints, ignore_errors=True)

    def drop_unfinished_files(self) -> None:
        """Delete what a process that was killed while it wrote a file here has left. Only while nobody else writes."""
        for path in self.path.glob(".*.tmp"):
            if path.is_file():
                path.unlink(missing_ok=True)

    def mark_failed(self, reason: str, step: int) -> None:
        """Write ``FAILED``: the phase was given up after ``step`` optimizer steps."""
        self.write_json(self.failed_marker, {"reason": reason, "step": step})

    def read_scores(self) -> dict[str, Any]:
        """``scores.json`` as written by the evaluation."""
        scores: dict[str, Any] = read_json(self.scores)
        return scores

    def writable(self) -> None:
        """Raise a :class:`xtrain.errors.UserError` unless a file can be written here."""
        probe = self.path / f".probe-{os.getpid()}"
        write_text(probe, "probe")
        probe.unlink(missing_ok=True)

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Hold the run, so that two commands never write into one; raises a :class:`xtrain.errors.UserError`."""
        path = self.lock
        with writing(path), open(path, "w", encoding="utf-8") as handle:
            if not lock(handle, path):
                what = "another command is running this phase"
                raise UserError(Problem(str(self.path), what, remedy="wait for it, or stop it first"))
            yield
