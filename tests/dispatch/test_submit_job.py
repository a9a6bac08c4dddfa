"""What a job waits for, and what it is told."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import pytest

from xtrain.dispatch import slurm
from xtrain.dispatch.cluster import Profile
from xtrain.dispatch.job_graph import JobGraph, JobNode
from xtrain.dispatch.job_spec import JobSpec
from xtrain.dispatch.submit_job import Behind, behind_of, job_id_of
from xtrain.errors import UserError

PREPARE = JobNode("p", "prepare", "prepare", "toy/prepare", "prepare/toy-p")
FIRST = JobNode("i", "intermediate", "mnli-s0", "toy/mnli-s0", "phases/intermediate/mnli-i", ("p",))
SECOND = JobNode("t", "target", "mnli/xnli-s0", "toy/mnli-s0/xnli", "target/t", ("i",))
THIRD = JobNode("e", "evaluate", "mnli/xnli-s0", "toy/mnli-s0/xnli/evaluate", "evaluate/e", ("t",))
OTHER = JobNode("o", "target", "none/xnli-s0", "toy/none-s0/xnli", "target/o", ("p",))
REPORT = JobNode("r", "report", "report", "toy/report", "report/r", ("p", "i", "t", "e", "o"))
GRAPH = JobGraph("toy", (PREPARE, FIRST, SECOND, THIRD, OTHER, REPORT), data="/data")
PROFILE = Profile.from_mapping({"scheduler": "slurm", "name": "lab", "job": {"time_limit": 60}})


def test_as_sbatch_has_it() -> None:
    assert str(Behind()) == ""
    assert str(Behind(succeeded=("3",))) == "afterok:3"
    assert str(Behind(ended=("4", "5", "4"))) == "afterany:4:5"
    assert str(Behind(("3", "2"), ("4",))) == "afterok:3:2,afterany:4"


def test_behind_the_parent_and_the_lane() -> None:
    jobs = {"p": "10", "i": "11", "t": "12", "e": "13", "o": "14"}
    assert behind_of(PREPARE, GRAPH, {}) == Behind()
    assert behind_of(SECOND, GRAPH, jobs) == Behind(("11",))
    assert behind_of(OTHER, GRAPH, jobs, ["11", "12"]) == Behind(("10",), ("11", "12"))
    assert behind_of(SECOND, GRAPH, jobs, ["11", "10"]) == Behind(("11",), ("10",)), "the parent is there already"


def test_what_is_done_is_not_waited_for() -> None:
    assert behind_of(SECOND, GRAPH, {"o": "14"}) == Behind()


def test_the_report_waits_for_the_last_ones_however_they_end() -> None:
    jobs = {"p": "10", "i": "11", "t": "12", "e": "13", "o": "14"}
    assert behind_of(REPORT, GRAPH, jobs) == Behind(ended=("13", "14"))
    assert behind_of(REPORT, GRAPH, {"o": "14"}) == Behind(ended=("14",))
    assert behind_of(REPORT, GRAPH, {}) == Behind()


def test_a_job_has_what_it_goes_by_from_its_command(tmp_path: Path) -> None:
    spec = JobSpec.of(GRAPH, FIRST, PROFILE, tmp_path)
    words = shlex.split(spec.command())
    assert words[0] == "env"
    assert words[-4:] == [sys.executable, "-u", "-m", "xtrain.dispatch.job"]
    environment = dict(word.split("=", 1) for word in words[1:-4])
    read = JobSpec.taken(environment)
    assert (read.run, Path(read.out)) == (FIRST.run(tmp_path), tmp_path)
    graph = read.graph()
    assert (graph.study, graph.nodes, graph.data) == ("toy", (PREPARE, FIRST), "/data")
    assert Profile.from_mapping(graph.profile) == Profile.from_mapping(read.profile) == PROFILE
    assert environment == {"PYTHONSAFEPATH": "1"}, "what this job submits does not inherit it"
    with pytest.raises(UserError, match="XTRAIN_JOB: is not set"):
        JobSpec.taken(environment)


def test_the_report_knows_no_others(tmp_path: Path) -> None:
    """It looks at what there is when it begins."""
    assert JobSpec.of(GRAPH, REPORT, PROFILE, tmp_path).parents == ()


@pytest.mark.parametrize(
    "said",
    ["Submitted batch job 77\n", "Submitted batch job 77 on cluster alpha\n",
     "Welcome! Your last job 5 used 3 %.\nsee job 6\nSubmitted batch job 77\nThis job 7 costs 12 units.\n"],
)  # fmt: skip
def test_a_jobs_number_among_a_sites_own_words(said: str) -> None:
    assert job_id_of(said) == job_id_of(said.encode()) == "77"


def test_no_number_is_no_refusal() -> None:
    """A job may be in the queue all the same: it is looked for by its comment."""
    with pytest.raises(Exception, match="sbatch said no job's number: 'job 5'") as caught:
        job_id_of("job 5")
    assert slurm.is_unreachable(str(caught.value))
