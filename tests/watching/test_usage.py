"""What phases have used: device-hours, waiting, limits, steps that were trained again, and what accounting adds."""

from __future__ import annotations

import io
import json
import time
from pathlib import Path

import pytest
from by_hand import graph
from lives import GPUS, Life
from rich.console import Console

from xtrain.dispatch.job_graph import JobGraph
from xtrain.dispatch.slurm import _SQUEUE_FIELDS
from xtrain.watching.usage import NO_STUDY, PhaseUsage, Usage, total, usage
from xtrain.watching.usage_view import show_usage, usage_json

AGO = 20_000  # seconds; when the study was submitted
DOWN = "echo 'Unable to contact slurm controller' >&2; exit 1"
# As sacct of 22.05 writes the starts of a job and their steps, with what a site with GPUs collects.
SACCT = """\
101|NODE_FAIL|{0}|{990}|{2600}|1610|billing=64,cpu=64,gres/gpu=8,mem=512G,node=2|billing=64,cpu=64,energy=5040000,gres/gpu=8,mem=512G,node=2|5040000||
101.batch|CANCELLED|{990}|{990}|{2600}|1610||cpu=32,gres/gpu=4,mem=256G,node=1|2520000|cpu=00:00:10,energy=2520000,fs/disk=25,mem=120M,pages=0,vmem=1G|cpu=00:00:10,mem=120M,pages=0
101.0|CANCELLED|{1001}|{1001}|{2600}|1599||cpu=64,gres/gpu=8,mem=512G,node=2|5040000|cpu=03:33:12,energy=0,fs/disk=2012,gres/gpumem=70000M,gres/gpuutil=90,mem=30G,pages=0,vmem=31G|cpu=28:26:00,mem=256G,pages=0
101|REQUEUED|{2600}|{3990}|{5125}|1135|billing=64,cpu=64,gres/gpu=8,mem=512G,node=2|billing=64,cpu=64,gres/gpu=8,mem=512G,node=2|0||
101|COMPLETED|{5125}|{5995}|{8105}|2110|billing=64,cpu=64,gres/gpu=8,mem=512G,node=2|billing=64,cpu=64,energy=10080000,gres/gpu=8,mem=512G,node=2|10080000||
101.0|COMPLETED|{6001}|{6001}|{8105}|2104||cpu=64,gres/gpu=8,mem=512G,node=2|10080000|cpu=03:33:12,gres/gpuutil=70,mem=20G|mem=128G
102|RUNNING|{0}|{8200}|Unknown|11800|cpu=64,gres/gpu=8,mem=512G,node=2|cpu=64,gres/gpu=8,mem=512G,node=2|0||
103|PENDING|{0}|Unknown|Unknown|0|cpu=64,mem=512G,node=2|||
"""


class Lab:
    """An output folder with a study in it, and programs called as SLURM's are."""

    def __init__(self, root: Path) -> None:
        self.out, self.bin, self.now = root / "out", root / "bin", float(int(time.time()))
        self.zero = self.now - AGO
        self.study = graph(("mnli-s0",), ("xnli",))
        self.study.write(self.out)
        self.bin.mkdir()
        self.program("squeue", DOWN)
        self.program("sacct", "echo 'Slurm accounting storage is disabled' >&2; exit 1")

    def program(self, name: str, script: str) -> None:
        path = self.bin / name
        path.write_text(f"#!/bin/sh\necho $* >> {self.bin}/asked-{name}\n{script}\n", "utf-8")
        path.chmod(0o755)

    def queue(self, **states: str) -> None:
        """What squeue says of the jobs: of ``j102`` for job 102."""
        lines = []
        for job, state in states.items():
            known = {"JobID": job[1:], "State": state, "RestartCnt": "0", "Reason": "None" if state == "RUNNING" else
                     "Dependency"}  # fmt: skip
            lines.append("|".join(known.get(name, "N/A") for name in _SQUEUE_FIELDS) + "|")
        self.program("squeue", "cat << 'EOF'\n" + "\n".join(lines) + "\nEOF")

    def accounting(self) -> None:
        text = SACCT
        for second in (0, 990, 1001, 2600, 3990, 5125, 5995, 6001, 8105, 8200):
            text = text.replace(f"{{{second}}}", f"{self.zero + second:.0f}")
        self.program("sacct", f"cat << 'EOF'\n{text}EOF")

    def life(self, name: str) -> Life:
        return Life(self.study.find(name), self.out, self.zero)

    def found(self, *more: JobGraph, others: bool = True) -> Usage:
        return usage(self.out, [self.study, *more], self.now, patience=5.0, others=others)

    def phase(self, name: str) -> PhaseUsage:
        (found,) = (one for one in self.found().studies["phang"] if one.state.node.job_name == f"phang/{name}")
        return found

    def shown(self, width: int = 160, *more: JobGraph) -> str:
        stream = io.StringIO()
        show_usage([self.study, *more], self.found(*more), Console(file=stream, width=width))
        return stream.getvalue()


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    """A study in the middle of its life: prepared; trained in three starts, of which one was killed and one preempted;
    its target runs; the evaluation waits behind that."""
    lab = Lab(tmp_path)
    monkeypatch.setenv("PATH", f"{lab.bin}:/usr/bin:/bin")
    prepare = lab.life("phang/prepare").submitted(0, "100").began(60, "100", ranks=1, time_limit=3600.0)
    prepare.ended(360, "done").finish(seconds=300)
    trained = lab.life("phang/mnli-s0").submitted(0, "101", succeeded=("100",))
    trained.began(1000, "101", **GPUS).told(1010, "start", attempt=1).told(1100, "begin", step=0, planned_steps=400)
    trained.logged(2100, 100).told(2110, "save", step=100).logged(2400, 130).logged(2500, 140)
    trained.began(4000, "101", restart=1, **GPUS).told(4010, "start", attempt=2).resumed(4100, 100)
    trained.logged(5100, 200).told(5110, "preempted", step=200, saved_step=200).ended(5120, "preempted", 75)
    trained.began(6000, "101", restart=2, **GPUS).told(6010, "start", attempt=3).resumed(6100, 200)
    trained.logged(8000, 400).ended(8100, "done").finish(steps=400, planned_steps=400, dev_score=80.0)
    target = lab.life("phang/mnli-s0/xnli").submitted(0, "102", succeeded=("101",))
    target.began(8200, "102", **GPUS).told(8210, "start", attempt=1).told(8300, "begin", step=0, planned_steps=400)
    lab.life("phang/mnli-s0/xnli/evaluate").submitted(0, "103", succeeded=("102",))
    lab.queue(j102="RUNNING", j103="PENDING")
    return lab


def test_a_killed_start_counts_until_the_last_line_of_the_record(lab: Lab) -> None:
    killed, preempted, finished = lab.phase("mnli-s0").starts
    assert (killed.how, killed.seconds, killed.at_least) == ("killed", 1500, True)
    assert (preempted.how, preempted.seconds, preempted.at_least) == ("preempted", 1120, False)
    assert (finished.how, finished.seconds, finished.at_least) == ("done", 2100, False)
    one = total([lab.phase("mnli-s0")])
    assert one.gpu_hours == pytest.approx((1500 + 1120 + 2100) * 8 / 3600)
    assert (one.rank_hours, one.no_end, one.no_devices) == (0, 1, 0)


def test_a_killed_start_without_a_follower_counts_until_its_last_line(lab: Lab) -> None:
    run = lab.life("phang/report").submitted(0, "104").began(9000, "104", ranks=1)
    run._set(1, "attempt.json", process="999999999 1 gone pid:[1]", host="elsewhere")
    (start,) = lab.phase("report").starts
    assert (start.seconds, start.at_least, start.running) == (0, True, False)
    run.told(9000, "start", attempt=1).told(9010, "begin", step=0).logged(9050, 7)
    (start,) = lab.phase("report").starts
    assert (start.seconds, start.at_least) == (50, True)


def test_steps_that_were_trained_again(lab: Lab) -> None:
    killed, preempted, _ = lab.phase("mnli-s0").starts
    assert killed.lost_steps == 40
    assert killed.lost_seconds == pytest.approx(40 * (2500 - 1100) / 140)
    assert (preempted.lost_steps, preempted.lost_seconds) == (0, 0.0), "it was saved where it left"
    one = total([lab.phase("mnli-s0")])
    assert (one.redone_steps, one.redone_gpu_hours) == (40, pytest.approx(400 * 8 / 3600))


def test_steps_are_lost_once_however_many_starts_follow(lab: Lab) -> None:
    """The second start dies before it trains, the third goes on; another seed is no work done again."""
    run = lab.life("phang/report")
    run.began(100, ranks=1).told(100, "start", attempt=1).told(100, "begin", step=0).logged(200, 10).logged(300, 20)
    run.began(400, ranks=1).told(400, "start", attempt=2)
    run.began(500, ranks=1).told(500, "start", attempt=3).resumed(510, 10).logged(600, 20)
    run.told(610, "reseed", attempt=1).told(620, "begin", step=0)
    assert [start.lost_steps for start in lab.phase("report").starts] == [10, 0, 0]


def test_an_evaluation_goes_on_from_nothing(lab: Lab) -> None:
    run = lab.life("phang/mnli-s0/xnli/evaluate")
    run.began(100, "103", **GPUS).told(100, "start", attempt=1).ended(400, "preempted", 75)
    run.began(500, "103", **GPUS).told(500, "start", attempt=2).ended(900, "done")
    one = total([lab.phase("mnli-s0/xnli/evaluate")])
    assert (one.redone_steps, one.redone_gpu_hours) == (0, pytest.approx(300 * 8 / 3600))


def test_waiting_is_counted_from_submission_and_from_each_requeue(lab: Lab) -> None:
    killed, preempted, finished = lab.phase("mnli-s0").starts
    assert (killed.wait, killed.held) == (1000, 360), "prepare ended 360 s after the submission"
    assert preempted.wait is None, "nobody wrote when the start before it was killed"
    assert finished.wait == 6000 - 5120
    one = total([lab.phase("mnli-s0")])
    assert (one.wait, one.held, one.waited, one.wait_unknown) == (1880, 360, 2, 1)


def test_what_waits_now_has_waited_until_now(lab: Lab) -> None:
    phase = lab.phase("mnli-s0/xnli/evaluate")
    assert (phase.state.state, phase.waiting, phase.held) == ("held", AGO, AGO)


def test_a_running_start_counts_until_now_and_is_marked(lab: Lab) -> None:
    (start,) = lab.phase("mnli-s0/xnli").starts
    assert (start.running, start.seconds, start.at_least) == (True, AGO - 8200, False)
    assert start.limit_share == pytest.approx((AGO - 8200) / 14400)
    lab.program("squeue", DOWN)  # then nobody knows whether it still runs
    (start,) = lab.phase("mnli-s0/xnli").starts
    assert (start.running, start.seconds, start.at_least) == (False, 100, True)


def test_the_limit_is_that_of_each_start(lab: Lab) -> None:
    one = total([lab.phase("mnli-s0")])
    assert one.fullest is not None
    assert one.fullest.number == 3
    assert one.limit_share == pytest.approx((1120 + 2100) / 28800), "of starts with a known end"


def test_accounting_knows_when_a_killed_start_ended(lab: Lab) -> None:
    lab.accounting()
    killed, preempted, _ = lab.phase("mnli-s0").starts
    assert (killed.seconds, killed.at_least) == (1600, False)
    assert preempted.wait == 4000 - 2600, "SLURM put it back in the queue 2600 s after the submission"


def test_accounting_has_gpu_use_memory_and_energy(lab: Lab) -> None:
    lab.accounting()
    one = total([lab.phase("mnli-s0")])
    assert one.allocated_gpu_hours == pytest.approx((1610 + 1135 + 2110) * 8 / 3600)
    assert one.gpu_percent == pytest.approx((90 * 1610 + 70 * 2110) / (1610 + 2110))
    assert (one.memory_share, one.joules) == (0.5, 15_120_000)
    other = total([lab.phase("mnli-s0/xnli")])
    assert (other.gpu_percent, other.memory_share, other.joules) == (None, None, None), "not collected, or not yet"
    text = lab.shown()
    for part in ("GPU use", "79%", "50%", "4.2", "SLURM's accounting", "4.2 kWh"):
        assert part in text, part


def test_accounting_is_asked_once_about_all_jobs(lab: Lab) -> None:
    lab.accounting()
    lab.found()
    mine = [line for line in (lab.bin / "asked-sacct").read_text("utf-8").splitlines() if "TRESUsage" in line]
    assert len(mine) == 1
    assert "--jobs=100,101,102,103 " in mine[0]


def test_without_accounting_the_rest_is_there(lab: Lab) -> None:
    found = lab.found()
    assert found.silent == {"sacct": "Slurm accounting storage is disabled"}
    assert "sacct did not answer: Slurm accounting storage is disabled" in lab.shown()


def test_nobody_is_asked_of_what_had_no_job(lab: Lab, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = Lab(tmp_path / "other")
    other.life("phang/prepare").began(0, ranks=2).ended(3600, "done").finish()
    assert total(other.found().distinct).rank_hours == pytest.approx(2)
    assert other.found().silent == {}
    assert total(other.found().distinct).wait_unknown == 0


def test_a_phase_of_two_studies_counts_once(lab: Lab) -> None:
    twin = JobGraph("twin", lab.study.nodes[:2])
    found = lab.found(twin)
    assert total(found.studies["twin"]).starts == 4
    assert total(found.distinct).starts == total(found.studies["phang"]).starts == 5
    assert "all of them, each phase once" in lab.shown(160, twin)


def test_what_no_study_has_any_more_is_counted(lab: Lab) -> None:
    left = JobGraph("phang", tuple(node for node in lab.study.nodes if node.kind != "evaluate"))
    life = lab.life("phang/mnli-s0/xnli/evaluate").began(0, **GPUS).ended(3600, "done")
    found = usage(lab.out, [left, JobGraph("other", (life.node,))], lab.now, patience=5.0)
    assert NO_STUDY not in found.studies
    old = lab.out / "target" / "mnli-s0-xnli-0123456789ab"
    (lab.out / lab.study.find("phang/mnli-s0/xnli").folder).rename(old)
    found = lab.found()
    (phase,) = found.studies[NO_STUDY]
    assert phase.state.node.folder == "target/mnli-s0-xnli-0123456789ab"
    assert len(phase.starts) == 1
    assert NO_STUDY not in lab.found(others=False).studies


@pytest.mark.parametrize("width", [60, 100, 160])
def test_a_line_a_phase_at_any_width(lab: Lab, width: int) -> None:
    lab.accounting()
    lines = lab.shown(width).splitlines()
    table = lines[: 2 + len(lab.study.nodes)]
    assert all(len(line) <= width for line in table), table
    assert table[1].split()[:2] == ["phase", "state"]
    assert "GPU-hours" in table[1]
    assert ("of the limit" in table[1]) == (width == 160)
    assert [line.split()[0] for line in table[2:]] == [
        "prepare", "mnli-s0", "mnli-s0/xnli", "mnli-s0/xnli/evaluate", "report",
    ]  # fmt: skip


def test_what_the_lines_say(lab: Lab) -> None:
    text = lab.shown()
    for part in (
        "  ≥ 1h18m     ≥ 10.5  ",
        "40 steps, 0.889 h",
        "5 starts, 1 of them running and counted until now: ≥ ",
        "redone after kills: 40 steps, 0.889 GPU-hours",
        "1 start without a known end: counted until the last line of the record",
        "1 start of which it is not known how long",
    ):
        assert part in text, text


def test_devices_that_are_not_on_record_are_named_not_guessed(lab: Lab) -> None:
    lab.life("phang/report").began(0).ended(3600, "done")
    assert total([lab.phase("report")]).gpu_hours == 0
    assert "1 start whose number of devices is not on record: no hours are counted" in lab.shown()


def test_everything_is_in_the_json(lab: Lab) -> None:
    lab.accounting()
    value = json.loads(json.dumps(usage_json(lab.out, lab.found(), lab.now), allow_nan=False))
    (study,) = value["studies"]
    phases = {phase["job_name"]: phase for phase in study["phases"]}
    attempts = phases["phang/mnli-s0"]["attempts"]
    assert [(one["redone_steps"], one["gpus"], one["end_known"]) for one in attempts] == [
        (40, 8, True), (0, 8, True), (0, 8, True),
    ]  # fmt: skip
    assert phases["phang/mnli-s0/xnli"]["attempts"][0]["running"]
    assert [one["state"] for one in phases["phang/mnli-s0"]["accounting"]] == ["NODE_FAIL", "REQUEUED", "COMPLETED"]
    assert value["totals"]["redone_steps"] == study["totals"]["redone_steps"] == 40
