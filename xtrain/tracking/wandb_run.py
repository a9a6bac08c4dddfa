"""One W&B run for a phase, behind the record: told by rank 0, never waited for, unable to stop training.

Everything that is W&B happens in a process of its own (:mod:`xtrain.tracking.worker`), which writes an
offline run into the run directory and, where a key is configured, has W&B's own ``sync`` upload that file
while it grows. Here are the calls that training makes: they put a message into a bounded queue and return; a
daemon thread passes the messages on. What goes wrong becomes a ``tracking_problem`` event.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import xtrain
from xtrain.run_directory import RunDirectory
from xtrain.tracking.record import number, plain
from xtrain.tracking.settings import DEFAULT_PROJECT, TrackingSettings, chosen, finish_seconds

QUEUE_ROWS = 10_000  # metrics rows that may wait; beyond that the newest are dropped and counted
CLOSING_SECONDS = 15.0  # beyond the upload's time, for closing the local files on a busy machine
UPLOAD_BYTES_PER_SECOND = 20 * 2**20  # what the end of a phase allows an encoder's upload to be as slow as
MOST_PROBLEMS = 10  # tracking_problem events of one process

EventCallback = Callable[..., object]


class WandbRun:
    """The W&B run of a phase: one id for all its restarts. Make it with :meth:`start`, on rank 0 only."""

    @classmethod
    def start(
        cls,
        run_dir: RunDirectory,
        settings: TrackingSettings,
        *,
        study: str,
        phase_name: str,
        kind: str,
        config: Mapping[str, Any],
        on_event: EventCallback,
        say: Callable[[str], object] = print,
    ) -> WandbRun:
        """Begin the run, or go on with it under the id in ``wandb/id``; returns at once and never raises.

        ``study`` is W&B's group, ``phase_name`` its name, ``kind`` its job type. ``on_event(kind, **fields)``
        gets ``tracking_started``, ``tracking_problem`` and ``tracking_finished``, from another thread;
        ``say`` gets one line that names where the run is, or the switch that turned W&B off.
        """
        choice = chosen(settings, os.environ, Path.cwd())
        settings = dataclasses.replace(settings, encoders=choice.encoders)
        run = cls(run_dir, settings, on_event, (lambda text: None) if choice.silent else say)
        if choice.mode == "off" and choice.why:
            run._event("tracking_off", why=choice.why)
            say(f"W&B: off ({choice.why})")
        if choice.mode != "off":
            project = settings.project or os.environ.get("WANDB_PROJECT") or DEFAULT_PROJECT
            run._begin(
                {
                    "do": "start",
                    "mode": choice.mode,
                    "why": choice.why,
                    "run_dir": str(run_dir.path.absolute()),
                    "project": project,
                    "entity": settings.entity or None,
                    "group": study,
                    "name": phase_name,
                    "job_type": kind,
                    "config": plain(config),
                    "answer_seconds": settings.answer_timeout_seconds,
                    "watch_pid": os.getpid(),
                }
            )
        return run

    def __init__(
        self,
        run_dir: RunDirectory,
        settings: TrackingSettings,
        on_event: EventCallback,
        say: Callable[[str], object],
    ) -> None:
        self._run_dir, self._settings = run_dir, settings
        self._on_event, self._say = on_event, say
        self._messages: collections.deque[dict[str, Any]] = collections.deque()
        self._changed = threading.Condition()
        self._rows_waiting = 0
        self._dropped = 0
        self._problems: set[str] = set()
        self._encoder_bytes = 0
        self._step = 0
        self._open = False  # messages are taken
        self._abandoned = False
        self._ended = threading.Event()  # the worker is gone, or never was
        self._ended.set()
        self._process: subprocess.Popen[bytes] | None = None
        self._uploaded: bool | None = None

    def log_metrics(self, step: int, values: Mapping[str, Any]) -> None:
        """One row of the history at ``step`` (the axis ``trainer/step``); what is no number is left out."""
        self._step = int(step)
        numbers = {key: number(plain(value)) for key, value in values.items()}
        numbers = {key: value for key, value in numbers.items() if value is not None}
        if numbers:
            self._put({"do": "metrics", "step": int(step), "values": numbers})

    def log_scores(self, scores: Mapping[str, Any]) -> None:
        """The content of ``scores.json``: a table of every language, averages in the summary."""
        self._put({"do": "scores", "step": self._step, "scores": plain(scores)})

    def log_encoder(self, folder: Path, name: str = "", metadata: Mapping[str, Any] | None = None) -> None:
        """The encoder in ``folder`` as an artifact of type ``model``: weights, configuration and tokenizer.

        The files are not copied: they must stay as they are. ``name`` is :func:`artifact_name` if empty.
        """
        if self._settings.encoders and self._open:
            with contextlib.suppress(OSError):
                self._encoder_bytes += sum(path.stat().st_size for path in folder.glob("*.safetensors"))
            self._put_encoder("encoder", folder, name, metadata)

    def use_encoder(self, folder: Path, name: str = "", metadata: Mapping[str, Any] | None = None) -> None:
        """Declare that this phase started from the encoder in ``folder``, which its parent has logged.

        The same content under the same name is the same artifact to W&B: nothing is looked up, or uploaded
        twice. The configuration's ``parent_artifact`` says it too.
        """
        if self._settings.encoders:
            self._put_encoder("parent", folder, name, metadata)

    def finish(self, failed: bool = False) -> bool:
        """Close the run; waits for the upload at most as long as the settings allow, then gives it up.

        Returns whether W&B has all it should have: the local files, and the upload where one is wanted.
        """
        with self._changed:
            if not self._open:
                return self._ended.is_set() and not self._problems
            seconds = finish_seconds(self._settings)
            more = self._encoder_bytes / UPLOAD_BYTES_PER_SECOND
            deadline = time.monotonic() + seconds  # one clock for all processes of a machine
            message = {"do": "finish", "exit_code": int(failed), "deadline": deadline, "encoder_seconds": more}
            self._messages.append(message)
            seconds += more + CLOSING_SECONDS
            self._open = False
            self._changed.notify_all()
        if not self._ended.wait(seconds):
            self._kill()
            self._problem(f"W&B's process did not end in {seconds:.0f} s and was stopped")
        dropped = self._dropped + sum(message["do"] == "metrics" for message in self._messages)
        if dropped:
            self._problem(
                f"{dropped} metrics rows did not reach W&B: its process was too slow or gone",
                to_do="nothing is lost: metrics.jsonl has them",
            )
        complete = self._uploaded is not False and not self._problems
        self._event("tracking_finished", uploaded=self._uploaded, dropped=dropped)
        return complete

    def abandon(self) -> None:
        """Let go of the run at once, neither finished nor uploaded: another process goes on with it. Safe to repeat."""
        with self._changed:
            again, self._open, self._abandoned = self._abandoned, False, True
            self._messages.clear()
        if not again:
            self._kill()

    def __enter__(self) -> WandbRun:
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        self.finish(failed=kind is not None)

    # The queue and its thread.

    def _begin(self, message: dict[str, Any]) -> None:
        self._open = True
        self._ended.clear()
        self._put(message)
        try:
            threading.Thread(target=self._feed, name="wandb-feeder", daemon=True).start()
        except RuntimeError as error:  # the system allows no further thread
            self._ended.set()
            self._problem(f"W&B is left out: {error}", to_do="nothing is lost: metrics.jsonl has everything")

    def _put_encoder(self, do: str, folder: Path, name: str, metadata: Mapping[str, Any] | None) -> None:
        described = {"name": name or artifact_name(folder), "metadata": plain(metadata or {})}
        self._put({"do": do, "folder": str(folder.absolute()), **described})

    def _put(self, message: dict[str, Any]) -> None:
        with self._changed:
            if not self._open:
                return
            row = message["do"] == "metrics"
            if self._ended.is_set() or (row and self._rows_waiting >= QUEUE_ROWS):
                self._dropped += row
                return
            self._rows_waiting += row
            self._messages.append(message)
            self._changed.notify_all()

    def _take(self) -> dict[str, Any]:
        with self._changed:
            self._changed.wait_for(lambda: self._messages)
            message = self._messages.popleft()
            self._rows_waiting -= message["do"] == "metrics"
            return message

    def _feed(self) -> None:
        """Start the worker and pass it one message after the other; runs in the daemon thread."""
        try:
            process = self._process = self._spawn()
            if self._abandoned:  # meanwhile
                self._kill()
            threading.Thread(target=self._listen, args=(process,), name="wandb-listener", daemon=True).start()
            assert process.stdin is not None
            while True:
                message = self._take()
                process.stdin.write(json.dumps(message).encode() + b"\n")
                process.stdin.flush()
                if message["do"] == "finish":
                    return
        except Exception as error:
            self._problem(f"W&B's process cannot be reached: {type(error).__name__}: {error}")
            if self._process is None:
                self._ended.set()

    def _spawn(self) -> subprocess.Popen[bytes]:
        folder = self._run_dir.wandb.absolute()
        folder.mkdir(parents=True, exist_ok=True)
        with open(folder / "worker.log", "ab") as log:
            return subprocess.Popen(
                [sys.executable, "-P", "-m", "xtrain.tracking.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=worker_environment(folder, os.environ),
                start_new_session=True,  # a Ctrl-C, or a signal to the ranks, is not meant for it
            )

    def _listen(self, process: subprocess.Popen[bytes]) -> None:
        """Pass on what the worker reports, until it ends; runs in a daemon thread of its own."""
        assert process.stdout is not None
        finished = False
        try:
            for line in process.stdout:
                report = json.loads(line)
                kind = report.pop("report")
                if kind == "say":
                    self._say(report["text"])
                elif kind == "problem":
                    self._problem(**report)
                elif kind == "finished":
                    finished, self._uploaded = True, report["uploaded"]
                else:
                    self._event(kind, **report)
        except Exception as error:
            self._problem(f"W&B's process sent what cannot be read: {type(error).__name__}: {error}")
        finally:
            process.wait()  # the worker's starter, gone long since
            if not finished:
                self._problem("W&B's process ended too early", to_do=f"see {self._run_dir.wandb}/worker.log")
            self._ended.set()

    def _kill(self) -> None:
        if self._process is not None:
            with contextlib.suppress(OSError):
                os.killpg(self._process.pid, signal.SIGKILL)  # its session; W&B's service follows it

    def _problem(self, what: str, to_do: str = "") -> None:
        if not self._abandoned and what not in self._problems and len(self._problems) < MOST_PROBLEMS:
            self._problems.add(what)
            self._event("tracking_problem", what=what, to_do=to_do or sync_command(self._run_dir))

    def _event(self, kind: str, **fields: Any) -> None:
        with contextlib.suppress(Exception):  # not even a full disk may reach training from here
            self._on_event(kind, **fields)


def artifact_name(folder: Path) -> str:
    """The artifact's name of an encoder: ``encoder-`` and the name of the run directory that it lies in."""
    word = folder.absolute().parent.name
    return "encoder-" + "".join(c if c.isalnum() or c in "-_." else "-" for c in word)[:100]


def sync_command(run_dir: RunDirectory) -> str:
    """What the user types to upload what has not been uploaded."""
    return f"wandb sync {run_dir.wandb.absolute()}"


def worker_environment(folder: Path, environ: Mapping[str, str]) -> dict[str, str]:
    """The worker's environment: this one's without what would bend W&B's ways, its caches in ``folder``."""
    unwanted = ("WANDB_SERVICE", "WANDB_MODE", "WANDB_RUN_ID", "WANDB_RESUME", "WANDB_SILENT", "WANDB_QUIET")
    result = {key: value for key, value in environ.items() if key not in unwanted}
    result.setdefault("WANDB_DATA_DIR", str(folder / "data"))
    result.setdefault("WANDB_CACHE_DIR", str(folder / "cache"))
    result.setdefault("WANDB_ERROR_REPORTING", "false")  # an offline run looks up no host at all
    result["WANDB_DISABLE_GIT"] = "true"  # git runs what a folder's .git/config names
    source = str(Path(xtrain.__file__).resolve().parent.parent)
    result["PYTHONPATH"] = os.pathsep.join(filter(None, [source, environ.get("PYTHONPATH", "")]))
    return result
