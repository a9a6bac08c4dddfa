"""python -m xtrain doctor: looks at this machine, and with a profile at the cluster and at some of its nodes."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from xtrain.dispatch import slurm
from xtrain.dispatch.cluster import Profile, load_profile
from xtrain.doctor.allocation import JOB_MINUTES, NotGranted, allocated
from xtrain.doctor.findings import PROBLEM, Finding, Section, note, problem, warning, worst
from xtrain.doctor.machine import check_machine
from xtrain.doctor.network import check_all_reduce
from xtrain.doctor.node_findings import INSIDE, OUTSIDE, check_reports
from xtrain.doctor.nodes import KIND, NodeJob, ask_nodes, with_nodes, with_open_keys
from xtrain.doctor.preemption import check_preemption
from xtrain.doctor.report import as_json, show_section, show_verdict
from xtrain.doctor.scheduler import ask_site, check_site, longest_minutes, num_usable
from xtrain.doctor.submission import SBATCH, check_kinds, check_submission
from xtrain.errors import EXIT_USER, Problem, UserError, counted, raise_if_any

DEFAULT_NODES = 2
WAIT_SECONDS = 300.0


@dataclass(frozen=True)
class Examination:
    """What is to be looked at."""

    out: Path
    """The output folder; need not exist."""
    data: Path | None = None
    cluster: str = ""
    """A profile's name or file; empty for this machine alone."""
    nodes: int = DEFAULT_NODES
    """Nodes to run a job on; 0 for none."""
    wait_seconds: float = WAIT_SECONDS
    """How long that job may wait in the queue."""
    gpu: bool = False
    """Try the GPUs of this machine, for some minutes."""

    @classmethod
    def of(
        cls, out: Path, *, data: Path | None, cluster: str, nodes: int | None, wait_minutes: float, gpu: bool = False
    ) -> Examination:
        """What the command line asks for; raises a :class:`UserError` where that makes no sense."""
        problems = []
        if nodes is not None and not cluster:
            remedy = "name the cluster's profile with --cluster"
            problems.append(Problem(f"--nodes {nodes}", "there is no cluster", remedy=remedy))
        if nodes is not None and nodes < 0:
            problems.append(Problem(f"--nodes {nodes}", "is not allowed", "a whole number >= 0"))
        if not wait_minutes > 0:
            problems.append(Problem(f"--wait {wait_minutes:g}", "is not allowed", "minutes, more than 0"))
        if gpu and cluster:
            remedy = "on a node: srun --gpus=1 ... python -m xtrain doctor --gpu"
            problems.append(Problem("--gpu", "tries the GPUs of this machine, not of a cluster", remedy=remedy))
        raise_if_any(problems)
        return cls(out, data, cluster, DEFAULT_NODES if nodes is None else nodes, 60.0 * wait_minutes, gpu)

    def sections(self, say: Console | None = None) -> Iterator[Section]:
        """Look; each section is yielded when it is complete. ``say`` shows on a terminal what is waited for."""
        yield from check_machine(self.out, self.data)
        if self.gpu:
            from xtrain.doctor.gpu import try_gpus  # with DeepSpeed, whose import takes seconds

            yield from try_gpus()
        if not self.cluster:
            return
        profile = self._profile()
        if isinstance(profile, Section):
            return (yield profile)
        if profile.is_local:
            found = f"{profile.name}: no SLURM, jobs run here; this machine's checks are all there are"
            return (yield Section("cluster", [note("scheduler", found)]))
        slurm.ask_of(profile.cluster)
        profile = with_open_keys(profile, os.environ)
        site = ask_site(profile)
        if isinstance(site, Finding):
            return (yield Section("SLURM", [site]))
        wanted = self.nodes or profile.resources(KIND).nodes
        yield Section("SLURM", [*check_site(site, profile, wanted), *check_preemption(site, profile)])
        nodes = min(self.nodes, num_usable(site, profile))  # what is missing has been said
        if nodes:
            minutes = min(JOB_MINUTES, longest_minutes(site) or JOB_MINUTES)
            taken = check_submission(with_nodes(profile, nodes))
            yield Section("submission", [taken, *check_kinds(profile)])
            if taken.looked_at == SBATCH and taken.level == PROBLEM:
                return  # salloc would say the same
            yield from self._on_nodes(with_nodes(profile, nodes), nodes, minutes, say)

    def _profile(self) -> Profile | Section:
        """The profile; what is wrong with it is a section of problems."""
        try:
            return load_profile(self.cluster)
        except UserError as error:
            return Section("profile", [_finding(item) for item in error.problems])

    def _on_nodes(self, profile: Profile, nodes: int, minutes: int, say: Console | None) -> Iterator[Section]:
        title = f"nodes ({nodes} of {profile.resources(KIND).partition or 'the default partition'})"
        work = NodeJob(profile, self.out.absolute(), None if self.data is None else self.data.absolute())
        try:
            with contextlib.ExitStack() as stack:
                with _waiting(say, f"waiting for {counted(nodes, 'node')} (at most {self.wait_seconds:.0f} s)"):
                    lent = stack.enter_context(allocated(profile, KIND, self.wait_seconds, minutes))
                well = True
                for place, one in places(work).items():
                    with _waiting(say, f"asking {', '.join(lent.nodes)}{place}"):
                        reports, silent = ask_nodes(one, lent)
                    found = check_reports(reports, one.profile, work.out, work.data, place) if reports else ()
                    details = {node: report.to_mapping() for node, report in reports.items()}
                    yield Section(f"{title}{place}", [*silent, *found], details=details)
                    well = well and bool(reports) and not silent
                if well:
                    with _waiting(say, "timing all-reduces"):
                        section = check_all_reduce(work, lent)
                    yield section
        except NotGranted as refusal:
            yield Section(title, [_not_granted(refusal, nodes)])


def places(work: NodeJob) -> dict[str, NodeJob]:
    """Where nodes are looked at: as they are, and in the image of the profile where it names one."""
    return {OUTSIDE: work.outside, INSIDE: work} if work.profile.container.image else {"": work}


def _waiting(console: Console | None, text: str) -> contextlib.AbstractContextManager[object]:
    """A line that moves while something is waited for; nothing in a log."""
    if console is None or not console.is_terminal:
        return contextlib.nullcontext()
    return console.status(text)


def _finding(item: Problem) -> Finding:
    found = f"{item.what} (allowed: {item.allowed})" if item.allowed else item.what
    return problem(item.where, found, item.remedy or "mend the profile")


def _not_granted(refusal: NotGranted, nodes: int) -> Finding:
    if not refusal.reason:
        to_do = "mend [job] of the profile: salloc refused its options"
        return problem("a job", refusal.what, to_do)
    busy = refusal.reason in ("Resources", "Priority", "unknown", "None", "BeginTime")
    found = f"{refusal.what}; SLURM's reason: {refusal.reason}"
    if busy:
        return warning(
            "a job", found, f"try again later, with --wait MINUTES, or on fewer nodes than {nodes} (--nodes)"
        )
    to_do = "squeue's manual page says what the reason means; mend [job] of the profile, or ask the site"
    return problem("a job", found, to_do)


def run_doctor(examination: Examination, *, machine: bool, console: Console) -> int:
    """Look and show; returns 0, or 2 where there is a problem. ``machine``: JSON."""
    sections = []
    for section in examination.sections(None if machine else console):
        sections.append(section)
        if not machine:
            show_section(section, console)
    if machine:
        print(as_json(sections))
    else:
        show_verdict(sections, console)
    return EXIT_USER if worst(f for section in sections for f in section.findings) == PROBLEM else 0
