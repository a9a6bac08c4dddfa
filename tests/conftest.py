"""What every test may use: a tiny model. (`from tiny import ...` works because this file is here.)"""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny import make_tiny_model


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random XLM-R directory of 400 ids, hidden size 32, two layers; not to be written into."""
    return make_tiny_model(tmp_path_factory.mktemp("tiny") / "model")
