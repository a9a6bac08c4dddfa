"""The ways of a job back into the queue: SLURM's own, ``scontrol requeue``, or another job in its place."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from xtrain.dispatch import slurm
from xtrain.dispatch.attempts import Attempts
from xtrain.dispatch.cluster import Profile
from xtrain.dispatch.job_graph import JobGraph, JobNode, graphs
from xtrain.dispatch.slurm import JobState
from xtrain.dispatch.submissions import JobFolder, Submission
from xtrain.dispatch.submit_job import PATIENCE_SECONDS, Behind, nodes_to_avoid, patiently, submit_job
from xtrain.errors import UserError, listed
from xtrain.run_directory import RunDirectory

SETTLING_SECONDS = 10.0  # until a job that SLURM is putting back waits in the queue
ACCOUNTING_SECONDS = 15.0  # that it lags behind; half of what SLURM leaves a job that it ends, by default
POLL_SECONDS = 0.5
# Why SLURM ends a job that may go on; that somebody cancelled it, has no such word.
_GOES_ON = ("TimeLimit", "NodeDown", "NodeFail", "BootFail")
_GOES_ON_STATES = ("PREEMPTED", "NODE_FAIL", "TIMEOUT", "BOOT_FAIL", "OUT_OF_MEMORY")


@dataclass(frozen=True)
class Requeued:
    """What became of the wish to go on."""

    said: str
    chained: bool = False
    fenced: bool = False
    cancelled: bool = False
    refused: bool = False


@dataclass(frozen=True)
class Requeueing:
    """For one job of a phase, from inside it."""

    run: RunDirectory
    graph: JobGraph
    node: JobNode
    profile: Profile
    out: Path
    job: str
    restart: int
    """How often SLURM had put it back before this start."""

    def again(self, bad: Sequence[str] = ()) -> Requeued:
        """Let the phase go on in another start, not on the nodes ``bad``."""
        state = self._settled()
        if state is not None and (state.waiting or state.restarts > self.restart):
            self._exclude(bad)
            return Requeued(f"SLURM has put job {self.job} back into the queue")
        if state is not None and self._cancelled(state):
            return Requeued(f"job {self.job} was cancelled", cancelled=True)
        if not Attempts(self.run).is_newest_of(self.job):
            return Requeued("another job has this phase", fenced=True)
        said = "this profile has requeue = false"
        if self.profile.preemption.requeue:
            reply = slurm.requeue(self.job, patience_seconds=PATIENCE_SECONDS)
            if reply.ok:
                self._exclude(bad)
                return Requeued(f"job {self.job} is back in the queue")
            said = f"scontrol requeue: {reply.said}"
        try:
            new = patiently(lambda: self._chain(Behind(ended=(self.job,)), bad))
        except UserError as error:
            return Requeued(f"cannot go on by itself: {said}; {error}", refused=True)
        return Requeued(f"{said}; job {new.job} goes on", chained=True)

    def behind_all(self) -> bool:
        """Wait again, in another job, for whatever of this study still has a job: of a report, which shows all."""
        newest = {}
        for graph in graphs(self.out):
            if graph.study == self.graph.study:
                for node in graph.nodes:
                    submissions = JobFolder(node.run(self.out)).submissions()
                    if submissions and node.hash != self.node.hash and not node.run(self.out).done:
                        newest[submissions[-1].job] = node.job_name
        states = slurm.squeue(sorted(newest)).states.values() if newest else ()
        live = [state.job for state in states if state.waiting or state.running]
        if not live:
            return False
        new = self._chain(Behind(ended=tuple(live)), ())
        names = listed((newest[job] for job in live), 2)
        print(f"still in the queue or running of the study: {names}; this job waits for that in job {new.job}")
        return True

    def behind(self, parent: JobFolder) -> bool:
        """Wait again, in another job, where the parent goes on in another job than this one waited for."""
        submissions = parent.submissions()
        if not submissions:
            return False
        state = slurm.squeue([submissions[-1].job]).states.get(submissions[-1].job)
        if state is None or state.ended:
            return False
        new = self._chain(Behind(succeeded=(state.job,)), ())
        print(f"{submissions[-1].name} goes on in job {state.job}; this one does so behind it, in job {new.job}")
        return True

    def _settled(self) -> JobState | None:
        """This job's state; None where that is not to be learnt.

        SLURM decides what becomes of a job before it signals it: nothing has to settle.
        """
        until = time.monotonic() + PATIENCE_SECONDS
        for pause in slurm.pauses():
            answer = slurm.squeue([self.job])
            if answer.complete or time.monotonic() > until:
                return answer.states.get(self.job)
            time.sleep(pause)
        raise AssertionError

    def _cancelled(self, state: JobState) -> bool:
        """Whether somebody has cancelled this job: ``scontrol requeue`` would bring it back all the same.

        As long as this process lives, squeue says ``COMPLETING``, of a job that was cancelled, preempted without being
        put back, or over its time. Accounting knows which, where there is any; if it is slow to say, the job goes on.
        """
        if state.state != "COMPLETING":
            return state.state == "CANCELLED"
        if state.reason in _GOES_ON:
            return False
        until = time.monotonic() + ACCOUNTING_SECONDS
        while True:
            known = slurm.sacct([self.job]).states.get(self.job)
            if known is None or known.ended:
                return known is None or known.state not in _GOES_ON_STATES
            if time.monotonic() > until:
                return False
            time.sleep(POLL_SECONDS)

    def _exclude(self, bad: Sequence[str]) -> None:
        """Of a job that waits. SLURM needs a moment until it does, and ends this process some seconds later."""
        nodes = self._avoided(bad) if bad else []
        if not nodes:
            return
        own = str(self.profile.resources(self.node.kind).sbatch.get("exclude", ""))  # sbatch had it: this replaces it
        until = time.monotonic() + SETTLING_SECONDS
        while True:
            reply = slurm.exclude_nodes(self.job, [*filter(None, [own]), *nodes])
            if reply.ok or time.monotonic() > until:
                break
            time.sleep(POLL_SECONDS)
        said = f"job {self.job} is not to start on {', '.join(nodes)}"
        print(said if reply.ok else f"could not be told: {said}: {reply.said}", flush=True)

    def _avoided(self, bad: Sequence[str]) -> list[str]:
        return nodes_to_avoid(self.profile, self.node.kind, self.out, bad)

    def _chain(self, behind: Behind, bad: Sequence[str]) -> Submission:
        """A job in the place of this one; those that wait for this one then wait for that."""
        folder = JobFolder(self.run)
        lane = folder.submissions()[-1].lane if folder.submissions() else -1
        new = submit_job(
            folder, self.profile, self.node, self.graph, behind, lane=lane, excluded=self._avoided(bad), chained=True
        )
        self._hand_over({submission.job for submission in folder.submissions()}, new.job)
        return new

    def _hand_over(self, mine: set[str], new: str) -> None:
        """Let the jobs that wait for this one wait for ``new``; they were submitted behind one of ``mine``."""
        waiting = set()
        for node in {node.hash: node for graph in graphs(self.out) for node in graph.nodes}.values():
            submissions = JobFolder(node.run(self.out)).submissions()
            if submissions and mine & {*submissions[-1].succeeded, *submissions[-1].ended}:
                waiting.add(submissions[-1].job)
        for job, state in slurm.squeue(sorted(waiting)).states.items() if waiting else ():
            left = re.sub(r"\([^)]*\)", "", state.dependency)  # afterok:12(unfulfilled)
            told = re.sub(rf"\b{self.job}\b", new, left)
            if not state.waiting or job == new or told == left:
                continue
            reply = slurm.update_dependency(job, told)
            if not reply.ok:  # it will find out itself when it starts
                print(f"job {job} could not be told to wait for job {new}: {reply.said}", flush=True)
