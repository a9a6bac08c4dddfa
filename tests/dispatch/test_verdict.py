"""How an attempt ended, by exit code and logs; and when attempts have brought nothing for too long."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from xtrain.dispatch.attempts import Attempts
from xtrain.dispatch.rank_logs import RankLogs
from xtrain.dispatch.submissions import JobFolder, Submission
from xtrain.dispatch.verdict import Verdict, idle_attempts, verdict_of
from xtrain.run_directory import RunDirectory

NODES = ("n1", "n2")
CRASH = 'Traceback (most recent call last):\n  File "train.py", line 1, in <module>\nRuntimeError: CUDA error\n'
LOST = 'Traceback (most recent call last):\n  File "train.py", line 1, in <module>\nRuntimeError: connection reset\n'
USERS = "error: train-en.jsonl:4: label 'class9' is none of the task's\n  to do:   correct it\n"


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    """A training phase that has saved at step 20."""
    run = RunDirectory(tmp_path / "run").create()
    save(run, 20)
    return run


def save(run: RunDirectory, step: int) -> None:
    (run.checkpoints / f"step-{step}").mkdir(parents=True)


def verdict(run: RunDirectory, code: int, *texts: str, signalled: str = "", near_end: bool = False) -> Verdict:
    """Of ranks that have printed ``texts``, two on each of two nodes."""
    logs = RankLogs.now(run.logs)
    for rank, text in enumerate(texts):
        (run.logs / f"rank-{rank}.log").write_text(text, "utf-8")
    return verdict_of(code, run, logs, signalled=signalled, near_end=near_end, nodes=NODES, ranks_per_node=2)


def test_done(run: RunDirectory) -> None:
    run.mark_done({})
    assert verdict(run, 0) == Verdict("done", 0, "finished", again=False)
    assert not verdict(run, 137, CRASH).again, "what comes after DONE does not undo it"


def test_zero_without_a_result(run: RunDirectory) -> None:
    found = verdict(run, 0)
    assert (found.how, found.code, found.again) == ("failed", 1, True)


@pytest.mark.parametrize("near_end", [False, True])
def test_saved_after_a_signal(run: RunDirectory, near_end: bool) -> None:
    found = verdict(run, 75, "saved at step 20", signalled="SIGTERM", near_end=near_end)
    assert found == Verdict("time limit" if near_end else "preempted", 75, "saved at step 20 (SIGTERM)", again=True)


@pytest.mark.parametrize("number", [10, 12, 15])
def test_signalled_before_the_ranks_listened(tmp_path: Path, number: int) -> None:
    run = RunDirectory(tmp_path / "new").create()
    found = verdict(run, 128 + number, "import torch")
    assert found == Verdict("preempted", 75, "nothing was there to be saved yet", again=True)


def test_the_users_mistake(run: RunDirectory) -> None:
    found = verdict(run, 2, USERS, LOST)
    assert (found.how, found.code, found.again) == ("user error", 2, False)
    assert found.reason == USERS.removeprefix("error: ").rstrip()


def test_the_users_mistake_while_others_had_to_be_killed(run: RunDirectory) -> None:
    found = verdict(run, 137, "loss 2.0\n", USERS, "loss 2.0\n", LOST)
    assert (found.how, found.code, found.again) == ("user error", 2, False)
    assert "class9" in found.reason


def test_the_users_mistake_while_the_job_was_signalled(run: RunDirectory) -> None:
    assert verdict(run, 128 + 15, "", USERS).how == "user error"


def test_a_program_that_is_not_there_is_nobodys_mistake(run: RunDirectory) -> None:
    """Python and srun end with 2 as well: where a node has not mounted the project, another one may."""
    found = verdict(run, 2, "step 1\n", "step 1\n", "python: can't open file '/project/train.py'\n", "step 1\n")
    assert (found.how, found.code, found.again) == ("failed", 2, True)


def test_an_old_mistake_does_not_count(run: RunDirectory) -> None:
    (run.logs / "rank-0.log").write_text(USERS, "utf-8")
    logs = RankLogs.now(run.logs)
    found = verdict_of(137, run, logs, signalled="", near_end=False, nodes=NODES, ranks_per_node=2)
    assert (found.how, found.again) == ("failed", True)


@pytest.mark.parametrize("code", [3, 75])  # 75: a rank that was signalled while another gave up
def test_training_collapsed(run: RunDirectory, code: int) -> None:
    run.mark_failed("the loss is not finite", 40)
    found = verdict(run, code, "failed: the loss")
    assert found == Verdict("collapsed", 3, "the loss is not finite", again=False)


def test_training_collapsed_without_a_marker(run: RunDirectory) -> None:
    found = verdict(run, 3, "failed: the loss is not finite")
    assert (found.how, found.reason, found.again) == ("collapsed", "failed: the loss is not finite", False)


@pytest.mark.parametrize(("guilty", "node"), [(0, "n1"), (1, "n1"), (2, "n2"), (3, "n2")])
def test_one_rank_failed(run: RunDirectory, guilty: int, node: str) -> None:
    texts = [CRASH if rank == guilty else LOST for rank in range(4)]
    found = verdict(run, 1, *texts)
    assert (found.how, found.code, found.node, found.again) == ("failed", 1, node, True)
    assert found.reason == f"exit code 1; rank {guilty} on {node}: RuntimeError: CUDA error"


def test_all_ranks_failed(run: RunDirectory) -> None:
    found = verdict(run, 1, *[CRASH] * 4)
    assert (found.node, found.again) == ("", True)
    assert found.reason == "exit code 1; rank 0: RuntimeError: CUDA error"


def test_a_rank_was_killed(run: RunDirectory) -> None:
    found = verdict(run, 137, LOST, LOST, "step 20 loss 2.0\n", LOST)
    assert (found.how, found.node, found.again) == ("failed", "n2", True)
    assert found.reason == "killed (signal 9); rank 2 on n2: step 20 loss 2.0"


def test_nobody_said_anything(run: RunDirectory) -> None:
    found = verdict(run, 1)
    assert (found.reason, found.node) == ("exit code 1", "")


class Phase:
    """A phase whose attempts are made by hand."""

    def __init__(self, path: Path) -> None:
        self.run = RunDirectory(path).create()
        self.attempts, self.folder = Attempts(self.run), JobFolder(self.run)

    def submit(self, job: str, **more: Any) -> None:
        first = self.attempts.newest() + 1
        self.folder.add(Submission(job, "toy/x", time.time(), "lab", **{"first_attempt": first, **more}))

    def attempt(self, how: str = "", reason: str = "", job: str = "7", step: int = 0) -> None:
        """One that reached checkpoint ``step``; killed without a word where ``how`` is empty."""
        fence = self.attempts.claim(job=job)
        if step:
            save(self.run, step)
        if how:
            self.attempts.end(fence.number, how, 1, reason)

    def idle(self, kind: str = "target", job: str = "7") -> int:
        return idle_attempts(self.run, self.folder, kind, job).count


@pytest.fixture
def phase(tmp_path: Path) -> Phase:
    phase = Phase(tmp_path / "run")
    phase.submit("7")
    return phase


def test_attempts_without_a_step(phase: Phase) -> None:
    assert phase.idle() == 0
    for reason in ("first", "second", "third"):
        phase.attempt("failed", reason)
    idle = idle_attempts(phase.run, phase.folder, "target", "7")
    assert idle.count == 3
    assert idle.reason == "3 attempts in a row made no new step (all began at step 0); the last: failed: third"


def test_a_step_in_between(phase: Phase) -> None:
    phase.attempt("failed")
    phase.attempt("failed", step=5)
    assert phase.idle() == 0
    phase.attempt("failed")
    phase.attempt("failed")
    assert phase.idle() == 2


def test_killed_attempts_count(phase: Phase) -> None:
    phase.attempt("preempted", "saved at step 0")
    phase.attempt()
    idle = idle_attempts(phase.run, phase.folder, "target", "7")
    assert idle.count == 2
    assert "killed without a word" in idle.reason


def test_an_evaluation_that_was_preempted_hardly_counts(phase: Phase) -> None:
    phase.attempt("failed")
    for _ in range(4):
        phase.attempt("preempted")
    assert phase.idle("evaluate") == 1
    assert phase.idle("target") == 5
    phase.attempt("preempted")
    assert phase.idle("evaluate") == 2, "not for ever"
    phase.attempt()
    phase.attempt("time limit")
    assert phase.idle("evaluate") == 4, "one that its own time does not suffice for would go on for ever"


def test_a_later_submission_begins_anew(phase: Phase) -> None:
    for _ in range(3):
        phase.attempt("failed")
    phase.submit("8")
    assert phase.idle(job="8") == 0
    phase.attempt("failed", job="8")
    assert phase.idle(job="8") == 1


def test_a_chain_of_jobs_is_one_submission(phase: Phase) -> None:
    phase.attempt("failed")
    phase.submit("8", chained=True, first_attempt=1)
    phase.attempt("failed", job="8")
    assert phase.idle(job="8") == 2


def test_a_job_that_starts_before_its_submission_is_written_down(phase: Phase) -> None:
    for _ in range(3):
        phase.attempt("failed")
    assert phase.idle(job="8") == 0
    phase.attempt("failed", job="8")
    assert phase.idle(job="8") == 1


def test_a_phase_that_was_never_submitted(tmp_path: Path) -> None:
    phase = Phase(tmp_path / "run")
    phase.attempt("failed", job="")
    assert phase.idle(job="") == 1
