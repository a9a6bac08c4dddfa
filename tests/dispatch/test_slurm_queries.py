"""SLURM's commands where they fail, hang or are missing; the real ones are asked in tests/slurm/test_queries.py."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from xtrain.dispatch import slurm
from xtrain.dispatch.slurm import Answer, JobState, Reply


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that stands first in PATH, for programs called as SLURM's are."""
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    return tmp_path


def program(folder: Path, name: str, script: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n", "utf-8")
    path.chmod(0o755)


DOWN = "echo 'slurm_load_jobs error: Unable to contact slurm controller (connect failure)' >&2; exit 1"
PENDING = "12|PENDING|0|0|N/A|N/A|10:00|10:00||afterok:11(unfulfilled)|1795279513|Dependency|a/b|c|"
RUNNING = "13|RUNNING|2|0|1795279515|1795280115|1-02:03:04|0:30|n[1-2]|(null)|1795279513|None|x|"


def test_a_line_of_squeue(programs: Path) -> None:
    program(programs, "squeue", f"echo '{PENDING}'; echo '{RUNNING}'; echo; echo 'what | is this'")
    states = slurm.squeue(["12", "13"]).states
    assert states["12"] == JobState(
        "12", "PENDING", "Dependency", time_limit=600.0, left=600.0, name="a/b|c", dependency="afterok:11(unfulfilled)",
        submitted=1795279513.0,
    )  # fmt: skip
    assert states["13"] == JobState(
        "13", "RUNNING", nodes="n[1-2]", restarts=2, start=1795279515.0, end=1795280115.0, name="x",
        time_limit=93784.0, left=30.0, submitted=1795279513.0,
    )  # fmt: skip
    assert (states["12"].waiting, states["13"].running, states["13"].ended) == (True, True, False)


@pytest.mark.parametrize(
    ("said", "code"), [("1792", 7), ("9", -9), ("0", 0), ("7:0", 7), ("0:9", -9), ("0:0", 0), ("N/A", None)]
)
def test_an_exit_code_of_older_and_newer_releases(programs: Path, said: str, code: int | None) -> None:
    """squeue of 22.05 says what wait() did; that of 24.11 and 26.05 says CODE:SIGNAL, as sacct always has."""
    program(programs, "squeue", f"echo '{RUNNING.replace('RUNNING', 'FAILED').replace('|2|0|', f'|2|{said}|')}'")
    assert slurm.squeue(["13"]).states["13"].exit_code == code


def test_what_the_user_has_set_for_their_own_eyes_does_not_count(
    programs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(programs, "squeue", f'[ -z "$SQUEUE_PARTITION$SQUEUE_FORMAT" ] && echo "{RUNNING}"')
    monkeypatch.setenv("SQUEUE_PARTITION", "other")
    assert "13" in slurm.squeue(["13"]).states


def test_nothing_is_asked_for_jobs_that_are_not_slurms(programs: Path) -> None:
    program(programs, "squeue", f"touch {programs}/asked")
    assert slurm.squeue(["local-12"]) == Answer()
    assert not (programs / "asked").exists()


def test_one_unknown_job_is_an_answer(programs: Path) -> None:
    program(programs, "squeue", "echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1")
    assert slurm.squeue(["5"]).complete


def test_a_controller_that_is_down_is_no_answer(programs: Path) -> None:
    program(programs, "squeue", DOWN)
    program(programs, "sacct", "echo 'Slurm accounting storage is disabled' >&2; exit 1")
    answer = slurm.job_states(["5"])
    assert answer.states == {}
    assert not answer.complete
    assert "Unable to contact" in answer.silent["squeue"]
    assert "disabled" in answer.silent["sacct"]


def test_commands_that_hang_are_given_up(programs: Path) -> None:
    for name in ("squeue", "sacct", "scancel"):
        program(programs, name, "exec sleep 60")
    answer = slurm.job_states(["5"], budget=0.3)
    assert set(answer.silent) == {"squeue", "sacct"}
    assert "within 0.3 s" in answer.silent["squeue"]
    reply = slurm.cancel(["5"], timeout=0.3)
    assert reply == Reply(False, "scancel did not answer within 0.3 s", unreachable=True)


def test_a_machine_without_slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert slurm.squeue(["5"]).silent == {"squeue": "squeue: No such file or directory"}
    reply = slurm.requeue("5", patience_seconds=600)  # and it is not waited for
    assert not reply.ok
    assert not reply.unreachable


def accounted(*lines: str) -> str:
    return "\n".join(f"echo '{line}'" for line in lines)


def test_squeue_is_right_where_both_know(programs: Path) -> None:
    program(programs, "squeue", f"echo '{RUNNING}'")
    program(
        programs,
        "sacct",
        accounted(
            "13|NODE_FAIL|0:0|1795279000|1795279010|10:00|n3|1795278000|None|x",
            "14|CANCELLED by 1000|0:15|1795279000|1795279010|10:00|n3|1795278000|None|y",
            "15|RUNNING|0:0|1795279000|Unknown|10:00|n3|1795278000|None|z",
            "16|REQUEUED|0:0|1795279000|1795279010|10:00|n3|1795278000|None|z",
        ),
    )
    answer = slurm.job_states(["13", "14", "15", "16"], budget=20)
    assert answer.states["13"].state == "RUNNING"
    assert (answer.states["14"].state, answer.states["14"].exit_code) == ("CANCELLED", -15)
    assert set(answer.states) == {"13", "14"}  # 15 and 16 are in no queue: the accounting lags


def test_the_accounting_alone_does_not_end_a_job_that_may_come_back(programs: Path) -> None:
    program(programs, "squeue", DOWN)
    program(
        programs,
        "sacct",
        accounted(
            "13|NODE_FAIL|0:0|1795279000|1795279010|10:00|n3|1795278000|None|x",
            "15|RUNNING|0:0|1795279000|Unknown|10:00|n3|1795278000|None|z",
            "16|COMPLETED|0:0|1795279000|1795279010|10:00|n3|1795278000|None|z",
        ),
    )
    answer = slurm.job_states(["13", "15", "16"], budget=20)
    assert {job: state.state for job, state in answer.states.items()} == {"15": "RUNNING", "16": "COMPLETED"}


def test_of_several_starts_the_newest_counts(programs: Path) -> None:
    program(
        programs,
        "sacct",
        accounted(
            "13|NODE_FAIL|0:0|1795279000|1795279010|10:00|n3|1795278000|None|x",
            "13|RUNNING|0:0|1795279020|Unknown|10:00|n1|1795279010|None|x",
        ),
    )
    assert slurm.sacct(["13"]).states["13"].state == "RUNNING"


def test_patience_with_a_controller_that_comes_back(programs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slurm, "RETRY_SECONDS", 0.1)
    # What scontrol says of a controller that is away is not what squeue says.
    again = (
        f"[ $(wc -l < {programs}/calls) -lt 3 ] && echo 'Unexpected message received for job 5' >&2 && exit 1; exit 0"
    )
    program(programs, "scontrol", f"echo $* >> {programs}/calls; {again}")
    assert slurm.requeue("5", patience_seconds=600) == Reply(True)
    assert (programs / "calls").read_text("utf-8") == "requeue 5\n" * 3


PASSING = [
    "scontrol: error: If munged is up, restart with --num-threads=10",
    'error: Munge encode failed: Failed to access "/run/munge/munge.socket.2": No such file or directory',
    "slurm_update error: Protocol authentication error",
    "sbatch: error: Batch job submission failed: Invalid authentication credential",
    "Rate limit exceeded, please retry", "slurm_load_jobs error: Transport endpoint is not connected",
    "error: Unable to contact slurm controller (connect failure)", "Socket timed out on send/recv operation",
    "Slurm temporarily unable to accept job", "I/O error writing script/environment to file",
    "words that no version of SLURM has said before",
]  # fmt: skip
FINAL = [
    "Requested operation is presently disabled for job 5", "Access/permission denied", "Invalid job id specified",
    "sbatch: error: invalid partition specified: none", "sbatch: unrecognized option '--nodez=2'",
    "Batch job submission failed: Requested node configuration is not available",
    "User's group not permitted to use this partition", "Memory specification can not be satisfied",
    "Job/step already completing or completed", "scontrol: No such file or directory",
]  # fmt: skip


def test_only_known_refusals_are_final() -> None:
    assert [words for words in PASSING if not slurm.is_unreachable(words)] == []
    assert [words for words in FINAL if slurm.is_unreachable(words)] == []


def test_who_asks_again_waits_longer_each_time() -> None:
    waits = [pause for pause, _ in zip(slurm.pauses(), range(8), strict=False)]
    assert 4 <= waits[0] <= 5
    assert all(later > earlier for earlier, later in itertools.pairwise(waits[:4]))
    assert 48 <= waits[-1] <= 60


def test_patience_ends(programs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slurm, "RETRY_SECONDS", 0.1)
    program(programs, "scontrol", DOWN)
    reply = slurm.requeue("5", patience_seconds=0.5)
    assert (reply.ok, reply.unreachable) == (False, True)


def test_a_refusal_is_final_and_a_job_that_waits_already_is_requeued(programs: Path) -> None:
    program(programs, "scontrol", "echo 'Requested operation is presently disabled for job 5' >&2; exit 1")
    reply = slurm.requeue("5", patience_seconds=600)
    assert reply == Reply(False, "Requested operation is presently disabled for job 5")
    program(programs, "scontrol", "echo 'Job is pending execution for job 5' >&2; exit 1")
    assert slurm.requeue("5").ok


def test_jobs_that_are_over_need_no_cancelling(programs: Path) -> None:
    program(
        programs,
        "scancel",
        "echo 'scancel: error: Kill job error on job id 5: Job/step already completing or completed' >&2; exit 1",
    )
    assert slurm.cancel(["5"]).ok
    program(programs, "scancel", "echo 'scancel: error: Access/permission denied' >&2; exit 1")
    assert slurm.cancel(["5"]) == Reply(False, "scancel: error: Access/permission denied")
    assert slurm.cancel([]).ok


@pytest.fixture
def alpha(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The cluster alpha is asked, from a machine that is none of its own."""
    monkeypatch.delenv("SLURM_CLUSTER_NAME", raising=False)
    slurm.ask_of("alpha")
    yield
    slurm.ask_of("")


@pytest.mark.usefixtures("alpha")
def test_one_of_several_clusters_is_asked_by_its_name(programs: Path) -> None:
    for name in ("squeue", "sacct", "scancel", "scontrol", "sinfo", "sacctmgr"):
        program(programs, name, f"echo {name} $1 >> {programs}/calls; echo 'CLUSTER: alpha'; echo '{RUNNING}'")
    program(programs, "sinfo", f"echo sinfo $1 >> {programs}/calls; echo 'CLUSTER: alpha'; echo 'n1|gpu*'")
    assert set(slurm.squeue(["13"]).states) == {"13"}
    slurm.sacct(["13"])
    slurm.cancel(["13"])
    slurm.requeue("13")
    assert slurm.nodes_of("") == {"n1"}
    _, out = slurm.asked(["sacctmgr", "show"])
    assert out == f"{RUNNING}\n", "without the line that names the cluster"
    named = [f"{name} --clusters=alpha" for name in ("squeue", "sacct", "scancel", "scontrol", "sinfo")]
    assert (programs / "calls").read_text("utf-8").splitlines() == [*named, "sacctmgr show"]


@pytest.mark.usefixtures("alpha")
def test_in_a_job_of_that_cluster_nothing_is_looked_up(programs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_CLUSTER_NAME", "alpha")
    slurm.ask_of("alpha")
    program(programs, "squeue", f"echo $1 >> {programs}/calls; echo '{RUNNING}'")
    assert "13" in slurm.squeue(["13"]).states
    assert (programs / "calls").read_text("utf-8") == "--noheader\n"
