"""A real SLURM cluster of several nodes on one machine, for tests: up in seconds, broken at will, gone without a trace.

    with Cluster(nodes=2, accounting=False) as cluster:
        cluster.run("srun", "-N2", "hostname")                            # from outside: the login node, so to speak
        subprocess.run([...], env=cluster.environment)                    # the same for any program: submitit, xtrain
        cluster.power_off("n2")

Every node has its own host name, address, process space, /dev/shm and mounts; the file system is shared.
It needs root, and SLURM, munge and iproute2 (with accounting, slurmdbd and MariaDB too): see `missing`.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest
from slurm_files import Knobs, write_commands, write_files
from spaces import children, command

PROGRAMS = ("slurmctld", "slurmd", "sbatch", "munged", "ip", "unshare", "nsenter", "setpriv")
ACCOUNTING_PROGRAMS = ("slurmdbd", "mariadbd", "mariadb-install-db", "my_print_defaults")
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class ClusterError(Exception):
    """The cluster for tests does not do what it should."""


def missing(accounting: bool = True) -> str:
    """Why this machine cannot have a cluster, in words; empty if it can."""
    if os.geteuid() != 0:
        return "a SLURM cluster for tests needs root (namespaces, mounts)"
    wanted = PROGRAMS + (ACCOUNTING_PROGRAMS if accounting else ())
    absent = [program for program in wanted if shutil.which(program, path=SYSTEM_PATH) is None]
    return f"a SLURM cluster for tests needs {', '.join(absent)} (.ci/run names the packages)" if absent else ""


class Cluster:
    """A cluster as `Knobs` describe it. A context manager; `start` and `stop` do the same by hand."""

    def __init__(self, **knobs: Any) -> None:
        self.knobs = Knobs(**knobs)
        self.folder = Path()
        self._guard: subprocess.Popen[bytes] | None = None
        self._controller = 0  # the process id of the controller's first process, as seen from outside
        self._mounts: list[tuple[int, str, str]] = []  # a node's first process, the node, where something was mounted

    def __enter__(self) -> Cluster:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    @property
    def nodes(self) -> list[str]:
        """The nodes' names: n1, n2, ..."""
        return self.knobs.names

    # ---- start and stop

    def start(self) -> None:
        """Start it and wait until all nodes are idle. Raises ClusterError, and leaves nothing behind then."""
        self.folder = Path(tempfile.mkdtemp(prefix="slurm-", dir="/tmp"))  # sockets lie in it: 107 characters at most
        try:
            self._start()
        except BaseException as error:
            error.add_note(self.log_tails())
            self.stop()
            raise

    def _start(self) -> None:
        write_files(self.folder, self.knobs)
        self._guard = subprocess.Popen(
            command(["guard", str(self.folder), str(os.getpid())]),
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is for the test process, which then ends the cluster
            env=self._plain_environment,
        )
        self._wait(20, "the controller's namespaces", (self.folder / "run/ready").exists)
        space = children(self._guard.pid)[0]
        self._controller = children(space)[0]
        write_commands(self.folder, self._controller, self.knobs.root)
        self.start_munge()
        if self.knobs.accounting:
            self._start_accounting()
        self._inside("slurmctld", "-c")
        self._wait(30, "slurmctld", self._answers)
        for name in self.nodes:
            self._launch_node(name)
        self.wait_idle()

    def _start_accounting(self) -> None:
        defaults = f"--defaults-file={self.folder}/etc/my.cnf"
        self._inside("mariadb-install-db", defaults, "--user=root", f"--datadir={self.folder}/db/data",
                     "--auth-root-authentication-method=normal", "--skip-test-db", "--skip-name-resolve",
                     output="mariadb-install.out")  # fmt: skip
        self._inside("setsid", "--fork", "mariadbd", defaults, f"--init-file={self.folder}/etc/init.sql",
                     output="mariadb.out")  # fmt: skip
        self._wait(30, "MariaDB", (self.folder / "run/mysqld.sock").exists)
        self._inside("slurmdbd")
        self._wait(30, "slurmdbd", lambda: self._asked("sacctmgr", "-n", "show", "cluster") is not None)

    def stop(self) -> None:
        """End every process of the cluster at once, jobs too, and remove its folder. Safe to call twice."""
        guard, self._guard, self._controller = self._guard, None, 0
        self._mounts.clear()
        if guard is not None:
            guard.communicate(b"end")  # a word, for a process forked by some test may hold its standard input open
        if self.folder != Path():
            shutil.rmtree(self.folder, ignore_errors=True)  # if the guard never got that far

    # ---- use

    @property
    def environment(self) -> dict[str, str]:
        """A process's environment from which SLURM's commands reach this cluster; inside a job too."""
        return self._plain_environment | {
            "PATH": f"{self.folder}/bin:{os.environ.get('PATH', SYSTEM_PATH)}",
            "SLURM_CONF": f"{self.folder}/etc/slurm.conf",
        }

    def use_in(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Make `environment` that of the test process itself, for what runs in it."""
        for name in os.environ.keys() - self.environment.keys():
            monkeypatch.delenv(name)
        for name, value in self.environment.items():
            monkeypatch.setenv(name, value)

    @property
    def _plain_environment(self) -> dict[str, str]:
        """Without what a real cluster's job, in which the tests may run, has set."""
        foreign = ("SLURM", "SBATCH_", "SRUN_", "SALLOC_")
        return {name: value for name, value in os.environ.items() if not name.startswith(foreign)}

    def run(
        self, *words: str, check: bool = True, timeout: float = 60, **more: Any
    ) -> subprocess.CompletedProcess[str]:
        """Run a command outside the nodes, as a user at the login node would; `more` is for subprocess.run.

        Raises ClusterError with what it printed if it fails and `check` is set.
        """
        options: dict[str, Any] = {"env": self.environment, "capture_output": True, "stdin": subprocess.DEVNULL}
        done = subprocess.run(words, timeout=timeout, check=False, text=True, **(options | more))
        if check and done.returncode:
            raise ClusterError(f"{' '.join(words)} ended with {done.returncode}: {done.stdout}{done.stderr}")
        return done

    def node_run(
        self, node: str, *words: str, check: bool = True, timeout: float = 60, **more: Any
    ) -> subprocess.CompletedProcess[str]:
        """Run a command on a node, not as a job, in folder /. Like `run` otherwise."""
        enter = ["nsenter", "-t", str(self._first_process(node)), "--net", "--uts", "--ipc", "--pid", "--mount", "--"]
        return self.run(*enter, *words, check=check, timeout=timeout, **more)

    def states(self) -> dict[str, str]:
        """What SLURM says of each node: "idle", "mix", "down*", ... ("*": silent); empty if slurmctld is silent."""
        words = (self._asked("sinfo", "-h", "-N", "-p", "main", "-o", "%N %t") or "").split()
        return dict(zip(words[::2], words[1::2], strict=True))

    def state(self, node: str) -> str:
        """One node's part of `states`; empty if slurmctld is silent."""
        return self.states().get(node, "")

    def job_states(self) -> dict[str, str]:
        """The jobs SLURM still knows, ended ones too: RUNNING, PENDING, COMPLETED, ... Raises ClusterError."""
        words = self.run("squeue", "-h", "-t", "all", "-o", "%i %T").stdout.split()
        return dict(zip(words[::2], words[1::2], strict=True))

    def wait_state(self, node: str, *states: str, timeout: float = 60) -> None:
        """Wait until SLURM says one of `states` of a node. Raises ClusterError."""
        self._wait(timeout, f"{node} to be {' or '.join(states)}", lambda: self.state(node) in states)

    def wait_job(self, job: str, *states: str, timeout: float = 60) -> None:
        """Wait until a job is in one of `states`, such as RUNNING. Raises ClusterError."""
        self._wait(timeout, f"job {job} to be {' or '.join(states)}", lambda: self.job_states().get(job) in states)

    def wait_idle(self, timeout: float = 60) -> None:
        """Wait until every node is idle. Raises ClusterError."""
        self._wait(timeout, "all nodes to be idle", lambda: list(self.states().values()) == ["idle"] * self.knobs.nodes)

    # ---- break and repair

    def power_off(self, node: str) -> None:
        """A node loses power: its network falls silent, then all that ran on it is gone, and what was mounted on it."""
        self.cut_network(node)  # first: a node without power does not say goodbye to its peers
        os.kill(self._first_process(node), signal.SIGKILL)
        self._wait(20, f"{node} to be gone", lambda: not self.is_on(node))

    def power_on(self, node: str) -> None:
        """Switch a node on again. SLURM takes it back as soon as its slurmd has said so: `wait_state(node, "idle")`."""
        if self.is_on(node):
            raise ClusterError(f"{node} is on already")
        self._launch_node(node)

    def is_on(self, node: str) -> bool:
        """Whether a node has power."""
        return bool(self._find_node(node))

    def kill_slurmd(self, node: str) -> None:
        """slurmd of a node dies; its jobs go on."""
        for process in self._slurmd(node):
            os.kill(process, signal.SIGKILL)
        self._wait(10, f"slurmd of {node} to be gone", lambda: not self._slurmd(node))

    def start_slurmd(self, node: str) -> None:
        """Start slurmd of a node again."""
        if not self._slurmd(node):
            self.node_run(node, "slurmd", "-N", node)

    def cut_network(self, node: str) -> None:
        """Pull a node's network cable."""
        self._ip("link", "set", f"v{node}", "down")

    def restore_network(self, node: str) -> None:
        """Plug it in again."""
        self._ip("link", "set", f"v{node}", "up")

    def stop_controller(self) -> None:
        """slurmctld goes down in good order; jobs go on, SLURM's commands fail."""
        for process in self._named(self._controller, "slurmctld"):
            os.kill(process, signal.SIGTERM)
        self._wait(30, "slurmctld to end", lambda: not self._named(self._controller, "slurmctld"))

    def start_controller(self) -> None:
        """slurmctld comes up again with the state it had."""
        if not self._named(self._controller, "slurmctld"):
            self._inside("slurmctld")
        self._wait(30, "slurmctld", self._answers)

    def stop_munge(self) -> None:
        """munged goes away: no command of SLURM's gets an answer, and SLURM's parts cannot speak with each other."""
        for process in self._named(self._controller, "munged"):
            os.kill(process, signal.SIGTERM)
        self._wait(10, "munged to end", lambda: not self._named(self._controller, "munged"))

    def start_munge(self) -> None:
        """munged is there again."""
        if not self._named(self._controller, "munged"):
            run = self.folder / "run"
            self._inside("munged", "--force", f"--key-file={self.folder}/etc/munge.key", f"--socket={run}/munge.sock",
                         f"--pid-file={run}/munged.pid", f"--log-file={self.folder}/log/munged.log",
                         f"--seed-file={run}/munge.seed")  # fmt: skip

    def hide_folder(self, node: str, path: Path) -> None:
        """On this node alone, an empty folder is seen at `path`: as if it were not shared, or the data not there."""
        self._mount(node, path, "-t", "tmpfs", "tmpfs")

    def mount_folder(self, node: str, path: Path, other: Path) -> None:
        """On this node alone, what is in `other` is seen at `path`."""
        self._mount(node, path, "--bind", str(other))

    def mount_small(self, node: str, path: Path, size: str) -> None:
        """On this node alone, an empty disk of `size` ("1m") is at `path`."""
        self._mount(node, path, "-t", "tmpfs", "-o", f"size={size}", "tmpfs")

    def mount_readonly(self, node: str, path: Path) -> None:
        """On this node alone, `path` cannot be written into."""
        self._mount(node, path, "--bind", str(path))
        self.node_run(node, "mount", "-o", "remount,bind,ro", str(path))

    def unmount(self, node: str, path: Path) -> None:
        """Undo the newest of those above at `path`."""
        self.node_run(node, "umount", "--lazy", str(path))
        self._mounts.remove((self._first_process(node), node, str(path)))

    def reset(self) -> None:
        """End all jobs, undo all of the above, and wait until every node is idle. Raises ClusterError."""
        self.start_munge()
        self.start_controller()
        for name in self.nodes:
            if not self.is_on(name):
                self.power_on(name)
            self.restore_network(name)
            self.start_slurmd(name)
        for first, node, path in reversed(self._mounts):
            if self._find_node(node) == first:
                self.node_run(node, "umount", "--lazy", path)
        self._mounts.clear()
        self.run("scancel", "--user=root")
        self.run("scancel", "--user=root", "--signal=KILL", "--full", check=False)  # not after KillWait
        self._wait(60, "all jobs to end", lambda: self._asked("squeue", "-h") == "")
        for name, state in self.states().items():
            if state.startswith(("dr", "down")):
                self.run("scontrol", "update", f"nodename={name}", "state=resume", check=False)
        self.wait_idle()

    # ---- looking inside

    def log_files(self) -> list[Path]:
        """The logs of all daemons."""
        return sorted((self.folder / "log").glob("*"))

    def log_tails(self, lines: int = 20) -> str:
        """The ends of the logs that say something, each below its path: SLURM's, or all if it never came up."""
        tails = []
        for path in self.log_files():
            if path.name.startswith(("mariadb", "munge")) and (self.folder / "log/slurmctld.log").exists():
                continue
            # every daemon complains of MPI libraries that are not installed and not needed
            said = [line for line in path.read_text(errors="replace").splitlines() if "mpi" not in line.lower()]
            if said:
                tails.append("\n".join([f"--- {path}", *said[-lines:]]))
        return "\n".join(tails)

    def _first_process(self, node: str) -> int:
        first = self._find_node(node)
        if not first:
            raise ClusterError(f"{node} is off")
        return first

    def _find_node(self, node: str) -> int:
        """The first process of a node as seen from outside; 0 if it is off."""
        ending = b"\0".join([b"node", os.fsencode(self.folder), os.fsencode(node), b""])
        for space in self._named(self._controller, "unshare"):
            try:
                if Path(f"/proc/{space}/cmdline").read_bytes().endswith(ending):
                    return next(iter(children(space)), 0)
            except OSError:
                continue  # it has just ended
        return 0

    def _slurmd(self, node: str) -> list[int]:
        return self._named(self._first_process(node), "slurmd")

    @staticmethod
    def _named(parent: int, name: str) -> list[int]:
        """The children of a process that run the program `name` (zombies run none)."""
        found = []
        for child in children(parent):
            try:
                text = Path(f"/proc/{child}/stat").read_text()
            except OSError:
                continue
            comm, rest = text.partition("(")[2].rsplit(")", 1)
            if comm == name and not rest.startswith(" Z"):
                found.append(child)
        return found

    def _launch_node(self, name: str) -> None:
        self._ip("link", "del", f"v{name}", check=False)  # the kernel may not yet have removed that of a node gone
        self._inside("setsid", "--fork", "unshare", "--net", "--uts", "--mount", "--ipc", "--pid", "--fork",
                     "--kill-child", "--mount-proc", *command(["node", str(self.folder), name]),
                     output=f"{name}.out")  # fmt: skip
        self._wait(20, f"{name}'s namespaces", lambda: self.is_on(name))
        netns = str(self._first_process(name))
        self._ip("link", "add", f"v{name}", "type", "veth", "peer", "name", "eth0", "netns", netns)
        self._ip("link", "set", f"v{name}", "master", "br0", "up")

    def _mount(self, node: str, path: Path, *words: str) -> None:
        self.node_run(node, "mount", *words, str(path))
        self._mounts.append((self._first_process(node), node, str(path)))

    def _ip(self, *words: str, check: bool = True) -> None:
        """Change the controller's network."""
        self.run("nsenter", "-t", str(self._controller), "--net", "--", "ip", *words, check=check)

    def _inside(self, *words: str, output: str = "start.out") -> None:
        """Run a command that ends, or goes on by itself, among the controller's processes; its output goes to a log."""
        enter = ["nsenter", "-t", str(self._controller), "--net", "--uts", "--pid", "--mount", "--"]
        environment = self._plain_environment | {"SLURM_CONF": f"{self.folder}/etc/slurm.conf"}
        with open(self.folder / "log" / output, "ab") as log:
            code = subprocess.run(
                [*enter, *words], stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, timeout=60
            ).returncode
        if code:
            raise ClusterError(f"{' '.join(words)} ended with {code}; see the end of {output}")

    def _answers(self) -> bool:
        return self._asked("scontrol", "ping") is not None

    def _asked(self, *words: str) -> str | None:
        """What a SLURM command prints; None if it fails or takes longer than 5 s."""
        try:
            done = self.run(*words, check=False, timeout=5)
        except subprocess.TimeoutExpired:
            return None
        return None if done.returncode else done.stdout

    def _wait(self, seconds: float, what: str, condition: Callable[[], bool]) -> None:
        until = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > until:
                raise ClusterError(f"waited {seconds:.0f} s in vain for {what}: {self.states() or 'SLURM is silent'}")
            time.sleep(0.05)
