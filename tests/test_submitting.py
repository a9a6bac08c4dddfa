"""What becomes of each job upon submission, by what lies in the run directories and what squeue says."""

from __future__ import annotations

import os
import shutil
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import xtrain.submitting
from xtrain.dispatch.cluster import Profile
from xtrain.dispatch.job_graph import JobGraph, JobNode
from xtrain.dispatch.local_queue import held_as_queue
from xtrain.dispatch.slurm import _SQUEUE_FIELDS
from xtrain.dispatch.submissions import JobFolder, Submission
from xtrain.errors import UserError
from xtrain.files import content_hash
from xtrain.model.export import ENCODER_FILES
from xtrain.runner import Job, job_graph
from xtrain.submit_command import too_small
from xtrain.submitting import Decision, Plan, plan_submission, plan_unseen, submit, waits_for

SQUEUE = """#!/bin/sh
# As squeue does: a line a job, in the order of slurm._SQUEUE_FIELDS.
while read job state; do echo "$job|$state|{others}|"; done < {jobs}
[ -s {jobs} ] || {{ echo "slurm_load_jobs error: Unable to contact slurm controller" >&2; exit 1; }}
"""


TEXT = 'name = "toy"\n'
ALL = ["prepare", "none-s0/toy", "none-s0/toy/evaluate", "choose-s0", "choose-s0/toy", "choose-s0/toy/evaluate",
       "report"]  # fmt: skip


class Queue:
    """A study, its output folder, and a squeue that says what it is told: states in an order that no queue keeps."""

    def __init__(self, root: Path, job: Job) -> None:
        self.root, self.job = root, job
        self.states: dict[str, str] = {"1": "COMPLETED"}
        program = root / "bin" / "squeue"
        program.parent.mkdir()
        program.write_text(SQUEUE.format(jobs=root / "jobs", others="|".join(["0"] * (len(_SQUEUE_FIELDS) - 2))))
        program.chmod(0o755)

    @property
    def out(self) -> Path:
        return self.job.out

    @property
    def graph(self) -> JobGraph:
        return job_graph(self.job, {}, around=True)

    def folder(self, name: str) -> JobFolder:
        return JobFolder(self.graph.find(f"toy/{name}").run(self.out).create())

    def done(self, name: str) -> None:
        run = self.folder(name).run
        run.encoder.mkdir(exist_ok=True)
        for file in ENCODER_FILES:
            (run.encoder / file).touch()
        run.mark_done({})

    def put(self, name: str, job: str, state: str = "PENDING", lane: int = 0) -> None:
        """A job in the queue."""
        self.folder(name).add(Submission(job, f"toy/{name}", time.time(), "lab", lane))
        self.states[job] = state

    def plan(self, *, anew: bool = True, **tables: Any) -> Plan:
        (self.root / "jobs").write_text("".join(f"{job} {state}\n" for job, state in self.states.items()))
        return plan_submission(self.job, profile(**tables), TEXT, anew=anew)

    def prepared(self) -> None:
        """All phases are written, from the study as it is."""
        for name in ALL:
            self.folder(name).run.phase_file.touch()
        self.folder("prepare").run.mark_done({"study": content_hash(TEXT)})


def profile(**tables: Any) -> Profile:
    usual = {"scheduler": "slurm", "name": "lab", "job": {"time_limit": 60}, "limits": {"running": 1}}
    return Profile.from_mapping({**usual, **tables})


def of(plan: Plan) -> dict[str, Decision]:
    return {decision.node.job_name.removeprefix("toy/"): decision for decision in plan.decisions}


def what(plan: Plan) -> dict[str, str]:
    return {name: decision.what for name, decision in of(plan).items()}


@pytest.fixture
def queue(opened: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Queue:
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    return Queue(tmp_path, replace(opened, out=tmp_path / "out"))


def test_all_of_a_new_study(queue: Queue) -> None:
    plan = queue.plan()
    assert sorted(what(plan)) == sorted(ALL)
    assert Counter(what(plan).values()) == {"submit": len(ALL)}
    assert len(plan.placements) == len(ALL) - 2, "prepare and report are in no lane"


def test_what_is_done_and_what_is_in_the_queue(queue: Queue) -> None:
    queue.prepared()
    queue.done("none-s0/toy")
    queue.put("choose-s0", "5", "RUNNING", lane=3)
    queue.put("choose-s0/toy", "6")
    queue.put("none-s0/toy/evaluate", "7", "FAILED")
    plan = queue.plan()
    found = what(plan)
    assert [found[name] for name in ALL] == ["done", "done", "submit", "joined", "joined", "submit", "submit"]
    joined = of(plan)["choose-s0"]
    assert (joined.job, joined.lane) == ("5", 3)


def test_a_job_that_slurm_does_not_know_any_more(queue: Queue) -> None:
    queue.put("prepare", "5")
    del queue.states["5"]
    assert what(queue.plan())["prepare"] == "submit"


def test_of_several_jobs_the_newest_counts(queue: Queue) -> None:
    queue.put("prepare", "5", "RUNNING")
    queue.put("prepare", "6", "CANCELLED")
    assert what(queue.plan())["prepare"] == "submit"


def test_a_training_that_collapsed(queue: Queue) -> None:
    queue.folder("choose-s0").run.mark_failed("the loss is not finite", 40)
    plan = queue.plan()
    found = of(plan)
    assert found["choose-s0"].what == "failed"
    assert "the loss is not finite (step 40); delete " in found["choose-s0"].why
    for name in ("choose-s0/toy", "choose-s0/toy/evaluate"):
        assert found[name].what == "left out"
        assert found[name].why == "it starts from choose-s0, which failed"
    assert found["none-s0/toy"].what == found["report"].what == "submit"


def test_what_ended_before_is_tried_again(queue: Queue) -> None:
    queue.folder("prepare").end("user error", 2, "train-en.jsonl:4: label 'class9'\n  to do: correct it")
    queue.folder("choose-s0").end("cancelled", 1, "prepare, which it needs, has failed")
    found = of(queue.plan())
    assert found["prepare"].what == "submit"
    assert found["prepare"].why == "ended before (user error): train-en.jsonl:4: label 'class9'"
    assert found["choose-s0"].what == "submit"


def test_the_report_is_made_again_when_there_is_something_new(queue: Queue) -> None:
    queue.prepared()
    for name in ALL[1:]:
        queue.done(name)
    assert set(what(queue.plan()).values()) == {"done"}
    queue.folder("none-s0/toy/evaluate").run.done_marker.unlink()
    assert [name for name, word in what(queue.plan()).items() if word == "submit"] == ["none-s0/toy/evaluate", "report"]


@pytest.mark.parametrize(
    ("queued", "joined", "submitted", "report"),
    [
        (3, 0, 2, True), (3, 1, 1, True), (3, 2, 0, True), (1, 0, 0, False),
        (2, 0, 1, True), (1, 2, 0, False), (6, 0, 5, True), (7, 0, 6, True),
    ],
)  # fmt: skip
def test_no_more_in_the_queue_than_allowed(
    queue: Queue, queued: int, joined: int, submitted: int, report: bool
) -> None:
    names = list(what(queue.plan()))
    for number in range(joined):
        queue.put(names[number], str(10 + number))
    plan = queue.plan(limits={"running": 1, "queued": queued})
    found = [what(plan)[name] for name in names]
    later = len(names) - 1 - joined - submitted
    assert found[:-1] == ["joined"] * joined + ["submit"] * submitted + ["later"] * later
    assert found[-1] == ("submit" if report else "later")
    assert all(f"limits.queued of lab: {queued} job" in decision.why for decision in plan.of("later"))
    parents = {
        parent for decision in plan.of("submit") if decision.node.kind != "report" for parent in decision.node.parents
    }
    assert not parents & {decision.node.hash for decision in plan.of("later")}


def test_the_report_waits_for_half_of_the_queue_and_submits_the_others(queue: Queue) -> None:
    queue.prepared()
    queue.put("none-s0/toy", "5", "RUNNING")
    plan = queue.plan(limits={"running": 1, "queued": 4})
    later = [name for name, word in what(plan).items() if word == "later"]
    assert later == ["choose-s0/toy", "choose-s0/toy/evaluate"]
    jobs = {decision.node.hash: decision.job or decision.node.name for decision in plan.of("joined", "submit")}
    report = plan.graph.find("toy/report")
    assert waits_for(plan, report, jobs).ended == ("5", "none/toy-s0")
    whole = queue.plan()
    jobs = {decision.node.hash: decision.job or decision.node.name for decision in whole.of("joined", "submit")}
    assert len(waits_for(whole, report, jobs).ended) == 2, "the two evaluations, which come last"

    # From inside the report's job, the 9: what has left no result is not tried again.
    queue.put("report", "9", "RUNNING")
    queue.put("none-s0/toy", "5", "COMPLETED")
    queue.put("none-s0/toy/evaluate", "6", "CANCELLED")
    queue.put("choose-s0", "7", "RUNNING")
    plan = queue.plan(anew=False)
    assert [what(plan)[name] for name in ALL] == ["done", "failed", "left out", "joined", "submit", "submit", "joined"]
    queue.states["7"] = "FAILED"
    queue.folder("choose-s0").end("user error", 2, "a label that is none")
    plan = queue.plan(anew=False)
    assert [what(plan)[name] for name in ALL] == [
        "done",
        "failed",
        "left out",
        "failed",
        "left out",
        "left out",
        "joined",
    ]
    assert "a label that is none" in of(plan)["choose-s0"].why


def test_a_purged_encoder_is_made_again_where_something_starts_from_it(queue: Queue) -> None:
    queue.prepared()
    for name in ALL[1:]:
        queue.done(name)
    lost = [queue.folder(name).run.encoder for name in ("choose-s0", "choose-s0/toy", "none-s0/toy")]
    (lost[0] / "model.safetensors").unlink()
    for folder in lost[1:]:
        shutil.rmtree(folder)
    assert set(what(queue.plan()).values()) == {"done"}, "nothing is left to start from them"
    queue.folder("choose-s0/toy/evaluate").run.done_marker.unlink()
    plan = queue.plan()
    assert [what(plan)[name] for name in ALL] == ["done", "done", "done", "submit", "submit", "submit", "submit"]
    why = of(plan)["choose-s0"].why
    assert why.startswith(f"done before, made again: {lost[0]}/model.safetensors is gone")
    assert why.endswith("target choose/toy-s0 starts there"), "which is made again itself"
    assert of(plan)["choose-s0/toy"].why.endswith("evaluate choose/toy-s0 starts there")
    assert queue.folder("choose-s0").run.done, "a plan changes nothing"
    found = what(queue.plan(anew=False))
    assert [found[name] for name in ALL[3:6]] == ["done", "done", "submit"], "not by the report's job: without end"


def test_what_is_made_again_does_not_count_as_done(queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    queue.prepared()
    queue.done("choose-s0")
    shutil.rmtree(queue.folder("choose-s0").run.encoder)
    sent = []

    def stand_in(folder: JobFolder, profile: Profile, node: JobNode, *more: Any, **rest: Any) -> Submission:
        sent.append((node.name, folder.run.done))
        return Submission(str(100 + len(sent)), node.job_name, 0.0, "lab")

    monkeypatch.setattr(xtrain.submitting, "submit_job", stand_in)
    submit(queue.plan(), said=lambda one: None)
    assert ("choose-s0", False) in sent


def test_new_jobs_go_behind_those_in_their_lane(queue: Queue) -> None:
    queue.prepared()
    queue.put("choose-s0", "5", "RUNNING", lane=0)
    plan = queue.plan(limits={"running": 1})
    by_name = {plan.graph.by_hash[key].job_name.removeprefix("toy/"): place for key, place in plan.placements.items()}
    first = plan.graph.find("toy/choose-s0").hash
    assert by_name["none-s0/toy"].after == (first,)
    assert {place.lane for place in by_name.values()} == {0}


def test_jobs_on_another_cluster_are_not_seen(queue: Queue) -> None:
    queue.plan().graph.write(queue.out)
    assert queue.plan(cluster="alpha"), "nothing was submitted yet"
    queue.put("choose-s0", "5", "RUNNING")
    with pytest.raises(
        UserError, match=r"cluster = 'alpha' of lab: jobs of these .* the own cluster(.|\n)*xtrain cancel"
    ):
        queue.plan(cluster="alpha")
    queue.folder("choose-s0").end("failed", 1, "a node was lost")
    queue.put("choose-s0/toy", "6")
    queue.folder("choose-s0/toy").ask_to_stop()
    queue.states["6"] = "CANCELLED"
    assert queue.plan(cluster="alpha"), "nothing of it is there any more"


def test_nothing_is_decided_while_slurm_is_silent(queue: Queue) -> None:
    queue.put("prepare", "5")
    queue.states.clear()
    with pytest.raises(UserError, match=r"squeue: .*Unable to contact slurm controller(.|\n)*try again when"):
        queue.plan()


def test_a_gpu_with_next_to_nothing_to_do_is_named(queue: Queue) -> None:
    job = {"time_limit": 60, "gpus_per_node": 4}
    (said, _) = sorted(too_small(queue.plan(job=job)))
    assert said.startswith("1 intermediate phase: batches of 8 examples on 4 GPUs leave 2 to each")
    assert "examples_per_rank = 4 in [job.intermediate]" in said
    fewer = queue.plan(job={**job, "examples_per_rank": 4})
    assert too_small(fewer) == []
    assert {d.node.batch for d in fewer.decisions if d.node.kind in ("intermediate", "target")} == {8}
    assert too_small(queue.plan()) == []


def test_phases_are_written_anew_when_the_study_has_changed(queue: Queue) -> None:
    queue.prepared()
    assert what(queue.plan())["prepare"] == "done"
    queue.folder("prepare").run.mark_done({"study": content_hash(TEXT + "[engine]")})
    found = of(queue.plan())["prepare"]
    assert (found.what, found.why) == ("submit", "phases are to be written anew")
    for name in ALL:
        queue.folder(name).run.mark_done({})
    assert what(queue.plan())["prepare"] == "done", "there is nothing left to be written"


def test_a_phase_that_was_never_written(queue: Queue) -> None:
    queue.prepared()
    queue.folder("choose-s0").run.phase_file.unlink()
    assert what(queue.plan())["prepare"] == "submit"


def test_a_study_that_runs_here_is_not_run_twice(queue: Queue) -> None:
    """On this machine, a process of its own holds the study."""
    plan = plan_submission(queue.job, Profile.from_mapping({"scheduler": "local", "name": "here"}), TEXT)
    with (
        held_as_queue(queue.out, "toy"),
        pytest.raises(UserError, match="study toy is being run on this machine already"),
    ):
        submit(plan, said=lambda one: None)
    assert not list(queue.out.glob("*/*/job/submissions.jsonl"))


def test_a_study_whose_data_are_not_seen_is_one_job(queue: Queue) -> None:
    queue.prepared()
    plan = queue.plan()
    plan.graph.write(queue.out)

    def unseen() -> Plan:
        (queue.root / "jobs").write_text("".join(f"{job} {state}\n" for job, state in queue.states.items()))
        return plan_unseen(queue.job.study, TEXT, queue.root / "far", queue.out, profile())

    found = unseen()
    assert what(found) == {"prepare": "submit"}
    assert len(found.graph.nodes) == 1 + len(ALL), "what was submitted before is shown as well"
    (node,) = [decision.node for decision in found.decisions]
    JobFolder(node.run(queue.out).create()).add(Submission("9", node.job_name, time.time(), "lab", 0))
    queue.states["9"] = "RUNNING"
    assert what(unseen()) == {"prepare": "joined"}
    del queue.states["9"]
    node.run(queue.out).mark_done({})
    assert what(unseen()) == {"prepare": "submit"}, "it looks what is missing"
