"""What the job of a phase runs on its first node: starts the ranks by srun, and sees to what comes after them.

The ranks save by themselves when SLURM signals them, which it does on every node. What is left to do here: claim the
attempt, check the nodes, send the signal in time where the job's time ends, and when the ranks have ended decide
whether the job goes back into the queue, has succeeded, or has failed for good.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from xtrain.dispatch import attempts, slurm
from xtrain.dispatch.attempts import Attempts, Fence
from xtrain.dispatch.batch_script import (
    PROJECT,
    cache_folder,
    helper_command,
    job_scratch,
    rank_environment,
    srun_command,
)
from xtrain.dispatch.cluster import Profile, Resources, lead_for
from xtrain.dispatch.container import base_folders
from xtrain.dispatch.interfaces import address_of
from xtrain.dispatch.job_graph import PREPARE, REPORT, JobGraph, JobNode, graphs, study_file
from xtrain.dispatch.job_spec import JobSpec
from xtrain.dispatch.node_check import BadNode, check_nodes, remember
from xtrain.dispatch.rank_logs import RankLogs
from xtrain.dispatch.remainder import never_submitted, submit_remainder, waited_for
from xtrain.dispatch.rendezvous import probed_port
from xtrain.dispatch.requeueing import Requeueing
from xtrain.dispatch.submissions import JobFolder
from xtrain.dispatch.verdict import Verdict, idle_attempts, verdict_of
from xtrain.errors import EXIT_FENCED, EXIT_OURS, EXIT_PREEMPTED, UserError
from xtrain.files import content_hash, make_folder
from xtrain.run_directory import RunDirectory

PARENT_PATIENCE_SECONDS = 60.0  # a file that another node wrote may show up late on a network file system
POLL_SECONDS = 0.2
AGAIN_SECONDS = 5.0  # between one warning of the ranks and the next: srun loses it while munged is away
FENCE_SECONDS = 2.0  # between looks at whether a newer attempt has begun
LIMIT_SECONDS = 300.0  # between looks at the job's time limit
CLEAN_SECONDS = 20.0
LEAVING_SECONDS = 30.0  # that fenced ranks get to leave by themselves


def _is_fenced(fence: Fence) -> bool:
    """Whether a newer attempt is seen to have begun. While the file system is away, nothing is."""
    try:
        return not fence.holds()
    except OSError:
        return False


@dataclass
class Supervisor:
    """One start of one job."""

    run: RunDirectory
    graph: JobGraph
    """This job and its parents, as they were submitted."""
    node: JobNode
    profile: Profile
    out: Path
    job: str
    restart: int
    nodes: tuple[str, ...]
    asked: _Asked = field(default_factory=lambda: _Asked())

    @classmethod
    def here(cls, spec: JobSpec) -> Supervisor:
        """The supervisor of the SLURM job that this process is in."""
        nodes = subprocess.run(
            ["scontrol", "show", "hostnames", os.environ["SLURM_JOB_NODELIST"]], capture_output=True, text=True
        ).stdout.split()
        return cls(
            spec.run,
            spec.graph(),
            spec.node,
            Profile.from_mapping(spec.profile),
            Path(spec.out),
            os.environ["SLURM_JOB_ID"],
            int(os.environ.get("SLURM_RESTART_COUNT", 0)),
            tuple(nodes),
        )

    @property
    def folder(self) -> JobFolder:
        """``job/`` of the run directory."""
        return JobFolder(self.run)

    @property
    def asks(self) -> Resources:
        """What the job has asked SLURM for."""
        return self.profile.resources(self.node.kind, self.node.batch)

    @property
    def requeueing(self) -> Requeueing:
        """The ways back into the queue."""
        return Requeueing(self.run, self.graph, self.node, self.profile, self.out, self.job, self.restart)

    def work(self) -> int:
        """The whole life of this start; returns the job's exit code."""
        with self.asked.listening():
            if self.run.done and self.node.kind != REPORT:
                print(f"{self.run.path}: done before", flush=True)
                return 0
            waiting = self._parents()
            if waiting is not None:
                return waiting
            if self.folder.ended() and not self.folder.asked_to_stop():
                self._count_anew()  # put back into the queue by hand
            stopped = self._unless_idle(0)
            if stopped:
                return stopped
            asks = self.asks
            fence = Attempts(self.run).claim(
                job=self.job, restart=self.restart, nodes=self.nodes, ranks=asks.num_ranks,
                gpus=asks.nodes * asks.gpus_per_node, time_limit=asks.time_limit_seconds,
            )  # fmt: skip
            print(f"attempt {fence.number} at {self.node.name} on {', '.join(self.nodes)}", flush=True)
            try:
                return self._attempt(fence)
            except UserError:
                raise
            except Exception as error:  # a file system that was away: another start may fare better
                traceback.print_exc()
                reason = f"the supervisor failed: {type(error).__name__}: {error}"
                return self._conclude(fence, Verdict(attempts.FAILED, EXIT_OURS, reason, again=True))

    def _count_anew(self) -> None:
        """Forget how the phase ended, and the attempts that led to it."""
        self.folder.reopen()
        mine = [submission for submission in self.folder.submissions() if submission.job == self.job]
        if mine:
            self.folder.add(dataclasses.replace(mine[-1], first_attempt=Attempts(self.run).newest() + 1))

    def _parents(self) -> int | None:
        """None when all that this job needs is done; else the exit code: it waits again, or has ended."""
        if self.node.kind == REPORT:
            return self._rest_of_study()
        until = time.monotonic() + PARENT_PATIENCE_SECONDS
        for parent in (self.graph.by_hash[key] for key in self.node.parents):
            run = parent.run(self.out)
            while not run.done:
                if run.failed or JobFolder(run).ended():
                    return self._end(attempts.CANCELLED, EXIT_OURS, f"{parent.job_name}, which it needs, has failed")
                if self.requeueing.behind(JobFolder(run)):
                    return 0  # the parent goes on in another job
                if time.monotonic() > until:
                    return self._end(attempts.FAILED, EXIT_OURS, f"{parent.job_name}, which it needs, is not done")
                time.sleep(1.0)
        return None

    def _rest_of_study(self) -> int | None:
        """Of the report: None when all others have ended; else the exit code, as another report follows this one."""
        before, trouble = len(self.folder.submissions()), ""
        if not self.folder.asked_to_stop() and never_submitted(self.out, self.node):
            trouble = submit_remainder(JobSpec.of(self.graph, self.node, self.profile, self.out))
        if len(self.folder.submissions()) > before or self.requeueing.behind_all():
            return 0
        if trouble:
            left = ", ".join(node.job_name for node in never_submitted(self.out, self.node))
            said = f"{left} cannot be submitted from here: {trouble}\n  to do:   give slurm/submit.py again"
            return self._end(attempts.FAILED, EXIT_OURS, said)
        return None

    def _attempt(self, fence: Fence) -> int:
        end = self.first_end()
        bad = self._check_nodes(fence)
        if self.asked.first:  # SLURM ends the job: what nodes said meanwhile, or did not, says nothing of them
            reason = f"before the ranks had begun ({self.asked.name})"
            return self._conclude(fence, Verdict(attempts.PREEMPTED, EXIT_PREEMPTED, reason, again=True))
        if bad:
            return self._without_ranks(fence, bad)
        logs = RankLogs.now(self.run.logs)
        study = self._study()
        code = self._run_ranks(fence, end)
        if code == EXIT_FENCED or _is_fenced(fence):
            return self._fenced()
        self._clean()
        if code == 0 and self.node.kind == PREPARE and not waited_for(self.out, self.node):
            trouble = submit_remainder(JobSpec.of(self.graph, self.node, self.profile, self.out))
            if trouble:
                said = f"the study is prepared, and its jobs cannot be submitted from here: {trouble}"
                return self._conclude(fence, Verdict(attempts.FAILED, EXIT_OURS, said, again=False))
        if code == 0 and self.node.kind in (PREPARE, REPORT):
            self.run.mark_done({"seconds": round(time.time() - self.asked.began, 1), "study": content_hash(study)})
        verdict = verdict_of(
            code,
            self.run,
            logs,
            signalled=self.asked.name,
            near_end=end is not None and time.time() > end - 2 * self.lead(end),
            ranks_per_node=max(1, self.asks.num_ranks // max(1, len(self.nodes))),
            nodes=self.nodes,
        )
        return self._conclude(fence, verdict)

    def _without_ranks(self, fence: Fence, bad: Sequence[BadNode]) -> int:
        """Nodes are not fit. This job tries others; other jobs keep off those whose own fault it is."""
        remember(self.out, [node for node in bad if node.own or len(bad) < len(self.nodes)])
        said = "node check: " + "; ".join(f"{node.node}: {node.reason}" for node in bad)
        self._note_end(fence, Verdict(attempts.FAILED, EXIT_OURS, said, again=True, node=bad[0].node))
        print(said, flush=True)
        return self._again(fence.number, said, [node.node for node in bad])

    def _study(self) -> str:
        """The study that is prepared or reported on now; a later submission may replace it meanwhile."""
        return study_file(self.run).read_text("utf-8") if self.node.kind in (PREPARE, REPORT) else ""

    @staticmethod
    def _fenced() -> int:
        print("a newer attempt has begun elsewhere: nothing is left to do here", flush=True)
        return EXIT_FENCED

    def _conclude(self, fence: Fence, verdict: Verdict) -> int:
        """Write down how the attempt ended, and see to what follows."""
        self._note_end(fence, verdict)
        print(f"attempt {fence.number}: {verdict.how}: {verdict.reason}", flush=True)
        if verdict.how == attempts.DONE:
            return 0
        if not verdict.again:
            return self._end(verdict.how, verdict.code, verdict.reason, attempt=fence.number, node=verdict.node)
        return self._again(fence.number, verdict.reason)

    @staticmethod
    def _note_end(fence: Fence, verdict: Verdict) -> None:
        """Write down how the attempt ended, if the disk takes it: what follows does not rest on it."""
        try:
            fence.attempts.end(fence.number, verdict.how, verdict.code, verdict.reason, verdict.node)
        except (UserError, OSError) as error:
            print(f"the end of attempt {fence.number} could not be written down: {error}", flush=True)

    def _again(self, attempt: int, why: str, bad: Sequence[str] = ()) -> int:
        """Back into the queue, unless that makes no sense any more or is not for us to do."""
        stopped = self._unless_idle(attempt)
        if stopped:
            return stopped
        outcome = self.requeueing.again(bad)
        print(outcome.said, flush=True)
        if outcome.fenced:
            return self._fenced()
        if outcome.cancelled:
            said = "ended by SLURM: cancelled, or preempted on a partition that does not put jobs back"
            return self._end(attempts.CANCELLED, EXIT_OURS, said, attempt=attempt)
        if outcome.refused:
            return self._end(attempts.FAILED, EXIT_OURS, f"{why}\n{outcome.said}", attempt=attempt)
        return 0 if outcome.chained else EXIT_OURS

    def _unless_idle(self, attempt: int) -> int:
        """0 where another attempt is wanted; else the exit code of a phase that has ended."""
        if self.folder.asked_to_stop():
            return self._end(attempts.CANCELLED, EXIT_OURS, "cancelled by the user", attempt=attempt)
        idle = idle_attempts(self.run, self.folder, self.node.kind, self.job)
        if idle.count >= self.profile.preemption.idle_attempts:
            return self._end(attempts.GIVEN_UP, EXIT_OURS, idle.reason, attempt=attempt)
        return 0

    def _end(self, how: str, code: int, reason: str, *, attempt: int = 0, node: str = "") -> int:
        """The phase ends without a result: what depends on it is cancelled by SLURM when this job fails."""
        self.folder.end(how, code, reason, attempt=attempt, node=node, job=self.job)
        lost = {other.job_name: None for graph in graphs(self.out) for other in graph.descendants(self.node)}
        behind = f"; cancelled with it: {', '.join(lost)}" if lost else ""
        print(f"{self.node.job_name} ended: {how}: {reason}{behind}", flush=True)
        return code or EXIT_OURS

    def first_end(self) -> float | None:
        """When SLURM will end this job, in seconds since 1970 by this node's clock; as near as can be if it is silent.

        None for never.
        """
        end = self.end_time()
        return self.asked.began + 3600.0 * self.asks.hours if end is None else end

    def end_time(self) -> float | None:
        """The same by squeue alone; None if it does not say."""
        state = slurm.squeue([self.job]).states.get(self.job)
        return time.time() + state.left if state is not None and state.left is not None else None

    def lead(self, end: float) -> float:
        """How many seconds before ``end`` the ranks begin to save."""
        return lead_for(int(end - self.asked.began), self.profile.preemption.lead_seconds)

    def _check_nodes(self, fence: Fence) -> list[BadNode]:
        if not self.profile.preemption.check_nodes:
            return []
        command = [
            *helper_command(len(self.nodes)), sys.executable, "-m", "xtrain.dispatch.node_check", str(self.run.path),
            "--gpus", str(self.asks.gpus_per_node),
            "--file", str((fence.attempts.path(fence.number) / "attempt.json").relative_to(self.run.path)),
            "--scratch", str(job_scratch(self.profile, self.job)),
        ]  # fmt: skip
        return check_nodes(command, self.nodes)

    def _command(self) -> list[str]:
        """What each rank runs."""
        python = self.profile.rank_python
        if self.node.kind not in (PREPARE, REPORT):
            return [python, "-u", str(PROJECT / "train.py"), str(self.run.path)]
        verb = ["plan", "--write"] if self.node.kind == PREPARE else ["report"]
        study = study_file(self.run)
        data = ["--data", self.graph.data] if self.graph.data else []
        return [python, "-u", "-m", "xtrain", verb[0], str(study), *verb[1:], "--out", str(self.out), *data]

    def _folders(self) -> list[Path]:
        """What a container must see."""
        return [self.out, *([Path(self.graph.data)] if self.graph.data else []), *base_folders(self.run)]

    def _run_ranks(self, fence: Fence, end: float | None) -> int:
        """Start the ranks, pass on what they must know, and wait for them; srun's exit code."""
        make_folder(cache_folder(self.profile))  # a container cannot mount what is not there
        own = {
            **rank_environment(self.profile, self.node.kind, self.job, batch=self.node.batch),
            attempts.VARIABLE: str(fence.number),
            # this is the first node; its name may stand for another network than the one that was chosen
            "MASTER_ADDR": address_of(self.profile.network.interface) or self.nodes[0],
            "MASTER_PORT": str(probed_port(int(self.job), self.restart, 0)),
        }
        srun = srun_command(
            self.profile, self.node.kind, self.run.path, self._folders(), self.node.batch,
            exported=[*own, "PYTHONPATH"],
        )  # fmt: skip
        command, environment = [*srun, *self._command()], {**os.environ, **own}
        process = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, start_new_session=True)
        try:
            return self._watch(process, fence, end)
        finally:
            self._let_go(process)

    def _watch(self, process: subprocess.Popen[bytes], fence: Fence, end: float | None) -> int:
        deadline = _Deadline(self, end)
        looked, warned = time.monotonic(), math.inf
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                return process.wait(POLL_SECONDS)
            if self.asked.to_pass_on() or deadline.reached() or time.monotonic() - warned > AGAIN_SECONDS:
                process.send_signal(signal.Signals[self.profile.preemption.warning])  # the first one counts
                warned = time.monotonic()
            if time.monotonic() - looked > FENCE_SECONDS:
                looked = time.monotonic()
                if _is_fenced(fence):
                    return EXIT_FENCED

    def _clean(self) -> None:
        """Remove the job's folder from each node's own disk, while there is time for that."""
        scratch = job_scratch(self.profile, self.job)
        if not scratch.is_dir():
            return
        if self.asked.first:  # SLURM starts no more steps; what lies on the other nodes is left to who cleans these
            shutil.rmtree(scratch, ignore_errors=True)
            return
        with contextlib.suppress(subprocess.TimeoutExpired):
            subprocess.run(
                [*helper_command(len(self.nodes)), "rm", "-rf", str(scratch)],
                timeout=CLEAN_SECONDS,
                capture_output=True,
            )

    @staticmethod
    def _let_go(process: subprocess.Popen[bytes]) -> None:
        """Ranks that were fenced off leave by themselves, unless they hang; of others none is left by now."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(LEAVING_SECONDS)
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


@dataclass
class _Deadline:
    """When the ranks are told that the job's time is nearly over."""

    supervisor: Supervisor
    end: float | None
    looked: float = field(default_factory=time.monotonic)
    over: bool = False

    def reached(self) -> bool:
        """True once: when ``lead`` seconds are left. Somebody may change a running job's limit, so SLURM is asked again
        now and then, and before it is true."""
        if self.end is None or self.over:
            return False
        near = time.time() > self.end - self.supervisor.lead(self.end)
        if near or time.monotonic() - self.looked > LIMIT_SECONDS:
            self.looked = time.monotonic()
            self.end = self.supervisor.end_time() or self.end
            self.over = time.time() > self.end - self.supervisor.lead(self.end)
        return self.over


@dataclass
class _Asked:
    """Signals to this process: SLURM sends SIGTERM to the whole job that it ends, its warning to the ranks alone."""

    began: float = field(default_factory=time.time)
    first: int = 0
    passed_on: bool = False

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Take note of signals instead of ending by them."""
        numbers = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
        before = {number: signal.signal(number, self._note) for number in numbers}
        before[signal.SIGCONT] = signal.signal(signal.SIGCONT, signal.SIG_IGN)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _note(self, number: int, frame: object) -> None:
        self.first = self.first or number

    @property
    def name(self) -> str:
        """The first signal's name; empty for none."""
        return signal.Signals(self.first).name if self.first else ""

    def to_pass_on(self) -> bool:
        """Whether the ranks are to be told, once: `scancel --batch` signals this process alone."""
        if self.first and not self.passed_on:
            self.passed_on = True
            return True
        return False
