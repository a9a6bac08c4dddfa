"""What tests on real data share: the folder that XTRAIN_SLICE names, laid out like XTREME's; the starter's model."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from xtrain import starter
from xtrain.errors import UserError

_NAMED = os.environ.get("XTRAIN_SLICE", "")
SLICE = Path(_NAMED)
on_real_data = pytest.mark.skipif(not _NAMED, reason="XTRAIN_SLICE does not name a folder of real data")
if not SLICE.is_dir():
    raise RuntimeError(f"XTRAIN_SLICE={SLICE}: is no folder")  # a typing mistake must not pass for skipped tests


def real_model() -> Path:
    """The starter's model, made on first use; where it cannot be had, the test is skipped."""
    try:
        return starter.model_folder()
    except UserError as error:
        pytest.skip(f"the starter is not in the cache and cannot be fetched: {error.problems[0].what}")
