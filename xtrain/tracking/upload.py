"""Uploads a run while its offline file grows, with W&B's own ``sync`` in a process of its own.

The server sees what a later ``wandb sync`` would send it, so that an upload that stops half-way can be
finished by hand. W&B marks a file as synced even where the server has refused a part of it; the mark is then
taken back.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

_URL = re.compile(r"View run .* at (\S+)")
_ERROR = re.compile(r"^wandb: ERROR (.*)")
_LIVE = ("beta", "sync", "--live")  # W&B announces that this may change: then the upload is left for the end
_NO_SUCH_COMMAND = 2


class Uploader:
    """First the files of earlier starts that have not been uploaded, then the one being written.

    ``report`` is told the run's address (``say``) and each ``problem``.
    """

    def __init__(
        self, earlier: Sequence[Path], current: Path, report: Callable[..., object], answer_seconds: float
    ) -> None:
        self._earlier = [path for path in earlier if not _marks(path)]
        self._current = current
        self._report = report
        self._log = current.parent / "upload.log"
        self._address = ""
        self._process: subprocess.Popen[str] | None = None
        self._away = False  # the server has not answered for long
        self._closed = threading.Event()  # the file is whole
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="uploader", daemon=True)
        self._timer = threading.Timer(answer_seconds, self._no_answer, (answer_seconds,))
        self._timer.daemon = True

    def start(self) -> None:
        """Begin, in a thread of its own."""
        self._thread.start()

    def finish(self, deadline: float, encoder_seconds: float) -> bool:
        """Wait for the upload until ``deadline`` (monotonic), then stop it; whether it was complete.

        A server that has answered is granted ``encoder_seconds`` more; one that has not is given up as soon as
        it counts as away.
        """
        self._closed.set()
        while self._thread.is_alive() and (self._address or not self._away):
            left = deadline - time.monotonic() + (encoder_seconds if self._address else 0.0)
            if left <= 0:
                break
            self._thread.join(min(left, 0.2))
        self._stopped = True
        self._timer.cancel()
        if self._thread.is_alive() and self._process is not None:
            self._process.kill()  # W&B's service follows its parent
        complete = all(_marks(path) for path in [*self._earlier, self._current])
        if not complete:
            self._report(report="problem", what="the run is not, or not wholly, on the W&B server; the local files are")
        return complete

    def _run(self) -> None:
        try:
            if self._earlier:
                self._sync(["sync", *map(str, self._earlier)], self._earlier)
            code = self._sync([*_LIVE, str(self._current)], [self._current])
            if code == _NO_SUCH_COMMAND:
                self._closed.wait()
                code = self._sync(["sync", str(self._current)], [self._current])
            if code and not self._stopped:
                self._problem(f"the upload to W&B failed; see {self._log}")
        except Exception as error:
            self._problem(f"the upload to W&B: {type(error).__name__}: {error}")

    def _sync(self, arguments: Sequence[str], files: Sequence[Path]) -> int:
        """Run one ``wandb`` command to its end, reading what it prints; returns its exit code."""
        if self._stopped:
            return 0
        environment = {key: value for key, value in os.environ.items() if key != "WANDB_SERVICE"}
        errors = False
        with open(self._log, "a", encoding="utf-8") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "xtrain.tracking.upload", *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env=environment,
                text=True,
                errors="replace",
            )
            assert self._process.stdout is not None
            for line in self._process.stdout:
                if not self._timer.ident and not self._stopped:
                    self._timer.start()  # from here on the answer is the server's affair
                log.write(line)
                log.flush()
                errors = self._heard(line) or errors
        if errors:
            for path in files:
                for mark in _marks(path):
                    mark.unlink()
        return self._process.wait()

    def _heard(self, line: str) -> bool:
        """Report what a printed line tells; whether it is an error."""
        if (found := _URL.search(line)) and not self._address:
            self._address = found[1]
            self._timer.cancel()
            self._report(report="say", text=f"W&B: {self._address}")
        if found := _ERROR.search(line):
            self._timer.cancel()
            self._problem(f"W&B server: {found[1].strip()}"[:500])
            return True
        return False

    def _no_answer(self, seconds: float) -> None:
        self._away = True
        self._problem(f"the W&B server has not answered within {seconds:g} s; the upload keeps trying")

    def _problem(self, what: str) -> None:
        self._report(report="problem", what=what)


def _marks(folder: Path) -> list[Path]:
    """W&B's mark that the run in ``folder`` has been uploaded: a file, or none."""
    return list(folder.glob("*.wandb.synced"))


def main() -> None:
    """``wandb ARGUMENTS``, ended once the process at the other end of standard input is gone."""

    def end_with_parent() -> None:
        with contextlib.suppress(OSError):
            while os.read(0, 4096):
                pass
        os._exit(3)

    threading.Thread(target=end_with_parent, daemon=True).start()
    from wandb.cli.cli import cli

    cli(sys.argv[1:])


if __name__ == "__main__":
    main()
