"""The ways of a job back into the queue: SLURM's own, ``scontrol requeue``, or another job in its place."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from xtrain.dispatch import slurm
from xtrain.dispatch.cluster import Profile
from xtrain.dispatch.job_graph import JobGraph, JobNode
from xtrain.dispatch.node_check import bad_nodes
from xtrain.dispatch.slurm import JobState
from xtrain.dispatch.submissions import JobFolder, Submission
from xtrain.dispatch.submit_job import Behind, submit_job
from xtrain.errors import UserError
from xtrain.run_directory import RunDirectory

PATIENCE_SECONDS = 600.0  # slurmctld may be down for a while
SETTLING_SECONDS = 10.0  # until SLURM has decided what becomes of a job that it ends
POLL_SECONDS = 0.5


@dataclass(frozen=True)
class Outcome:
    """What became of the wish to go on."""

    said: str
    chained: bool = False
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

    def again(self, bad: Sequence[str] = ()) -> Outcome:
        """Let the phase go on in another start, not on the nodes ``bad``."""
        state = self._settled()
        if state is not None and state.state == "CANCELLED":
            return Outcome(f"job {self.job} was cancelled", cancelled=True)
        if state is not None and state.waiting:
            self._exclude(bad)
            return Outcome(f"SLURM has put job {self.job} back into the queue")
        said = "this profile has requeue = false"
        if self.profile.preemption.requeue:
            reply = slurm.requeue(self.job, patience_seconds=PATIENCE_SECONDS)
            if reply.ok:
                self._exclude(bad)
                return Outcome(f"job {self.job} is back in the queue")
            said = f"scontrol requeue: {reply.said}"
        try:
            new = self._chain(Behind(ended=(self.job,)), bad)
        except UserError as error:
            return Outcome(f"cannot go on by itself: {said}; {error}", refused=True)
        return Outcome(f"{said}; job {new.job} goes on", chained=True)

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
        """This job's state, once SLURM has decided on it; None where that is not to be learnt."""
        until = time.monotonic() + PATIENCE_SECONDS
        settling = time.monotonic() + SETTLING_SECONDS
        while True:
            answer = slurm.squeue([self.job])
            state = answer.states.get(self.job)
            undecided = state is not None and state.state in ("COMPLETING", "PREEMPTED", "NODE_FAIL", "TIMEOUT")
            if answer.complete and not (undecided and time.monotonic() < settling):
                return state
            if time.monotonic() > until:
                return state
            time.sleep(POLL_SECONDS if answer.complete else slurm.RETRY_SECONDS)

    def _exclude(self, bad: Sequence[str]) -> None:
        """Of a job that waits. SLURM needs a moment until it does, and ends this process some seconds later."""
        if not bad:
            return
        nodes = sorted({*bad, *(node.node for node in bad_nodes(self.out))})
        until = time.monotonic() + SETTLING_SECONDS
        while True:
            reply = slurm.exclude_nodes(self.job, nodes)
            if reply.ok or time.monotonic() > until:
                break
            time.sleep(POLL_SECONDS)
        said = f"job {self.job} is not to start on {', '.join(nodes)}"
        print(said if reply.ok else f"could not be told: {said}: {reply.said}", flush=True)

    def _chain(self, behind: Behind, bad: Sequence[str]) -> Submission:
        """A job in the place of this one; those that wait for this one then wait for that."""
        folder = JobFolder(self.run)
        excluded = sorted({*bad, *(node.node for node in bad_nodes(self.out))})
        lane = folder.submissions()[-1].lane if folder.submissions() else -1
        new = submit_job(
            folder, self.profile, self.node, self.graph.study, behind, lane=lane, excluded=excluded, chained=True
        )
        waiting = {}
        for node in self.graph.nodes:
            submissions = JobFolder(node.run(self.out)).submissions()
            if submissions and self.job in (*submissions[-1].succeeded, *submissions[-1].ended):
                waiting[submissions[-1].job] = submissions[-1]
        for job, state in slurm.squeue(sorted(waiting)).states.items() if waiting else ():
            if not state.waiting or job == new.job:
                continue
            left = re.sub(r"\([^)]*\)", "", state.dependency)  # afterok:12(unfulfilled)
            reply = slurm.update_dependency(job, re.sub(rf"\b{self.job}\b", new.job, left))
            if not reply.ok:  # it will find out itself when it starts
                print(f"job {job} could not be told to wait for job {new.job}: {reply.said}", flush=True)
        return new
