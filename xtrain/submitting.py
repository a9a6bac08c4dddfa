"""A study as jobs in a queue: what is missing is submitted, what runs or is done is found and joined."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from xtrain.dispatch import slurm
from xtrain.dispatch.cluster import SLURM, Profile
from xtrain.dispatch.job_graph import PREPARE, REPORT, JobGraph, JobNode, graph_file, graphs, study_file
from xtrain.dispatch.lanes import LaneJob, Placement, assign
from xtrain.dispatch.local_queue import held, held_as_queue, start_queue
from xtrain.dispatch.site_limits import submit_limit
from xtrain.dispatch.slurm import JobState
from xtrain.dispatch.submissions import JobFolder, Submission
from xtrain.dispatch.submit_job import Behind, QueueFull, behind_of, nodes_to_avoid, submit_job
from xtrain.errors import Problem, UserError, counted
from xtrain.files import content_hash, read_json, write_text
from xtrain.runner import Job, job_graph, job_title, to_make_again
from xtrain.study import Study

# What becomes of a job upon submission.
DONE, JOINED, SUBMIT, FAILED, LEFT_OUT, LATER = "done", "joined", "submit", "failed", "left out", "later"
MOST_TAKEN_BACK = 3  # jobs, of a queue that is full, to make room for the report's; others may be as quick to take it


def held_for_submitting(out: Path, patience_seconds: float = 0.0) -> contextlib.AbstractContextManager[None]:
    """Hold an output folder, so that no phase is submitted twice; as :func:`~xtrain.dispatch.local_queue.held`."""
    return held(out.absolute(), "submitting", "another submission into this folder is under way", patience_seconds)


@dataclass(frozen=True)
class Decision:
    """What becomes of one job of the graph, and why."""

    node: JobNode
    what: str
    """One of the words above."""
    why: str = ""
    job: str = ""
    """Of a joined one: its job in the queue."""
    lane: int = -1
    replaces: str = ""
    """Of one to be submitted: its job in the queue, which is cancelled."""


@dataclass
class Plan:
    """A submission, decided but not made."""

    graph: JobGraph
    out: Path
    profile: Profile
    study: str = ""
    """The study as TOML, with its variant and ``--set`` laid on it."""
    anew: bool = True
    """Whether what was submitted before and has left no result is submitted again."""
    again: Mapping[str, str] = field(default_factory=dict)
    """Phases that were done and are made again, as what starts from them finds nothing: hash -> why."""
    decisions: list[Decision] = field(default_factory=list)
    placements: dict[str, Placement] = field(default_factory=dict)

    def of(self, *whats: str) -> list[Decision]:
        """The decisions of these kinds, in order."""
        return [decision for decision in self.decisions if decision.what in whats]


def plan_submission(job: Job, profile: Profile, study: str, *, anew: bool = True) -> Plan:
    """Decide for every job of the study, given as TOML too, whether it is to be submitted.

    Without ``anew`` that is only what never was: there was no room in the queue. Raises a :class:`UserError` where the
    profile cannot run the study, or SLURM does not answer.
    """
    if "%" in str(job.out.absolute()):
        raise UserError(Problem(f"--out {job.out}", "% has a meaning in the paths of SLURM's logs", remedy="rename it"))
    graph = job_graph(job, profile.to_mapping(), around=True)
    # Made again by the user's own submission alone: of jobs that see to it themselves, there might be no end.
    plan = Plan(graph, job.out.absolute(), profile, study, anew, to_make_again(job) if anew else {})
    _check_signals(job.study, profile)
    _check_cluster(plan)
    alive = _alive(plan)
    _check_cancelled(plan, alive)
    without: dict[str, str] = {}  # hash -> why there will be no result
    for node in graph.nodes:
        decision = _decide(plan, node, alive, without)
        if decision.what in (FAILED, LEFT_OUT):
            without[node.hash] = node.name if decision.what == FAILED else without[_lost_parent(node, without)]
        plan.decisions.append(decision)
    _limit_queue(plan)
    _place(plan)
    return plan


def plan_unseen(study: Study, text: str, data_root: Path, out: Path, profile: Profile) -> Plan:
    """The submission of a study whose data are not seen here, and so its phases not known: the job that prepares it.

    Where it has found the data as they should be, that job submits all others (:mod:`xtrain.submit_remainder`).
    """
    _check_signals(study, profile)
    data = str(data_root.absolute())
    title, key = job_title(study.name), content_hash([PREPARE, text, data])
    node = JobNode(key, PREPARE, PREPARE, f"{title}/{PREPARE}", f"{PREPARE}/{title}-{key}")
    path = graph_file(out, study.name)  # what was submitted before is shown as well
    others = [known for known in JobGraph.read(path).nodes if known.hash != key] if path.is_file() else []
    plan = Plan(JobGraph(study.name, (node, *others), profile.to_mapping(), data), out.absolute(), profile, text)
    alive = {key: found for key, found in _alive(plan).items() if key == node.hash}
    _check_cancelled(plan, alive)
    decision = _decide(plan, node, alive, {})
    plan.decisions.append(Decision(node, SUBMIT) if decision.what == DONE else decision)
    return plan


def _check_signals(study: Study, profile: Profile) -> None:
    """Raise a :class:`UserError` if ranks would die of what asks them to save."""
    known = {name.upper().removeprefix("SIG") for name in study.engine.preemption_signals}
    sent = {profile.preemption.warning.removeprefix("SIG"), "TERM"}
    deaf = " and ".join(f"SIG{name}" for name in sorted(sent - known))
    if deaf:
        listening = ", ".join(study.engine.preemption_signals) or "none"
        raise UserError(
            Problem(
                f"engine.preemption_signals = {listening}",
                f"jobs of profile {profile.name} are sent {deaf}, which ends a rank that does not listen for it",
                remedy="add it, or leave the key out: else nothing is saved when a job has to leave",
            )
        )


def _check_cluster(plan: Plan) -> None:
    """Raise a :class:`UserError` where jobs of these phases may be on another cluster, where they are not seen."""
    for other in graphs(plan.out):
        name = other.profile.get("cluster", "")
        if other.profile.get("scheduler") != SLURM or name == plan.profile.cluster or plan.profile.is_local:
            continue
        folders = [JobFolder(node.run(plan.out)) for node in other.nodes if node.hash in plan.graph.by_hash]
        over = [one for one in folders if one.run.done or one.ended() or one.asked_to_stop()]
        if any(one.submissions() for one in folders if one not in over):
            what = f"jobs of these phases were submitted to {name or 'the own cluster'}, and may still be there"
            remedy = f"python -m xtrain cancel {plan.out} first, or choose another --out"
            raise UserError(Problem(f"cluster = {plan.profile.cluster!r} of {plan.profile.name}", what, remedy=remedy))


def _check_cancelled(plan: Plan, alive: Mapping[str, tuple[Submission, JobState]]) -> None:
    """Raise a :class:`UserError` where jobs that were cancelled are still there: they will not go on, nor be joined."""
    folders = {node: JobFolder(node.run(plan.out)) for node in plan.graph.nodes if node.hash in alive}
    leaving = [node for node, folder in folders.items() if folder.asked_to_stop()]
    if leaving and plan.anew:
        job, state = alive[leaving[0].hash]
        more = f" (and {len(leaving) - 1} more)" if len(leaving) > 1 else ""
        remedy = f"try again in half a minute; if it stays, python -m xtrain cancel {plan.out} once more"
        what = f"job {job.job} was cancelled and is still there: {state.state.lower()}{more}"
        raise UserError(Problem(leaving[0].job_name, what, remedy=remedy))


def _lost_parent(node: JobNode, without: Mapping[str, str]) -> str:
    return next(parent for parent in node.parents if parent in without)


def _decide(
    plan: Plan, node: JobNode, alive: Mapping[str, tuple[Submission, JobState]], without: Mapping[str, str]
) -> Decision:
    run = node.run(plan.out)
    if node.hash in alive:
        submission, state = alive[node.hash]
        again = {decision.node.hash for decision in plan.of(SUBMIT)} & set(node.parents)
        if again and state.waiting and node.kind != REPORT:
            return Decision(node, SUBMIT, f"job {submission.job} waits for one that is gone", replaces=submission.job)
        return Decision(node, JOINED, f"job {submission.job} is in the queue", submission.job, submission.lane)
    if node.hash in plan.again:
        return Decision(node, SUBMIT, plan.again[node.hash])
    if node.kind == REPORT:
        new = [d for d in plan.decisions if d.what in (SUBMIT, JOINED)]
        if run.done and not new:
            return Decision(node, DONE)
        return Decision(node, SUBMIT)
    if node.kind == PREPARE and run.done:
        return Decision(node, SUBMIT, "phases are to be written anew") if _outdated(plan) else Decision(node, DONE)
    if run.done:
        return Decision(node, DONE)
    if any(parent in without for parent in node.parents):
        return Decision(node, LEFT_OUT, f"it starts from {without[_lost_parent(node, without)]}, which failed")
    if run.failed:
        why = read_json(run.failed_marker)
        return Decision(node, FAILED, f"{why['reason']} (step {why['step']}); delete {run.failed_marker} to repeat it")
    folder = JobFolder(run)
    ended = folder.ended()
    why = f"ended before ({ended.how}): {_first_line(ended.reason)}" if ended else ""
    if not plan.anew and folder.submissions() and not folder.postponed():
        return Decision(node, FAILED, why or f"job {folder.submissions()[-1].job} has left no result")
    return Decision(node, SUBMIT, why)


def _outdated(plan: Plan) -> bool:
    """Whether a phase that is to be run was prepared with other settings of the study, or has lost its ``phase.toml``.

    What changes a result is in a phase's hash, and makes it another one; how it is computed (``[engine]``) is not.
    """
    runs = [node.run(plan.out) for node in plan.graph.nodes if node.kind not in (PREPARE, REPORT)]
    again = [plan.graph.by_hash[key].run(plan.out) for key in plan.again]
    to_run = [run for run in runs if run in again or not (run.done or run.failed)]
    if not to_run:
        return False
    prepared = read_json(plan.graph.nodes[0].run(plan.out).done_marker)
    same = prepared.get("study") == content_hash(plan.study)
    return not (same and all(run.phase_file.is_file() for run in to_run))


def _first_line(text: str) -> str:
    return text.strip().partition("\n")[0]


def _alive(plan: Plan) -> dict[str, tuple[Submission, JobState]]:
    """The newest job of each node that runs or can still run, and what squeue says of it."""
    newest = {}
    for node in plan.graph.nodes:
        submissions = JobFolder(node.run(plan.out)).submissions()
        if submissions and not node.run(plan.out).done:
            newest[node.hash] = submissions[-1]
    if not newest:
        return {}
    answer = slurm.squeue([submission.job for submission in newest.values()])
    if not answer.complete:
        remedy = "try again when `squeue` answers here: what is submitted already could not be told from what is not"
        raise UserError(Problem("squeue", answer.silent[slurm.SQUEUE], remedy=remedy))
    states = {
        job: state
        for job, state in answer.states.items()
        if (state.waiting or state.running) and state.reason != "DependencyNeverSatisfied"
    }
    return {key: (one, states[one.job]) for key, one in newest.items() if one.job in states}


def _limit_queue(plan: Plan) -> None:
    """No more jobs at once than profile and site allow; the report's job submits the others when there is room again.

    Where there is no room for that one, or nothing that it could wait for, they are left for the next submission.
    """
    wanted = plan.of(SUBMIT)
    if plan.profile.is_local or not wanted:
        return
    limits = plan.profile.limits
    chained = 0 if plan.profile.preemption.requeue else limits.running  # each that runs may submit its successor
    room = limits.queued - len(plan.of(JOINED))
    why = f"limits.queued of {plan.profile.name}: {counted(limits.queued, 'job')} in the queue at once"
    site = submit_limit(plan.profile, {decision.node.kind for decision in wanted})
    if site is not None and site.free < room:
        room, why = site.free, f"{site}: the site lets you have no more"
    room -= chained
    if not plan.anew and room > 1:
        room -= 1  # the job that submits these is still there when the one that follows it comes into the queue
    if len(wanted) <= room:
        return
    phases = [d for d in wanted if d.node.kind != REPORT]
    kept = phases[: max(0, room - (len(wanted) - len(phases)))]
    late = {d.node.hash for d in phases[len(kept) :]}
    if room < 1 or not (kept or [d for d in plan.of(JOINED) if d.node.kind != REPORT]):
        late |= {d.node.hash for d in wanted if d.node.kind == REPORT}
    plan.decisions = [Decision(d.node, LATER, why) if d.node.hash in late else d for d in plan.decisions]


def _place(plan: Plan) -> None:
    """The lane of every new job, behind those that are in the queue already."""
    hours = {kind: plan.profile.resources(kind).hours for kind in {node.kind for node in plan.graph.nodes}}

    def lane_job(node: JobNode) -> LaneJob:
        return LaneJob(node.hash, node.parents, hours[node.kind])

    queued: dict[int, list[LaneJob]] = {}
    for decision in plan.of(JOINED):
        if decision.lane >= 0:
            queued.setdefault(decision.lane, []).append(lane_job(decision.node))
    jobs = [lane_job(d.node) for d in plan.of(SUBMIT) if d.node.kind not in (PREPARE, REPORT)]
    plan.placements = assign(jobs, plan.profile.limits.running, queued)


def submit(plan: Plan, said: Callable[[Submission], None]) -> list[Submission]:
    """Submit what is decided, in order, each behind what it needs; returns the new jobs, and tells ``said`` of each.

    What is submitted is written down at once: when this is interrupted, submitting again goes on from there. Where the
    queue takes no more in the middle of it, the others become ``LATER`` ones of ``plan``, left to the report's job.
    """
    if plan.profile.is_local:
        return _start_local(plan)
    plan.graph.write(plan.out)
    if plan.of(SUBMIT, LATER):
        _forget_results(plan)
    kinds = {decision.node.kind for decision in plan.of(SUBMIT)}
    excluded = {kind: nodes_to_avoid(plan.profile, kind, plan.out) for kind in sorted(kinds)}
    jobs = {d.node.hash: d.job for d in plan.of(JOINED)}
    new: dict[str, Submission] = {}  # by the hash of the job's node

    def send(decision: Decision) -> None:
        node = decision.node
        if decision.replaces:
            slurm.cancel([decision.replaces])
        folder = _reopened(node, plan)
        place = plan.placements.get(node.hash)
        behind = waits_for(plan, node, jobs)
        lane = place.lane if place else -1
        excluding = excluded[node.kind]
        submission = submit_job(folder, plan.profile, node, plan.graph, behind, lane=lane, excluded=excluding)
        jobs[node.hash] = submission.job
        new[node.hash] = submission
        said(submission)

    def finish() -> list[Submission]:
        for decision in plan.of(SUBMIT):
            if decision.node.hash not in new:
                send(decision)
        for decision in plan.of(LATER):
            JobFolder(decision.node.run(plan.out)).postpone()
        return [*new.values(), *_let_report_wait(plan, jobs)] if new else []

    for _ in range(1 + MOST_TAKEN_BACK):
        try:
            return finish()
        except QueueFull as full:
            if not _leave_rest(plan, new, jobs, full):
                raise
    return finish()


def _leave_rest(plan: Plan, new: dict[str, Submission], jobs: dict[str, str], full: QueueFull) -> bool:
    """Leave to the report's job what the queue does not take; whether there is a job to do so, or may be.

    Where no place was left for that job itself, it gets the one of the newest phase, which is then left to it as well.
    """
    phases = [d.node for d in plan.of(SUBMIT) if d.node.kind not in (PREPARE, REPORT)]
    late = {node.hash for node in phases if node.hash not in new}
    if not new or plan.graph.nodes[-1].kind != REPORT:
        return False
    if not late:  # it was the report's job that was refused
        taken = next((node for node in reversed(phases) if node.hash in new and _took_back(node, plan, new)), None)
        if taken is None:
            return False
        del new[taken.hash], jobs[taken.hash]
        late.add(taken.hash)
    why = full.problems[0].what
    plan.decisions = [replace(d, what=LATER, why=why) if d.node.hash in late else d for d in plan.decisions]
    return True


def _took_back(node: JobNode, plan: Plan, new: Mapping[str, Submission]) -> bool:
    """Whether a job could be taken out of the queue again before it began."""
    job = new[node.hash].job
    slurm.cancel([job], waiting=True)
    answer = slurm.squeue([job])
    state = answer.states.get(job)
    if not answer.complete or (state is not None and not state.ended):
        return False
    JobFolder(node.run(plan.out)).forget(job)
    return True


def waits_for(plan: Plan, node: JobNode, jobs: Mapping[str, str]) -> Behind:
    """What a job waits for.

    The report's does so for half of what is in the queue if there is more to submit: when it begins there is room for
    more, and the queue has not run dry.
    """
    if node.kind == REPORT and plan.of(LATER):
        queued = [jobs[other.hash] for other in plan.graph.nodes if other.kind != REPORT and other.hash in jobs]
        return Behind(ended=tuple(queued[: (len(queued) + 1) // 2]))
    place = plan.placements.get(node.hash)
    return behind_of(node, plan.graph, jobs, [jobs[key] for key in place.after] if place else [])


def _forget_results(plan: Plan) -> None:
    """The report of before is not that of what is submitted now, whenever its job is; nor does what is made again count
    as done."""
    for node in plan.graph.nodes:
        if node.kind == REPORT or node.hash in plan.again:
            node.run(plan.out).done_marker.unlink(missing_ok=True)


def _reopened(node: JobNode, plan: Plan) -> JobFolder:
    """The job's folder, without what an earlier end has left there."""
    run = node.run(plan.out).create()
    if node.kind in (PREPARE, REPORT):
        run.done_marker.unlink(missing_ok=True)
        write_text(study_file(run), plan.study)
    folder = JobFolder(run)
    folder.reopen()
    return folder


def _let_report_wait(plan: Plan, jobs: Mapping[str, str]) -> list[Submission]:
    """A report that was in the queue already waits for the new jobs too; where it has begun, another one follows it."""
    for decision in plan.of(JOINED):
        if decision.node.kind == REPORT:
            behind = waits_for(plan, decision.node, jobs)
            if not slurm.update_dependency(decision.job, str(behind)).ok:
                behind = Behind(ended=(decision.job, *behind.ended))
                folder = JobFolder(decision.node.run(plan.out))
                return [submit_job(folder, plan.profile, decision.node, plan.graph, behind, lane=-1)]
    return []


def _start_local(plan: Plan) -> list[Submission]:
    """On this machine, a process of its own submits each job when it can run."""
    if plan.of(SUBMIT):
        with held_as_queue(plan.out, plan.graph.study):  # nobody else runs it
            plan.graph.write(plan.out)
            _forget_results(plan)
            for decision in plan.of(SUBMIT):
                _reopened(decision.node, plan)
        start_queue(plan.out, plan.graph)
    return []
