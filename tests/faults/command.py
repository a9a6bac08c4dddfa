"""``python -m xtrain ...`` in a process that the nursery forks: the real launcher, whose ranks are forked as well.

What differs from the command of a user is that nothing is executed or imported anew: a start takes no second.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NoReturn

import faults

import xtrain.runner  # noqa: F401 - so that no command has to
from xtrain.cli import main
from xtrain.dispatch import local
from xtrain.dispatch.with_parent import PR_SET_PDEATHSIG
from xtrain.phase import entry
from xtrain.run_directory import RunDirectory

FORKED = ("SIGTERM", "SIGUSR1", "SIGUSR2", "SIGHUP", "SIGINT")  # whose handlers a program that is executed has not


def be_the_command(job: Mapping[str, Any]) -> NoReturn:
    """Run the command in this forked process, and end it; its ranks get the job's fault."""
    code = 99
    try:
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        for target, name in ((1, job["out"]), (2, job["errors"])):
            with open(name, "ab") as file:
                os.dup2(file.fileno(), target)
        os.chdir(job["folder"])
        os.environ.update(job["environment"])
        local.subprocess = ForksRanks  # type: ignore[assignment]
        if job["keep_checkpoints"]:
            RunDirectory.drop_checkpoints = lambda self: None  # type: ignore[method-assign]
        Rank.fault = job["fault"]
        code = main(list(job["command"]))
    except SystemExit as error:  # of the parser of its arguments
        code = int(error.code or 0)
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


class Rank:
    """What the launcher uses of subprocess.Popen, for a rank that is forked."""

    fault: ClassVar[Mapping[str, Any]] = {}

    def __init__(
        self, command: Sequence[str], *, env: Mapping[str, str], stdout: Any, stderr: Any, start_new_session: bool,
        pass_fds: Sequence[int] = (),
    ) -> None:  # fmt: skip
        assert start_new_session
        parent = os.getpid()
        self.returncode: int | None = None
        self.stderr = None
        if stderr == subprocess.PIPE:
            reading, stderr = os.pipe()
            self.stderr = os.fdopen(reading, "rb", buffering=0)
        self.pid = os.fork()
        if self.pid == 0:
            _be_a_rank(command[-1], parent, env, stdout, stderr, pass_fds)
        if self.stderr is not None:
            os.close(stderr)

    def poll(self) -> int | None:
        return self._wait(os.WNOHANG)

    def wait(self) -> int | None:
        return self._wait(0)

    def _wait(self, options: int) -> int | None:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, options)
            self.returncode = os.waitstatus_to_exitcode(status) if pid else None
        return self.returncode

    def send_signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)


class ForksRanks:
    """In the place of the module subprocess."""

    Popen, PIPE = Rank, subprocess.PIPE


def _be_a_rank(
    run: str, parent: int, environment: Mapping[str, str], stdout: Any, stderr: Any, kept: Sequence[int]
) -> NoReturn:
    try:
        os.setsid()
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
        for name in FORKED:
            signal.signal(signal.Signals[name], signal.SIG_DFL)
        for target, source in ((1, stdout), (2, stderr)):
            if source is not None:
                os.dup2(source if isinstance(source, int) else source.fileno(), target)
        for name in os.listdir("/proc/self/fd"):
            if int(name) > 2 and int(name) not in kept:
                with contextlib.suppress(OSError):
                    os.close(int(name))
        os.environ.clear()
        os.environ.update(environment)
        if Rank.fault:
            faults.build_in(rank=int(environment["RANK"]), **Rank.fault)
        if os.getppid() == parent:
            entry.main([run])
    except BaseException:
        traceback.print_exc()
    os._exit(99)
