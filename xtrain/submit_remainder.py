"""What a job runs that submits others of its study: as many as there is room for now.

``python -m xtrain.submit_remainder``, with what the job goes by in its environment: the profile is the one that was
submitted. The report's job does it where phases were left for later; a phase that was submitted before is left alone,
whatever became of it. The job that has prepared the study does it where its data could not be seen from outside; it
is the submission itself, so that what has left no result is submitted again.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from xtrain.console import new_console, run_command
from xtrain.dispatch.batch_script import cache_folder
from xtrain.dispatch.cluster import Profile
from xtrain.dispatch.job_graph import PREPARE, study_file
from xtrain.dispatch.job_spec import JobSpec
from xtrain.dispatch.submit_job import PATIENCE_SECONDS, patiently
from xtrain.files import content_hash
from xtrain.runner import job_graph, open_study
from xtrain.starting import prepare
from xtrain.submit_command import print_plan
from xtrain.submitting import SUBMIT, held_for_submitting, plan_submission, submit


def main() -> int:
    """Run the command; returns the exit code."""
    return run_command(lambda: _submit(JobSpec.taken()))


def _submit(spec: JobSpec) -> int:
    run = spec.run
    profile = Profile.from_mapping(spec.profile)
    os.environ["XTRAIN_CACHE"] = str(cache_folder(profile))
    job = open_study(study_file(run), data_root=Path(spec.data) if spec.data else None, out=Path(spec.out))
    text = study_file(run).read_text("utf-8")
    first = spec.node.kind == PREPARE
    if first:  # what this job has prepared needs no other one
        graph = job_graph(job, {}, around=True)
        graph.nodes[0].run(job.out).create().mark_done({"study": content_hash(text)})

    def at_once() -> None:
        with held_for_submitting(job.out, PATIENCE_SECONDS):
            plan = plan_submission(job, profile, text, anew=first)
            if plan.of(SUBMIT):
                print_plan(plan, new_console(), dry=False)
                submit(plan, said=lambda one: print(f"submitted {one.name}: job {one.job}", flush=True))

    patiently(at_once)
    return 0


if __name__ == "__main__":
    prepare()
    sys.exit(main())
