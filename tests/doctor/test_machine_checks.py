"""The checks on this machine, with what they look at made better or worse."""

from __future__ import annotations

import http.server
import json
import os
import socket
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from xtrain.cli import main
from xtrain.disk_space import Space
from xtrain.dispatch.cluster import Preemption, Profile
from xtrain.dispatch.slurm import Reply
from xtrain.doctor import folders, limits, machine, servers, submission, versions
from xtrain.doctor.allocation import options, salloc_command
from xtrain.doctor.commands import Said, plain_environment
from xtrain.doctor.findings import Finding
from xtrain.doctor.folders import FolderReport, check_folder, file_system, look_at
from xtrain.doctor.hardware import Gpu, Hardware, this_machine
from xtrain.doctor.nodes import with_open_keys

MOUNTS = """\
22 1 254:0 / / rw,relatime - ext4 /dev/root rw
30 22 0:40 / {root}/home rw shared:1 - nfs4 server:/home rw
31 30 0:41 / {root}/home/fast\\040disk rw - xfs /dev/nvme0 rw
"""


@pytest.fixture
def roomy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A machine whose home is a folder of the test's own, without W&B."""
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL", "NETRC", "XTRAIN_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    return tmp_path


def test_the_command_line(roomy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["doctor", "--out", str(roomy / "out"), "--json"])
    report = json.loads(capsys.readouterr().out)
    assert [section["title"] for section in report["sections"]] == [
        "versions",
        "devices",
        "folders",
        "limits",
        "tracking",
    ]
    assert (code == 2) == (report["level"] == "problem")
    assert not (roomy / "out").exists()

    assert main(["doctor", "--out", str(roomy / "out"), "--data", str(roomy / "nothing")]) == 2
    shown = capsys.readouterr().out
    assert f"  problem  data: {roomy}/nothing: does not exist\n" in shown
    assert "             to do: name the folder with the data sets" in shown
    assert " checks: 1 problem, " in shown.splitlines()[-1]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--nodes", "2"], "there is no cluster"),
        (["--cluster", "h100", "--nodes", "-1"], "a whole number >= 0"),
        (["--wait", "0"], "minutes, more than 0"),
    ],
)
def test_what_makes_no_sense(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", *words]) == 2
    assert said in capsys.readouterr().err


def test_a_profile_that_is_not_there(roomy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--cluster", "h10", "--out", str(roomy)]) == 2
    assert "did you mean 'h100'?" in capsys.readouterr().out


def test_no_slurm_here(roomy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    (roomy / "empty").mkdir()
    monkeypatch.setenv("PATH", str(roomy / "empty"))
    assert main(["doctor", "--cluster", "h100", "--out", str(roomy)]) == 2
    assert "call it where SLURM's commands are" in capsys.readouterr().out


def test_ninja_is_missing(roomy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (roomy / "tools").mkdir()
    (roomy / "tools" / "c++").symlink_to("/bin/true")
    monkeypatch.setenv("PATH", str(roomy / "tools"))
    monkeypatch.setattr("xtrain.training.ops._is_installed", lambda op: False)
    (finding,) = machine.check_ops(this_machine())
    assert finding.level == "warning"
    assert "torch's fused AdamW" in finding.found
    assert "ninja not found on PATH" in finding.found
    assert "pip install ninja" in finding.to_do


def test_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    have = {"python": "3.11.2", "torch": "2.10.1", "deepspeed": "", "transformers": "5.17.0.dev0", "rich": "1.0"}
    need = ["python>=3.11", "torch>=2.11", "deepspeed>=0.19.8", "transformers>=5.17", "rich>=14"]
    monkeypatch.setattr(versions, "installed", lambda wanted: have)
    monkeypatch.setattr(versions, "requirements", lambda: need)
    found = {finding.looked_at: finding for finding in versions.check_versions()}
    assert {name: one.level for name, one in found.items()} == {
        "python": "ok",
        "torch": "problem",
        "deepspeed": "problem",
        "transformers": "ok",  # a build of one's own
        "rich": "problem",
    }
    assert found["torch"].found == "2.10.1, needed: >=2.11"
    assert "pip install" in found["deepspeed"].to_do


def test_a_file_system_is_that_of_the_deepest_mount(tmp_path: Path) -> None:
    mounts = MOUNTS.format(root=tmp_path)
    (tmp_path / "home" / "fast disk").mkdir(parents=True)
    assert file_system(tmp_path / "home" / "me" / "out", mounts) == "nfs4"
    assert file_system(tmp_path / "home" / "fast disk" / "out", mounts) == "xfs"
    assert file_system(tmp_path / "homes", mounts) == "ext4"


def test_a_folder_is_looked_at_without_leaving_anything(tmp_path: Path) -> None:
    report = look_at(tmp_path / "new" / "out")
    assert (report.exists, report.refused, report.free > 0) == (False, "", True)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("")
    assert look_at(tmp_path / "file").refused == "Not a directory"


def test_a_cache_on_a_network_file_system(roomy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "look_at", lambda path: FolderReport(str(path), True, free=2**40, kind="nfs4"))
    found = {finding.looked_at: finding for finding in machine.check_caches({"TRITON_CACHE_DIR": "/home/me/t"})}
    assert found["TRITON_CACHE_DIR"].level == "warning"
    assert "export TRITON_CACHE_DIR=" in found["TRITON_CACHE_DIR"].to_do
    assert found["xtrain's cache"].level == "ok"


@pytest.mark.parametrize(
    ("report", "level"),
    [
        (FolderReport("/d", True, free=2**40), "ok"),
        (FolderReport("/d", True, free=2**33), "warning"),
        (FolderReport("/d", True, free=2**29), "problem"),
        (FolderReport("/d", True, "No space left on device", True, 0), "problem"),
        (FolderReport("/d", True, free=2**40, files_free=3), "problem"),
    ],
)
def test_room_on_disk(report: FolderReport, level: str) -> None:
    assert check_folder("disk", report, remedy="choose another", wanted=2**34).level == level


def test_tracking_shows_no_key(roomy: Path) -> None:
    secret = "0123456789" * 4
    assert machine.check_tracking({"WANDB_API_KEY": secret}).level == "ok"
    assert secret not in str(machine.check_tracking({"WANDB_API_KEY": secret}))
    assert machine.check_tracking({}).found.startswith("no key")
    (roomy / ".netrc").write_text(f"machine wandb.mine.org login user password {secret}\n")
    os.chmod(roomy / ".netrc", 0o600)
    assert machine.check_tracking({}).found.startswith("no key for https://api.wandb.ai")
    mine = machine.check_tracking({"WANDB_BASE_URL": "https://wandb.mine.org"})
    assert (mine.level, secret in mine.found) == ("ok", False)
    assert "WANDB_MODE=offline" in machine.check_tracking({"WANDB_MODE": "offline"}).found


@pytest.mark.parametrize(("limit", "level"), [(-1, "ok"), (65536, "ok"), (1024, "warning"), (256, "problem")])
def test_open_files(limit: int, level: str) -> None:
    assert machine.check_open_files(limit).level == level


def test_this_machine() -> None:
    found = this_machine()
    assert found.cores >= 1
    assert 0 < found.memory_free <= found.memory
    assert isinstance(found, Hardware)


def test_a_warning_says_what_to_do() -> None:
    with pytest.raises(AssertionError, match="what is to be done"):
        Finding("warning", "disk", "full")


def test_the_nodes_are_asked_for_as_the_jobs_are() -> None:
    job = {
        "partition": "gpu",
        "account": "mine",
        "nodes": 2,
        "gpus_per_node": 8,
        "time_limit": "04:00:00",
        "sbatch": {"mail-type": "END", "nodelist": "g[1-2]", "export": "NONE", "propagate": "STACK"},
    }
    words = salloc_command(Profile("slurm", job=job), "intermediate", "name")
    assert words[:3] == ["salloc", "--no-shell", "--time=10"]
    assert {"--partition=gpu", "--account=mine", "--nodes=2", "--ntasks-per-node=8", "--gpus-per-node=8"} <= {*words}
    assert "--nodelist=g[1-2]" in words
    of_scripts = ("--signal", "--requeue", "--mail", "--comment", "--export", "--propagate")
    assert not [word for word in words if word.startswith(of_scripts)]
    assert {"--export=NONE", "--propagate=STACK", "--requeue"} <= {
        *options(Profile("slurm", job=job), "intermediate", "name", script=True)
    }


def test_the_users_own_variables_say_what_the_profile_leaves_open(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ACCOUNT", "PARTITION", "TIMELIMIT"):
        monkeypatch.setenv(f"SBATCH_{name}", "shell")
    monkeypatch.setenv("SALLOC_ACCOUNT", "other")
    monkeypatch.setenv("SLURM_CONF", "/site/slurm.conf")
    profile = Profile("slurm", job={"partition": "gpu", "time_limit": 60})
    asked = with_open_keys(profile, os.environ).resources("intermediate")
    assert (asked.account, asked.partition, asked.qos, asked.time_limit) == ("shell", "gpu", "", 60)
    kept = [name for name in plain_environment() if name.startswith(("SBATCH_", "SALLOC_", "SLURM_"))]
    assert sorted(kept) == ["SLURM_CONF", "SLURM_TIME_FORMAT"]


@pytest.mark.parametrize(
    ("requeue", "kept", "allowed", "level", "looked_at"),
    [
        (True, 1, True, "ok", "sbatch"),
        (True, 1, False, "problem", "scontrol requeue"),
        (True, 0, True, "problem", "requeue"),
        (False, 1, False, "ok", "sbatch"),
        (False, 0, True, "warning", "requeue"),
    ],
)
def test_a_trial_submission(
    monkeypatch: pytest.MonkeyPatch, requeue: bool, kept: int, allowed: bool, level: str, looked_at: str
) -> None:
    banner = "This job 3 is charged to a.\n12 days left\n7;far\n"
    said = {"sbatch": banner, "scontrol": f"JobId=7 Requeue={kept} Restarts=0\n", "scancel": ""}
    monkeypatch.setattr(submission, "ask", lambda words: Said(0, said[words[0]]))
    monkeypatch.setattr(submission.slurm, "requeue", lambda job: Reply(allowed and job == "7", "no"))
    profile = Profile("slurm", job={"time_limit": 60}, preemption=Preemption(requeue=requeue))
    found = submission.check_submission(profile)
    assert (found.level, found.looked_at) == (level, looked_at)


def test_jobs_of_every_kind_are_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []

    def ask(words: list[str]) -> Said:
        tried.append(words)
        gpus = [word for word in words if word.startswith("--gpus-per-node")]
        return Said(
            int(not gpus), "", "sbatch: error: this partition wants GPUs\nallocation failure: Unspecified error"
        )

    monkeypatch.setattr(submission, "ask", ask)
    job = {"gpus_per_node": 4, "time_limit": 60}
    found = submission.check_kinds(Profile("slurm", job=job))
    assert [(one.level, one.looked_at) for one in found] == [("problem", "jobs of kind prepare")], (
        "report asks the same"
    )
    assert "this partition wants GPUs Unspecified error" in found[0].found
    assert "[job.prepare]" in found[0].to_do
    assert all("--test-only" in words for words in tried)
    tried.clear()
    more = {kind: {"gpus_per_node": number} for number, kind in enumerate(("prepare", "evaluate", "report"), 1)}
    (good,) = submission.check_kinds(Profile("slurm", job={**job, **more}))
    assert (good.level, len(tried)) == ("ok", 3)


def test_a_wrapper_that_hides_the_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(submission, "ask", lambda words: Said(0, "your job was sent\n"))
    found = submission.check_submission(Profile("slurm", job={"time_limit": 60}))
    assert (found.level, found.looked_at) == ("problem", "sbatch")
    assert "'your job was sent'" in found.found


GIB = 2**30


@pytest.mark.parametrize(
    ("check", "limit", "on_gpus", "on_cpus"),
    [
        ("locked_memory", 64 * 1024, "warning", "ok"), ("locked_memory", -1, "ok", "ok"),
        ("processes", 1024, "warning", "warning"), ("processes", 4096, "ok", "ok"),
        ("address_space", 128 * GIB, "warning", "ok"), ("address_space", 8 * GIB, "warning", "warning"),
        ("address_space", -1, "ok", "ok"),
    ],
)  # fmt: skip
def test_limits_of_a_process(check: str, limit: int, on_gpus: str, on_cpus: str) -> None:
    plain = replace(this_machine(), gpus=(), **{check: limit})
    with_gpus = replace(plain, gpus=(Gpu("H100", "570", 80.0, "9.0"),))
    levels = [getattr(limits, f"check_{check}")(hardware).level for hardware in (with_gpus, plain)]
    assert levels == [on_gpus, on_cpus]


def test_limits_are_read() -> None:
    code = (
        "import resource as r\nfrom xtrain.doctor.hardware import this_machine\n"
        "for one in (r.RLIMIT_MEMLOCK, r.RLIMIT_NPROC): r.setrlimit(one, (4096, 4096))\n"
        "found = this_machine()\nprint(found.locked_memory, found.processes)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "4096 4096\n", done.stderr


class Answers(http.server.BaseHTTPRequestHandler):
    def do_HEAD(self) -> None:
        self.send_error(403)

    def log_message(self, *words: object) -> None: ...


def test_servers_are_reached_or_not(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    silent = socket.create_server(("127.0.0.1", 0))  # it takes calls and never answers
    with http.server.HTTPServer(("127.0.0.1", 0), Answers) as server, silent:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        there = f"http://127.0.0.1:{server.server_port}"
        away = f"http://127.0.0.1:{silent.getsockname()[1]}"
        began = time.monotonic()
        found = servers.unreached({"HF_ENDPOINT": there, "WANDB_BASE_URL": away}, seconds=1.0)
        assert time.monotonic() - began < 10
        server.shutdown()
    assert found[servers.HUB] == "", "a refusal is an answer"
    assert found[servers.WANDB].startswith(away)


def test_the_quota_counts_for_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folders, "space", lambda path: Space(2**20, 7, "the quota of this user on /home"))
    report = look_at(tmp_path)
    finding = check_folder("output folder", report, remedy="choose another")
    assert finding.level == "problem"
    assert "1 MiB free" in finding.found
    assert "by the quota of this user on /home" in finding.found
