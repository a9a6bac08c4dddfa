"""Fixtures for the tests of W&B: no trace of the user's own, and servers that are stopped at the end."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from wandb_servers import Misbehaving, OpenWandb


@pytest.fixture(autouse=True)
def _no_wandb_of_the_user(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """No test sees the user's W&B: neither its variables nor a key or settings in the home."""
    for name in list(os.environ):
        if name.startswith("WANDB_") or name in ("NETRC", "XTRAIN_TRACKING_FINISH_SECONDS"):
            monkeypatch.delenv(name)
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home / ".config"))


@pytest.fixture
def openwandb(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenWandb]:
    """A running server; ``XTRAIN_OPENWANDB`` names its executable, which lives in an environment of its own."""
    executable = os.environ.get("XTRAIN_OPENWANDB", "")
    if not Path(executable).is_file():
        reason = "XTRAIN_OPENWANDB does not name the openwandb executable (pip install openwandb==0.5.25)"
        if os.environ.get("XTRAIN_REQUIRE_OPENWANDB") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    server = OpenWandb(executable, tmp_path_factory.mktemp("openwandb"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def misbehaving() -> Iterator[Callable[..., Misbehaving]]:
    servers: list[Misbehaving] = []

    def start(behaviour: str, upstream: str = "") -> Misbehaving:
        servers.append(Misbehaving(behaviour, upstream))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()
