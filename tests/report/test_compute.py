"""What a study has cost: every attempt, with its own devices, each phase once; what is not known is said."""

from __future__ import annotations

import types
from pathlib import Path
from typing import Any, cast

import pytest
from made_up_runs import CPU, INTERRUPTED_HOURS, INTERRUPTED_LOST, MadeRun, interrupted

from xtrain.graph import Graph, Phase
from xtrain.report.compute import Compute, PhaseCompute, device_of, hours_text
from xtrain.watching.starts import starts_of


def graph(*phases: Phase) -> Graph:
    return cast(Graph, types.SimpleNamespace(phases={phase.hash: phase for phase in phases}))


def phase(kind: str, name: str, seed: int = 0) -> Phase:
    return Phase(kind, f"{name}-s{seed}", seed, ("xnli",), f"hash{abs(hash((kind, name, seed)))}")


MNLI, XNLI, EVALUATION = phase("intermediate", "mnli"), phase("target", "mnli/xnli"), phase("evaluate", "mnli/xnli")


def found(out: Path, *phases: Phase) -> Compute:
    return Compute.of(graph(*phases), out)


def made(out: Path, one: Phase) -> MadeRun:
    return MadeRun(one.run_directory(out))


def test_all_attempts_count_each_with_its_own_devices(tmp_path: Path) -> None:
    interrupted(MNLI.run_directory(tmp_path))
    (one,) = found(tmp_path, MNLI).phases
    assert [start.seconds for start in one.starts] == [2500, 1120, 2100]
    assert [start.devices for start in one.starts] == [8, 4, 8]
    assert one.hours == pytest.approx(INTERRUPTED_HOURS) == pytest.approx(11.466667, abs=1e-6)
    assert one.lost_hours == pytest.approx(INTERRUPTED_LOST) == pytest.approx(1.523810, abs=1e-6)
    assert one.seconds == 5720
    assert [start.how for start in one.interrupted] == ["killed", "preempted"]
    assert one.nodes == ("n1", "n2", "n3")


def test_a_killed_attempt_counts_until_its_last_sign_of_life_and_is_named(tmp_path: Path) -> None:
    interrupted(MNLI.run_directory(tmp_path))
    compute = found(tmp_path, MNLI)
    assert [start.at_least for start in compute.attempts] == [True, False, False]
    assert compute.headline == "≥ 11.5 H200-hours in 3 attempts of 1 phase; 1.52 lost to restarts"
    notes = " ".join(compute.notes())
    assert "1 attempt left no end on record (killed with everything around it): counted until the last line" in notes
    assert "trained" in notes


@pytest.mark.parametrize("metrics_last", [True, False])
def test_the_newest_attempt_without_an_end_counts_until_its_last_line(tmp_path: Path, metrics_last: bool) -> None:
    run = made(tmp_path, XNLI).began(50, ranks=2).told(60, "begin", step=0)
    run = run.told(80, "save", step=5).logged(90, 7) if metrics_last else run.logged(70, 3).told(90, "best", step=5)
    (start,) = found(tmp_path, XNLI).attempts
    assert (start.seconds, start.at_least, start.running) == (40, True, False)
    assert "or still under way" in " ".join(found(tmp_path, XNLI).notes())
    assert not run.run.done


def test_an_attempt_that_wrote_nothing_takes_no_time(tmp_path: Path) -> None:
    made(tmp_path, XNLI).began(50, ranks=2, start=False)
    (start,) = found(tmp_path, XNLI).attempts
    assert (start.seconds, start.at_least, start.device) == (0, True, "")


def test_a_phase_that_rows_share_counts_once(tmp_path: Path) -> None:
    """The graph has it once, whoever starts from it; two studies of one folder each count it."""
    interrupted(MNLI.run_directory(tmp_path))
    for n, one in enumerate((XNLI, phase("target", "mnli/pawsx"))):
        made(tmp_path, one).began(9000 + n, ranks=8, gpus=8).ended(9000 + n + 900, "done").done()
    compute = found(tmp_path, MNLI, XNLI, phase("target", "mnli/pawsx"))
    assert sum(one.hours for one in compute.phases) == pytest.approx(INTERRUPTED_HOURS + 2 * 2)
    assert compute.headline.endswith("in 5 attempts of 3 phases; 1.52 lost to restarts")


def test_device_hours_are_by_kind_of_phase_and_of_device(tmp_path: Path) -> None:
    interrupted(MNLI.run_directory(tmp_path))
    a100: Any = {"device": "NVIDIA A100-SXM4-80GB", "threads": 4}
    run = made(tmp_path, XNLI).began(0, ranks=2, gpus=2, **a100).ended(3600, "time limit")
    run.began(4000, ranks=4, gpus=4).ended(4000 + 1800, "done").done()
    made(tmp_path, EVALUATION).began(0, ranks=3).ended(1200, "failed").began(2000, ranks=3).ended(3200, "done").done()
    compute = found(tmp_path, MNLI, XNLI, EVALUATION)
    assert [(one.kind, one.device, one.phases, one.attempts, round(one.hours, 3)) for one in compute.shares] == [
        ("intermediate", "H200", 1, 3, 11.467),
        ("target", "A100-SXM4-80GB", 1, 1, 2.0),
        ("target", "H200", 1, 1, 2.0),
        ("evaluate", "CPU rank (Xeon(R) Platinum 8481C, 2 threads)", 1, 2, 2.0),
    ]
    assert compute.shares[-1].lost_hours == pytest.approx(1.0), "an evaluation begins anew"
    assert compute.headline == (
        "≥ 13.5 H200-hours and 2 A100-SXM4-80GB-hours and 2 CPU rank-hours in 7 attempts of 3 phases; "
        "1.52 H200-hours and 1 CPU rank-hours lost to restarts"
    )


def test_what_is_not_on_record_is_said_and_not_made_up(tmp_path: Path) -> None:
    made(tmp_path, XNLI).began(0, ranks=0, start=False).ended(100, "failed")
    made(tmp_path, EVALUATION).done(seconds=50.0)
    compute = found(tmp_path, XNLI, EVALUATION, MNLI)
    assert compute.headline == "device-hours not on record in 1 attempt of 1 phase"
    notes = list(compute.notes())
    assert "1 attempt whose number of devices is not on record: counted for no hours" in notes
    assert "1 finished phase without an attempt on record (job/ is gone): not counted" in notes
    assert found(tmp_path, MNLI).headline == ""


def test_a_training_that_begins_anew_with_another_seed_is_not_lost(tmp_path: Path) -> None:
    run = made(tmp_path, XNLI).began(0, ranks=1).told(10, "begin", step=0).logged(500, 50)
    run.told(510, "reseed", attempt=1, seed=9).told(520, "begin", step=0).logged(900, 40).ended(1000, "done").done()
    (one,) = found(tmp_path, XNLI).phases
    assert (one.seconds, one.lost_hours, one.interrupted) == (1000, 0.0, ())


def test_a_failed_last_attempt_is_an_interruption_and_a_done_one_is_not(tmp_path: Path) -> None:
    run = made(tmp_path, XNLI).began(0, ranks=1).ended(10, "failed")
    assert len(found(tmp_path, XNLI).phases[0].interrupted) == 1
    run.began(20, ranks=1).ended(30, "done").done()
    assert len(found(tmp_path, XNLI).phases[0].interrupted) == 1


def test_names_of_devices() -> None:
    def shown(device: str, **more: int) -> str:
        (start,) = PhaseCompute("a", "target", 0, (_start(device, **more),)).starts
        return device_of(start)

    assert shown("NVIDIA GeForce RTX 4090", gpus=1) == "RTX 4090"
    assert shown("AMD Instinct MI300X", gpus=1) == "MI300X"
    assert shown("", gpus=1) == "GPU, model not on record"
    assert shown("", ranks=2) == "CPU rank"
    assert shown("", ranks=0) == "not on record"
    assert (hours_text(0.0), hours_text(0.0004), hours_text(1234.5)) == ("0", "< 0.001", "1,234")


def _start(device: str, **more: int) -> Any:
    from xtrain.watching.starts import StartUsage

    return StartUsage(1, "", 0.0, 10.0, "done", device=device, **more)


def test_starts_carry_where_they_ran_and_why_they_ended(tmp_path: Path) -> None:
    run = made(tmp_path, XNLI).began(0, ranks=1, **{**CPU, "host": "n7"}).ended(5, "failed", "rank 0 died on n7")
    (start,) = starts_of(run.run, "target")
    assert (start.nodes, start.reason, start.threads) == (("n7",), "rank 0 died on n7", 2)
