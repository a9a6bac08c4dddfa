"""Become another program that ends with its parent: python -I -S with_parent.py PARENT_ID COMMAND...

A launcher that is killed outright cannot end its ranks, which would then hold the run directory and the GPUs, and
wait for each other for ever. Linux can, if the child asks for it. A program of its own and no ``preexec_fn``, whose
Python code would run between fork and exec, where another thread's locks may be held for ever.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1  # linux/prctl.h; kept across exec, not across fork

if __name__ == "__main__":
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    if os.getppid() != int(sys.argv[1]):  # it ended before it could be asked
        sys.exit(1)
    os.execvp(sys.argv[2], sys.argv[2:])
