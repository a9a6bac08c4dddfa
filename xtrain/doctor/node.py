"""What one node of a job reports: python -m xtrain.doctor.node, one process a node, started by srun. No PyTorch."""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import os
import platform
import shlex
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import xtrain
from xtrain.dispatch.batch_script import cache_folder, scratch_root
from xtrain.dispatch.cluster import SLURM, Profile, Storage
from xtrain.dispatch.interfaces import address_of, interfaces
from xtrain.doctor.commands import ask
from xtrain.doctor.folders import LEAST_BYTES, FolderReport, look_at
from xtrain.doctor.framing import emit
from xtrain.doctor.hardware import Gpu, Hardware, this_machine
from xtrain.doctor.meeting import Acquaintance, Meeting
from xtrain.doctor.servers import unreached
from xtrain.doctor.versions import installed, package_name, requirements
from xtrain.errors import UserError
from xtrain.starting import prepare

SPEED_BYTES = 64 * 2**20


@dataclass(frozen=True)
class NodeReport:
    """One node, as a process of a job on it found it."""

    node: str
    """SLURM's name of it."""
    host: str
    time: float
    """Seconds since 1970, by its own clock."""
    python: str
    """The interpreter's path."""
    versions: Mapping[str, str]
    hardware: Hardware
    interfaces: Mapping[str, str]
    """Name -> IPv4 address."""
    own_address: str
    """What the node's own name stands for on it; empty where it stands for nothing."""
    folders: Mapping[str, FolderReport]
    """``out``, ``cache``, ``scratch``, ``shm``."""
    data: str = ""
    """Why the data folder cannot be read; empty where it can, or none was asked for."""
    visible_gpus: str | None = None
    """CUDA_VISIBLE_DEVICES, where it is set."""
    met: Mapping[str, Acquaintance] = field(default_factory=dict)
    not_written: str = ""
    not_seen: tuple[str, ...] = ()
    no_locks: str = ""
    not_locked: tuple[str, ...] = ()
    bytes_per_second: float = 0.0
    """That were written into the output folder and synced; 0 where it was not measured."""
    servers: Mapping[str, str] = field(default_factory=dict)
    """Why the hub and W&B's server are not reached; empty strings where they are."""
    sbatch: str = ""
    """Why a job may not be submitted from here; empty where it may, or that was not tried."""

    def to_mapping(self) -> dict[str, Any]:
        """As plain values for JSON; :meth:`from_mapping` reads them."""
        return dataclasses.asdict(self)

    @classmethod
    def from_mapping(cls, value: Mapping[str, Any]) -> NodeReport:
        """A report as it came through JSON."""
        hardware = dict(value["hardware"])
        hardware["gpus"] = tuple(Gpu(**gpu) for gpu in hardware["gpus"])
        hardware["tools"] = tuple(hardware["tools"])
        return cls(
            **{
                **value,
                "hardware": Hardware(**hardware),
                "folders": {name: FolderReport(**folder) for name, folder in value["folders"].items()},
                "met": {name: Acquaintance(**other) for name, other in value["met"].items()},
                "not_seen": tuple(value["not_seen"]),
                "not_locked": tuple(value["not_locked"]),
            }
        )


def main(arguments: Sequence[str]) -> int:
    """Look at this node, meet the others, and emit ``{"at": STAGE}`` on the way and ``{"report": ...}`` at the end."""
    options = _options(arguments)
    node = os.environ.get("SLURMD_NODENAME") or platform.node()

    def at(stage: str) -> None:
        emit(node, {"at": stage})

    at("start")
    found = interfaces()
    meeting = Meeting(
        node,
        [name for name in options.nodes.split(",") if name and name != node],
        options.token,
        options.port,
        options.out,
        options.host,
        options.host_locked,
        address_of(options.interface),
        options.patience,
    )
    meeting.run(at)  # first: the others wait for this node, and what follows takes unequal times
    report = _look(node, options, meeting, found, at)
    emit(node, {"report": report.to_mapping()})
    return 0


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m xtrain.doctor.node", description=__doc__)
    parser.add_argument("--nodes", required=True, help="names of all nodes, with commas between")
    parser.add_argument("--token", required=True, help="of this meeting")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--out", type=Path, required=True, help="the output folder")
    parser.add_argument("--host", default="", help="whose file lies in the output folder already")
    parser.add_argument("--host-locked", action="store_true", help="and is locked")
    parser.add_argument("--data", type=Path, help="the data folder")
    parser.add_argument("--cache", required=True, help="the folder that nodes share")
    parser.add_argument("--scratch", required=True, help="a folder of the node's own disk")
    parser.add_argument("--interface", default="", help="network interfaces, with commas between")
    parser.add_argument("--sbatch", default="", help="options of a job that is to be submitted from a node, as a trial")
    parser.add_argument("--patience", type=float, default=40.0, help="seconds that others may take to come")
    return parser.parse_args(arguments)


def _look(node: str, options: argparse.Namespace, meeting: Meeting, found: dict[str, str], at: Any) -> NodeReport:
    folders = {}
    for name, where in _folders(options).items():
        at(f"{name} folder, {where}")
        folders[name] = where if isinstance(where, FolderReport) else look_at(where)
    data = ""
    if options.data is not None:
        at(f"data folder, {options.data}")
        data = _unreadable(options.data)
    at("the hub and W&B")
    servers = unreached(os.environ)
    at("devices")
    hardware = this_machine()
    at("versions")
    needed = [text for text in requirements() if package_name(text) != "python"]
    versions = {**installed(needed), "xtrain": f"{xtrain.__version__} ({_source_hash()})"}
    out = folders["out"]
    speed = 0.0
    if node == options.nodes.split(",")[0] and out.exists and not out.refused and out.free > LEAST_BYTES:
        at("writing into the output folder")
        speed = _write_speed(options.out)
    return NodeReport(
        node=node,
        host=platform.node(),
        time=time.time(),
        python=sys.executable,
        versions=versions,
        hardware=hardware,
        interfaces=found,
        own_address=_own_address(),
        folders=folders,
        data=data,
        visible_gpus=os.environ.get("CUDA_VISIBLE_DEVICES"),
        met=meeting.met,
        not_written=meeting.not_written,
        not_seen=tuple(meeting.not_seen),
        no_locks=meeting.no_locks,
        not_locked=tuple(meeting.not_locked),
        bytes_per_second=speed,
        servers=servers,
        sbatch=refusal_of_sbatch(options.sbatch) if options.sbatch and node == options.nodes.split(",")[0] else "",
    )


def refusal_of_sbatch(options: str) -> str:
    """Why sbatch does not take a job with these options from this node; nothing is submitted."""
    return ask(["sbatch", "--test-only", "--wrap=true", *shlex.split(options)]).trouble


def _folders(options: argparse.Namespace) -> dict[str, Path | FolderReport]:
    """The folders to look at; those of the profile as this node's variables name them."""
    found: dict[str, Path | FolderReport] = {"out": options.out, "shm": Path("/dev/shm")}
    profile = Profile(scheduler=SLURM, storage=Storage(options.scratch, options.cache))
    for name, text, read in (("cache", options.cache, cache_folder), ("scratch", options.scratch, scratch_root)):
        try:
            found[name] = read(profile)
        except UserError as error:
            found[name] = FolderReport(text, False, error.problems[0].what)
    return found


def _unreadable(folder: Path) -> str:
    try:
        entries = os.listdir(folder)
    except OSError as error:
        return error.strerror or str(error)
    return "" if entries else "is empty"


def _own_address() -> str:
    try:
        return socket.gethostbyname(platform.node())
    except OSError:
        return ""


def _source_hash() -> str:
    """Eight digits over xtrain's source files: nodes with copies of their own can have different ones."""
    root = Path(xtrain.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:8]


def _write_speed(folder: Path) -> float:
    """Bytes a second that are written into ``folder`` and synced; 0 where that fails."""
    path = folder / f".doctor-speed-{platform.node()}-{os.getpid()}"
    block = os.urandom(2**20)
    began = time.monotonic()
    try:
        with open(path, "xb") as handle:
            for _ in range(SPEED_BYTES // len(block)):
                handle.write(block)
            handle.flush()
            os.fsync(handle.fileno())
        return SPEED_BYTES / max(1e-6, time.monotonic() - began)
    except OSError:
        return 0.0
    finally:
        path.unlink(missing_ok=True)


if __name__ == "__main__":
    prepare()
    sys.exit(main(sys.argv[1:]))
