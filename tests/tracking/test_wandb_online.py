"""Online: what arrives at a W&B-compatible server, and servers that are away, hang, refuse or fail."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from tracked_phase import Phase
from wandb_servers import KEY, Misbehaving, OpenWandb, free_port, wait_until

from xtrain.tracking import TrackingSettings, upload
from xtrain.tracking.read_offline import compare

pytestmark = pytest.mark.timeout(120)

IMPATIENT = TrackingSettings(mode="online", finish_timeout_seconds=2.0, answer_timeout_seconds=1.5)


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", KEY)


def identity(phase: Phase) -> str:
    return (phase.dir.wandb / "id").read_text().strip()


def whats(phase: Phase) -> list[str]:
    return [event["what"] for event in phase.events("tracking_problem")]


def test_a_run_arrives_under_one_id_across_stops(
    tmp_path: Path, openwandb: OpenWandb, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_BASE_URL", openwandb.url)
    # Once without a key, twice with: what was left offline is uploaded first.
    monkeypatch.delenv("WANDB_API_KEY")
    phase = Phase(tmp_path / "phase")
    phase.train(range(1, 6))
    assert phase.wandb.finish(failed=True)
    assert openwandb.runs() == []
    netrc = Path(os.environ["HOME"]) / ".netrc"
    netrc.write_text(f"machine {openwandb.url.removeprefix('http://')}\n  login user\n  password {KEY}\n")
    netrc.chmod(0o600)
    phase = Phase(tmp_path / "phase")
    phase.train(range(6, 11))
    assert phase.wandb.finish(failed=True)
    phase = Phase(tmp_path / "phase")
    phase.train(range(11, 21))
    phase.score()
    phase.save_encoder()
    assert phase.wandb.finish()

    assert [event["mode"] for event in phase.events("tracking_started")] == ["offline", "online", "online"]
    assert whats(phase) == []
    assert phase.said == [f"W&B: {openwandb.url}/default/xtrain/runs/{identity(phase)}"]
    assert openwandb.runs() == [identity(phase)]
    assert openwandb.metrics(identity(phase)) == phase.recorded()
    assert ("encoder-phase", "model") in openwandb.artifacts(identity(phase))
    assert any(kind == "run_table" for _, kind in openwandb.artifacts(identity(phase)))
    assert compare(phase.dir) == []
    files = [path for path in phase.dir.path.rglob("*") if path.is_file()]
    assert [path for path in files if KEY.encode() in path.read_bytes()] == []


def test_a_server_that_stops_in_the_middle(
    tmp_path: Path, openwandb: OpenWandb, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_BASE_URL", openwandb.url)
    phase = Phase(tmp_path / "phase", TrackingSettings(finish_timeout_seconds=2.0))
    phase.train(range(1, 11))
    wait_until(lambda: phase.said)
    openwandb.stop()
    phase.train(range(11, 21))
    phase.score()
    phase.save_encoder()
    assert not phase.wandb.finish()
    assert compare(phase.dir) == []
    assert whats(phase) == ["the run is not, or not wholly, on the W&B server; the local files are"]
    # What the event tells to do makes it whole.
    openwandb.start()
    do_as_told(phase)
    assert openwandb.metrics(identity(phase), repeated=True) == phase.recorded()
    assert ("encoder-phase", "model") in openwandb.artifacts(identity(phase))


def do_as_told(phase: Phase) -> None:
    """Do what the last event says."""
    command = shlex.split(phase.events("tracking_problem")[-1]["to_do"])
    assert command[:2] == ["wandb", "sync"]
    subprocess.run([sys.executable, "-m", *command], check=True, capture_output=True)


def test_a_server_that_begins_to_refuse(
    tmp_path: Path,
    openwandb: OpenWandb,
    misbehaving: Callable[..., Misbehaving],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    between = misbehaving("", openwandb.url)
    monkeypatch.setenv("WANDB_BASE_URL", between.url)
    phase = Phase(tmp_path / "phase", TrackingSettings(finish_timeout_seconds=10.0))
    phase.train(range(1, 11))
    wait_until(lambda: phase.said)
    between.behaviour = "401"
    phase.train(range(11, 21))
    phase.score()
    assert not phase.wandb.finish()
    assert compare(phase.dir) == []
    assert any("Fatal error while uploading data" in what for what in whats(phase))
    # W&B holds the file to be synced none the less; the command must not pass it over.
    between.behaviour = ""
    do_as_told(phase)
    assert openwandb.metrics(identity(phase), repeated=True) == phase.recorded()


@pytest.mark.parametrize("behaviour", ["refused", "hang", "401", "403", "429", "500"])
def test_a_server_of_no_use(
    tmp_path: Path, misbehaving: Callable[..., Misbehaving], monkeypatch: pytest.MonkeyPatch, behaviour: str
) -> None:
    server = None if behaviour == "refused" else misbehaving(behaviour)
    monkeypatch.setenv("WANDB_BASE_URL", server.url if server else f"http://127.0.0.1:{free_port()}")
    refused = behaviour in ("401", "403")
    phase = Phase(tmp_path / "phase", replace(IMPATIENT, answer_timeout_seconds=60.0) if refused else IMPATIENT)
    phase.train(range(1, 21))
    phase.score()
    phase.save_encoder()
    wait_until(lambda: whats(phase) and (server is None or server.requests))
    assert not phase.wandb.finish()
    told = whats(phase)
    assert (f"error {behaviour}" if refused else "has not answered within 1.5 s") in told[0]
    assert told[-1] == "the run is not, or not wholly, on the W&B server; the local files are"
    assert phase.events("tracking_problem")[0]["to_do"] == f"wandb sync {phase.dir.wandb}"
    assert compare(phase.dir) == []
    assert phase.events("tracking_finished")[0]["uploaded"] is False


def test_a_wandb_that_cannot_upload_a_growing_file_uploads_it_at_the_end(
    tmp_path: Path, openwandb: OpenWandb, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_BASE_URL", openwandb.url)
    phase = Phase(tmp_path / "phase", TrackingSettings(mode="offline"))
    phase.train(range(1, 11))
    assert phase.wandb.finish()
    monkeypatch.setattr(upload, "_LIVE", ("beta", "no-such-command"))
    reports: list[dict] = []
    (folder,) = phase.dir.wandb.glob("offline-run-*")
    uploader = upload.Uploader([], folder, lambda **report: reports.append(report), 30.0)
    uploader.start()
    assert uploader.finish(time.monotonic() + 30.0, 0.0)
    assert openwandb.metrics(identity(phase)) == phase.recorded()
    assert [report["report"] for report in reports] == ["say"]


def test_online_without_a_key_is_an_event(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_API_KEY")
    monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{free_port()}")
    phase = Phase(tmp_path / "phase", IMPATIENT)
    phase.train(range(1, 4))
    wait_until(lambda: whats(phase))
    assert not phase.wandb.finish()
    assert whats(phase)[0] == f"the upload to W&B failed; see {phase.dir.wandb}/upload.log"
    assert "No API key configured" in (phase.dir.wandb / "upload.log").read_text()
    assert compare(phase.dir) == []
