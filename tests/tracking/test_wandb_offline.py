"""The offline W&B files, read back with W&B's own reader, and that nothing of W&B can stop a phase."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tracked_phase import SCORES, SETTINGS, Phase
from wandb_servers import KEY, wait_until

from xtrain.run_directory import RunDirectory
from xtrain.tracking import TrackingSettings, read_events, wandb_run
from xtrain.tracking.read_offline import OfflineRun, compare, read_offline

pytestmark = pytest.mark.timeout(90)


def fragments(run: RunDirectory) -> list[OfflineRun]:
    return [read_offline(folder) for folder in sorted(run.wandb.glob("offline-run-*"))]


def test_what_was_recorded_is_there_and_goes_on_under_one_id(tmp_path: Path) -> None:
    parent = Phase(tmp_path / "parent", TrackingSettings(mode="off"))
    parent.save_encoder()
    phase = Phase(tmp_path / "phase", seed=3)
    phase.wandb.use_encoder(parent.dir.encoder)
    phase.train(range(1, 13))
    phase.log(13, {"loss": math.nan, "norm": math.inf})
    assert phase.wandb.finish(failed=True)
    # The checkpoint was at 10: two steps come again, and one is lost.
    phase = Phase(tmp_path / "phase", seed=3)
    assert phase.record.resume_at(10) == 3
    phase.train(range(11, 21))
    phase.log(21, {"loss": math.nan, "norm": math.inf})
    phase.score()
    phase.save_encoder()
    assert phase.wandb.finish()
    assert compare(phase.dir) == []

    first, second = fragments(phase.dir)
    assert phase.events("tracking_problem") == []
    assert [event["mode"] for event in phase.events("tracking_started")] == ["offline", "offline"]
    identity = (phase.dir.wandb / "id").read_text().strip()
    for run in (first, second):
        assert run.run["run_id"] == identity
        assert run.run["run_group"] == "a study"
        assert run.run["job_type"] == "target"
        assert run.run["display_name"] == "train xnli-s0"
        assert run.run["project"] == "xtrain"
        assert run.config["recipe"] == {"learning_rate": 1e-5}
        assert run.config["seed"] == 3
    assert (first.exit_code, second.exit_code) == (1, 0)
    # Each line of metrics.jsonl is a row of its own; W&B's own counter goes on, no row falls on an earlier one.
    assert [row["_step"] for row in first.rows + second.rows] == list(range(15 + 14))
    assert {(row["trainer/step"], row["loss"]) for row in second.rows if "loss" in row} == {
        *((step, 1 / step) for step in range(11, 21)),
        (21, "NaN"),
    }
    assert second.table("scores") == [
        {"task": "xnli", "language": language, "metric": metric, "value": value}
        for language, values in SCORES["tasks"]["xnli"]["languages"].items()
        for metric, value in values.items()
    ]
    assert second.summary["xnli/accuracy"] == 45.88
    assert second.summary["xnli/score"] == 45.88
    assert second.config["protocol"] == {"max_length": 128}
    check_artifacts(first, second, parent.dir, phase.dir)
    assert second.stats > 0


def check_artifacts(first: OfflineRun, second: OfflineRun, parent: RunDirectory, own: RunDirectory) -> None:
    used = next(item for item in first.artifacts if item["type"] == "model")
    assert used["name"] == "encoder-parent"
    assert used["use_after_commit"] is True
    assert first.config["parent_artifact"]["digest"] == used["digest"]
    logged = next(item for item in second.artifacts if item["type"] == "model")
    assert logged["name"] == "encoder-phase"
    assert "use_after_commit" not in logged
    entries = {entry["path"]: entry for entry in logged["manifest"]["contents"]}
    assert entries.keys() == {"model.safetensors", "config.json", "tokenizer.json"}
    for name, entry in entries.items():
        # Where the file is, in no cache: an encoder of 2 GB exists once.
        assert entry["local_path"] == str(own.encoder / name)
        assert entry["skip_cache"] is True
    assert parent.encoder != own.encoder


def test_a_difference_is_found(tmp_path: Path) -> None:
    phase = Phase(tmp_path / "phase")
    phase.train(range(1, 4))
    phase.record.metrics(3, {"only/here": 1.0})
    phase.wandb.log_metrics(2, {"only/there": 1.0})
    phase.record.metrics(2, {"loss": 0.25})
    phase.score()
    phase.wandb.finish()
    scores = phase.dir.scores.read_text()
    phase.dir.scores.write_text(scores.replace("58.43", "58.44"))
    phase.dir.encoder.mkdir()
    assert compare(phase.dir) == [
        "step 2: loss is 0.25, in W&B 0.5",
        "step 2: only/there is only in W&B",
        "step 3: only/here is not in W&B",
        "scores: xnli de accuracy is 58.44, in W&B 58.43",
        "the encoder is not there as an artifact",
    ]
    assert "no offline run" in compare(RunDirectory(tmp_path / "nothing"))[0]


@pytest.mark.parametrize("switch", ["", "WANDB_DISABLED"])
def test_off_leaves_no_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, switch: str) -> None:
    """Whoever turns it off; a switch of W&B's is named in one line, and on record."""
    if switch:
        monkeypatch.setenv(switch, "true")
        monkeypatch.setenv("WANDB_API_KEY", KEY)
    phase = Phase(tmp_path / "phase", TrackingSettings(mode="online" if switch else "off"))
    phase.train(range(1, 4))
    phase.score()
    phase.save_encoder()
    assert phase.wandb.finish()
    assert not phase.dir.wandb.exists()
    assert phase.said == (["W&B: off (WANDB_DISABLED=true)"] if switch else [])
    assert [event["why"] for event in phase.events("tracking_off")] == (["WANDB_DISABLED=true"] if switch else [])
    assert phase.events("tracking_started") == []


def test_no_key_reaches_the_run_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("WANDB_MODE", "dryrun")
    phase = Phase(tmp_path / "phase")
    phase.train(range(1, 4))
    assert phase.wandb.finish()
    assert compare(phase.dir) == []
    assert phase.said == [f"W&B: offline (WANDB_MODE=dryrun); to upload: wandb sync {phase.dir.wandb}"]
    files = [path for path in phase.dir.path.rglob("*") if path.is_file()]
    assert len(files) > 4
    assert [path for path in files if KEY.encode() in path.read_bytes()] == []


def descendants(process: int) -> list[int]:
    """The processes below ``process``, W&B's service among them."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(stat.parent.name))
    found = children.get(process, [])
    return found + [below for child in found for below in descendants(child)]


def session(number: int) -> list[int]:
    """The living processes of a session."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, _, its_session = stat.read_text().rpartition(")")[2].split()[:4]
            if int(its_session) == number and state != "Z":
                found.append(int(stat.parent.name))
    return found


def test_signals_meant_for_the_ranks_do_not_tear_the_record(tmp_path: Path) -> None:
    phase = Phase(tmp_path / "phase")
    phase.train(range(1, 6))
    wait_until(lambda: phase.events("tracking_started"))
    process = phase.wandb._process
    assert process is not None
    (worker,) = session(process.pid)
    service = descendants(worker)
    assert service
    # A scheduler that signals all that is below a rank finds neither; a signal to the worker is not heard.
    assert not {worker, *service} & set(descendants(os.getpid()))
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
        os.kill(worker, number)
    phase.train(range(6, 11))
    assert phase.wandb.finish()
    assert compare(phase.dir) == []


def test_a_worker_that_stands_still_neither_blocks_nor_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wandb_run, "CLOSING_SECONDS", 1.0)
    monkeypatch.setattr(wandb_run, "QUEUE_ROWS", 500)
    phase = Phase(tmp_path / "phase", TrackingSettings(finish_timeout_seconds=1.0))
    wait_until(lambda: phase.events("tracking_started"))
    process = phase.wandb._process
    assert process is not None
    os.killpg(process.pid, signal.SIGSTOP)
    for step in range(1, 20_001):  # far more than the pipe and the queue hold
        phase.wandb.log_metrics(step, {"loss": 1.0})
    assert not phase.wandb.finish()
    wait_until(lambda: session(process.pid) == [])
    whats = [event["what"] for event in phase.events("tracking_problem")]
    assert any("did not end in 2 s and was stopped" in what for what in whats)
    dropped = phase.events("tracking_finished")[0]["dropped"]
    assert any(what.startswith(f"{dropped} metrics rows did not reach W&B") for what in whats)
    assert dropped > 1000


@pytest.mark.parametrize("executable", ["/nonexistent/python", "/bin/false"])
def test_a_worker_that_cannot_start_is_an_event(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, executable: str
) -> None:
    monkeypatch.setattr(sys, "executable", executable)
    phase = Phase(tmp_path / "phase")
    phase.train(range(1, 4))
    assert not phase.wandb.finish()
    assert len(phase.recorded()) == 9
    assert len(phase.events("tracking_problem")) in (1, 2, 3)


def test_a_failing_record_of_events_stops_nothing(tmp_path: Path) -> None:
    phase = Phase(tmp_path / "phase")
    phase.dir.events.symlink_to("/dev/full")
    phase.train(range(1, 4))
    phase.wandb.log_encoder(tmp_path)  # no weights there: a problem to report
    assert not phase.wandb.finish()
    assert compare(phase.dir) == []


def test_the_service_has_written_everything_before_it_ends(tmp_path: Path) -> None:
    """It dies with the worker, and would take the last rows with it."""
    phase = Phase(tmp_path / "phase")
    phase.train(range(1, 4))
    assert phase.wandb.finish()
    (log,) = phase.dir.wandb.glob("offline-run-*/logs/debug-core.log")
    said = log.read_text("utf-8")
    assert "server: is shutting down" in said, "it still runs"
    assert "parent process exited" not in said, said


def test_a_second_finish_and_later_calls_do_nothing(tmp_path: Path) -> None:
    phase = Phase(tmp_path / "phase")
    phase.train(range(1, 3))
    assert phase.wandb.finish()
    phase.wandb.log_metrics(3, {"loss": 1.0})
    phase.wandb.log_scores(SCORES)
    assert phase.wandb.finish()
    assert len(phase.events("tracking_finished")) == 1
    assert compare(phase.dir) == []


PROGRAM = """
import sys, os, signal, time
from pathlib import Path
sys.path[:0] = [{here!r}]
from tracked_phase import Phase
phase = Phase(Path({folder!r}))
phase.train(range(1, 21))
while phase.wandb._messages or not phase.events("tracking_started"):
    time.sleep(0.01)
{end}
"""


@pytest.mark.parametrize("end", ["os.kill(os.getpid(), signal.SIGKILL)", "sys.exit(0)"])
def test_rank_0_may_die_at_any_time(tmp_path: Path, end: str) -> None:
    here = str(Path(__file__).parent)
    program = PROGRAM.format(here=here, folder=str(tmp_path / "phase"), end=end)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    code = subprocess.run([sys.executable, "-c", program], env=environment, check=False).returncode
    assert code == (0 if "exit" in end else -signal.SIGKILL)
    # The worker closes the run by itself, as one that failed.
    run = RunDirectory(tmp_path / "phase")
    wait_until(lambda: fragments(run) and fragments(run)[0].exit_code is not None)
    assert fragments(run)[0].exit_code == 1
    assert compare(run) == []
    assert [event["event"] for event in read_events(run.events)] == ["tracking_started"]
    assert SETTINGS.mode == "auto"


@pytest.mark.parametrize("at_once", [True, False])
def test_a_run_that_another_process_goes_on_with_is_let_go(tmp_path: Path, at_once: bool) -> None:
    """Neither finished nor reported as a problem; with the worker under way, and when it has hardly been started."""
    phase = Phase(tmp_path / "phase")
    if not at_once:
        phase.train(range(1, 6))
        wait_until(lambda: bool(phase.events("tracking_started")))
    phase.wandb.abandon()
    phase.wandb.abandon()
    assert phase.wandb._ended.wait(30), "its process is gone"
    phase.train(range(6, 9))
    phase.wandb.finish()
    assert [run.exit_code for run in fragments(phase.dir)] == [None] * (not at_once)
    assert not phase.events("tracking_problem")
    assert not phase.events("tracking_finished")
    phase = Phase(tmp_path / "phase")
    phase.train(range(6, 11))
    assert phase.wandb.finish()
    (last,) = fragments(phase.dir)[-1:]
    assert (last.exit_code, last.run["run_id"]) == (0, (phase.dir.wandb / "id").read_text().strip())
