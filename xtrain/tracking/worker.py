"""The process in which W&B runs: messages in from rank 0 (see wandb_run), reports out; never imported there.

The run is always written offline, so that the local record is whole whatever the network does (an online run
of W&B writes neither tables nor artifacts while its server is away). Where a key is configured, a second
process lets W&B's own ``sync`` upload the file while it grows (:mod:`xtrain.tracking.upload`).
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from xtrain.tracking.read_offline import FOLDERS, STEP, last_row
from xtrain.tracking.upload import Uploader

FLUSH_SECONDS = 2.0  # how far the offline file may lag behind; what a kill of everything loses
LEAST_CLOSING_SECONDS = 5.0  # for W&B's service to write the rest, where no time is left for the upload
WEIGHTS = (".safetensors", ".json", ".model", ".txt")  # with configuration and tokenizer; no optimizer state
_SIGNALS = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2}


def main() -> None:
    """Read messages from standard input until ``finish``, or until rank 0 is gone."""
    # Some schedulers send a signal to every process below the ranks, and W&B's service ends on SIGTERM with its
    # last rows unwritten: it must not be found there. (It cannot be shielded otherwise: it unblocks the signal.)
    if os.fork():
        os._exit(0)
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    messages, reports = _take_over_streams()
    worker = _Worker(lambda **report: _write(reports, report))
    for line in messages:
        message = json.loads(line)
        try:
            worker.handle(message)
        except Exception as error:
            worker.problem(f"W&B: {message['do']}: {type(error).__name__}: {error}"[:500])
        if message["do"] == "finish":
            break
    else:  # the pipe closed without a finish: rank 0 has died
        with contextlib.suppress(Exception):
            deadline = time.monotonic() + worker.patience
            worker.handle({"do": "finish", "exit_code": 1, "deadline": deadline, "encoder_seconds": 0.0})
    sys.stderr.flush()
    os._exit(0)  # W&B's exit hooks could wait for ever; everything is on disk


def _take_over_streams() -> tuple[Any, Any]:
    """The messages and the reports; standard input and output themselves become nothing and the log.

    W&B's service inherits those, and must not keep the pipes open, or write into them.
    """
    messages, reports = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    with open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    os.dup2(2, 1)
    return messages, reports


def _write(reports: Any, report: dict[str, Any]) -> None:
    with contextlib.suppress(OSError):  # rank 0 is gone; the work here goes on
        reports.write(json.dumps(report).encode() + b"\n")
        reports.flush()


class _Worker:
    """Holds the offline run, and its upload where there is one."""

    def __init__(self, report: Any) -> None:
        self._report = report
        self._run: Any = None
        self._first_row = 0  # W&B's own row counter, which goes on over all restarts
        self._rows = 0
        self._uploader: Uploader | None = None
        self.patience = 30.0

    def handle(self, message: dict[str, Any]) -> None:
        """Do what ``message`` says; raises whatever W&B raises."""
        do, message = message["do"], {key: value for key, value in message.items() if key != "do"}
        if do == "start":
            self._start(**message)
        elif do == "finish":
            self._finish(**message)
        elif self._run is not None:
            calls: dict[str, Any] = {"metrics": self._metrics, "scores": self._scores}
            calls |= {"encoder": self._encoder, "parent": self._parent}
            calls[do](**message)

    def problem(self, what: str) -> None:
        """Report a ``tracking_problem``."""
        self._report(report="problem", what=what)

    def _start(
        self, mode: str, why: str, run_dir: str, answer_seconds: float, watch_pid: int, **described: Any
    ) -> None:
        import wandb

        self.patience = answer_seconds
        folder = Path(run_dir) / "wandb"
        earlier = sorted(folder.glob(FOLDERS))
        if mode == "auto":
            mode = "online" if _has_key() else "offline"
        identity = _identity(folder)
        self._run = wandb.init(
            dir=run_dir,
            id=identity,
            resume="allow",
            mode="offline",
            project=described["project"],
            entity=described["entity"],
            group=described["group"],
            name=described["name"],
            job_type=described["job_type"],
            config=described["config"],
            settings=wandb.Settings(
                silent=True,
                console="off",
                save_code=False,
                disable_code=True,
                disable_git=True,
                disable_job_creation=True,
                symlink=False,
                x_save_requirements=False,
                x_disable_meta=True,  # it would describe this process, and the user's machine
                x_stats_pid=watch_pid,
                x_transaction_log_flush_interval=FLUSH_SECONDS,
            ),
        )
        self._run.define_metric(STEP)
        self._run.define_metric("*", step_metric=STEP)
        self._first_row = 1 + max(map(_last_row, earlier), default=-1)
        self._report(report="tracking_started", mode=mode, id=identity, folder=self._run.settings.sync_dir)
        if mode == "online":
            self._uploader = Uploader(earlier, Path(self._run.settings.sync_dir), self._report, answer_seconds)
            self._uploader.start()
        else:
            why = f" ({why})" if why else ""
            self._report(report="say", text=f"W&B: offline{why}; to upload: wandb sync {folder}")

    def _log(self, step: int, row: dict[str, Any]) -> None:
        # With W&B's own counter given, rows of a later file never fall on those of an earlier one.
        self._run.log({**row, STEP: step}, step=self._first_row + self._rows, commit=True)
        self._rows += 1

    def _metrics(self, step: int, values: dict[str, float]) -> None:
        self._log(step, values)

    def _scores(self, step: int, scores: Mapping[str, Any]) -> None:
        import wandb

        rows: list[list[Any]] = []
        summary: dict[str, float] = {}
        for task, result in scores["tasks"].items():
            for language, metrics in result["languages"].items():
                rows += [[task, language, name, float(value)] for name, value in metrics.items() if _real(value)]
            summary |= {f"{task}/{metric}": value for metric, value in result.get("average", {}).items()}
            summary[f"{task}/score"] = result.get("score")
        self._log(step, {"scores": wandb.Table(columns=["task", "language", "metric", "value"], data=rows)})
        self._run.summary.update({key: float(value) for key, value in summary.items() if _real(value)})
        self._run.config.update({"protocol": scores.get("protocol", {})}, allow_val_change=True)

    def _encoder(self, folder: str, name: str, metadata: dict[str, Any]) -> None:
        self._run.log_artifact(_artifact(folder, name, metadata), aliases=["latest", self._run.id])

    def _parent(self, folder: str, name: str, metadata: dict[str, Any]) -> None:
        artifact = _artifact(folder, name, metadata)
        parent = {"name": name, "digest": artifact.digest, "folder": folder}
        self._run.config.update({"parent_artifact": parent}, allow_val_change=True)
        # W&B's use_artifact() refuses offline runs, and online it waits for the server. This is the message
        # that it sends for an artifact with local files; the upload makes an edge of the lineage graph of it.
        self._run._log_artifact(artifact, is_user_created=True, use_after_commit=True)

    def _finish(self, exit_code: int, deadline: float, encoder_seconds: float) -> None:
        if self._run is not None:
            try:
                self._run.finish(exit_code=exit_code)
            finally:  # what is in the service's hands is written even where the run could not be ended
                self._close(max(LEAST_CLOSING_SECONDS, deadline - time.monotonic()))
        uploaded = None if self._uploader is None else self._uploader.finish(deadline, encoder_seconds)
        self._report(report="finished", uploaded=uploaded)

    def _close(self, seconds: float) -> None:
        """Wait for W&B's service to end by itself: it dies with this process, whatever it has not written by then."""
        import wandb

        closing = threading.Thread(target=wandb.teardown, name="closing", daemon=True)
        closing.start()
        closing.join(seconds)
        if closing.is_alive():
            self.problem(f"W&B's service did not close its file in {seconds:.0f} s: the last rows may be missing there")


def _last_row(folder: Path) -> int:
    """W&B's counter at the last row of an earlier start; -1 where its file cannot be read."""
    try:
        return last_row(folder)
    except (OSError, RuntimeError, ValueError):
        return -1


def _has_key() -> bool:
    """Whether W&B finds credentials for its server in the environment, ``.netrc`` or its settings."""
    try:
        from wandb.sdk import wandb_setup
        from wandb.sdk.lib import wbauth

        server = wandb_setup.singleton().settings.base_url
        found = wbauth.authenticate_session(host=server, source="xtrain", prompt=False, update_session=False)
        return found is not None
    except Exception:  # these are W&B's own modules, which another version may have arranged otherwise
        return bool(os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"))


def _identity(folder: Path) -> str:
    """The run's one id, from ``wandb/id``; made at the first start."""
    path = folder / "id"
    try:
        return path.read_text("ascii").strip()
    except FileNotFoundError:
        identity = secrets.token_hex(5)
        temporary = path.with_name(f".id.{os.getpid()}")
        temporary.write_text(identity + "\n", "ascii")
        os.replace(temporary, path)
        return identity


def _artifact(folder: str, name: str, metadata: dict[str, Any]) -> Any:
    """The weights, configuration and tokenizer files of ``folder``, where they are, not copied."""
    import wandb

    files = [path for path in sorted(Path(folder).iterdir()) if path.is_file() and path.suffix in WEIGHTS]
    if not any(path.suffix == ".safetensors" for path in files):
        raise FileNotFoundError(f"no .safetensors file in {folder}")
    artifact = wandb.Artifact(name, "model", metadata=metadata)
    for path in files:
        artifact.add_file(str(path), skip_cache=True, policy="immutable")
    return artifact


def _real(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


if __name__ == "__main__":
    main()
