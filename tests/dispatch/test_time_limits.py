"""Limits of waiting come in the right order: ours, with stacks and a reason, before those of the libraries."""

from __future__ import annotations

import pytest

from xtrain.dispatch.time_limits import BUILDING_MINUTES, WRITING_MINUTES, collective_seconds
from xtrain.training.watchdog import EXIT_SECONDS, SILENT_SECONDS


@pytest.mark.parametrize("stall_minutes", [0.1, 30.0, 59.0, 600.0])
def test_a_collective_fails_after_whatever_may_be_waited_for(stall_minutes: float) -> None:
    longest = 60.0 * max(stall_minutes, BUILDING_MINUTES, WRITING_MINUTES)
    assert collective_seconds(stall_minutes) > longest + SILENT_SECONDS + EXIT_SECONDS + 60.0
