"""What this machine has, without PyTorch: processor, memory, GPUs (the driver's view), limits, tools, interfaces."""

from __future__ import annotations

import contextlib
import os
import platform
import resource
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

DRIVER_SECONDS = 20.0  # nvidia-smi of a machine with a broken GPU can hang for ever
BUILD_TOOLS = ("ninja", "c++", "nvcc")
TOOLS = (*BUILD_TOOLS, "srun", "scontrol", "squeue", "sbatch")
_SIOCGIFADDR = 0x8915  # linux/sockios.h


@dataclass(frozen=True)
class Gpu:
    """A GPU, as nvidia-smi tells it."""

    name: str
    driver: str
    memory_gib: float
    capability: str = ""
    """Compute capability: ``9.0``; empty where the driver is too old to say."""

    @property
    def has_bf16(self) -> bool:
        """Whether bf16 is computed in hardware: since Ampere, compute capability 8.0."""
        return not self.capability or float(self.capability) >= 8.0


@dataclass(frozen=True)
class Hardware:
    """One machine."""

    processor: str
    cores: int
    """That this process may run on."""
    cpu_bf16: bool
    """Whether the processor multiplies bf16 matrices in hardware (AVX512-BF16, AMX, Arm BF16)."""
    memory: int
    """Bytes, or fewer where a control group limits this process."""
    memory_free: int
    gpus: tuple[Gpu, ...]
    driver_trouble: str = ""
    """What nvidia-smi complained of, where it is there and does not work."""
    open_files: int = 0
    """Soft limit on open files; -1: none."""
    tools: tuple[str, ...] = ()
    """Of :data:`TOOLS` those that were found on PATH."""
    locked_memory: int = -1
    """Soft limit on memory that must not be swapped, in bytes; -1: none."""
    processes: int = -1
    """Soft limit on the processes and threads of this user; -1: none."""
    address_space: int = -1
    """Soft limit on a process's address space, in bytes; -1: none."""


def this_machine() -> Hardware:
    """Look at this machine; takes a second where there are GPUs."""
    gpus, trouble = _gpus()
    memory, free = _memory()
    info = _text("/proc/cpuinfo")
    return Hardware(
        processor=_processor(info),
        cores=len(os.sched_getaffinity(0)),
        cpu_bf16=any(flag in info for flag in ("avx512_bf16", "amx_bf16", " bf16")),
        memory=memory,
        memory_free=free,
        gpus=gpus,
        driver_trouble=trouble,
        open_files=_soft(resource.RLIMIT_NOFILE),
        tools=tuple(tool for tool in TOOLS if shutil.which(tool)),
        locked_memory=_soft(resource.RLIMIT_MEMLOCK),
        processes=_soft(resource.RLIMIT_NPROC),
        address_space=_soft(resource.RLIMIT_AS),
    )


def _soft(limit: int) -> int:
    soft, _ = resource.getrlimit(limit)
    return -1 if soft == resource.RLIM_INFINITY else soft


def _gpus() -> tuple[tuple[Gpu, ...], str]:
    """The GPUs, and what nvidia-smi complained of."""
    if shutil.which("nvidia-smi") is None:
        return (), ""
    for fields in ("name,driver_version,memory.total,compute_cap", "name,driver_version,memory.total"):
        command = ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader,nounits"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=DRIVER_SECONDS)
        except subprocess.TimeoutExpired:
            return (), f"nvidia-smi did not answer within {DRIVER_SECONDS:.0f} s"
        except OSError as error:
            return (), f"nvidia-smi: {error.strerror}"
        if done.returncode == 0:
            return tuple(_gpu(line) for line in done.stdout.splitlines() if line.strip()), ""
    lines = (done.stdout + done.stderr).strip().splitlines()
    return (), lines[-1] if lines else f"nvidia-smi ended with exit code {done.returncode}"


def _gpu(line: str) -> Gpu:
    name, driver, memory, *capability = (part.strip() for part in line.split(","))
    mib = 0.0
    with contextlib.suppress(ValueError):  # [N/A] for a GPU that is cut up
        mib = float(memory)
    known = capability[0] if capability and capability[0].replace(".", "").isdigit() else ""
    return Gpu(name, driver, round(mib / 1024, 1), known)


def _memory() -> tuple[int, int]:
    """Total and available bytes, within the limit of the control group if there is one."""
    values = {}
    for line in _text("/proc/meminfo").splitlines():
        name, _, rest = line.partition(":")
        values[name] = 1024 * int(rest.split()[0]) if rest.split() else 0
    total, free = values.get("MemTotal", 0), values.get("MemAvailable", 0)
    for limit, used in _limits():
        if limit < total:
            total, free = limit, min(free, max(0, limit - used))
    return total, free


def _limits() -> list[tuple[int, int]]:
    """Limit and use, in bytes, of the control groups that this process is in (version 2, then 1)."""
    found = []
    for line in _text("/proc/self/cgroup").splitlines():
        number, controllers, path = (line.split(":", 2) + ["", ""])[:3]
        if number == "0":
            root, names = Path("/sys/fs/cgroup"), ("memory.max", "memory.current")
        elif "memory" in controllers.split(","):
            root, names = Path("/sys/fs/cgroup/memory"), ("memory.limit_in_bytes", "memory.usage_in_bytes")
        else:
            continue
        folder = root / path.lstrip("/")
        while folder == root or root in folder.parents:
            limit, used = (_text(str(folder / name)).strip() for name in names)
            if limit.isdigit():
                found.append((int(limit), int(used) if used.isdigit() else 0))
            folder = folder.parent
    return found


def _processor(info: str) -> str:
    for line in info.splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _text(path: str) -> str:
    try:
        return Path(path).read_text("utf-8", errors="replace")
    except OSError:
        return ""
