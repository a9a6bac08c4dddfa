"""What a cluster for tests can be like (Knobs), and the files that SLURM, munge and MariaDB read to be like it."""

from __future__ import annotations

import json
import os
import random
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

COMMANDS = ("sbatch", "srun", "salloc", "scancel", "squeue", "sinfo", "sacct", "sacctmgr", "scontrol", "sstat")


@dataclass(frozen=True)
class Knobs:
    """What a cluster is like. Times in seconds."""

    nodes: int = 4
    """Nodes, named n1, n2, ..."""
    cpus: int = 4
    """CPUs each node claims to have, whatever the machine has."""
    memory_gib: int = 64
    """Memory each node claims to have."""
    gpus: int | str = 0
    """GPUs of a node, simulated: a number, or a type and a number as in "h100:8". None of them computes."""
    features: str = ""
    """Features of the nodes that --constraint may ask for, comma-separated."""
    accounting: bool = True
    """slurmdbd over MariaDB. Without it, sacct says that accounting is disabled. It adds about 3 s to the start."""
    slurmd_timeout: int = 30
    """A node that is silent for about this long is DOWN. 12 suits tests of lost nodes; a loaded machine needs more."""
    message_timeout: int = 10
    """How long SLURM's parts wait for each other. A node without power is DOWN no sooner than three of these; 5 is less
    than a loaded machine may need."""
    kill_wait: int = 5
    """From SIGTERM to SIGKILL when a job is cancelled or over its time."""
    cred_expire: int = 5
    """How long a requeued job waits before it may start again (SLURM takes no less than 5, and 120 instead of that)."""
    min_job_age: int = 600
    """How long squeue still knows a job that has ended."""
    preempt_user_signal: bool = True
    """Whether a preempted job gets the signal of its --signal (preempt_send_user_signal) besides SIGTERM."""
    grace_time: int = 20
    """How long a preempted job may go on."""
    partitions: Mapping[str, str] = field(default_factory=dict)
    """More partitions than main, high and limits: their names, and what slurm.conf says of each."""
    extra: str = ""
    """More lines of slurm.conf."""
    root: Path = field(default_factory=lambda: Path(os.environ.get("XTRAIN_SLURM_ROOT", "/")))
    """Where SLURM's programs lie: the machine's own, or another release's (see daemons.py)."""

    def __post_init__(self) -> None:
        if self.cred_expire < 5:
            raise ValueError(f"cred_expire is {self.cred_expire}; SLURM takes 5 or more")

    @property
    def names(self) -> list[str]:
        """The nodes' names."""
        return [f"n{number}" for number in range(1, self.nodes + 1)]

    @property
    def plugins(self) -> str:
        """What slurm.conf and slurmdbd.conf say of another release's plug-ins."""
        own = self.root == Path("/")
        return "" if own else f"PluginDir={next(self.root.glob('usr/lib/*-linux-gnu/slurm-wlm'))}"

    @property
    def gpu_type(self) -> str:
        """The type of the GPUs, empty if they have none."""
        return str(self.gpus).rpartition(":")[0]

    @property
    def gpu_count(self) -> int:
        """The GPUs of a node."""
        return int(str(self.gpus).rpartition(":")[2])


def write_files(folder: Path, knobs: Knobs) -> None:
    """Write everything the daemons read into `folder`, which is empty and has a short path (sockets lie in it)."""
    for name in ("etc", "run", "log", "state", "spool", "dev", "db", "bin", "bin-node"):
        (folder / name).mkdir()
    network = f"10.{random.randrange(64, 128)}.{random.randrange(256)}"
    addresses = {"ctl": f"{network}.254"} | {name: f"{network}.{n}" for n, name in enumerate(knobs.names, 1)}
    plan = {"addresses": addresses, "root": str(knobs.root)}
    (folder / "etc/plan.json").write_text(json.dumps(plan))
    hosts = [f"{address} {name}" for name, address in addresses.items()]
    (folder / "etc/hosts").write_text("\n".join(["127.0.0.1 localhost", *hosts]) + "\n")
    (folder / "etc/slurm.conf").write_text(slurm_conf(folder, knobs, network))
    if knobs.gpu_count:
        (folder / "etc/gres.conf").write_text(make_gpus(folder, knobs))
    _secret(folder / "etc/munge.key", os.urandom(1024))
    if knobs.accounting:
        (folder / "etc/my.cnf").write_text(mariadb_conf(folder))
        (folder / "etc/init.sql").write_text(
            "CREATE DATABASE slurm_acct_db;\n"
            "CREATE USER 'slurm'@'127.0.0.1' IDENTIFIED BY 'slurm';\n"
            "GRANT ALL ON slurm_acct_db.* TO 'slurm'@'127.0.0.1';\n"
        )
        _secret(folder / "etc/slurmdbd.conf", f"{slurmdbd_conf(folder)}{knobs.plugins}\n".encode())


def write_commands(folder: Path, controller: int, root: Path) -> None:
    """The commands for outside (they enter the network of the process `controller`), and those of the nodes."""
    for command in COMMANDS:
        for where, enter in (("bin", f"nsenter -t {controller} --net --uts -- "), ("bin-node", "")):
            script = folder / where / command
            conf = folder / "etc/slurm.conf"
            script.write_text(f'#!/bin/sh\nSLURM_CONF={conf} exec {enter}{root / "usr/bin" / command} "$@"\n')
            script.chmod(0o755)


def slurm_conf(folder: Path, knobs: Knobs, network: str) -> str:
    """slurm.conf. %n is a node's name: the nodes share the file system."""
    nodes = f"n[1-{knobs.nodes}]"
    controller_parameters = "SlurmctldParameters=preempt_send_user_signal" if knobs.preempt_user_signal else ""
    if knobs.accounting:  # the "password" is the munge socket: AuthInfo is not used towards slurmdbd
        accounting = f"""AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort=6819
AccountingStoragePass={folder}/run/munge.sock"""
        if knobs.gpu_count:
            accounting += "\nAccountingStorageTRES=gres/gpu"
    else:
        accounting = "AccountingStorageType=accounting_storage/none"
    gres = f"Gres=gpu:{knobs.gpus}" if knobs.gpu_count else ""
    features = f"Features={knobs.features}" if knobs.features else ""
    more = "\n".join(f"PartitionName={name} Nodes=ALL State=UP {text}" for name, text in knobs.partitions.items())
    low = f"Nodes=ALL State=UP DefaultTime=10 PriorityTier=10 PreemptMode=REQUEUE GraceTime={knobs.grace_time}"
    return f"""ClusterName=tests
# not 1 in every cluster: a folder named by a job's number would hold what another cluster's job left
FirstJobId={random.randrange(1000, 60000)}
SlurmctldHost=ctl({network}.254)
SlurmctldPort=6817
SlurmdPort=6818
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/run/munge.sock,cred_expire={knobs.cred_expire}
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/run/slurmctld.pid
SlurmdPidFile={folder}/run/slurmd.%n.pid
SlurmctldLogFile={folder}/log/slurmctld.log
SlurmdLogFile={folder}/log/slurmd.%n.log
SlurmctldDebug=info
SlurmdDebug=info
MailProg=/bin/true
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=0
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
EnforcePartLimits=ALL
ReturnToService=2
SlurmctldTimeout=30
SlurmdTimeout={knobs.slurmd_timeout}
MessageTimeout={knobs.message_timeout}
InactiveLimit=0
KillWait={knobs.kill_wait}
MinJobAge={knobs.min_job_age}
Waittime=0
# a node may claim more CPUs than the machine has
SlurmdParameters=config_overrides
{controller_parameters}
{accounting}
{"GresTypes=gpu" if gres else ""}
{knobs.plugins}
{knobs.extra}
NodeName={nodes} NodeAddr={network}.[1-{knobs.nodes}] CPUs={knobs.cpus} RealMemory={knobs.memory_gib * 1024} \
{gres} {features} State=UNKNOWN
PartitionName=main Default=YES MaxTime=2-0 {low}
PartitionName=limits MaxTime=2 {low.replace("DefaultTime=10", "DefaultTime=1")}
PartitionName=high MaxTime=2-0 Nodes=ALL State=UP DefaultTime=10 PriorityTier=20 PreemptMode=off
{more}
"""


def make_gpus(folder: Path, knobs: Knobs) -> str:
    """Device files that slurmd takes for GPUs (all are /dev/null), and gres.conf that names them."""
    for number in range(knobs.gpu_count):
        os.mknod(folder / f"dev/nvidia{number}", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    numbers = f"[0-{knobs.gpu_count - 1}]" if knobs.gpu_count > 1 else "0"
    kind = f"Type={knobs.gpu_type} " if knobs.gpu_type else ""
    return f"NodeName=n[1-{knobs.nodes}] Name=gpu {kind}File={folder}/dev/nvidia{numbers}\n"


def slurmdbd_conf(folder: Path) -> str:
    """slurmdbd.conf."""
    return f"""AuthType=auth/munge
AuthInfo=socket={folder}/run/munge.sock
DbdHost=localhost
DbdAddr=127.0.0.1
DbdPort=6819
SlurmUser=root
PidFile={folder}/run/slurmdbd.pid
LogFile={folder}/log/slurmdbd.log
DebugLevel=info
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort=3306
StorageUser=slurm
StoragePass=slurm
StorageLoc=slurm_acct_db
"""


def mariadb_conf(folder: Path) -> str:
    """my.cnf of a small database that never has to survive anything."""
    return f"""[mysqld]
user=root
datadir={folder}/db/data
socket={folder}/run/mysqld.sock
pid-file={folder}/run/mariadbd.pid
log-error={folder}/log/mariadb.log
bind-address=127.0.0.1
port=3306
skip-name-resolve
performance_schema=OFF
max_connections=50
innodb_buffer_pool_size=32M
innodb_log_file_size=8M
innodb_lock_wait_timeout=900
innodb_flush_log_at_trx_commit=0
innodb_flush_method=nosync
innodb_doublewrite=0
"""


def _secret(path: Path, content: bytes) -> None:
    """Munge and slurmdbd refuse a file that others may read."""
    path.touch(mode=0o600)
    path.write_bytes(content)
