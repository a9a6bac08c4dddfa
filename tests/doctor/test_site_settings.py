"""SLURM's settings against what jobs need: each setting that would lose work is named, with its arithmetic."""

from __future__ import annotations

from typing import Any

import pytest

from xtrain.dispatch.cluster import Profile
from xtrain.dispatch.site_limits import SubmitLimit
from xtrain.doctor import scheduler
from xtrain.doctor.commands import Said
from xtrain.doctor.findings import Finding
from xtrain.doctor.preemption import check_preemption, parse_grace
from xtrain.doctor.scheduler import QosRules, Site, SiteNode, _gpus, ask_site, check_site, num_usable

CONFIG = {
    "SLURM_VERSION": "24.05.1",
    "ClusterName": "far",
    "AccountingStorageType": "accounting_storage/slurmdbd",
    "PreemptType": "preempt/partition_prio",
    "PreemptMode": "REQUEUE",
    "SlurmctldParameters": "idle_on_node_suspend,preempt_send_user_signal",
    "KillWait": "60 sec",
    "JobRequeue": "1",
    "SlurmdTimeout": "300 sec",
    "EnforcePartLimits": "ALL",
    "ProctrackType": "proctrack/cgroup",
}
PARTITION = {
    "PartitionName": "gpu",
    "State": "UP",
    "MaxTime": "1-00:00:00",
    "PreemptMode": "REQUEUE",
    "GraceTime": "120",
    "TotalNodes": "3",
}


def node(name: str, state: str = "idle", gpus: int = 8, reason: str = "") -> SiteNode:
    return SiteNode(name, state, {"h100": gpus}, ("ib",), reason, 64, 512 * 1024)


def look(
    config: dict[str, str] | None = None,
    partition: dict[str, str] | None = None,
    nodes: tuple[SiteNode, ...] = (node("g1"), node("g2"), node("g3")),
    preemption: dict[str, Any] | None = None,
    qos: QosRules | None = None,
    **job: Any,
) -> dict[str, Finding]:
    """The findings by what was looked at."""
    asked = {"partition": "gpu", "gpus_per_node": 8, "time_limit": "12:00:00", "constraint": "ib", "nodes": 2, **job}
    profile = Profile("slurm", job=asked, preemption=Profile.from_mapping(mapping(asked, preemption or {})).preemption)
    settings = {**CONFIG, **(config or {})}
    site = Site(settings["SLURM_VERSION"], settings, {**PARTITION, **(partition or {})}, ("gpu", "cpu"), nodes, qos)
    found = [*check_site(site, profile, 2), *check_preemption(site, profile)]
    return {finding.looked_at: finding for finding in found}


def mapping(job: dict[str, Any], preemption: dict[str, Any]) -> dict[str, Any]:
    return {"scheduler": "slurm", "job": {**job, "constraint": ""}, "preemption": preemption}


def test_nothing_to_say_of_a_good_site() -> None:
    assert {finding.level for finding in look().values()} == {"ok"}


@pytest.mark.parametrize(
    ("change", "looked_at", "level", "words"),
    [
        ({"config": {"SlurmctldParameters": "(null)"}}, "signal before preemption", "warning", "no SIGUSR2"),
        ({"partition": {"GraceTime": "0"}}, "GraceTime of gpu", "warning", "0 s: with KillWait 60 s"),
        ({"partition": {"PreemptMode": "CANCEL"}}, "preemption", "warning", "does not requeue"),
        ({"partition": {"PreemptMode": "GANG,SUSPEND"}}, "preemption", "warning", "suspends"),
        ({"partition": {"PreemptMode": "OFF"}}, "preemption", "ok", "off in gpu"),
        ({"partition": {"State": "DOWN"}}, "partition", "problem", "gpu is DOWN"),
        ({"partition": {"MaxTime": "08:00:00"}}, "time limit", "problem", "12 h are asked for, gpu allows 8 h"),
        ({"config": {"AccountingStorageType": "(null)"}}, "accounting", "note", "squeue"),
        ({"config": {"KillWait": "5 sec"}, "partition": {"GraceTime": "0"}}, "KillWait", "note", "5 s between"),
        ({"config": {"SlurmdTimeout": "0 sec"}}, "SlurmdTimeout", "note", "never"),
        ({"config": {"EnforcePartLimits": "NO"}}, "EnforcePartLimits", "note", "waits for ever"),
        ({"time_limit": "00:06:00"}, "lead time", "note", "90 s, a quarter"),
        ({"preemption": {"requeue": False}, "config": {"JobRequeue": "0"}}, "requeue", "ok", "or that lose a node"),
        ({"preemption": {"requeue": False}, "sbatch": {"no-requeue": True}}, "requeue", "note", "loses its first node"),
        ({"preemption": {"requeue": False}, "sbatch": {"no-requeue": True}}, "preemption", "warning", "cancels those"),
        ({"gpu_type": "a100"}, "nodes", "problem", "g1 has 0 a100 GPUs, not 8"),
        ({"constraint": "nvlink"}, "nodes", "problem", "g1 is not nvlink"),
        ({"memory_gib": 900}, "nodes", "problem", "g1 has 512 GiB of memory, not 900"),
        ({"cpus_per_task": 9}, "nodes", "problem", "g1 has 64 CPUs, not 72"),
    ],
)
def test_a_setting_that_matters(change: dict[str, Any], looked_at: str, level: str, words: str) -> None:
    finding = look(**change)[looked_at]
    assert (finding.level, words in finding.found) == (level, True), finding
    assert finding.to_do or level == "ok"


@pytest.mark.parametrize(
    ("version", "asked_for"),
    [
        ("22.05.8", "SlurmctldParameters=preempt_send_user_signal"),
        ("23.02.0", "PreemptParameters=send_user_signal"),
        ("24.05.1", "PreemptParameters=send_user_signal"),
        ("", "PreemptParameters=send_user_signal"),
    ],
)
def test_the_signal_is_asked_for_where_this_version_has_it(version: str, asked_for: str) -> None:
    nothing = {"SLURM_VERSION": version, "SlurmctldParameters": "(null)"}
    found = look(config=nothing)["signal before preemption"]
    assert found.level == "warning"
    assert f"ask the site for {asked_for} " in found.to_do
    newer = look(config={**nothing, "PreemptParameters": "youngest_first,send_user_signal"})["signal before preemption"]
    assert (newer.level, newer.found) == ("ok", "SIGUSR2 (PreemptParameters=send_user_signal)")
    other = look(config={**nothing, "PreemptParameters": "send_user_signals"})["signal before preemption"]
    assert other.level == "warning", "another word"


def test_a_qos_that_is_preempted_says_how_and_for_how_long() -> None:
    config = {"PreemptType": "preempt/qos", "PreemptMode": "REQUEUE"}
    found = look(config=config, qos=QosRules("low", "cancel", "00:00:05", ("high", "urgent")))
    assert found["preemption"].level == "warning"
    assert "QOS low, preempted by high, urgent cancels preempted jobs" in found["preemption"].found
    assert found["GraceTime of QOS low"].found.startswith("5 s"), "not the partition's 120"
    found = look(config=config, qos=QosRules("low", "cluster", "00:02:00", ("high",)))
    assert found["preemption"].found == "QOS low, preempted by high: requeue"
    assert found["GraceTime of QOS low"].level == "ok"
    assert look(config=config, qos=QosRules("low", "cancel", "00:00:05", ()))["preemption"].found == "off in QOS low"


def test_the_rules_of_the_jobs_qos_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = "high|low,normal|cluster|00:00:00\nlow||cancel|00:01:00\nnormal|low|cluster|00:00:00\n"

    def ask(words: list[str]) -> Said:
        return Said(0, rows if words[0] == "sacctmgr" else "PreemptType = preempt/qos\n" * (words[-1] == "config"))

    monkeypatch.setattr(scheduler, "ask", ask)
    monkeypatch.setattr(scheduler, "default_qos", lambda profile, kind: "normal")
    site = ask_site(Profile("slurm", job={"partition": "gpu", "qos": "low"}))
    assert isinstance(site, Site)
    assert site.qos == QosRules("low", "cancel", "00:01:00", ("high", "normal"))
    site = ask_site(Profile("slurm", job={"partition": "gpu"}))
    assert isinstance(site, Site)
    assert site.qos == QosRules("normal", "cluster", "00:00:00", ("high",))


def test_how_many_jobs_the_site_lets_in(monkeypatch: pytest.MonkeyPatch) -> None:
    assert look()["jobs in the queue"].level == "ok", "nobody tells"
    monkeypatch.setattr(scheduler, "submit_limit", lambda *args: SubmitLimit(20, "MaxSubmitJobs of account a", 3))
    found = look()["jobs in the queue"]
    assert (found.level, found.found) == (
        "note",
        "MaxSubmitJobs of account a = 20, 3 in the queue; limits.queued = 1000: the report's job submits what there is "
        "no room for, if nodes may call sbatch",
    )


def test_nodes_out_of_service_are_named_with_their_reasons() -> None:
    nodes = (node("g1"), node("g2", "down*", reason="Not responding"), node("g3", "drained", reason="ECC errors"))
    found = look(nodes=nodes)["nodes"]
    assert found.level == "problem"
    assert "2 are wanted, 1 of gpu can serve" in found.found
    assert "g2 (down*: Not responding), g3 (drained: ECC errors)" in found.found
    enough = look(nodes=(node("g1"), node("g2", "allocated"), nodes[2]))
    assert enough["nodes"].level == "ok"
    assert "g3 (drained: ECC errors)" in enough["nodes out of service"].found


@pytest.mark.parametrize("state", ["mixed-", "idle!", "idle%", "idle~", "idle#", "mixed@", "allocated+", "IDLE"])
def test_a_node_that_takes_jobs_whatever_its_sign(state: str) -> None:
    assert node("g1", state).in_service


@pytest.mark.parametrize("state", ["idle*", "mixed$", "mixed^", "maint", "drained", "draining@", "down~", "reboot^"])
def test_a_node_that_takes_none(state: str) -> None:
    assert not node("g1", state).in_service


def test_a_hidden_partition_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    def ask(words: list[str]) -> Said:
        partition = "PartitionName=gpu State=UP\n   Hidden=YES" if "--all" in words else ""
        nodes = "g1|mixed-|gpu:1g.10gb:7(S:0)|ib|64|512000|none\n"
        assert "--all" not in words or words[0] != "sinfo", "it refuses this with --partition"
        return Said(0, nodes if words[0] == "sinfo" else {"partition": partition}.get(words[-1], ""))

    monkeypatch.setattr(scheduler, "ask", ask)
    site = ask_site(Profile("slurm", job={"partition": "gpu"}))
    assert isinstance(site, Site)
    assert site.partition["Hidden"] == "YES"
    assert [(one.name, one.gpus, one.in_service) for one in site.nodes] == [("g1", {"1g.10gb": 7}, True)]


def test_usable_nodes_are_those_in_service_of_a_partition_that_is_up() -> None:
    nodes = (node("g1"), node("g2", "mixed"), node("g3", "drained"), node("g4", gpus=4))
    profile = Profile("slurm", job={"gpus_per_node": 8})
    assert num_usable(Site("", CONFIG, PARTITION, (), nodes), profile) == 2
    assert num_usable(Site("", CONFIG, {**PARTITION, "State": "DRAIN"}, (), nodes), profile) == 0


@pytest.mark.parametrize(
    ("text", "value"),
    [("00:02:00", 120), ("120", 120), ("120 sec", 120), ("UNLIMITED", 0), ("", 0)],
)
def test_grace(text: str, value: int) -> None:
    assert parse_grace(text) == value


def test_gpus_of_a_node() -> None:
    assert _gpus("gpu:h100:8(S:0-1)") == {"h100": 8}
    assert _gpus("gpu:2,gpu:a100_3g.20gb:4") == {"": 2, "a100_3g.20gb": 4}
    assert _gpus("gpu:1g.10gb:7(S:0,2),mps:400") == {"1g.10gb": 7}
    assert _gpus("(null)") == {}
