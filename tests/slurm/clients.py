"""Other releases of SLURM than this machine's, from Debian's mirror, and what their clients say to a command line.

    python tests/slurm/clients.py FOLDER [SUITE ...]     # once; then tests take them from XTRAIN_SLURM_CLIENTS=FOLDER

The packages are unpacked into FOLDER/SUITE (trixie has 24.11, sid 26.05 at the time of writing), and never installed.
Each program is started by the loader of its own release, with that release's libraries. Root is not needed.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

VARIABLE = "XTRAIN_SLURM_CLIENTS"
HOW = f"python tests/slurm/clients.py FOLDER fetches them, and {VARIABLE}=FOLDER names the folder"
SUITES = ("trixie", "sid")
PACKAGES = ("slurm-client",)
MIRROR = "http://deb.debian.org/debian"
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
SYSTEM = "system"  # the clients that are installed here, in
PATH = "/usr/bin:/bin"

# No daemon answers at this address, and no time is spent on it: 26.05 tries for as long as MessageTimeout says.
CONF = """ClusterName=none
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort=9
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/no-munge
MessageTimeout=0
TaskPlugin=task/affinity
GresTypes=gpu
NodeName=n1 CPUs=4
PartitionName=main Nodes=ALL Default=YES
{more}
"""
# What a client says when it has taken all its options and finds nobody to send them to. Any other line is a refusal.
_NOBODY_THERE = re.compile(
    r"Unable to contact slurm controller \(connect failure\)$"
    r"|^Unexpected message received for job \d+$"  # scontrol's words for the same
    r"|^srun: Check SLURM_JOB_ID environment variable\. Expired or invalid job \d+$"  # after the line above
    r"|^Slurm accounting storage is disabled$"
    r"|^You are not running a supported accounting_storage plugin$|^Only 'accounting_storage/slurmdbd' is supported\.$"
    r"|^Slurmctld\(primary\) at \S+ is DOWN$|^\*+$|^\*\* RESTORE SLURMCTLD DAEMON TO SERVICE \*\*$"  # scontrol ping
)


@dataclass(frozen=True)
class Clients:
    """SLURM's clients of one release, with a slurm.conf in ``folder`` by which they find no controller."""

    name: str
    """A suite of Debian's, or ``system``."""
    root: Path
    folder: Path

    @classmethod
    def of(cls, name: str, root: Path, folder: Path) -> Clients:
        """Those below ``root`` (``/``: this machine's); ``folder`` gets their configuration."""
        folder.mkdir(parents=True)
        made = cls(name, root, folder)
        more = "" if name == SYSTEM else f"PluginDir={made._libraries / 'slurm-wlm'}"
        (folder / "slurm.conf").write_text(CONF.format(folder=folder, more=more))
        return made

    @property
    def version(self) -> str:
        """As ``sbatch --version`` has it: ``24.11.5``."""
        return self.run(["sbatch", "--version"]).stdout.split()[-1]

    @property
    def _libraries(self) -> Path:
        return next(self.root.glob("usr/lib/*-linux-gnu/slurm-wlm")).parent

    def command(self, words: Sequence[str]) -> list[str]:
        """The words that start this release's program ``words[0]``."""
        if self.name == SYSTEM:
            return list(words)
        program = next(self.root.glob(f"usr/*bin/{words[0]}"))
        libraries = self._libraries
        loader = next(libraries.glob("ld-linux*.so.*"))
        path = f"{libraries}:{libraries / 'slurm-wlm'}"
        return [str(loader), "--library-path", path, "--argv0", words[0], str(program), *words[1:]]

    def run(
        self, words: Sequence[str], environment: Mapping[str, str] = {}, script: str = ""
    ) -> subprocess.CompletedProcess[str]:
        """Run a command line; ``script`` is what sbatch gets instead of the file that its last word names."""
        plain = {"PATH": PATH, "LC_ALL": "C", "HOME": str(self.folder)}
        env = {**plain, **environment, "SLURM_CONF": str(self.folder / "slurm.conf")}
        with tempfile.NamedTemporaryFile("w", suffix=".sh") as file:
            if script:
                file.write(script)
                file.flush()
                words = [*words[:-1], file.name]
            return subprocess.run(
                self.command(words), env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60
            )

    def refusal(self, words: Sequence[str], environment: Mapping[str, str] = {}, script: str = "") -> str:
        """What this release has against a command line; empty where it has taken it, and only found no controller."""
        done = self.run(words, environment, script)
        lines = done.stderr.splitlines() + (done.stdout.splitlines() if done.returncode else [])
        wrong = [line for line in lines if line.strip() and not _NOBODY_THERE.search(line)]
        return "\n".join(wrong) or (f"no word, code {done.returncode}" if done.returncode and not lines else "")


def installed(folder: Path) -> list[Clients]:
    """This machine's clients, and those that were fetched."""
    found = [Clients.of(SYSTEM, Path("/"), folder / SYSTEM)] if shutil.which("sbatch", path=PATH) else []
    given = os.environ.get(VARIABLE)
    for suite in SUITES if given else ():
        root = Path(given or "") / suite
        if root.is_dir():
            found.append(Clients.of(suite, root.resolve(), folder / suite))
    return found


def fetch(folder: Path, name: str, packages: Sequence[str] = PACKAGES, suite: str = "") -> Path:
    """Unpack packages of a suite (``name`` if not given), with all that they need, into ``folder/name``: once.

    Raises :class:`subprocess.CalledProcessError` where the mirror does not have them.
    """
    root = folder / name
    if root.is_dir():
        return root
    folder.mkdir(parents=True, exist_ok=True)
    begun = Path(tempfile.mkdtemp(prefix=f"{name}.", dir=folder))  # complete or not there: a fetch may be killed
    try:
        for part in ("lists/partial", "archives/partial", "root"):
            (begun / part).mkdir(parents=True)
        (begun / "sources.list").write_text(f"deb [signed-by={KEYRING}] {_mirror()} {suite or name} main\n")
        (begun / "status").touch()  # nothing is installed: apt names every library, libc too
        options = {"State::lists": "lists", "State::status": "status", "Cache": "", "Cache::archives": "archives",
                   "Etc::sourcelist": "sources.list", "Etc::sourceparts": "none"}  # fmt: skip
        apt = ["apt-get", "-qq", *(f"-oDir::{key}={begun / value}" for key, value in options.items())]
        apt += ["-oAcquire::Languages=none", "-oAPT::Sandbox::User=root", "-oDebug::NoLocking=1",
                "-oAcquire::http::Timeout=30", "-oAcquire::Retries=1"]  # fmt: skip
        _quietly([*apt, "update"])
        _quietly([*apt, "-y", "--no-install-recommends", "--download-only", "install", *packages])
        for package in sorted((begun / "archives").glob("*.deb")):
            _quietly(["dpkg-deb", "--extract", str(package), str(begun / "root")])
        (begun / "root").chmod(0o755)
        try:
            (begun / "root").rename(root)
        except OSError:
            if not root.is_dir():  # another run was faster
                raise
    finally:
        shutil.rmtree(begun, ignore_errors=True)
    return root


def _mirror() -> str:
    """The one that this machine's apt uses."""
    for path in (Path("/etc/apt/sources.list"), *sorted(Path("/etc/apt/sources.list.d").glob("*"))):
        found = re.search(r"https?://\S+/debian(?=/?\s)", path.read_text()) if path.is_file() else None
        if found:
            return found[0]
    return MIRROR


def _quietly(words: Sequence[str]) -> None:
    subprocess.run(words, check=True, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=600)


def main(folder: Path, suites: Sequence[str]) -> None:
    """Fetch what the mirror has, a line for each suite. What it does not have is no failure: tests skip it."""
    for suite in suites or SUITES:
        try:
            root = fetch(folder.absolute(), suite)
            with tempfile.TemporaryDirectory() as conf:
                version = Clients.of(suite, root, Path(conf) / "conf").version
            print(f"SLURM's clients of {suite}: {version}, in {root}")
        except (subprocess.SubprocessError, OSError, StopIteration, IndexError) as error:
            said = (getattr(error, "stderr", "") or str(error) or repr(error)).strip().splitlines()
            print(f"SLURM's clients of {suite} are not to be had, their tests are skipped: {said[-1]}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
