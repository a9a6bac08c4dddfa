"""What every command has in common: the console that it prints on, and the exit code that it ends with."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from rich.console import Console

from xtrain.dispatch.signals import Stopped
from xtrain.errors import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_OURS, EXIT_PREEMPTED, EXIT_USER, UserError

if TYPE_CHECKING:
    from xtrain.runner import PhaseFailed


def new_console() -> Console:
    """Rich on a terminal; plain lines of up to 160 columns in a log."""
    console = Console()
    return console if console.is_terminal else Console(width=160, force_terminal=False)


def run_command(command: Callable[[], int | None]) -> int:
    """Run a command; returns the exit code: 0, 2 for the user's mistakes, 1 for ours, 3 and 75 as in errors.py."""
    try:
        code = command()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USER
    except KeyboardInterrupt:
        print("stopped; the same command goes on from the last checkpoint", file=sys.stderr)
        return EXIT_INTERRUPTED
    except Stopped as stopped:
        print(stopped, file=sys.stderr)
        return EXIT_PREEMPTED
    except Exception as error:
        if "xtrain.runner" not in sys.modules:  # importing it takes seconds, and the error is none of its
            raise
        from xtrain.runner import PhaseFailed, StudyFailed

        if isinstance(error, StudyFailed):
            print(error, file=sys.stderr)
            return EXIT_FAILED
        if not isinstance(error, PhaseFailed):
            raise
        return _phase_failed(error)
    return int(code or 0)


def _phase_failed(error: PhaseFailed) -> int:
    if error.failure.code == EXIT_USER and error.failure.log is None:  # rank 0 has said what to do
        print(f"stopped in phase {error.phase.name}; what was finished is kept", file=sys.stderr)
        return EXIT_USER
    print(f"error: {error}", file=sys.stderr)
    return EXIT_USER if error.failure.code == EXIT_USER else EXIT_OURS
