"""Limits of a process (ulimit) that are too low for ranks that train: each with what it would break."""

from __future__ import annotations

from xtrain.doctor.findings import Finding, gib, ok, problem, warning
from xtrain.doctor.hardware import Hardware

LEAST_OPEN_FILES = 1024
WANTED_OPEN_FILES = 4096
WANTED_LOCKED = 2**30  # of a rank on InfiniBand; NCCL registers its buffers, and the plug-ins of some sites far more
WANTED_PROCESSES = 4096  # threads count: of all ranks of a node, their data workers and compilers
WANTED_ADDRESSES = 2**41  # CUDA reserves addresses for the memory of all GPUs and of the host together
WANTED_ADDRESSES_CPU = 2**36  # files are mapped whole: shards, weights, libraries


def check_open_files(limit: int, where: str = "") -> Finding:
    """The soft limit on open files, which memory-mapped shards and data workers share."""
    looked_at = f"open files{f' on {where}' if where else ''}"
    if limit < 0 or limit >= WANTED_OPEN_FILES:
        return ok(looked_at, "no limit" if limit < 0 else f"at most {limit}")
    to_do = f"ulimit -n {WANTED_OPEN_FILES} before the start (a setup line of the cluster's profile)"
    kind = problem if limit < LEAST_OPEN_FILES else warning
    return kind(looked_at, f"at most {limit} a process (ulimit -n)", to_do)


def check_locked_memory(hardware: Hardware) -> Finding:
    """``ulimit -l``: what InfiniBand needs, so of machines with GPUs alone."""
    limit = hardware.locked_memory
    if limit < 0 or limit >= WANTED_LOCKED or not hardware.gpus:
        return ok("locked memory", "no limit" if limit < 0 else f"at most {gib(limit)}")
    to_do = (
        "over InfiniBand NCCL would fail (ibv_reg_mr): ask the site for LimitMEMLOCK=infinity of slurmd and "
        "PropagateResourceLimitsExcept=MEMLOCK; else ulimit -l unlimited in [environment] setup, if that is allowed"
    )
    return warning("locked memory", f"at most {gib(limit)} a process (ulimit -l)", to_do)


def check_processes(hardware: Hardware) -> Finding:
    """``ulimit -u``, which counts this user's threads."""
    limit = hardware.processes
    if limit < 0 or limit >= WANTED_PROCESSES:
        return ok("processes", "no limit" if limit < 0 else f"at most {limit}")
    to_do = (
        f"ulimit -u {WANTED_PROCESSES} (in [environment] setup of a profile), or fewer ranks a node and data workers"
    )
    return warning("processes", f"at most {limit} processes and threads of this user (ulimit -u)", to_do)


def check_address_space(hardware: Hardware) -> Finding:
    """``ulimit -v``."""
    limit, wanted = hardware.address_space, WANTED_ADDRESSES if hardware.gpus else WANTED_ADDRESSES_CPU
    if limit < 0 or limit >= wanted:
        return ok("address space", "no limit" if limit < 0 else f"at most {gib(limit)}")
    what = "CUDA reserves addresses for all memory" if hardware.gpus else "shards and weights are mapped whole"
    to_do = f"ulimit -v unlimited (in [environment] setup of a profile): {what}, used or not"
    return warning("address space", f"at most {gib(limit)} a process (ulimit -v)", to_do)
