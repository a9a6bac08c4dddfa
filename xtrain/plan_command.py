"""``xtrain plan``: puts together what a study will take, and shows it."""

from __future__ import annotations

import json

from rich.console import Console

from xtrain.dispatch.cluster import load_profile
from xtrain.phase.disk import Model
from xtrain.planning.cost import cost_of
from xtrain.planning.disk import disk_plan
from xtrain.planning.rates import KNOWN_MODELS, rate_of
from xtrain.planning.sizes import Sizes
from xtrain.planning.view import StudyPlan, plan_json, show_plan
from xtrain.runner import Job, begin_again, look_at_data, to_make_again, write_phase


def run_plan(job: Job, console: Console, *, write: bool, phases: bool, cluster: str, machine: bool) -> None:
    """Show the plan of ``job`` (every one of its ``phases``, or JSON), reckoned for a ``cluster`` if one is named.

    With ``write`` the data are prepared and the run directories written first; then all of them must be there.
    """
    if write:
        look_at_data(job, console)
        begin_again(job, console)
    plan = study_plan(job, cluster)
    if write:
        for phase in job.graph.phases.values():
            if not phase.run_directory(job.out).done:
                write_phase(job, phase, console)
    if machine:
        print(json.dumps(plan_json(plan), indent=2))
    else:
        show_plan(plan, console, every=phases)


def study_plan(job: Job, cluster: str = "") -> StudyPlan:
    """What the study will take; ``cluster`` is a profile's name or file, or empty."""
    profile = load_profile(cluster) if cluster else None
    models = {base: Model.of(job.graph.bases[base]) if base in job.graph.bases else KNOWN_MODELS[base.name]
              for base in job.study.bases}  # fmt: skip
    rates = {base: rate_of(job.study, base.name, job.out, profile) for base in job.study.bases}
    sizes, again = Sizes(job.graph, job.out, job.data_root), to_make_again(job)
    cost = cost_of(job.graph, models, rates, job.out, sizes, profile)
    runs = {key: phase.run_directory(job.out) for key, phase in job.graph.phases.items()}
    states = {
        key: "again" if key in again else "done" if run.done else "begun" if run.metrics.exists() else "to do"
        for key, run in runs.items()
    }
    return StudyPlan(
        job.graph, cost, disk_plan(job.graph, job.out, job.data_root, sizes, models), sizes,
        {key: str(run.path) for key, run in runs.items()}, states, again, job.no_base, profile,
    )  # fmt: skip
