"""The first processes of the cluster for tests: its guard, the controller's and the nodes'. Standard library only.

    guard (host)                 ends everything and removes the folder when the test process is gone
      unshare
        controller (pid 1 of the cluster: own network with the bridge, host name, mounts, process space)
          munged, mariadbd, slurmdbd, slurmctld
          unshare, one for each node
            node (pid 1 of a node: network, host name, mounts, process space, IPC of its own)
              slurmd, and the jobs

Every process of the cluster lives in the controller's process space, so when its first process is killed, so is all
else, by the kernel. Nothing has to be found and ended one by one, whatever state a test has left it in.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path


def children(pid: int) -> list[int]:
    """The processes whose parent is `pid`; none when it is gone."""
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except (OSError, ProcessLookupError):
        return []


def command(script_arguments: list[str]) -> list[str]:
    """This file as a command."""
    return [sys.executable, "-I", "-S", str(Path(__file__).resolve()), *script_arguments]


def guard(folder: Path, parent: int) -> None:
    """Start the controller's namespaces; end all, `folder` too, once told by standard input, or `parent` has gone."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with open(folder / "log/controller.out", "wb") as output:
        space = subprocess.Popen(
            # If even the guard is killed, the kernel ends what it has started.
            ["setpriv", "--pdeathsig", "KILL"]
            + ["unshare", "--net", "--uts", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
            + command(["controller", str(folder)]),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        while space.poll() is None and os.getppid() == parent:
            # A child that the test process forked may hold the pipe open, hence also the look at the parent.
            if select.select([0], [], [], 0.5)[0]:
                break
    finally:
        for first in children(space.pid) or [space.pid]:
            os.kill(first, signal.SIGKILL)
        space.wait()
        shutil.rmtree(folder, ignore_errors=True)


def run(*words: str) -> None:
    """Run one command of the set-up; its message goes to this process's log."""
    subprocess.run(words, check=True)


def reap() -> None:
    """What the first process of a process space owes: to wait for all that end below it, for ever."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
    while True:
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            pass
        signal.sigtimedwait({signal.SIGCHLD}, 1.0)


def controller(folder: Path) -> None:
    """The controller's host: the bridge that the nodes hang on, and the names of all."""
    plan = json.loads((folder / "etc/plan.json").read_text())
    socket.sethostname("ctl")
    run("mount", "--bind", str(folder / "etc/hosts"), "/etc/hosts")
    if plan["root"] != "/":
        other_release(Path(plan["root"]))
    run("ip", "link", "set", "lo", "up")
    run("ip", "link", "add", "br0", "type", "bridge")
    run("ip", "addr", "add", f"{plan['addresses']['ctl']}/24", "dev", "br0")
    run("ip", "link", "set", "br0", "up")
    (folder / "run/ready").touch()
    reap()


def other_release(root: Path) -> None:
    """Here and on the nodes, SLURM's daemons are those below `root`: slurmd looks for slurmstepd in /usr/sbin."""
    for path in root.glob("usr/sbin/slurm*"):
        place = Path("/usr/sbin") / path.name
        if not path.is_symlink() and place.is_file() and not place.is_symlink():
            run("mount", "--bind", str(path), str(place))


def own_sys(stage: Path) -> None:
    """A /sys that lists this node's network interfaces, not the machine's; slurmd wants the control groups in it."""
    run("mount", "--rbind", "/sys/fs/cgroup", str(stage))
    run("mount", "-t", "sysfs", "sysfs", "/sys")
    run("mount", "--rbind", str(stage), "/sys/fs/cgroup")
    run("umount", "--lazy", str(stage))


def node(folder: Path, name: str) -> None:
    """A node: set up what is its own, wait for the network cable, start slurmd."""
    plan = json.loads((folder / "etc/plan.json").read_text())
    socket.sethostname(name)
    run("mount", "-t", "tmpfs", "tmpfs", "/dev/shm")
    (folder / "spool" / name).mkdir(parents=True, exist_ok=True)
    own_sys(folder / "spool" / name)
    # On a node the commands of SLURM are the real ones; outside they first enter the controller's network.
    run("mount", "--bind", str(folder / "bin-node"), str(folder / "bin"))
    run("ip", "link", "set", "lo", "up")
    until = time.monotonic() + 20
    while "eth0" not in [interface for _, interface in socket.if_nameindex()]:
        if time.monotonic() > until:
            sys.exit(f"{name}: nothing plugged into the network within 20 s")
        time.sleep(0.01)
    run("ip", "addr", "add", f"{plan['addresses'][name]}/24", "dev", "eth0")
    run("ip", "link", "set", "eth0", "up")
    os.environ.update(SLURM_CONF=str(folder / "etc/slurm.conf"))
    run("slurmd", "-N", name)  # goes into the background, a child of this process then
    reap()


if __name__ == "__main__":
    what, where, *more = sys.argv[1:]
    if what == "guard":
        guard(Path(where), int(more[0]))
    elif what == "controller":
        controller(Path(where))
    else:
        node(Path(where), more[0])
