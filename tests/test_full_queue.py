"""A queue that takes only so many jobs of a user: seen beforehand where sacctmgr says so, else when sbatch refuses."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
from test_submitting import ALL, TEXT, profile, what

from xtrain.dispatch.remainder import never_submitted
from xtrain.dispatch.site_limits import SubmitLimit, submit_limit
from xtrain.dispatch.slurm import _SQUEUE_FIELDS
from xtrain.dispatch.submissions import JobFolder, Submission
from xtrain.dispatch.submit_job import QueueFull
from xtrain.runner import Job
from xtrain.submitting import Plan, plan_submission, submit

SBATCH = """#!/bin/sh
# As sbatch does where a user may have {most} jobs in the queue.
if [ "$(grep -c PENDING {root}/queue)" -ge {most} ]; then
    echo "sbatch: error: AssocMaxSubmitJobLimit" >&2
    echo "sbatch: error: Batch job submission failed: Job violates accounting/QOS policy (job submit limit)" >&2
    exit 1
fi
job=$((100 + $(wc -l < {root}/queue)))
echo "$job PENDING" >> {root}/queue
grep -h dependency= "$1" > {root}/$job.dependency
echo "Submitted batch job $job"
"""
SCANCEL = """#!/bin/sh
echo "$@" >> {root}/cancelled
for job; do sed -i "s/^$job PENDING/$job CANCELLED/" {root}/queue; done
"""
SQUEUE = """#!/bin/sh
case "$*" in *Account*) cat {root}/mine; exit;; esac
while read job state; do echo "$job|$state|{others}|"; done < {root}/queue
"""
SACCTMGR = """#!/bin/sh
case "$*" in *withassoc*) cat {root}/associations;; *qos*) cat {root}/qos;; esac
"""
SCONTROL = """#!/bin/sh
case "$*" in *config*) echo "ClusterName             = lab";; *partition*) echo "PartitionName=gpu QoS=part";; esac
"""


class Site:
    """SLURM's programs as scripts, and the files that they go by."""

    def __init__(self, root: Path, job: Job, most: int = 1000) -> None:
        self.root, self.job = root, job
        others = "|".join(["0"] * (len(_SQUEUE_FIELDS) - 2))
        scripts = {"sbatch": SBATCH, "scancel": SCANCEL, "squeue": SQUEUE, "sacctmgr": SACCTMGR, "scontrol": SCONTROL}
        (root / "bin").mkdir(exist_ok=True)
        for name, script in scripts.items():
            program = root / "bin" / name
            program.write_text(script.format(root=root, most=most, others=others))
            program.chmod(0o755)
        for name in ("queue", "mine", "associations", "qos"):
            (root / name).touch()

    def plan(self) -> Plan:
        return plan_submission(self.job, profile(), TEXT)

    def folder(self, plan: Plan, name: str) -> JobFolder:
        return JobFolder(plan.graph.find(f"toy/{name}").run(plan.out))


@pytest.fixture
def job(opened: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Job:
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    return replace(opened, out=tmp_path / "out")


def sent(plan: Plan) -> list[Submission]:
    return submit(plan, said=lambda one: None)


def test_a_refusal_in_the_middle_leaves_the_others_to_the_report(job: Job, tmp_path: Path) -> None:
    site = Site(tmp_path, job, most=4)
    plan = site.plan()
    new = [one.name.removeprefix("toy/") for one in sent(plan)]
    assert new == ["prepare", "none-s0/toy", "none-s0/toy/evaluate", "report"]
    assert [what(plan)[name] for name in ALL] == ["submit"] * 3 + ["later"] * 3 + ["submit"]
    assert (tmp_path / "cancelled").read_text() == "--state=PENDING 103\n", "choose-s0, for the report's place"
    assert site.folder(plan, "choose-s0").submissions() == []
    left = [node.job_name for node in never_submitted(plan.out, plan.graph.nodes[-1])]
    assert left == ["toy/choose-s0", "toy/choose-s0/toy", "toy/choose-s0/toy/evaluate"]
    assert "afterany:100:101" in (tmp_path / "104.dependency").read_text(), "half of what is in the queue"
    assert "AssocMaxSubmitJobLimit" in plan.of("later")[0].why


def test_only_the_reports_job_is_refused(job: Job, tmp_path: Path) -> None:
    plan = Site(tmp_path, job, most=len(ALL) - 1).plan()
    assert [one.name for one in sent(plan)][-1] == "toy/report"
    assert [d.node.job_name for d in plan.of("later")] == ["toy/choose-s0/toy/evaluate"]


def test_where_nothing_can_be_taken_back_it_is_said(job: Job, tmp_path: Path) -> None:
    with pytest.raises(QueueFull, match="what is submitted already stays, and the same command goes on"):
        sent(Site(tmp_path, job, most=1).plan())


def test_what_was_submitted_before_is_left_for_later_too(job: Job, tmp_path: Path) -> None:
    site = Site(tmp_path, job, most=4)
    plan = site.plan()
    node = plan.graph.find("toy/choose-s0/toy")
    folder = JobFolder(node.run(plan.out).create())
    folder.add(Submission("7", node.job_name, 0.0, "lab"))
    folder.end("failed", 1, "a node was lost")
    sent(plan)
    assert folder.postponed()
    assert folder.ended() is None
    assert node in never_submitted(plan.out, plan.graph.nodes[-1])
    folder.add(Submission("8", node.job_name, 0.0, "lab"))
    assert not folder.postponed()


def limit(
    site: Site, *, job: dict[str, object], associations: str, qos: str = "", mine: str = ""
) -> SubmitLimit | None:
    for name, text in (("associations", associations), ("qos", qos), ("mine", mine)):
        (site.root / name).write_text(text)
    return submit_limit(profile(job={"time_limit": 60, **job}), ["target"])


def test_what_the_site_lets_in(job: Job, tmp_path: Path) -> None:
    site = Site(tmp_path, job)
    rows = "main|lab|main|||normal\nmain|lab|other||3|normal\nmain|far|main||1|normal\n"
    assert limit(site, job={}, associations=rows) is None, "neither the default account nor its QOS has one"
    mine = "other|gpu|normal|\nmain|gpu|normal|\nother|cpu|normal|\n"
    found = limit(site, job={"account": "other"}, associations=rows, mine=mine)
    assert found == SubmitLimit(3, "MaxSubmitJobs of account other", 2)
    found = limit(site, job={"account": "other"}, associations=rows, qos="normal|2\n", mine=mine)
    assert found == SubmitLimit(2, "MaxSubmitJobsPerUser of QOS normal", 3)
    assert found.free == 0
    found = limit(site, job={"partition": "gpu"}, associations=rows, qos="part|20\n", mine="main|gpu|part|\n")
    assert str(found) == "MaxSubmitJobsPerUser of QOS part = 20, 1 in the queue"


def test_the_plan_keeps_to_it(job: Job, tmp_path: Path) -> None:
    site = Site(tmp_path, job)
    (tmp_path / "associations").write_text("main|lab|main||5|normal\n")
    (tmp_path / "mine").write_text("main|gpu|normal|\n")
    plan = site.plan()
    assert [what(plan)[name] for name in ALL] == ["submit"] * 3 + ["later"] * 3 + ["submit"]
    assert "MaxSubmitJobs of account main = 5, 1 in the queue" in plan.of("later")[0].why


def test_the_job_that_submits_leaves_room_for_the_one_that_follows_it(job: Job, tmp_path: Path) -> None:
    """It is in the queue itself, and that one comes before it has left."""
    site = Site(tmp_path, job)
    (tmp_path / "associations").write_text("main|lab|main||7|normal\n")
    (tmp_path / "mine").write_text("main|gpu|normal|\n")
    report = site.plan().graph.nodes[-1]
    JobFolder(report.run(job.out).create()).add(Submission("9", report.job_name, 0.0, "lab"))
    (tmp_path / "queue").write_text("9 RUNNING\n")
    plan = plan_submission(job, profile(), TEXT, anew=False)
    assert (len(plan.of("submit")), len(plan.of("later")), len(plan.of("joined"))) == (5, 1, 1)


@pytest.mark.parametrize("script", ["exit 1", "echo what is this; echo 'a|b'", None])
def test_without_accounting_there_is_no_limit(job: Job, tmp_path: Path, script: str | None) -> None:
    site = Site(tmp_path, job)
    (tmp_path / "associations").write_text("main|lab|main||1|normal\n")
    program = tmp_path / "bin" / "sacctmgr"
    if script is None:
        program.unlink()
        program.symlink_to("/nowhere/sacctmgr")
    else:
        program.write_text(f"#!/bin/sh\n{script}\n")
    assert len(site.plan().of("submit")) == len(ALL)
