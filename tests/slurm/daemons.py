"""A whole release of SLURM for the cluster for tests, beside this machine's: unpacked, and made to run where it lies.

XTRAIN_SLURM_ROOT=$(python tests/slurm/daemons.py FOLDER trixie) pytest tests/slurm
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from clients import fetch

PACKAGES = ("slurm-client", "slurmctld", "slurmd", "slurmdbd", "slurm-wlm-mysql-plugin", "patchelf")


def release(folder: Path, suite: str) -> Path:
    """The root of the release, below ``folder``; each of its programs starts by itself, by its own loader."""
    root = fetch(folder, f"{suite}-daemons", PACKAGES, suite)
    done = root / "patched"
    if not done.exists():
        (loader,) = root.glob("usr/lib/*-linux-gnu/ld-linux*.so.*")
        libraries = f"{loader.parent / 'slurm-wlm'}:{loader.parent}"
        patch = [str(loader), "--library-path", str(loader.parent), str(root / "usr/bin/patchelf")]
        # An RPATH, which counts for the plug-ins' libraries too, where a RUNPATH does not.
        patch += ["--set-interpreter", str(loader), "--force-rpath", "--set-rpath", libraries]
        programs = [path for path in (*root.glob("usr/bin/*"), *root.glob("usr/sbin/slurm*")) if _of_slurm(path)]
        subprocess.run([*patch, *map(str, programs)], check=True, stdin=subprocess.DEVNULL)
        for path in programs:
            plain = path.with_name(path.name.removesuffix("-wlm"))  # as Debian's alternatives name it
            if not plain.exists():
                plain.symlink_to(path.name)
        done.touch()
    return root


def _of_slurm(path: Path) -> bool:
    if path.is_symlink() or not path.is_file():
        return False
    content = path.read_bytes()
    return content.startswith(b"\x7fELF") and b"libslurmfull.so" in content


if __name__ == "__main__":
    print(release(Path(sys.argv[1]).absolute(), sys.argv[2]))
