"""Whether sbatch takes the profile's jobs, and lets them put themselves back into the queue: tried with a held job."""

from __future__ import annotations

import re
import secrets

from xtrain.dispatch import slurm
from xtrain.dispatch.cluster import KINDS, Profile
from xtrain.doctor.allocation import options
from xtrain.doctor.commands import ask
from xtrain.doctor.findings import Finding, ok, problem, warning
from xtrain.doctor.nodes import KIND

SBATCH = "sbatch"  # what the finding is called that jobs are taken, or refused
_BY_HAND = "submit the study again after SLURM has lost the first node of a job: nobody else goes on from there"
_CHAIN = "set preemption.requeue = false in the profile: then each job submits the one that goes on from its checkpoint"


def check_kinds(profile: Profile) -> list[Finding]:
    """Whether sbatch would take the jobs of the other kinds of phases, and when the first nodes would be free.

    By ``--test-only``: nothing is submitted.
    """
    refused, same = {}, {tuple(options(profile, KIND, "", script=True))}
    for kind in KINDS:
        asked = tuple(options(profile, kind, "", script=True))
        if asked in same:
            continue
        same.add(asked)
        said = ask(
            [SBATCH, "--test-only", f"--time={profile.resources(kind).time_limit_minutes}", "--wrap=true", *asked]
        )
        if said.code:
            refused[kind] = " ".join(
                said.trouble.replace("sbatch: error: ", "").replace("allocation failure: ", "").split()
            )
    if not refused:
        return [ok("jobs of all kinds", f"sbatch --test-only takes them: {', '.join(KINDS)}")]
    to_do = "mend [job.{}] of the profile: sbatch would refuse these jobs, in the middle of a study"
    return [problem(f"jobs of kind {kind}", why, to_do.format(kind)) for kind, why in refused.items()]


def check_submission(profile: Profile) -> Finding:
    """Submit a job that never starts, as training jobs are submitted, ask for its requeue, and cancel it."""
    name = f"xtrain-doctor-{secrets.token_hex(4)}"
    asked = profile.resources(KIND)
    words = ["sbatch", "--parsable", "--hold", f"--time={asked.time_limit_minutes}", "--output=/dev/null"]
    try:
        said = ask([*words, "--wrap=true", *options(profile, KIND, name, script=True)])
        if said.code:
            to_do = "mend [job] of the profile: these are its options; sinfo and sacctmgr show what the site has"
            return problem(SBATCH, said.trouble.replace("sbatch: error: ", ""), to_do)
        if asked.sbatch.get("no-requeue"):
            return ok(SBATCH, "takes the jobs of the profile")
        job = next(iter(re.findall(r"^(\d+)(?:;\S*)?$", said.out, re.MULTILINE)[-1:]), "")
        if not job:
            found = f"no job's number in what sbatch --parsable printed: {' '.join(said.out.split())!r}"
            return problem(SBATCH, found, "ask the site what its wrapper of sbatch does to --parsable")
        if re.search(r"\bRequeue=0\b", ask(["scontrol", "show", "job", job, "--oneliner"]).out):
            found = "the site takes --requeue from the jobs (Requeue=0): SLURM will not put them back into the queue"
            if profile.preemption.requeue:
                return problem("requeue", found, _CHAIN)
            return warning("requeue", found, _BY_HAND)
        if not profile.preemption.requeue:
            return ok(SBATCH, "takes the jobs of the profile")
        reply = slurm.requeue(job)
        if not reply.ok:
            return problem("scontrol requeue", f"is refused: {reply.said}", _CHAIN)
        return ok(SBATCH, "takes the jobs of the profile; scontrol requeue is allowed")
    finally:
        ask(["scancel", f"--name={name}"])
