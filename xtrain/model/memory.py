"""Keeping freed memory in the process: on CPU, a tenth of a training step went into faulting it in again."""

from __future__ import annotations

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # names of glibc's malloc.h
_NEVER = 2**31 - 1
_LARGEST_MMAP_THRESHOLD = 32 * 2**20  # glibc refuses more


def keep_freed_memory() -> bool:
    """Tell glibc to keep what is freed and not hand it back to the kernel; returns whether it will.

    The activations of a layer are a few MB each. By default malloc maps such blocks one by one and unmaps
    them when freed, or trims the heap, so that each layer of each step faults in and zeroes its pages anew.
    The process then stays as large as it once was. For the whole process; call it once, at its start.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return False
    return bool(mallopt(_M_TRIM_THRESHOLD, _NEVER)) and bool(mallopt(_M_MMAP_THRESHOLD, _LARGEST_MMAP_THRESHOLD))
