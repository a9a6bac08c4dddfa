"""What a study and the environment say together about where W&B's data may go."""

from __future__ import annotations

from pathlib import Path

import pytest

from xtrain.config import build
from xtrain.tracking.settings import Chosen, TrackingSettings, chosen, finish_seconds


@pytest.mark.parametrize(
    ("study", "environment", "mode"),
    [
        ("auto", None, "auto"), ("auto", "offline", "offline"), ("auto", "online", "online"),
        ("auto", "disabled", "off"), ("auto", "dryrun", "offline"), ("auto", "nonsense", "offline"),
        ("auto", "shared", "online"), ("auto", " DISABLED ", "off"), ("auto", "false", "off"),
        ("auto", "run", "online"),
        ("online", "offline", "offline"), ("offline", "online", "offline"), ("off", "online", "off"),
        ("online", None, "online"), ("online", "disabled", "off"), ("offline", "", "offline"),
    ],
)  # fmt: skip
def test_the_more_private_wish_wins(study: str, environment: str | None, mode: str, tmp_path: Path) -> None:
    environ = {"HOME": str(tmp_path)} if environment is None else {"WANDB_MODE": environment}
    found = chosen(TrackingSettings(mode=study), environ, tmp_path)
    assert found.mode == mode
    assert found.why == ("" if mode == study else f"WANDB_MODE={environment}")


@pytest.mark.parametrize("value", ["true", "True", "1", "yes", "on", "ON", "y", "t", "anything"])
@pytest.mark.parametrize("more", [{}, {"WANDB_MODE": "online"}, {"WANDB_MODE": "offline"}, {"WANDB_API_KEY": "k"}])
def test_wandb_disabled_is_off_whatever_else_is_said(value: str, more: dict[str, str], tmp_path: Path) -> None:
    for study in ("auto", "online", "offline"):
        found = chosen(TrackingSettings(mode=study), {"WANDB_DISABLED": value, **more}, tmp_path)
        assert (found.mode, found.why) == ("off", f"WANDB_DISABLED={value}")


@pytest.mark.parametrize("value", ["", "0", "false", "False", "no", "off", "n"])
def test_a_switch_that_is_not_set(value: str, tmp_path: Path) -> None:
    environ = {"WANDB_DISABLED": value, "WANDB_CONFIG_DIR": str(tmp_path)}
    assert chosen(TrackingSettings(), environ, tmp_path) == Chosen("auto")


@pytest.mark.parametrize("where", ["here/wandb", "here/.wandb", "config", "home/.config/wandb", "dir/wandb"])
@pytest.mark.parametrize(
    ("text", "mode"),
    [("mode = disabled", "off"), ("mode = offline", "offline"), ("mode = dryrun", "offline"),
     ("disabled = true", "off"),
     ("mode = online", "online"), ("base_url = http://x", "auto"), ("mode =", "auto"), ("disabled = false", "auto")],
)  # fmt: skip
def test_what_wandb_s_commands_leave_behind(
    where: str, text: str, mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    path = tmp_path / where / "settings"
    path.parent.mkdir(parents=True)
    path.write_text(f"[default]\n{text}\n")
    environ = {
        "config": {"WANDB_CONFIG_DIR": str(tmp_path / "config")},
        "dir/wandb": {"WANDB_DIR": str(tmp_path / "dir")},
    }
    found = chosen(TrackingSettings(), environ.get(where, {}), tmp_path / "here")
    assert found.mode == mode
    assert found.why == ("" if mode == "auto" else f"{text} in {path}")
    more = {**environ, "WANDB_MODE": "offline"}
    assert chosen(TrackingSettings(mode="online"), more, tmp_path / "here").mode == "offline"  # as W&B has it


def test_the_nearer_file_goes_first_and_a_broken_one_says_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    above, here = tmp_path / "home/.config/wandb/settings", tmp_path / "here/wandb/settings"
    for path, text in ((above, "[default]\nmode = disabled\n"), (here, "[default]\nmode = online\n")):
        path.parent.mkdir(parents=True)
        path.write_text(text)
    assert chosen(TrackingSettings(), {}, tmp_path / "here").mode == "online"
    here.write_text("no section %(")
    assert chosen(TrackingSettings(), {}, tmp_path / "here").mode == "off"


def test_what_transformers_and_wandb_say_of_encoders_and_of_the_terminal(tmp_path: Path) -> None:
    environ = {"WANDB_LOG_MODEL": "false", "WANDB_SILENT": "true", "WANDB_CONFIG_DIR": str(tmp_path)}
    assert chosen(TrackingSettings(), environ, tmp_path) == Chosen("auto", encoders=False, silent=True)
    assert chosen(TrackingSettings(), {**environ, "WANDB_LOG_MODEL": "end"}, tmp_path).encoders
    assert not chosen(TrackingSettings(encoders=False), {"WANDB_LOG_MODEL": "end"}, tmp_path).encoders


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
