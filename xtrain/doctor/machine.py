"""The checks on this machine: versions, devices, ops, caches, disk, memory, limits, W&B."""

from __future__ import annotations

import netrc
import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlparse

from xtrain.doctor.findings import Finding, Section, gib, note, ok, problem, warning
from xtrain.doctor.folders import check_folder, disk_wanted, look_at, node_local_caches
from xtrain.doctor.hardware import BUILD_TOOLS, Hardware, this_machine
from xtrain.doctor.limits import check_address_space, check_locked_memory, check_open_files, check_processes
from xtrain.doctor.versions import check_versions
from xtrain.errors import counted
from xtrain.study import Engine
from xtrain.tracking.settings import TrackingSettings, chosen

LEAST_MEMORY = 4 * 2**30
WANTED_MEMORY = 16 * 2**30  # a rank of XLM-R Large on its way into a GPU, and a copy of its state on its way to disk
COMPILER_SECONDS = 20.0


def check_machine(out: Path, data: Path | None) -> list[Section]:
    """Everything about this machine; imports PyTorch. ``out`` need not exist, ``data`` is where data sets lie."""
    hardware = this_machine()
    return [
        Section("versions", check_versions()),
        Section("devices", [*check_devices(hardware), *check_ops(hardware)]),
        Section("folders", [*check_folders(out, data), *check_caches(os.environ)]),
        Section("limits", [check_memory(hardware), check_open_files(hardware.open_files), *_other_limits(hardware)]),
        Section("tracking", [check_tracking(os.environ)]),
    ]


def _other_limits(hardware: Hardware) -> list[Finding]:
    return [check(hardware) for check in (check_locked_memory, check_processes, check_address_space)]


def check_devices(hardware: Hardware) -> list[Finding]:
    """GPUs as PyTorch sees them, against what the driver says; and the processor."""
    import torch

    bf16 = "in hardware" if hardware.cpu_bf16 else "emulated"
    cpu = f"{hardware.processor}, {counted(hardware.cores, 'core')}, bf16 {bf16}"
    findings = []
    if hardware.driver_trouble:
        to_do = "have the driver mended, or choose another machine; nvidia-smi has to work"
        findings.append(problem("GPU driver", hardware.driver_trouble, to_do))
    if not torch.cuda.is_available():
        if hardware.gpus:
            found = f"{_names(hardware)}, but torch {torch.__version__} cannot use them"
            driver = hardware.gpus[0].driver
            to_do = (
                "install a torch build for CUDA (this one is for CPUs only)"
                if torch.version.cuda is None
                else f"torch is built for CUDA {torch.version.cuda}: driver {driver} may be too old for it, or "
                "CUDA_VISIBLE_DEVICES hides the GPUs"
            )
            findings.append(problem("GPUs", found, to_do))
        else:
            found = "none here: training runs on the processor, over Gloo"
            findings.append(note("GPUs", found, "for XLM-R Large use a machine with GPUs, or --cluster"))
        if not hardware.cpu_bf16:
            to_do = 'set engine.precision = "fp32" for training on this processor, which is faster here'
            return [*findings, note("processor", cpu, to_do)]
        return [*findings, ok("processor", cpu)]
    names = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    version = f"CUDA {torch.version.cuda}, driver {hardware.gpus[0].driver if hardware.gpus else 'unknown'}"
    findings.append(ok("GPUs", f"{_counted(names)}; {version}"))
    old = [
        name for number, name in enumerate(names) if torch.cuda.get_device_capability(number) < (8, 0)
    ]  # is_bf16_supported() says yes where it is emulated
    if old:
        to_do = 'set engine.precision = "fp16" with ds_config "zero2_fp16"'
        findings.append(warning("bf16", f"{_counted(old)}: not in hardware", to_do))
    else:
        findings.append(ok("bf16", "in hardware on every GPU"))
    return [*findings, ok("processor", cpu)]


def _names(hardware: Hardware) -> str:
    return _counted([gpu.name for gpu in hardware.gpus])


def _counted(names: list[str]) -> str:
    """``8 x NVIDIA H100``."""
    return ", ".join(f"{names.count(name)} x {name}" for name in dict.fromkeys(names))


def check_ops(hardware: Hardware) -> list[Finding]:
    """Which Adam training will use here: DeepSpeed's ops are compiled on first use, where that is possible."""
    import torch

    cuda = torch.cuda.is_available()
    if not cuda:
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # as training has it; without, DeepSpeed prints a warning
    from xtrain.training.ops import missing_build_tools, op_is_built, ops_cache

    missing = missing_build_tools()
    if missing == "XTRAIN_NO_OPS is set":
        return [note("optimizer", f"torch's fused AdamW: {missing}", "unset it for DeepSpeed's FusedAdam")]
    if op_is_built(False):
        return [ok("optimizer", f"DeepSpeed's FusedAdam, compiled in {ops_cache()}")]
    if not missing and cuda:
        missing = _nvcc_trouble(torch.version.cuda or "")
    if not missing:
        tools = ", ".join(tool for tool in BUILD_TOOLS if tool in hardware.tools)
        found = f"DeepSpeed's FusedAdam, compiled at the first training, in a minute ({tools} are there)"
        return [ok("optimizer", found)]
    to_do = (
        "pip install ninja and put its folder on PATH; install g++ (on a cluster mostly module load gcc), and for GPUs "
        "the CUDA toolkit of torch's version (module load cuda; CUDA_HOME); nothing fails without, a step only takes "
        "a little longer"
    )
    return [warning("optimizer", f"torch's fused AdamW: DeepSpeed's FusedAdam cannot be compiled: {missing}", to_do)]


def _nvcc_trouble(wanted: str) -> str:
    """Why nvcc cannot build for CUDA ``wanted``, or nothing; DeepSpeed wants the same major version."""
    from torch.utils.cpp_extension import CUDA_HOME

    beside = Path(CUDA_HOME) / "bin" / "nvcc" if CUDA_HOME else None
    nvcc = str(beside) if beside is not None and beside.is_file() else shutil.which("nvcc")
    if nvcc is None:
        return "nvcc not found (CUDA_HOME is not set)"
    try:
        done = subprocess.run(
            [nvcc, "--version"], capture_output=True, text=True, errors="replace", timeout=COMPILER_SECONDS
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{nvcc} does not run: {error}"
    _, _, rest = done.stdout.partition("release ")
    has = rest.partition(",")[0]
    if has.partition(".")[0] != wanted.partition(".")[0]:
        return f"{nvcc} is of CUDA {has or 'an unknown version'} and torch of CUDA {wanted}"
    return ""


def check_folders(out: Path, data: Path | None) -> list[Finding]:
    """The output folder, and the data folder if one was given."""
    wanted = disk_wanted(Engine().keep_checkpoints)
    findings = [check_folder("output folder", look_at(out), remedy="choose another one with --out", wanted=wanted)]
    if data is not None:
        there = data.is_dir() and os.access(data, os.R_OK | os.X_OK)
        to_do = "name the folder with the data sets, in the layout of XTREME's download script, with --data"
        missing = "cannot be read" if data.exists() else "does not exist"
        findings.append(ok("data", str(data)) if there else problem("data", f"{data}: {missing}", to_do))
    return findings


def check_caches(environ: Mapping[str, str]) -> list[Finding]:
    """xtrain's own cache, and those of the compilers, which many ranks write at once: never on a shared disk."""
    from xtrain.starter import cache_folder
    from xtrain.training.ops import ops_cache

    findings = [
        check_folder("xtrain's cache", look_at(cache_folder()), remedy="choose another folder with XTRAIN_CACHE")
    ]
    findings.append(
        check_folder(
            "compiled ops", look_at(ops_cache()), remedy="choose another folder with XTRAIN_CACHE", least=2**26
        )
    )
    for name, path in node_local_caches(environ).items():
        report = look_at(path)
        finding = check_folder(name, report, remedy=f"export {name}=/a/folder/of/this/machine", least=2**26)
        if report.on_network and not report.refused:
            found = (
                f"{path}: on a network file system ({report.kind}), where ranks of several nodes lock each other out"
            )
            finding = warning(name, found, f"export {name}=/tmp/{name.lower()}-$USER, or another disk of this machine")
        findings.append(finding)
    return findings


def check_memory(hardware: Hardware) -> Finding:
    """Host memory that is free now."""
    found = f"{gib(hardware.memory_free)} free of {gib(hardware.memory)}"
    if hardware.memory_free < LEAST_MEMORY:
        return problem("memory", found, "end other programs, or ask the scheduler for more memory (memory_gib)")
    if hardware.memory_free < WANTED_MEMORY:
        to_do = (
            f"XLM-R Large takes {gib(WANTED_MEMORY)} a rank: ask for more memory, or set engine.background_save = "
            "false, which needs no second copy of the state; smaller models take less"
        )
        return warning("memory", found, to_do)
    return ok("memory", found)


def check_tracking(environ: Mapping[str, str]) -> Finding:
    """Whether runs will appear on W&B; a key is looked for and never shown."""
    choice = chosen(TrackingSettings(), environ, Path.cwd())
    if choice.mode in ("off", "offline"):
        off = choice.mode == "off"
        what = "nothing is written" if off else "offline runs are written into the run directories"
        to_do = "take that away to upload" + ("" if off else "; wandb sync uploads what there is later")
        return note("W&B", f"{choice.why}: {what}", to_do)
    server = environ.get("WANDB_BASE_URL") or "https://api.wandb.ai"
    if has_key(environ, server):
        return ok("W&B", f"a key for {server} is there; runs are uploaded")
    return note("W&B", f"no key for {server}: offline runs are written", "wandb login, or export WANDB_API_KEY")


def has_key(environ: Mapping[str, str], server: str) -> bool:
    """Whether credentials for ``server`` are in the environment or in ``~/.netrc``."""
    if environ.get("WANDB_API_KEY") or environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    path = Path(environ.get("NETRC") or Path.home() / ".netrc")
    try:
        return netrc.netrc(path).authenticators(urlparse(server).hostname or server) is not None
    except (OSError, netrc.NetrcParseError):
        return False
