"""What a study and the environment say together about where W&B's data may go."""

from __future__ import annotations

import pytest

from xtrain.config import build
from xtrain.tracking.settings import TrackingSettings, chosen_mode, finish_seconds


@pytest.mark.parametrize(
    ("study", "environment", "mode"),
    [
        ("auto", None, "auto"), ("auto", "offline", "offline"), ("auto", "online", "online"),
        ("auto", "disabled", "off"), ("auto", "dryrun", "offline"), ("auto", "nonsense", "auto"),
        ("online", "offline", "offline"), ("offline", "online", "offline"), ("off", "online", "off"),
        ("online", None, "online"), ("online", "disabled", "off"), ("offline", "", "offline"),
    ],
)  # fmt: skip
def test_the_more_private_wish_wins(study: str, environment: str | None, mode: str) -> None:
    environ = {} if environment is None else {"WANDB_MODE": environment}
    assert chosen_mode(TrackingSettings(mode=study), environ) == mode


def test_a_study_s_table() -> None:
    problems: list = []
    table = {"mode": "ofline", "finish_timeout_seconds": -1, "entety": "x"}
    assert build(TrackingSettings, table, "study.toml", problems, "tracking") is not None
    text = "\n".join(map(str, problems))
    assert "study.toml: tracking.mode: 'ofline' is not allowed" in text
    assert "allowed: auto, online, offline, off" in text
    assert "tracking.finish_timeout_seconds" in text
    assert "did you mean 'entity'?" in text


def test_the_environment_sets_the_time_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    assert finish_seconds(TrackingSettings(finish_timeout_seconds=7)) == 7
    monkeypatch.setenv("XTRAIN_TRACKING_FINISH_SECONDS", "2.5")
    assert finish_seconds(TrackingSettings(finish_timeout_seconds=7)) == 2.5
    monkeypatch.setenv("XTRAIN_TRACKING_FINISH_SECONDS", "soon")
    assert finish_seconds(TrackingSettings(finish_timeout_seconds=7)) == 7
