"""A rank as a process, of train.py, the doctor, tests and benchmarks alike: the one way in which it runs and ends."""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
from collections.abc import Callable
from typing import NoReturn

from xtrain.errors import EXIT_INTERRUPTED, EXIT_OURS, EXIT_USER, UserError

_runs = False


def run_rank(main: Callable[[], object]) -> NoReturn:
    """Run ``main``, say what ended it, and end this process, without its interpreter's teardown (:func:`leave`).

    Ranks meet inside of this alone (:func:`xtrain.dispatch.joining.join` refuses it elsewhere). Exit codes are those of
    :mod:`xtrain.errors`; a ``main`` that has others, or more to say, ends by :func:`leave` itself.
    """
    global _runs
    _runs = True
    try:
        main()
        code = 0
    except UserError as error:
        code = EXIT_USER
        _say(f"error: {error}")
    except KeyboardInterrupt:
        code = EXIT_INTERRUPTED
        _say("stopped")
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(bool(error.code))
        if isinstance(error.code, str):
            _say(error.code)
    except BaseException:
        code = EXIT_OURS
        _say(traceback.format_exc().rstrip())
    leave(code)


def leave(code: int) -> NoReturn:
    """End this process now; all that is to be kept must have been written and closed.

    Gloo's threads may still hold tensors when the interpreter is torn down, and abort a rank whose work is done
    (pytorch#179291: "terminate called without an active exception").
    """
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):  # the terminal is gone, the disk is full
            stream.flush()
    os._exit(code)


def check_is_rank() -> None:
    """Raise where no :func:`run_rank` is under way, so that none can forget it."""
    if not _runs:
        raise RuntimeError("ranks meet only inside of xtrain.dispatch.rank_process.run_rank, which ends them unharmed")


def _say(text: str) -> None:
    with contextlib.suppress(OSError, ValueError, AttributeError):
        print(text, file=sys.stderr, flush=True)
