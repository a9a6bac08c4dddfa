"""DeepSpeed's fused optimizers: compiled once for each type of node, kept in the cache, loaded from there by all ranks.

Left to itself, DeepSpeed compiles on every machine, and has the ranks wait for a lock file that outlives a rank which
is killed. Here one rank of the job compiles in a folder of its own and publishes the library by a rename; what needs
no compiler, no lock and no look at time stamps is to load it.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import platform
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from xtrain.dispatch.node_check import node_name
from xtrain.files import content_hash, read_json, sha256, write_json
from xtrain.starter import cache_folder
from xtrain.training.agreement import Agreement

SCRATCH = "XTRAIN_SCRATCH"  # names the job's folder on each node's own disk, where it has one
_MANIFEST = "op.json"
_LEFT_OVER_SECONDS = 24 * 3600.0  # no compiler takes so long: a folder so old is of a rank that was killed


@dataclass(frozen=True)
class Op:
    """A library that DeepSpeed compiles."""

    name: str
    builder: Callable[[], Any]
    """Makes DeepSpeed's builder of it."""

    @classmethod
    def adam(cls, offloaded: bool) -> Op:
        """The optimizer whose state is on the device, or in the host's memory (``offloaded``)."""
        return cls("cpu_adam", _cpu_adam) if offloaded else cls("fused_adam", _fused_adam)


def _fused_adam() -> Any:
    from deepspeed.ops.op_builder import FusedAdamBuilder

    return FusedAdamBuilder()


def _cpu_adam() -> Any:
    from deepspeed.ops.op_builder import CPUAdamBuilder

    return CPUAdamBuilder()


def provide(op: Op) -> str:
    """Load ``op`` on every rank; collective. Why it cannot be had, the same on all ranks, or an empty string.

    The first rank of each type of node compiles it unless it is in the store; then the first rank of each node copies
    it to the node's own disk, where the job has a folder there. Where nodes do not share the cache, each compiles once.
    """
    agreement = Agreement()
    mine = (node_name(), node_type(), os.environ.get("XTRAIN_NO_OPS") and "XTRAIN_NO_OPS is set")
    ranks = agreement.gather(mine)
    refusals = [refusal for _, _, refusal in ranks if refusal]
    if refusals:
        return str(refusals[0])
    types = [type_ for _, type_, _ in ranks]
    places = [(node, type_) for node, type_, _ in ranks]
    store = Store.here()
    trouble = ""
    if types.index(mine[1]) == agreement.rank:
        trouble = _trouble(lambda: store.obtain(op))
    agreement.barrier()
    if places.index((mine[0], mine[1])) == agreement.rank and not trouble:
        trouble = _trouble(lambda: store.obtain(op))
    agreement.barrier()
    trouble = trouble or _trouble(lambda: store.load(op))
    return next((text for text in agreement.gather(trouble) if text), "")


def _trouble(work: Callable[[], object]) -> str:
    """What goes wrong in ``work``: it ends no rank, for torch's optimizer serves as well."""
    try:
        work()
    except Exception as error:  # a library that does not build or load says so in many ways
        return f"{type(error).__name__}: {_last_line(error)}"
    return ""


def _last_line(error: Exception) -> str:
    lines: Iterable[str] = [line.strip() for line in str(error).splitlines() if line.strip()]
    return ([*lines] or ["no message"])[-1][:200]


@dataclass(frozen=True)
class Store:
    """Libraries for this type of node, each in a folder that appears whole."""

    shared: Path
    """In the cache, which the nodes of a cluster may share."""
    local: Path | None
    """On the node's own disk, for this job."""

    @classmethod
    def here(cls) -> Store:
        """This process's."""
        scratch = os.environ.get(SCRATCH)
        name = node_type()
        return cls(cache_folder() / "ops" / name, Path(scratch) / "ops" / name if scratch else None)

    def library(self, op: Op) -> Path:
        """Where ranks load it from."""
        return (self.local or self.shared) / op.name / f"{op.name}.so"

    def obtain(self, op: Op) -> None:
        """Have ``op`` where ranks load it from, and load it; compiles it unless a library that can be loaded is there.

        Raises whatever keeps it from being compiled, written or loaded.
        """
        if _is_installed(op):
            return
        there = _is_whole(self.shared / op.name)
        if there and not _trouble(lambda: self._copy_and_load(op)):
            return
        missing = missing_build_tools()
        if missing:
            raise FileNotFoundError(missing)
        with _work_folder(self.shared, op.name) as work:
            _publish(_compile(op, work), self.shared / op.name, replace=there)
        self._copy_and_load(op)

    def _copy_and_load(self, op: Op) -> None:
        """Copy it to the node's own disk, if there is a folder for that, and load it."""
        source = self.shared / op.name
        if self.local is not None and not _is_whole(self.local / op.name, like=source):
            with _work_folder(self.local, op.name) as work:
                shutil.copytree(source, work / "copy")
                _publish(work / "copy", self.local / op.name, replace=True)
        self.load(op)

    def load(self, op: Op) -> None:
        """Load it, unless this process has it."""
        if _is_installed(op):
            op.builder().load()
        elif op.name not in op.builder()._loaded_ops:
            _load(op, self.library(op).parent)


def _is_installed(op: Op) -> bool:
    """Whether DeepSpeed was installed with it compiled."""
    from deepspeed.git_version_info import installed_ops

    return bool(installed_ops.get(op.name))


def _load(op: Op, folder: Path) -> None:
    """Load the library in ``folder``, and tell DeepSpeed that it is loaded."""
    known = op.builder()._loaded_ops
    if op.name in known:
        return
    spec = importlib.util.spec_from_file_location(op.name, folder / f"{op.name}.so")
    assert spec is not None
    assert spec.loader is not None
    module: ModuleType = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    known[op.name] = module


def _compile(op: Op, work: Path) -> Path:
    """Have DeepSpeed compile and load ``op`` below ``work``; the folder with the library alone."""
    from torch.utils.cpp_extension import JIT_EXTENSION_VERSIONER

    JIT_EXTENSION_VERSIONER.entries.pop(op.name, None)  # a second try would be called NAME_v1, inside the library too
    before = os.environ.get("TORCH_EXTENSIONS_DIR")
    os.environ["TORCH_EXTENSIONS_DIR"] = str(work)
    try:
        builder = op.builder()
        builder._loaded_ops.pop(op.name, None)
        module = builder.jit_load(verbose=False)
    finally:
        if before is None:
            os.environ.pop("TORCH_EXTENSIONS_DIR")
        else:
            os.environ["TORCH_EXTENSIONS_DIR"] = before
    out = work / "out"
    out.mkdir()
    os.rename(module.__file__, out / f"{op.name}.so")  # the file that is loaded stays: it must not be deleted
    write_json(out / _MANIFEST, {"sha256": sha256(out / f"{op.name}.so"), "built": time.time(), "on": node_name()})
    return out


def _publish(out: Path, folder: Path, *, replace: bool) -> None:
    """Give ``out`` its name, unless another job was quicker. What is there makes way if ``replace``, or if damaged."""
    if replace or not _is_whole(folder):
        with contextlib.suppress(FileNotFoundError):
            os.rename(folder, out.parent / "replaced")
    try:
        os.rename(out, folder)
    except OSError:
        if not _is_whole(folder):
            raise


def _is_whole(folder: Path, like: Path | None = None) -> bool:
    """Whether the library has the content that it was published with (and that the one in ``like`` was)."""
    try:
        expected = read_json(folder / _MANIFEST)["sha256"]
        if like is not None and read_json(like / _MANIFEST)["sha256"] != expected:
            return False
        return bool(sha256(folder / f"{folder.name}.so") == expected)
    except (ValueError, OSError, KeyError, TypeError):  # a UserError is a ValueError
        return False


@contextlib.contextmanager
def _work_folder(parent: Path, name: str) -> Iterator[Path]:
    """An empty folder beside the one to be made; removed at the end, as are those that killed ranks left."""
    parent.mkdir(parents=True, exist_ok=True)
    for left in parent.glob(f".{name}.*.tmp"):
        with contextlib.suppress(OSError):
            if time.time() - left.stat().st_mtime > _LEFT_OVER_SECONDS:
                shutil.rmtree(left, ignore_errors=True)
    work = Path(tempfile.mkdtemp(prefix=f".{name}.{platform.node()}.", suffix=".tmp", dir=parent))
    try:
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)


def op_is_built(offloaded: bool) -> bool:
    """Whether the op that training wants lies in the store, or came with DeepSpeed; a quick look."""
    op = Op.adam(offloaded)
    return (ops_cache() / op.name / _MANIFEST).is_file() or _is_installed(op)


def ops_cache() -> Path:
    """Where the libraries for this type of node are kept."""
    return Store.here().shared


def missing_build_tools() -> str:
    """Why no DeepSpeed op can be built here, or an empty string."""
    if os.environ.get("XTRAIN_NO_OPS"):
        return "XTRAIN_NO_OPS is set"
    missing = [tool for tool in ("ninja", "c++") if shutil.which(tool) is None]
    return f"{' and '.join(missing)} not found on PATH" if missing else ""


def node_type() -> str:
    """A folder's name for all nodes that can load the same library: versions, processor and GPU."""
    facts = {
        "torch": torch.__version__,
        "deepspeed": version("deepspeed"),
        "python": sys.implementation.cache_tag,
        "libc": platform.libc_ver(),
        "machine": platform.machine(),
        "processor": _processor_features(),  # DeepSpeed compiles for the very processor, with GPUs as well
        "cuda": torch.version.cuda,
        "capability": torch.cuda.get_device_capability() if torch.cuda.is_available() else None,
    }
    device = "sm{}{}".format(*facts["capability"]) if facts["capability"] else "cpu"
    return f"torch{facts['torch']}-deepspeed{facts['deepspeed']}-{device}-{content_hash(facts, 8)}"


def _processor_features() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text("utf-8")
    except OSError:
        return platform.processor()
    found = re.search(r"^(?:flags|Features)\s*:(.*)$", text, re.MULTILINE)
    return " ".join(sorted(found[1].split())) if found else platform.processor()
